"""``hartley batch`` and ``hartley query`` on a tiny model."""

import csv
import io
import json
import os
import signal

import pytest

import hartley.engines.batch.work as work
from hartley.cli.batch import ADDRESS, Batch


@pytest.fixture
def file(tmp_path):
    """Five prompts, one of them empty."""
    path = tmp_path / "prompts.jsonl"
    texts = ["hello", "the sea", "", "and then", "why"]
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": text}) + "\n" for i, text in enumerate(texts)))
    return path


def test_a_run_is_made_gone_on_with_and_asked(hartley, tiny, file, tmp_path):
    out = tmp_path / "run"
    arguments = ("batch", file, "--out", out, "--model", tiny, "--max-tokens", 4, "--sampler", "top_k=5", "--shard", 2)
    made = hartley(*arguments)
    assert (made.status, made.out) == (0, "")
    assert "5 prompts answered" in made.err
    assert f"5 of 5 are in {out}" in made.err
    assert "1 prompt could not be answered (the first, p2: the prompt is empty)" in made.err
    record = json.loads((out / "run.json").read_text())
    assert (record["format"], record["engine"], record["sampler"], record["chat"]) == (
        1,
        "transformers",
        "top_k=5",
        True,
    )
    assert record["versions"]["hartley"]

    again = hartley(*arguments)  # without a seed it takes the run's
    assert "nothing was left to do" in again.err
    (out / "texts" / "00000001.parquet").unlink()
    assert "2 prompts answered" in hartley(*arguments).err
    refused = hartley(*arguments, "--seed", record["seed"] + 1)
    assert refused.status == 2
    assert "was begun with seed" in refused.err

    lines = [json.loads(line) for line in hartley("query", out, "FROM texts ORDER BY id", "--json").out.splitlines()]
    assert [line["id"] for line in lines] == [f"p{i}" for i in range(5)]
    generate = ("generate", "hello", "--model", tiny, "--max-tokens", 4, "--sampler", "top_k=5", "--json")
    alone = [json.loads(line) for line in hartley(*generate, "--seed", lines[0]["seed"]).out.splitlines()][:-1]
    assert "".join(token["text"] for token in alone) == lines[0]["text"]

    sql = "SELECT id, count(*) AS n FROM tokens GROUP BY id ORDER BY id"
    rows = list(csv.reader(io.StringIO(hartley("query", out, sql, "--csv").out)))
    assert rows[0] == ["id", "n"]
    assert [int(n) for _, n in rows[1:]] == [line["n_tokens"] for line in lines if line["n_tokens"]]
    assert "the prompt is empty" in hartley("query", out, "errors").out
    listed = hartley("query", out).out
    for name in ("texts", "tokens", "surprising_tokens", "entropy_by_position", "collapse_suspects"):
        assert name in listed
    cut = hartley("query", out, "FROM range(60)")
    assert "10 more rows" in cut.err


def test_ctrl_c_keeps_whole_shards_and_says_how_to_go_on(hartley, tiny, file, tmp_path, monkeypatch):
    real = work.generate
    calls = []

    def generate(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*arguments, **options)

    monkeypatch.setattr(work, "generate", generate)
    arguments = ("batch", file, "--out", tmp_path / "run", "--model", tiny, "--max-tokens", 4, "--shard", 1)
    found = hartley(*arguments, "--seed", 1)
    assert found.status == 130
    assert "stopped by Ctrl-C; give the same command again to go on" in found.err
    assert "of 5 are in" in found.err
    assert not (tmp_path / "run" / ".lock").exists()
    before = len(list((tmp_path / "run" / "texts").iterdir()))
    assert 0 < before < 5
    assert f"{5 - before} prompts answered" in hartley(*arguments).err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.csv", "--ray"], "local"),
        (["--ray", "a.csv"], "local"),
        (["--ray", "--workers", "2", "a.csv"], "local"),
        (["--ray", "10.0.0.1:6379", "a.csv"], "10.0.0.1:6379"),
        (["--ray=head:6379", "a.csv"], "head:6379"),
        (["--ray", "auto", "a.csv"], "auto"),
        (["a.csv"], None),
    ],
)
def test_ray_may_stand_without_an_address(given, expected, monkeypatch):
    import typer
    from typer.testing import CliRunner

    from hartley.cli.batch import batch

    taken = []
    app = typer.Typer()

    def spy(**arguments):
        taken.append((arguments["prompts"], arguments["ray"]))

    spy.__annotations__, spy.__signature__ = batch.__annotations__, __import__("inspect").signature(batch)
    app.command(cls=Batch)(spy)
    assert CliRunner().invoke(app, [*given, "--out", "r"]).exit_code == 0
    assert taken == [("a.csv", expected)]


@pytest.mark.parametrize("path", ["prompts.jsonl", "./a.csv", "C:\\a.csv", "s3://bucket/a.parquet", "folder/a:1"])
def test_no_file_looks_like_an_address(path):
    assert not ADDRESS.fullmatch(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl"),
        (["prompts.txt"], "ends in .parquet, .jsonl"),
        (["prompts.jsonl", "--sampler", "topk=3"], "did you mean 'top_k'"),
        (["prompts.jsonl", "--engine", "onyx"], "engine must be one of"),
        (["prompts.jsonl", "--max-tokens", "0"], "max_tokens must be at least 1"),
        (["prompts.jsonl", "--stop", ""], "stop must be"),
        (["prompts.jsonl", "--workers", "2"], "--workers is for --ray"),
        (["prompts.jsonl", "--out", "s3://bucket/run"], "a folder on this machine"),
        (["prompts.jsonl", "--out", "prompts.jsonl"], "is a file"),
    ],
)
def test_bad_input_is_one_clear_line(hartley, tiny, file, monkeypatch, arguments, message):
    monkeypatch.chdir(file.parent)
    found = hartley("batch", "--out", "run", *arguments, "--model", tiny)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert found.err.count("\n") == 1


def test_query_refuses_what_is_no_run(hartley, tmp_path):
    found = hartley("query", tmp_path, "totals")
    assert (found.status, found.out) == (2, "")
    assert "no run.json" in found.err
    assert "choose one" in hartley("query", tmp_path, "totals", "--json", "--csv").err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ray_gives_the_same_run(hartley, tiny, file, tmp_path):
    pytest.importorskip("ray", reason='Ray is not installed: pip install "hartley[ray]"')
    arguments = ("batch", file, "--model", tiny, "--max-tokens", 4, "--seed", 3, "--shard", 1)
    assert hartley(*arguments, "--out", tmp_path / "alone").status == 0
    found = hartley(*arguments, "--out", tmp_path / "many", "--ray", "--workers", 2)
    assert found.status == 0, found.err
    assert "5 prompts answered" in found.err
    assert "1 prompt could not be answered" in found.err
    for table in ("texts", "tokens"):
        alone, many = (
            [json.loads(line) for line in hartley("query", tmp_path / run, table, "--json").out.splitlines()]
            for run in ("alone", "many")
        )
        assert len(alone) == len(many) > 0
        for one, other in zip(alone, many, strict=True):
            # transformers rounds otherwise on another number of threads, by up to 1e-5 in a logit
            assert other == {
                name: pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value
                for name, value in one.items()
            }
    assert "nothing was left to do" in hartley(*arguments, "--out", tmp_path / "many").err


def test_an_adaptive_run_answers_each_prompt_by_its_strategy(hartley, tiny, file, tmp_path):
    from hartley.decoding.budget import STRATEGIES
    from hartley.decoding.difficulty_probe import DifficultyProbe
    from hartley.engines import open_engine
    from hartley.engines.adaptive import final_hidden, identity, plan

    engine = open_engine(tiny, "transformers")
    asked = [json.loads(line) for line in file.read_text().splitlines()]
    whole = [one for one in asked if one["prompt"]]
    hidden = final_hidden(engine, [one["prompt"] for one in whole])
    who = identity(engine)
    probe = DifficultyProbe(hidden_size=8).fit(
        hidden, ["easy", "hard", "normal", "hard"], model_id=who.model_id, template_hash=who.template_hash
    )
    probe.save(tmp_path / "probe.safetensors")
    plans = plan(engine, [one["prompt"] for one in whole], tmp_path / "probe.safetensors", max_tokens=80)
    assert len({one.strategy for one in plans}) > 1

    arguments = ("batch", file, "--model", tiny, "--max-tokens", 80, "--seed", 1, "--adaptive")
    found = hartley(*arguments, tmp_path / "probe.safetensors", "--out", tmp_path / "run")
    assert found.status == 0, found.err
    rows = {
        row["id"]: row
        for row in map(json.loads, hartley("query", tmp_path / "run", "texts", "--json").out.splitlines())
    }
    assert rows["p2"]["error"] == "the prompt is empty"
    for one, planned in zip(whole, plans, strict=True):
        row = rows[one["id"]]
        assert (row["strategy"], row["prompt"]) == (planned.strategy, one["prompt"])
        alone = hartley(
            "generate", planned.prompt, "--model", tiny, "--temperature", planned.temperature, "--seed", row["seed"],
            "--max-tokens", planned.max_tokens, "--json",
        )  # fmt: skip
        tokens = [json.loads(line) for line in alone.out.splitlines()][:-1]
        assert "".join(token["text"] for token in tokens) == row["text"]
        assert (
            row["n_tokens"]
            <= planned.max_tokens
            <= next(max(64, 80 * s.max_tokens_fraction) for s in STRATEGIES if s.name == planned.strategy)
        )
    assert "strategy" in hartley("query", tmp_path / "run", "strategies", "--csv").out

    other = DifficultyProbe(hidden_size=8).fit(hidden, ["easy", "hard", "normal", "hard"], model_id="another")
    other.save(tmp_path / "other.safetensors")
    refused = hartley(*arguments, tmp_path / "other.safetensors", "--out", tmp_path / "new")
    assert (refused.status, "was made for the model 'another'" in refused.err) == (2, True)
    refused = hartley(
        *arguments, tmp_path / "probe.safetensors", "--out", tmp_path / "new", "--sampler", "temperature=2"
    )
    assert "adaptive sets each prompt's temperature" in refused.err
    refused = hartley(*arguments, tmp_path / "other.safetensors", "--out", tmp_path / "run")
    assert "was begun with adaptive" in refused.err
