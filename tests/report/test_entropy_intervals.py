"""Entropy intervals of what files tell: they hold the truth, end to end, in every format."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.report.intervals import Bounds, Known, bounds_of, entropy_written, mean_bounds, written
from hartley.report.readers import read

SLACK = 1e-9  # rounding of float64 sums, where all tokens are told and the interval is a point


def entry(token, value):
    return {"token": f"w{token}", "logprob": value, "bytes": None}


def chat(steps):
    """OpenAI's chat shape: the N most probable tokens."""
    content = [
        entry(drawn, p[drawn]) | {"top_logprobs": [entry(j, p[j]) for j in order[:n]]} for p, drawn, order, n in steps
    ]
    return {"choices": [{"index": 0, "message": {"content": ""}, "logprobs": {"content": content}}]}


def vllm_chat(steps):
    """vLLM's: N tokens, the drawn one first, then the most probable."""
    content = []
    for p, drawn, order, n in steps:
        listed = [drawn, *[j for j in order[:n] if j != drawn]][:n]
        content.append(entry(drawn, p[drawn]) | {"top_logprobs": [entry(j, p[j]) for j in listed]})
    return {"choices": [{"index": 0, "message": {"content": ""}, "logprobs": {"content": content}}]}


def completions(steps):
    """The older shape: an object, with the drawn token added to the N most probable."""
    return {
        "choices": [
            {
                "index": 0,
                "text": "",
                "logprobs": {
                    "tokens": [f"w{drawn}" for _, drawn, _, _ in steps],
                    "token_logprobs": [p[drawn] for p, drawn, _, _ in steps],
                    "top_logprobs": [
                        {f"w{j}": p[j] for j in dict.fromkeys([*order[:n], drawn])} for p, drawn, order, n in steps
                    ],
                },
            }
        ]
    }


def alike(steps):
    """The older shape when tokens are spelled alike: in every third list they fall together, and only one is left."""
    made = completions(steps)
    found = made["choices"][0]["logprobs"]
    for place, (p, drawn, order, n) in list(enumerate(steps))[::3]:
        spelled = {}
        for j in dict.fromkeys([*order[:n], drawn]):
            spelled[f"w{j}" if j == drawn or j % 3 else "same"] = p[j]
        found["top_logprobs"][place] = spelled
    return made


def llama_cpp(steps):
    """llama.cpp's own shape, with ids."""
    content = [
        {
            "id": drawn,
            "token": f"w{drawn}",
            "logprob": p[drawn],
            "top_logprobs": [{"id": j, "token": f"w{j}", "logprob": p[j]} for j in order[:n]],
        }
        for p, drawn, order, n in steps
    ]
    return {"content": "", "stop": True, "completion_probabilities": content}


def older_llama_cpp(steps):
    content = [
        {"content": f"w{drawn}", "probs": [{"tok_str": f"w{j}", "prob": math.exp(p[j])} for j in order[:n]]}
        for p, drawn, order, n in steps
    ]
    return {"content": "", "stop": True, "completion_probabilities": content}


def prompt(steps):
    """vLLM's prompt_logprobs."""
    found = [None]
    for p, drawn, order, n in steps:
        found.append({str(j): {"logprob": p[j]} for j in dict.fromkeys([drawn, *order[:n]])})
    return {"choices": [{"index": 0, "text": "", "prompt_logprobs": found, "logprobs": None}]}


FORMATS = (chat, vllm_chat, completions, llama_cpp, older_llama_cpp, prompt)


def draw(seed, count, size):
    """Distributions from flat to peaked, what was drawn from them, and how many tokens are told of each."""
    rng = np.random.default_rng(seed)
    steps, truth = [], []
    for number in range(count):
        logits = rng.normal(size=size) * rng.choice([0.0, 0.3, 1.0, 3.0, 8.0])
        p = logits - np.logaddexp.reduce(logits)
        weights = np.exp(p)
        drawn = int(rng.choice(size, p=weights / weights.sum()) if number % 2 else rng.integers(size))
        n = int(rng.choice([1, 2, 5, 20, size]))
        order = np.argsort(-p, kind="stable")
        steps.append((p.tolist(), drawn, order.tolist(), min(n, size)))
        truth.append(float(-(weights * p).sum()))
    return steps, truth


def holds(written, truth):
    """Whether an interval as it is shown holds a number."""
    numbers = [float(one) for one in re.findall(r"[\d.]+", written)]
    return numbers[0] <= truth + SLACK and (len(numbers) == 1 or truth - SLACK <= numbers[1])


def test_intervals_hold_the_entropy_of_10000_distributions(tmp_path):
    """Through files and readers; a single failure is one too many, as the bounds are no statistics."""
    file = tmp_path / "answer.json"
    seen = 0
    for seed in range(40):
        for form in (*FORMATS, alike):
            count = 36
            steps, truth = draw([seed, seen], count, size := (5, 40, 200)[seed % 3])
            if form in (completions, alike):  # one N a request, as the API has it
                n = (2, 5, size)[seed // 3 % 3]
                steps = [(p, drawn, order, n) for p, drawn, order, _ in steps]
            file.write_text(json.dumps(form(steps)))
            for vocab_size in (size, None) if seed % 4 == 0 else (size,):
                tokens = read(file, vocab_size=vocab_size).texts[0].tokens
                assert len(tokens) == count
                for token, entropy in zip(tokens, truth, strict=True):
                    low, high = token["entropy_low"], token["entropy_high"]
                    assert low <= entropy + SLACK, (form.__name__, seed, token)
                    assert high is None or entropy - SLACK <= high, (form.__name__, seed, token)
                    assert vocab_size is None or high is not None
                    assert holds(entropy_written(token), entropy)
            seen += count
    assert seen >= 10_000


@pytest.mark.parametrize("form", [chat, llama_cpp, older_llama_cpp], ids=lambda form: form.__name__)
def test_more_alternatives_never_widen_the_interval(form, tmp_path):
    """Where the list is the N most probable; the other shapes leave open whether the drawn token was added to it."""
    file = tmp_path / "answer.json"
    steps, _ = draw(3, 40, 50)
    before = None
    for n in (2, 5, 20, 50):
        file.write_text(json.dumps(form([(p, drawn, order, n) for p, drawn, order, _ in steps])))
        found = [(one["entropy_low"], one["entropy_high"]) for one in read(file, vocab_size=50).texts[0].tokens]
        if before:
            for (low, high), (low_before, high_before) in zip(found, before, strict=True):
                assert low >= low_before - SLACK
                assert high <= high_before + SLACK
        before = found
    assert all(high - low < 1e-6 for low, high in before)


def test_the_interval_is_the_closed_form():
    ln = math.log
    low, high = bounds_of([Known([ln(0.5), ln(0.25)], True)], 4)[0]
    assert low == pytest.approx(1.5 * ln(2))  # the rest is one token of 1/4
    assert high == pytest.approx(1.75 * ln(2))  # or two of 1/8
    low, high = bounds_of([Known([ln(0.25)], False)], 4)[0]
    assert low == pytest.approx(-0.25 * ln(0.25) - 0.75 * ln(0.75))  # one other has all the rest
    assert high == pytest.approx(ln(4))


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=6), st.integers(0, 5))
def test_without_a_cap_the_interval_holds_the_capped_one(shares, more):
    total = sum(shares) * 1.2
    known = sorted((math.log(share / total) for share in shares), reverse=True)
    vocab_size = len(known) + 50 * 6 + more
    try:
        capped = bounds_of([Known(known, True)], vocab_size)[0]
    except ValueError:
        return  # the rest is more than the others can have
    loose = bounds_of([Known(known, False)], vocab_size)[0]
    assert loose.low <= capped.low + SLACK
    assert capped.high <= loose.high + SLACK


@given(st.floats(0, 12), st.floats(0, 5), st.integers(0, 6))
def test_what_is_written_holds_what_is_meant(low, width, digits):
    text = written(Bounds(low, low + width), "nats", digits)
    first, second = (float(one.replace(",", "")) for one in text.removesuffix(" nats").split("–"))
    assert first <= low
    assert low + width <= second
    assert second - first <= width + 2.01 * 10.0**-digits


def test_the_mean_has_no_upper_end_where_one_token_has_none():
    tokens = [{"entropy_low": 1.0, "entropy_high": 2.0}, {"entropy_low": 2.0, "entropy_high": None}, {"entropy": 3.0}]
    assert mean_bounds(tokens) == Bounds(2.0, None)
    assert mean_bounds(tokens[::2]) == Bounds(2.0, 2.5)
    assert mean_bounds([{"entropy": None}]) is None


@pytest.mark.parametrize(
    ("known", "vocab_size", "message"),
    [
        ([Known([-1.0], True), Known([-0.1, -0.1], True)], None, "token 2: the probabilities that are told must sum"),
        ([Known([-0.1, -0.1], False)], None, "token 1: the probabilities that are told must sum"),
        ([Known([-1.0, -5.0], True)], 3, "token 1: .*must sum to at least"),
        ([Known([-2.0, -3.0], False)], 2, "token 1: vocab_size 2 is too small"),
    ],
)
def test_contradictions_name_the_token(known, vocab_size, message):
    with pytest.raises(ValueError, match=message):
        bounds_of(known, vocab_size)
