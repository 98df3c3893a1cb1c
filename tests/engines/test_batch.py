"""A batch run: the same answers whatever the batches, order, kills and restarts, and nothing lost to a bad prompt."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import hartley.engines
from hartley.engines import Request, generate
from hartley.engines.batch import Job, run, seed_of
from hartley.report import run_folder
from hartley.report.run_folder import RunFolder, settings_of
from hartley.report.summary import totals
from markov_engine import Markov

TESTS = Path(__file__).parents[1]
SETTINGS = {"sampler": "top_k=9", "max_tokens": 6, "seed": 3}


@pytest.fixture(autouse=True)
def _markov(monkeypatch):
    """Every job runs on the Markov source."""
    monkeypatch.setattr(hartley.engines, "open_engine", lambda *_: Markov())


def prompts(folder, count, odd=()):
    """A file of prompts, some of them odd."""
    path = folder / "prompts.jsonl"
    texts = dict(odd)
    lines = [json.dumps({"id": f"p{i}", "prompt": texts.get(i, f"prompt {i}")}) for i in range(count)]
    path.write_text("\n".join(lines))
    return str(path)


def tables(out):
    """All texts and tokens, in order; every file by itself is whole."""
    return tuple(
        [row for file in sorted((out / part).glob("*")) for row in parquet.read_table(file).to_pylist()]
        for part in ("texts", "tokens")
    )


def check_whole(out, count):
    """Every prompt once, each with all of its tokens, and no file that does not belong."""
    texts, tokens = tables(out)
    assert [row["id"] for row in texts] == [f"p{i}" for i in range(count)]
    by_id = {}
    for token in tokens:
        by_id.setdefault(token["id"], []).append(token)
    for row in texts:
        mine = by_id.pop(row["id"], [])
        assert [token["position"] for token in mine] == list(range(row["n_tokens"]))
        assert "".join(token["text"] for token in mine) == row["text"]
    assert not by_id
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    shards = {f"{part}/{i:08d}.parquet" for part in ("texts", "tokens") for i in range(len(files) // 2)}
    assert files == {"run.json", *shards}


def test_an_answer_is_what_generate_draws_alone(tmp_path):
    out = tmp_path / "run"
    outcome = run(Job(prompts(tmp_path, 20), shard=8, **SETTINGS), RunFolder(out))
    assert (outcome.rows, outcome.prompts, outcome.missing, outcome.errors) == (20, 20, 0, 0)
    check_whole(out, 20)
    texts, tokens = tables(out)
    assert outcome.tokens == len(tokens)
    for row in texts:
        assert row["seed"] == seed_of(3, row["id"])
        request = Request(row["prompt"], Job("", sampler="top_k=9").parsed(), 6, row["seed"])
        steps = list(generate(Markov(), [request]))
        mine = [token for token in tokens if token["id"] == row["id"]]
        assert [token["token_id"] for token in mine] == [step.token for step in steps]
        for token, step in zip(mine, steps, strict=True):
            for key in ("surprisal", "entropy", "varentropy", "rank", "kept", "mass"):
                assert token[key] == pytest.approx(step.draw[key], rel=1e-6)
        assert row["finish_reason"] == steps[-1].finish
        for key, value in totals(mine).items():
            assert row[{"tokens": "n_tokens", "bytes": "n_bytes"}.get(key, key)] == pytest.approx(value)


@settings(max_examples=25)
@given(shard=st.integers(1, 12), together=st.integers(1, 9), stops=st.lists(st.integers(0, 3), max_size=3))
def test_neither_batches_nor_shards_nor_stops_change_a_number(tmp_path_factory, shard, together, stops):
    folder = tmp_path_factory.mktemp("same")
    file = prompts(folder, 11)
    run(Job(file, shard=64, together=64, **SETTINGS), RunFolder(folder / "whole"))
    for after in stops:  # a run that stops short, again and again

        class Short(RunFolder):
            left = after

            def write(self, shard, answers):
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
                super().write(shard, answers)

        assert run(Job(file, shard=shard, together=together, **SETTINGS), Short(folder / "cut")).rows == 11
    outcome = run(Job(file, shard=shard, together=together, **SETTINGS), RunFolder(folder / "cut"))
    assert outcome.missing == 0
    check_whole(folder / "cut", 11)
    assert tables(folder / "cut") == tables(folder / "whole")


def test_a_bad_prompt_costs_itself_alone(tmp_path):
    odd = [(0, ""), (3, "word " * 100), (4, None), (9, " \n")]
    outcome = run(Job(prompts(tmp_path, 12, odd), shard=5, **SETTINGS), RunFolder(tmp_path / "run"))
    assert (outcome.errors, outcome.error) == (4, "p0: the prompt is empty")
    run(Job(prompts(tmp_path, 12), shard=5, **SETTINGS), RunFolder(tmp_path / "good"))
    check_whole(tmp_path / "run", 12)
    texts, good = tables(tmp_path / "run")[0], tables(tmp_path / "good")[0]
    bad = {place for place, _ in odd}
    assert [row for i, row in enumerate(texts) if i not in bad] == [row for i, row in enumerate(good) if i not in bad]
    for place in bad:
        assert texts[place]["finish_reason"] == "error"
        assert texts[place]["n_tokens"] == 0
    assert texts[3]["error"].startswith("the prompt has ")
    assert "more than the 64 of the context" in texts[3]["error"]


def test_a_run_is_held_to_its_settings_and_prompts(tmp_path):
    file = prompts(tmp_path, 6)
    out = RunFolder(tmp_path / "run")
    run(Job(file, shard=4, **SETTINGS), out)
    found = settings_of(tmp_path / "run")
    assert (found["format"], found["engine"], found["model_name"], found["dtype"]) == (1, "markov", "markov", "float32")
    for change in ({"sampler": "top_k=8"}, {"seed": 4}, {"max_tokens": 7}, {"stop": ("x",)}, {"shard": 5}):
        with pytest.raises(ValueError, match=f"was begun with {next(iter(change))} "):
            run(Job(file, **{"shard": 4, **SETTINGS, **change}), out)
    (name, settings) = ("sampler", "top_k = 9")
    assert run(Job(file, shard=4, **{**SETTINGS, name: settings}), out).prompts == 0  # another spelling is the same
    prompts(tmp_path, 7)
    with pytest.raises(ValueError, match="was begun with prompts"):
        run(Job(file, shard=4, **SETTINGS), out)


def test_another_format_is_refused(tmp_path):
    out = tmp_path / "run"
    run(Job(prompts(tmp_path, 2), **SETTINGS), RunFolder(out))
    record = out / "run.json"
    record.write_text(record.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="format 2; this version of hartley reads 1"):
        run(Job(prompts(tmp_path, 2), **SETTINGS), RunFolder(out))
    record.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run(Job(prompts(tmp_path, 2), **SETTINGS), RunFolder(out))


def test_only_a_run_of_our_own_is_written_to(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"not empty and no run \(it holds 'chapter.txt'"):
        run(Job(prompts(tmp_path, 2)), RunFolder(tmp_path / "thesis"))
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.txt"]
    with pytest.raises(ValueError, match="is a file"):
        run(Job(prompts(tmp_path, 2)), RunFolder(tmp_path / "prompts.jsonl"))
    with pytest.raises(ValueError, match="a folder on this machine"):
        RunFolder("s3://bucket/run")


def test_two_drivers_cannot_write_one_run(tmp_path):
    out = RunFolder(tmp_path / "run")
    with out.locked(), pytest.raises(ValueError, match="being written by another"):
        run(Job(prompts(tmp_path, 2)), RunFolder(tmp_path / "run"))
    assert run(Job(prompts(tmp_path, 2)), out).prompts == 2


def test_what_a_kill_leaves_is_cleaned(tmp_path):
    out = tmp_path / "run"
    job = Job(prompts(tmp_path, 10), shard=4, **SETTINGS)
    run(job, RunFolder(out))
    whole = tables(out)
    (out / "texts" / "00000001.parquet").unlink()  # tokens without texts
    (out / "tokens" / "00000002.parquet").unlink()  # as a worker thought dead could leave it
    for part in (out, out / "texts", out / "tokens"):
        (part / ".00000000.parquet.123-abcd.part").write_bytes(b"half")
    assert run(job, RunFolder(out)).prompts == 6
    check_whole(out, 10)
    assert tables(out) == whole


@pytest.mark.parametrize("at", range(5))
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, at):
    """Every place in a shard's writing: its two files, half written, then the record of the run."""
    out, job = tmp_path / "run", Job(prompts(tmp_path, 10), shard=4, **SETTINGS)
    writes = []
    real = os.fsync

    def full(handle):
        writes.append(handle)
        if len(writes) > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as raised:
            run(job, RunFolder(out))
        assert raised.value.errno == errno.ENOSPC
    assert not list(out.rglob("*.part"))
    run(job, RunFolder(out))
    check_whole(out, 10)


def test_a_full_disk_in_the_middle_of_a_file(tmp_path, monkeypatch):
    out, job = tmp_path / "run", Job(prompts(tmp_path, 10), shard=4, **SETTINGS)
    real = run_folder.parquet.write_table

    def full(table, file, **options):
        if (out / "texts" / "00000000.parquet").exists():
            file.write(b"PAR1 and then")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(table, file, **options)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.parquet, "write_table", full)
        with pytest.raises(OSError, match="4 of 10 prompts are safe; make room"):
            run(job, RunFolder(out))
    assert not list(out.rglob("*.part"))
    assert run(job, RunFolder(out)).before == 4
    check_whole(out, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sampler": "topk=3"}, "did you mean 'top_k'"), ({"sampler": "top_p=[0.5 0.9]"}, "a value for each row"),
     ({"max_tokens": 0}, "max_tokens must be at least 1"), ({"shard": 0}, "shard must be at least 1"),
     ({"together": 0}, "together must"), ({"seed": -1}, "seed must be in"), ({"seed": 2**63}, "seed must be in"),
     ({"stop": ("",)}, "stop must be strings, none empty")],
)  # fmt: skip
def test_a_bad_job_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Job("prompts.jsonl", **change)


@pytest.mark.slow
def test_killed_at_any_moment_the_next_run_finishes(tmp_path):
    """kill -9 of the real process, at moments drawn between its first shard and its last."""
    count, out = 120, tmp_path / "run"
    file = prompts(tmp_path, count)
    code = (
        "import sys, hartley.engines; from markov_engine import Markov; from hartley.engines.batch import Job, run;"
        "from hartley.report.run_folder import RunFolder;"
        "hartley.engines.open_engine = lambda *_: Markov(pause=0.002);"
        "run(Job(sys.argv[1], sampler='top_k=9', max_tokens=6, seed=3, shard=2), RunFolder(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]), "OMP_NUM_THREADS": "1"}
    draw = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", code, file, str(out)], env=environment)
        before = len(list(out.glob("texts/*.parquet")))
        while process.poll() is None and len(list(out.glob("texts/*.parquet"))) <= before:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was over before it was killed"
    assert 3 <= len(list(out.glob("texts/*.parquet"))) < count // 2
    subprocess.run([sys.executable, "-c", code, file, str(out)], env=environment, check=True)
    check_whole(out, count)
    run(Job(file, shard=count, **SETTINGS), RunFolder(tmp_path / "calm"))
    assert tables(out) == tables(tmp_path / "calm")
