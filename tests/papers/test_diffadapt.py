"""DiffAdapt on sums: what the model is shown, that it is causal, how policies are made, and the verdict."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.decoding.difficulty import DIFFICULTIES
from hartley.papers import diffadapt as paper
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

TINY = paper.SCALES["tiny"]
PROBED = "random, the probe's shares"


def pairs():
    digits = st.shared(st.integers(1, paper.SLOTS), key="digits")
    number = digits.flatmap(lambda d: st.integers(10 ** (d - 1), 10**d - 1))
    return st.tuples(number, number)


@pytest.fixture(scope="module")
def model():
    return paper.train(TINY, 0)


@given(pairs(), st.sampled_from(paper.STYLES), st.integers(0, 99))
def test_every_trace_is_right_fits_the_alphabet_and_has_room(pair, style, seed):
    a, b = pair
    begin, text = paper.question(a, b), paper.trace(a, b, style, random.Random(seed))
    assert len(begin) == paper.PROMPT
    assert set(begin + style + text) <= set(paper.ALPHABET)
    assert text.count(".") == 1
    assert text.endswith(".")
    assert paper.is_right(text, a, b)
    assert not paper.is_right(text.replace("A", "A1"), a, b)
    digits = len(str(a))
    assert len(paper.scratch_pad(a, b)) == 5 * digits + 3
    if style == "e":
        assert len(text) == 10 * digits + 8
    if style == "h":
        assert len(text) == 5 * digits + 4


def test_the_habit_of_checking_is_what_is_said():
    rng = random.Random(0)
    passes = [paper.trace(1, 2, "", rng).count("A") for _ in range(2000)]
    # 1 / 0.25 less what the budget cuts off; the mean of 2,000 has a standard error of 0.08
    assert np.mean(passes) == pytest.approx(sum(0.75**k for k in range(8)), abs=0.35)


@given(pairs())
def test_a_column_is_both_digits_and_their_sum_with_the_carry(pair):
    a, b = pair
    text, carry = paper.scratch_pad(a, b), 0
    for place, (x, y) in enumerate(zip(reversed(str(a)), reversed(str(b)), strict=True)):
        total = int(x) + int(y) + carry
        assert text[4 * place : 4 * place + 4] == f"{x}{y}{total:02d}"
        carry = total // 10


def test_the_last_answer_counts_and_half_an_answer_does_not():
    assert paper.is_right("A05;?1405A06;", 2, 4)
    assert not paper.is_right("A06;?1405A05;", 2, 4)
    assert paper.is_right("A06;?2406A0", 2, 4)
    assert not paper.is_right("A06", 2, 4)
    assert not paper.is_right("", 2, 4)


def test_caps_are_the_papers_shares_and_prompts_come_after():
    assert paper.CAPS == {"easy": 24, "normal": 60, "hard": 30}
    assert [one.prompt for one in paper.ROUTES] == ["e", "n", "h"]
    assert [one.temperature for one in paper.ROUTES] == [0.5, 0.8, 0.4]


@torch.no_grad()
def test_writing_with_a_past_is_reading_the_whole_and_later_characters_change_nothing(model):
    ids = torch.randint(0, len(paper.ALPHABET), (3, 20), generator=torch.Generator().manual_seed(0))
    whole = model.read(ids)
    first, past = model(ids[:, :15], [None] * len(model.blocks))
    torch.testing.assert_close(first, whole[:, :15])
    for at in range(15, 20):
        one, past = model(ids[:, at : at + 1], past, at)
        torch.testing.assert_close(one[:, 0], whole[:, at], rtol=1e-4, atol=1e-5)


def test_what_is_written_is_counted_and_capped(model):
    prompts = [paper.question(12, 34)] * 40
    found = paper.write(model, prompts, 12, 1.0, torch.Generator().manual_seed(0))
    again = paper.write(model, prompts, 12, 1.0, torch.Generator().manual_seed(0))
    assert found.texts == again.texts
    for text, tokens, capped in zip(found.texts, found.tokens, found.capped, strict=True):
        assert tokens == len(text) + (not capped)
        assert "." not in text
        assert not capped or tokens == 12
    assert found.capped.any()
    assert (~found.capped).any()
    assert ((found.entropy > 0) & (found.entropy < np.log(len(paper.ALPHABET)))).all()


def test_entropy_is_the_models_whatever_the_temperature(model):
    prompt = [paper.question(1, 1)]
    with torch.no_grad():
        logits = model.head(model.read(torch.tensor([[paper.CODE[c] for c in prompt[0]]]))[:, -1])
    expected = torch.distributions.Categorical(logits=logits.double()).entropy().item()
    for heat in (0.4, 1.0):
        found = paper.write(model, prompt, 1, heat, torch.Generator().manual_seed(0))
        assert found.entropy[0] == pytest.approx(expected, abs=1e-5)


def test_questions_to_test_are_others_than_those_to_learn_from():
    learning, testing = paper.sums(40, random.Random(0))
    assert not set(learning) & set(testing)
    assert len({*learning, *testing}) == 2 * 40 * paper.SLOTS
    for half in (learning, testing):
        assert [len(str(a)) for a, _ in half] == [len(str(b)) for _, b in half]
        assert [len(str(a)) for a, _ in half] == [d for d in range(1, 8) for _ in range(40)]


@given(st.integers(0, 2**32 - 1))
def test_the_oracle_is_at_least_as_good_as_everything_else(seed):
    rng = np.random.default_rng(seed)
    results = {name: paper.Policy(rng.integers(0, 5, 12) / 4, rng.uniform(1, 80, 12)) for name in DIFFICULTIES}
    chosen = rng.choice(DIFFICULTIES, 12).tolist()
    found = paper.policies(results, chosen)
    oracle = found["oracle"]
    for policy in found.values():
        assert oracle.accuracy.mean() >= policy.accuracy.mean() - 1e-12
    for place, name in enumerate(chosen):
        assert found["probe"].accuracy[place] == results[name].accuracy[place]
        assert found["probe"].tokens[place] == results[name].tokens[place]
        best = [one for one in DIFFICULTIES if results[one].accuracy[place] == oracle.accuracy[place]]
        assert oracle.tokens[place] == min(results[one].tokens[place] for one in best)
    shares = {name: chosen.count(name) / 12 for name in DIFFICULTIES}
    for key in ("accuracy", "tokens"):
        expected = sum(share * getattr(results[name], key).mean() for name, share in shares.items())
        assert getattr(found[PROBED], key).mean() == pytest.approx(expected)


def planted(better, u=True, seed=0):
    """A training whose probe saves and is right more often by ``better`` (or less), with entropy a U or a hill."""
    rng = np.random.default_rng(seed)
    digits = np.repeat(np.arange(1, 8), 10)
    curve = np.abs(digits - 4.5) / 4
    entropy = (curve if u else 2 - curve) + 0.01 * rng.random(70)
    accuracy = 0.5 + 0.01 * rng.random(70)

    def policy(gain, tokens):
        return paper.Policy(accuracy + gain, tokens + rng.random(70))

    policies = {f"always {name}": policy(0.0, 60.0) for name in DIFFICULTIES}
    policies |= {
        "probe": policy(better, 60.0 - 100 * better),
        PROBED: policy(0.0, 60.0),
        "oracle": policy(0.3, 20.0),
    }
    half = {name: rng.random(70) for name in DIFFICULTIES}
    labels = ["easy", "normal", "hard", "hard", "easy"] * 14
    return paper.Measured(
        digits, accuracy, entropy, labels, accuracy > 0.505, dict.fromkeys(DIFFICULTIES, 1 / 3), policies, half
    )


def test_the_verdict_follows_the_measurements():
    def verdict(better, u=True):
        return verdict_from(paper.judge([planted(better, u, seed) for seed in range(3)]))

    assert verdict(0.1) == "holds"
    assert verdict(-0.1, u=False) == "not at this scale"
    assert verdict(-0.1) == "holds in part"
    assert verdict(0.1, u=False) == "holds in part"


def test_equal_accuracy_means_within_the_margin():
    def equal(gain):
        runs = [planted(0.1, seed=seed) for seed in range(3)]
        for run in runs:
            normal = run.policies["always normal"]
            run.policies["probe"] = paper.Policy(normal.accuracy + gain, normal.tokens / 2)
        [row] = [row for row in paper.judge(runs) if "equal" in row.what]
        return row.holds

    assert equal(0.0)
    assert equal(-0.9 * paper.MARGIN)
    assert not equal(-1.1 * paper.MARGIN)


@pytest.mark.slow
def test_reproduces_at_the_tiny_scale_without_touching_the_global_seed():
    before = torch.get_rng_state()
    evidence = paper.reproduce("tiny")
    assert torch.equal(torch.get_rng_state(), before)
    check_evidence(evidence, axes=3)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers():
    one, again, other = (paper.measure(TINY, seed) for seed in (0, 0, 1))
    assert (one.entropy == again.entropy).all()
    assert (one.policies["probe"].tokens == again.policies["probe"].tokens).all()
    assert (one.entropy != other.entropy).any()
