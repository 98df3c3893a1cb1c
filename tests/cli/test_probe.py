"""``hartley probe`` on a tiny model: what it learns and prints, what it keeps after Ctrl-C, and what it refuses."""

import json
import os
import signal

import pytest

from hartley.decoding import DifficultyProbe

ROWS = [{"question": f"what is {i} and {i}?", "answer": str(2 * i)} for i in range(6)]


def write(path, rows):
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arguments(tiny, questions, out, *more):
    return ("probe", questions, "--out", out, "--model", tiny, "--samples", 2, "--max-tokens", 4, *more)


@pytest.fixture
def questions(tmp_path):
    return write(tmp_path / "questions.jsonl", ROWS)


def test_writes_a_probe_and_says_what_it_is(hartley, tiny, tmp_path, questions):
    out = tmp_path / "probe.safetensors"
    found = hartley(*arguments(tiny, questions, out, "--json"))
    assert found.status == 0, found.err
    facts = json.loads(found.out)
    assert facts["questions"] == 6 == sum(facts["labels"].values())
    assert facts["thresholds"]["alpha"] == 0.8
    assert facts["labels"]["hard"] >= 5  # a random model adds badly
    assert facts["entropy"] > 0
    assert 12 <= facts["tokens"] <= 48
    assert 0 <= facts["cross_validated"]["accuracy"] <= 1
    assert facts["cross_validated"]["commonest_label"] == max(facts["labels"].values()) / 6
    probe = DifficultyProbe.load(out, model_id=facts["model"])
    assert probe.n_features_in_ == 64
    assert sorted(probe.classes_) == sorted(name for name, count in facts["labels"].items() if count)


def test_the_summary_has_counts_thresholds_and_the_cross_validated_accuracy(hartley, tiny, tmp_path, questions):
    found = hartley(*arguments(tiny, questions, tmp_path / "p.safetensors"))
    assert found.status == 0, found.err
    for part in (
        "6 questions, 2 samples each",
        "nats a token",
        "hard",
        "thresholds: normal from accuracy 0.8",
        "saved to",
    ):
        assert part in found.out
    assert "cross-validated accuracy of the probe" in found.out
    assert "always the commonest label" in found.out


@pytest.mark.parametrize("ending", ["csv", "parquet", "ndjson"])
def test_every_kind_of_file_gives_the_same_probe(hartley, tiny, tmp_path, questions, ending):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    hartley(*arguments(tiny, questions, one))
    found = hartley(*arguments(tiny, write(tmp_path / f"again.{ending}", ROWS), other))
    assert found.status == 0, found.err
    assert one.read_bytes() == other.read_bytes()


def test_thresholds_can_be_given(hartley, tiny, tmp_path, questions):
    more = ("--json", "--gamma", 0, "--alpha", 0, "--beta", 100)
    facts = json.loads(hartley(*arguments(tiny, questions, tmp_path / "p.safetensors", *more)).out)
    assert facts["thresholds"] == {"alpha": 0.0, "beta": 100.0, "gamma": 0.0}
    assert facts["labels"] == {"easy": 0, "normal": 6, "hard": 0}


def test_ctrl_c_keeps_what_was_answered(hartley, tiny, tmp_path, questions, monkeypatch):
    from hartley.engines import adaptive

    whole, asked = adaptive.measure, []

    def measure(*given, **how):
        asked.append(given)
        if len(asked) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(*given, **how)

    monkeypatch.setattr(adaptive, "measure", measure)
    out = tmp_path / "p.safetensors"
    found = hartley(*arguments(tiny, questions, out, "--json"))
    assert found.status == 130
    assert json.loads(found.out)["questions"] == 3
    assert f"Stopped by Ctrl-C after 3 of 6 questions, saved to {out}" in found.err
    DifficultyProbe.load(out)


def test_ctrl_c_at_once_saves_nothing(hartley, tiny, tmp_path, questions, monkeypatch):
    from hartley.engines import adaptive

    monkeypatch.setattr(adaptive, "measure", lambda *given, **how: None)
    found = hartley(*arguments(tiny, questions, tmp_path / "p.safetensors"))
    assert found.status == 130
    assert "nothing was saved" in found.err
    assert not (tmp_path / "p.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", b"", "QUESTIONS must end in .jsonl, .ndjson, .csv, .parquet"),
        ("q.jsonl", b"", "must hold at least two questions, to learn from; it holds 0"),
        ("q.jsonl", b'{"question": "a", "answer": 1}\n', "it holds 1"),
        ("q.jsonl", b'{"question": "a", "answer": 1}\n{"question": "a"}\n', "line 2 has no column 'answer'"),
        ("q.jsonl", b'{"question": "a", "answer": null}\n', "line 1: answer must be text or a number; got None"),
        ("q.jsonl", b'{"question": " ", "answer": 1}\n', "line 1: question is empty"),
        ("q.jsonl", b"{\n", "line 1 is not JSON"),
        ("q.jsonl", b"[1]\n", "line 1 must be a JSON object; got list"),
        ("q.jsonl", b'{"question": "\xff"}\n', "is not UTF-8"),
        ("q.csv", b"question,reply\na,b\n", "line 2 has no column 'answer'; its columns are 'question', 'reply'"),
        ("q.csv", b"question,answer\na\n", "answer must be text or a number; got None"),
        ("q.csv", b"\xff\xfe", "is not UTF-8"),
        ("q.parquet", b"PAR1", "is not readable Parquet"),
        ("missing.jsonl", None, "No such file"),
        ("missing.parquet", None, "there is no file"),
    ],
)
def test_bad_questions_end_in_one_line(hartley, tiny, tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = hartley(*arguments(tiny, tmp_path / name, tmp_path / "p.safetensors"))
    assert found.status == 2
    assert message in found.err
    assert len(found.err.splitlines()) == 1
    assert not (tmp_path / "p.safetensors").exists()


def test_bad_settings_end_before_the_work(hartley, tiny, tmp_path, questions, monkeypatch):
    monkeypatch.setattr("hartley.cli.probe.open_model", lambda *given: pytest.fail("the model was opened"))
    found = hartley(*arguments(tiny, questions, tmp_path / "none" / "p.safetensors"))
    assert found.status == 2
    assert "--out" in found.err
    found = hartley(*arguments(tiny, questions, tmp_path / "p.safetensors", "--alpha", 0.2))
    assert found.status == 2
    assert "gamma=0.3, alpha=0.2" in found.err
    found = hartley(*arguments(tiny, questions, tmp_path / "p.safetensors", "--beta", -1))
    assert found.status == 2
    assert "beta must be at least 0 nats; got -1.0" in found.err
