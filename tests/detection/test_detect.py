"""Whole texts: windows, prompts, methods, calibrations, attributions and what verdicts say."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detection.readers import Chain
from hartley.decoding import temperature, top_k
from hartley.detection import (
    Calibration,
    attribute,
    calibrate,
    decide,
    detect,
    explain,
    explain_attribution,
    needed_variance,
    read,
    score_from_logits,
)
from hartley.detection.reading import MOST_LOGITS, SHORTEST, window_of, windows
from hartley.engines import Request, generate
from hartley.engines.transformers import TransformersEngine
from hartley.models import load
from tiny_models import write_folder

MODEL = Chain()
TEXT = MODEL.write(400, seed=1)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(2, 40))
def test_windows_judge_each_token_once_after_half_a_window(length, judged, size):
    seen = []
    for start, first, stop in windows(length, judged, size):
        assert stop - 1 - start <= size
        assert start < first < stop
        assert start == 0 or first - start >= size // 2
        seen += range(first, stop)
    assert seen == list(range(judged, length))


def test_a_text_in_windows_is_the_same_text_where_the_model_looks_back_less():
    whole = read(TEXT, MODEL)
    narrow = Chain(context=20)
    cut = read(TEXT, narrow)
    assert max(narrow.reads) == 20
    assert torch.equal(whole.surprisal, cut.surprisal)
    assert torch.equal(whole.functions, cut.functions)
    assert read(TEXT, MODEL, window=7).n_tokens == len(TEXT) - 1


def test_the_window_follows_context_and_memory():
    model = Chain(context=100_000)
    assert window_of(model) == 100_000
    model.vocab_size = MOST_LOGITS // 300
    assert window_of(model) == 300
    model.vocab_size = MOST_LOGITS
    assert window_of(model) == SHORTEST
    for window in (1, 100_001):
        with pytest.raises(ValueError, match=r"window must be in 2 \.\. 100000"):
            window_of(model, window)


@pytest.mark.parametrize("mark", [False, True])
def test_a_prompt_is_read_and_not_judged(mark):
    model = Chain(mark=mark)
    whole = read(TEXT, model)
    after = read(TEXT[30:], model, prompt=TEXT[:30])
    assert after.n_tokens == len(TEXT) - 30
    assert torch.equal(after.surprisal, whole.surprisal[-after.n_tokens :])
    cut = read(TEXT[30:], Chain(mark=mark, context=11), prompt=TEXT[:30])
    assert torch.equal(after.surprisal, cut.surprisal)


def test_own_text_stays_and_other_text_goes():
    assert detect(TEXT, MODEL).decision == "not rejected"
    other = detect(Chain(seed=9).write(400, seed=1), MODEL)
    assert other.decision == "rejected"
    assert other.statistic > 0
    assert other.p_values["greater"] < other.p_values["less"]
    assert detect(TEXT, MODEL, method="zscore").decision == "not rejected"
    assert detect(Chain(seed=9).write(400, seed=1), MODEL, method="zscore").z_score > 5


def test_too_little_text_is_undecidable():
    for text in ("", "a", "abc"):
        found = detect(text, MODEL)
        assert found.decision == "undecidable"
        assert found.reason
        json.dumps(found.to_dict(), allow_nan=False)
    assert math.isnan(detect("a", MODEL).statistic)
    assert detect("a", MODEL).p_value == 1.0
    short = detect(TEXT[:40], MODEL)
    assert (short.decision, "too few" in short.reason) == ("undecidable", True)


@pytest.mark.parametrize("method", ["evalue", "zscore"])
@pytest.mark.parametrize("size", [2, 3000])
def test_an_even_model_is_undecidable_however_long_the_text(method, size):
    found = decide(score_from_logits(torch.zeros(2000, size), torch.arange(2000) % size), method=method)
    assert found.decision == "undecidable"
    assert "equally unsure" in found.reason
    assert found.p_value > 0.9


def test_a_sufficient_statistic_is_rejected():
    scores = read(TEXT, MODEL)
    for alternative in ("greater", "less", "two-sided"):
        reach = decide(scores, alternative=alternative).sufficient
        for sign in (1, -1):
            shifted = type(scores)(
                scores.surprisal + sign * reach * 1.0001 - scores.statistic,
                scores.entropy,
                scores.varentropy,
                scores.functions,
            )
            found = decide(shifted, alternative=alternative)
            assert found.statistic == pytest.approx(sign * reach, rel=1e-3)
            tested = alternative == "two-sided" or (sign > 0) == (alternative == "greater")
            assert (found.decision == "rejected") == tested


def test_a_stricter_level_needs_more():
    assert needed_variance("evalue", "two-sided", 0.05) == pytest.approx(2 * math.log(200) / 0.16)
    assert needed_variance("evalue", "greater", 0.05) == pytest.approx(2 * math.log(100) / 0.16)
    scores = read(TEXT, MODEL)
    assert (
        decide(scores, alpha=0.001).sufficient
        > decide(scores).sufficient
        > decide(scores, alternative="less").sufficient
    )


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=30), st.floats(0.01, 0.99))
def test_a_rank_is_a_valid_p_value_by_exchangeability(values, alpha):
    """Of n + 1 texts, each in turn the new one, at most alpha are rejected: the exact argument, not a simulation."""
    for alternative in ("greater", "less", "two-sided"):
        rejected = 0
        for place, value in enumerate(values):
            rest = tuple(values[:place] + values[place + 1 :])
            rejected += Calibration("own", "m", "", rest, (9,) * len(rest)).p_value(value, alternative) <= alpha
        assert rejected <= alpha * len(values) + 1e-9


def test_a_calibration_is_kept_and_used(tmp_path):
    texts = [MODEL.write(120, seed=i) for i in range(2, 42)]
    made = calibrate(texts, MODEL, "own")
    path = tmp_path / "own.json"
    path.write_text(made.to_json())
    known = Calibration.load(path)
    assert known == made
    found = detect(MODEL.write(120, seed=99), MODEL, method="calibrated", calibration=known)
    assert (found.decision, math.isnan(found.sufficient)) == ("not rejected", True)
    assert "one of the own texts" in explain(found, "chain", "own")
    far = detect(Chain(seed=9).write(120, seed=1), MODEL, method="calibrated", calibration=known)
    assert far.decision == "rejected"
    assert far.p_value == pytest.approx(2 / 41)
    assert "unlike the own texts" in explain(far, "chain", "own")
    long = detect(TEXT, MODEL, method="calibrated", calibration=known)
    assert (long.decision, "119 to 119" in long.reason) == ("undecidable", True)
    few = calibrate(texts[:10], MODEL)
    assert "needs at least 39" in detect(texts[20], MODEL, method="calibrated", calibration=few).reason
    with pytest.raises(ValueError, match="model and sampler at hand"):
        detect(TEXT, Chain(name="other"), method="calibrated", calibration=known)
    with pytest.raises(ValueError, match="model and sampler at hand"):
        detect(TEXT, MODEL, sampler=top_k(3), floor=0.1, method="calibrated", calibration=known)
    with pytest.raises(ValueError, match="statistics must be finite"):
        calibrate(["a"], MODEL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "hartley calibration 2"}, "must say format"),
        ({"statistics": [math.nan]}, "finite"),
        ({"statistics": []}, "1 to 1000000 texts"),
        ({"statistics": 3}, "must be lists"),
        ({"statistics": ["a"]}, "finite"),
        ({"lengths": [0]}, "whole numbers"),
        ({"lengths": [1.5]}, "whole numbers"),
        ({"model": 3}, "must be text"),
        ({"more": 1}, "must hold"),
    ],
)
def test_a_bad_calibration_file_is_named(tmp_path, change, message):
    content = json.loads(Calibration("own", "m", "", (0.1,), (9,)).to_json()) | change
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as raised:
        Calibration.load(path)
    assert "bad.json" in str(raised.value)
    for content in (b"{", b"\xff\xfe", b"[1]"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.json is not a calibration file"):
            Calibration.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alternative": "both"}, "alternative must be one of"),
        ({"method": "magic"}, "method must be one of"),
        ({"alpha": 0}, r"alpha must be in \(0, 1\)"),
        ({"alpha": math.nan}, r"alpha must be in \(0, 1\)"),
        ({"method": "calibrated"}, "calibration must be given"),
        ({"calibration": Calibration("own", "chain", "", (0.1,), (9,))}, "with no other"),
        ({"text": [0, 1, 9]}, "tokens of chain are 0 to 8"),
        ({"text": [0, -1]}, "text holds token -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        detect(**{"text": TEXT, "model": MODEL} | arguments)


def test_a_text_goes_to_the_model_that_wrote_it():
    models = {"one": Chain(seed=1), "two": Chain(seed=2), "three": Chain(seed=3)}
    for name, model in models.items():
        found = attribute(model.write(200, seed=5), models)
        assert found.writer == name == next(iter(found.readings))
        assert found.nats == pytest.approx(found.margin * 199)
        assert found.p_value == pytest.approx(math.exp(-found.nats), abs=1e-300)
        assert name in explain_attribution(found)


def test_the_same_model_twice_is_a_tie():
    found = attribute(TEXT, {"a": MODEL, "b": Chain()})
    assert (found.writer, found.margin, found.p_value) == (None, 0.0, 1.0)
    assert "tie" in explain_attribution(found)
    nothing = attribute("a", {"a": MODEL, "b": Chain(seed=2)})
    assert nothing.writer is None
    assert "Undecidable" in explain_attribution(nothing)
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_bytes_are_those_of_what_was_judged():
    plain, marked = Chain(seed=1), Chain(seed=1, mark=True)
    found = attribute("abcd", {"plain": plain, "marked": marked}).readings
    assert (found["plain"].n_tokens, found["plain"].n_bytes) == (3, 3)
    assert (found["marked"].n_tokens, found["marked"].n_bytes) == (4, 4)
    assert attribute(TEXT, {"plain": plain, "marked": marked}).p_value is None
    with pytest.raises(ValueError, match="at least two"):
        attribute(TEXT, {"plain": plain})


def test_sentences_say_what_a_verdict_does_not_mean():
    own = explain(detect(TEXT, MODEL), "chain")
    other = explain(detect(Chain(seed=9).write(400, seed=1), MODEL), "chain")
    greedy = explain(decide(score_from_logits(torch.tensor([[0.0, 0.0, -torch.inf]]).expand(3, 3), [0, 2, 1])), "chain")
    assert "does not show that it is so" in own
    assert "more surprising than text of chain" in other
    assert "does not show who did write it" in other
    assert "could not have been drawn (1 of 2)" in greedy


def test_what_a_real_model_wrote_after_its_prompt_is_not_rejected(tmp_path):
    """Twelve texts of a tiny transformer, each rejected with a chance of at most 0.001: a false alarm in 1.2%."""
    write_folder(tmp_path)
    engine = TransformersEngine.open(load(tmp_path))
    prompt = engine.tokenizer.encode("hello")
    requests = [Request(prompt, temperature(0.8), 100, seed) for seed in range(12)]
    texts: list[list[int]] = [[] for _ in requests]
    for step in generate(engine, requests):
        texts[step.index].append(step.token)
    for ids in texts:
        found = detect(ids, engine, prompt=prompt, temperature=0.8, alpha=0.001)
        assert found.n_tokens == len(ids)
        assert found.decision != "rejected"
    longest = max(texts, key=len)
    assert detect(longest, engine, prompt=prompt, temperature=0.3, alpha=0.001).decision == "rejected"
