"""``hartley report``: what it prints, saves and refuses."""

import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data" / "logprobs"
ANSWER = DATA / "openai_chat.json"
LLAMA = DATA / "llama_cpp.json"


def test_a_file_is_shown_with_its_intervals(hartley):
    found = hartley("report", LLAMA, "--vocab-size", 49152)
    assert found.status == 0
    for part in ("seasoned sailor", "2.182–4.980 nats a token", "at most", "at least", "llama.cpp server", "spans"):
        assert part in found.out


def test_without_a_vocabulary_size_only_the_lower_end_is_shown(hartley):
    found = hartley("report", LLAMA)
    assert "at least 2.182 nats a token" in found.out
    assert "--vocab-size or --model gives the upper bound" in found.out


def test_a_model_gives_the_vocabulary_size_and_the_text_of_ids(hartley, tiny, tmp_path):
    found = hartley("report", ANSWER, "--model", tiny, "--json")
    totals = json.loads(found.out.splitlines()[-1])
    assert totals["vocab_size"] > 100
    assert totals["mean_entropy_high"] is not None


def test_the_page_is_saved(hartley, tmp_path):
    page = tmp_path / "page.html"
    found = hartley("report", LLAMA, DATA / "llama_cpp_post_sampling.json", "--html", page)
    assert found.status == 0
    assert "difference" in found.out
    assert f"Page saved to {page}" in found.err
    assert "seasoned" in page.read_text()


def test_json_lines_can_be_read_again(hartley, tmp_path):
    found = hartley("report", LLAMA, "--vocab-size", 49152, "--json")
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert len(lines) == 24 + 1
    assert lines[0]["entropy_low"] < lines[0]["entropy_high"]
    (tmp_path / "again.jsonl").write_text(found.out)
    again = hartley("report", tmp_path / "again.jsonl", "--json").out.splitlines()
    for one, other in zip(lines[:-1], map(json.loads, again[:-1]), strict=True):
        assert one == other
    assert json.loads(again[-1])["mean_entropy_low"] == lines[-1]["mean_entropy_low"]


def test_json_of_two_files_ends_with_the_difference(hartley):
    found = hartley("report", LLAMA, ANSWER, "--vocab-size", 49152, "--vocab-size", 200_000, "--json")
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert [line["vocab_size"] for line in lines if "vocab_size" in line] == [49152, 200_000]
    assert lines[-1]["difference"]["tokens"]["low"] == 6 - 24
    assert {line["file"] for line in lines if "surprisal" in line} == {"llama_cpp.json", "openai_chat.json"}


def test_a_reference_shows_calibration(hartley, tmp_path):
    (tmp_path / "reference.txt").write_text(", who is a seasoned sailor with a limp")
    found = hartley("report", LLAMA, "--reference", tmp_path / "reference.txt", "--html", tmp_path / "page.html")
    assert "The first choice was the reference's token for" in found.out
    assert "Reliability of the first choice" in (tmp_path / "page.html").read_text()


def test_a_run_of_generate_is_read(hartley, tiny, tmp_path):
    written = hartley("generate", "hello", "--model", tiny, "--max-tokens", 12, "--seed", 1, "--json").out
    (tmp_path / "run.jsonl").write_text(written)
    totals = json.loads(hartley("report", tmp_path / "run.jsonl", "--json").out.splitlines()[-1])
    given = json.loads(written.splitlines()[-1])
    for key in ("tokens", "mean_entropy", "mean_surprisal", "mean_kept", "bits_per_byte"):
        assert totals[key] == pytest.approx(given[key])


NAN = ANSWER.read_text().replace("-0.31327868", "NaN", 1)
BAD = [
    (NAN, [], "token 1 ('The'): log-probability must be finite; got NaN"),
    ("", [], "is empty"),
    ('{"a": 1}', [], "of no known format; known are: OpenAI chat"),
    (ANSWER.read_text()[:900], [], "is cut short"),
    (ANSWER.read_text(), ["--html", "/nowhere/page.html"], "the folder /nowhere does not exist"),
    (ANSWER.read_text(), ["--vocab-size", 0], "--vocab-size must be a whole number of at least 1; got 0"),
    (ANSWER.read_text(), ["--vocab-size", 3], "answer.json: token"),
    (ANSWER.read_text(), ["--vocab-size", 3000, "--vocab-size", 3000], "--vocab-size is given 2 times for 1 file"),
    (ANSWER.read_text(), ["--reference", "/nowhere/a.txt"], "--reference /nowhere/a.txt cannot be read"),
    (ANSWER.read_text(), ["--reference", ANSWER], "do not begin alike"),
    (ANSWER.read_text(), ["--model", "/nowhere/model"], "there is no model at /nowhere/model"),
]


@pytest.mark.parametrize(("text", "options", "message"), BAD, ids=[message[:24] for _, _, message in BAD])
def test_bad_input_is_one_clear_line(hartley, tmp_path, text, options, message):
    (tmp_path / "answer.json").write_text(text)
    found = hartley("report", tmp_path / "answer.json", *options)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert found.err.count("\n") == 1


def test_a_missing_file_and_a_reference_that_is_no_text(hartley, tmp_path):
    assert "there is no file at" in hartley("report", tmp_path / "none.json").err
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in hartley("report", ANSWER, "--reference", tmp_path / "a.txt").err
