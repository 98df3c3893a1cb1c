"""``hartley detect`` on a tiny model."""

import json
import os
import signal

import pytest

from tiny_models import write_folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The folder of another tiny model."""
    folder = tmp_path_factory.mktemp("other")
    write_folder(folder, seed=1)
    return str(folder)


@pytest.fixture
def texts(tmp_path):
    """A short text and one that is longer than the tiny model's context of 512 tokens."""
    (tmp_path / "short.txt").write_text("the\n")  # one token, which nothing predicts
    (tmp_path / "long.txt").write_text("".join(f"{i} and the {i * 7919 % 1000}; " for i in range(80)))
    return tmp_path / "short.txt", tmp_path / "long.txt"


def test_texts_are_judged_in_a_table_and_in_words(hartley, tiny, texts):
    found = hartley("detect", *texts, "--model", tiny)
    assert found.status == 0
    for part in ("undecidable", "rejected", "p-value", "does not show who did write it", "level 0.05 for each text"):
        assert part in found.out
    assert "Undecidable: " in found.out


def test_json_holds_the_numbers_and_the_meaning(hartley, tiny, texts):
    found = json.loads(hartley("detect", *texts, "--model", tiny, "--json", "--alpha", "0.01").out)
    short, long = found["texts"]
    assert (short["decision"], long["decision"]) == ("undecidable", "rejected")
    assert long["n_tokens"] > 600
    assert long["alpha"] == 0.01
    assert long["statistic"] == pytest.approx(long["log_perplexity"] - long["mean_entropy"])
    assert set(long["p_values"]) == {"two-sided", "greater", "less"}
    assert long["meaning"].startswith("Rejected")
    assert found["note"] is None


def test_windows_and_the_last_line_feed(hartley, tiny, texts, tmp_path):
    (tmp_path / "same.txt").write_bytes(b"\xef\xbb\xbf" + texts[1].read_bytes() + b"\n")
    arguments = ("detect", texts[1], tmp_path / "same.txt", "--model", tiny, "--json")
    one, same = json.loads(hartley(*arguments).out)["texts"]
    assert one["statistic"] == same["statistic"]
    narrow = json.loads(hartley(*arguments, "--window", 64).out)["texts"][0]
    assert narrow["n_tokens"] == one["n_tokens"]
    assert narrow["statistic"] != one["statistic"]


def test_a_sampler_and_a_prompt_change_what_is_judged(hartley, tiny, texts):
    arguments = ("detect", texts[1], "--model", tiny, "--json")
    plain = json.loads(hartley(*arguments).out)
    hot = json.loads(hartley(*arguments, "--sampler", "temperature=2").out)
    asked = json.loads(hartley(*arguments, "--prompt", "hello").out)
    assert hot["sampler"] == "temperature=2"
    assert hot["texts"][0]["mean_entropy"] > plain["texts"][0]["mean_entropy"]
    assert asked["texts"][0]["n_tokens"] == plain["texts"][0]["n_tokens"] + 1  # the first token has a prediction now
    cut = json.loads(hartley(*arguments, "--sampler", "top_k=3").out)["texts"][0]
    assert cut["decision"] == "rejected"
    assert cut["impossible"] > 0
    assert cut["statistic"] is None
    floored = json.loads(hartley(*arguments, "--sampler", "top_k=3", "--floor", "0.01").out)["texts"][0]
    assert floored["impossible"] == 0
    assert floored["log_perplexity"] > floored["mean_entropy"]


def test_a_calibration_is_written_and_used(hartley, tiny, tmp_path):
    files = []
    for i in range(25):
        files.append(tmp_path / f"{i}.txt")
        files[-1].write_text(f"the band and the sand {i * 7919 % 97:02d} " * 4)
    known = tmp_path / "known.json"
    made = hartley("detect", *files, "--model", tiny, "--calibrate", known, "--kind", "rhyming")
    assert made.status == 0
    assert "Calibration of 25 rhyming texts" in made.err
    arguments = ("--model", tiny, "--calibration", known, "--alternative", "greater")
    found = hartley("detect", files[3], *arguments)
    assert "not rejected" in found.out
    assert "one of the rhyming texts" in found.out
    refused = hartley("detect", files[3], *arguments, "--sampler", "temperature=2")
    assert refused.status == 2
    assert "model and sampler at hand" in refused.err


def test_two_models_are_compared(hartley, tiny, other, texts):
    found = hartley("detect", texts[1], "--model", tiny, "--against", other)
    assert found.status == 0
    assert "nats a byte" in found.out
    assert "more likelihood a byte" in found.out
    both = json.loads(hartley("detect", texts[1], "--model", tiny, "--against", other, "--json").out)
    assert both["texts"][0]["writer"] in both["models"]
    tie = json.loads(hartley("detect", texts[1], "--model", tiny, "--against", tiny, "--json").out)
    assert tie["texts"][0]["writer"] is None
    assert len(set(tie["models"])) == 2


def test_ctrl_c_shows_what_was_judged(hartley, tiny, texts, monkeypatch):
    import hartley.detection as room

    before = room.detect
    seen = []

    def judge(*arguments, **settings):
        seen.append(arguments)
        os.kill(os.getpid(), signal.SIGINT)
        return before(*arguments, **settings)

    monkeypatch.setattr(room, "detect", judge)
    found = hartley("detect", *texts, *texts, "--model", tiny)
    assert found.status == 130
    assert len(seen) == 1
    assert "Stopped by Ctrl-C after 1 of 4 texts" in found.err
    assert "short.txt" in found.out


def test_standard_input(hartley, tiny, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the cat and the dog " * 20)))
    assert json.loads(hartley("detect", "-", "--model", tiny, "--json").out)["texts"][0]["n_tokens"] > 100


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "bad.txt is empty"),
        (b" \n\n", [], "bad.txt is empty"),
        (b"caf\xe9", [], "bad.txt is not UTF-8: byte 3 is 0xe9"),
        (b"text", ["--alpha", "2"], "alpha must be in (0, 1)"),
        (b"text", ["--method", "calibrated"], "calibration must be given"),
        (b"text", ["--sampler", "top_kk=3"], "did you mean 'top_k'"),
        (b"text", ["--sampler", "mirostat=2"], "without memory"),
        (b"text", ["--floor", "2"], "floor must be None or in (0, 1)"),
        (b"text", ["--window", "1"], "window must be in 2 .. 512"),
        (b"text", ["--window", "513"], "window must be in 2 .. 512"),
        (b"text", ["--no-chat"], "give --prompt"),
        (b"text", ["--calibration", "/nowhere/known.json"], "/nowhere/known.json"),
        (b"text", ["--calibrate", "/nowhere/known.json"], "does not exist"),
        (b"text", ["--calibrate", "known.json", "--alpha", "0.1"], "--alpha has no meaning"),
        (b"text", ["--against", "smollm2", "--alpha", "0.1"], "--alpha cannot be used with it"),
        (b"text", ["--engine", "onyx"], "engine must be one of"),
    ],
)
def test_bad_input_is_one_clear_line(hartley, tiny, tmp_path, content, arguments, message):
    (tmp_path / "bad.txt").write_bytes(content)
    found = hartley("detect", tmp_path / "bad.txt", *arguments, "--model", tiny)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize("path", ["missing.txt", "."])
def test_what_is_no_file_is_named_before_the_model_opens(hartley, tmp_path, monkeypatch, path):
    def never(*_):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("hartley.cli.detect.open_model", never)
    found = hartley("detect", tmp_path / path)
    assert found.status == 2
    assert str(tmp_path) in found.err


def test_a_text_that_is_too_long_is_refused(hartley, tmp_path, monkeypatch):
    monkeypatch.setattr("hartley.cli.detect.LARGEST", 100)
    (tmp_path / "long.txt").write_text("a" * 101)
    assert "longer than" in hartley("detect", tmp_path / "long.txt").err
