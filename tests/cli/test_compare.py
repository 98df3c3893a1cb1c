"""``hartley compare`` on a tiny model."""

import json
import os
import signal

import pytest

import hartley.cli.compare as module
from hartley.cli import running
from hartley.report import measures

SAMPLERS = ("--sampler", "temperature=1.5,top_h=0.4", "--sampler", "top_k=3", "--sampler", "")
PROMPTS = ("--prompt", "hello", "--prompt", "the <sea>")


def test_a_comparison_is_printed_and_saved(hartley, tiny, tmp_path):
    out = tmp_path / "new" / "folder"
    found = hartley(
        "compare", *SAMPLERS, *PROMPTS, "--seeds", 2, "--max-tokens", 8, "--model", tiny, "--out", out,
        "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert found.status == 0
    assert sorted(path.name for path in out.iterdir()) == [f"compare.{kind}" for kind in ("html", "json", "png", "svg")]
    assert (tmp_path / "page.html").read_text() == (out / "compare.html").read_text()
    report = json.loads((out / "compare.json").read_text())
    assert list(report["measures"]) == ["temperature=1.5,top_h=0.4", "top_k=3", "plain sampling"]
    assert len(report["runs"]) == 3 * 2 * 2
    assert report["measures"]["top_k=3"]["mean_kept"] == {"mean": 3.0, "standard_error": 0.0}
    for name, line in measures.measure(report["runs"]).items():  # the saved tokens are enough to measure again
        for key, (mean, error) in line.items():
            assert report["measures"][name][key] == {
                "mean": pytest.approx(mean),
                "standard_error": pytest.approx(error),
            }
    for part in ("nats a token", "distinct-3", "repeated", "bits per byte", "plain sampling", "the <sea>"):
        assert part in found.out
    assert f"saved to {tmp_path / 'page.html'}, {out}" in found.err


def test_json_is_one_object_with_the_texts_that_generate_draws(hartley, tiny):
    arguments = ("--max-tokens", 8, "--model", tiny, "--json")
    found = json.loads(hartley("compare", *SAMPLERS, *PROMPTS, "--seeds", 2, "--seed", 5, *arguments).out)
    run = next(run for run in found["runs"] if (run["sampler"], run["prompt"], run["seed"]) == ("top_k=3", "hello", 6))
    alone = hartley("generate", "hello", "--sampler", "top_k=3", "--seed", 6, *arguments).out.splitlines()
    assert [token["token_id"] for token in run["tokens"]] == [json.loads(line)["token_id"] for line in alone[:-1]]
    assert run["text"] == "".join(json.loads(line)["text"] for line in alone[:-1])


def test_ctrl_c_saves_what_there_is_and_says_where(hartley, tiny, tmp_path, monkeypatch):
    taken = []

    def token_of(step, piece):
        taken.append(step)
        if len(taken) == 60:
            os.kill(os.getpid(), signal.SIGINT)
        return running.token_of(step, piece)

    monkeypatch.setattr(module, "token_of", token_of)
    arguments = (*SAMPLERS[:4], *PROMPTS, "--seeds", 2, "--max-tokens", 20, "--model", tiny)
    found = hartley("compare", *arguments, "--out", tmp_path)
    assert found.status == 130
    assert "Stopped by Ctrl-C" in found.err
    assert f"saved to {tmp_path}" in found.err
    report = json.loads((tmp_path / "compare.json").read_text())
    assert sum(len(run["tokens"]) for run in report["runs"]) == len(taken)
    assert report["note"] in (tmp_path / "compare.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampler", "top_k=3", "--sampler", "top_k=03", "--prompt", "a"], "--sampler 'top_k=3' is given twice"),
        (["--sampler", "top_k=3", "--prompt", "a", "--prompt", "a"], "--prompt 'a' is given twice"),
        (["--sampler", "top_k=3", "--prompt", " "], "--prompt is empty"),
        (["--sampler", "topk=3", "--prompt", "a"], "did you mean 'top_k'"),
        (["--sampler", "top_k=3", "--prompt", "a", "--html", "/nowhere/page.html"], "does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(hartley, tiny, arguments, message):
    found = hartley("compare", *arguments, "--model", tiny)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--sampler", ""], ["--prompt", "a"]])
def test_samplers_and_prompts_are_needed(hartley, arguments):
    assert hartley("compare", *arguments).status == 2
