"""The commands as a user runs them, on the default model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]
HARTLEY = Path(sys.executable).with_name("hartley")


def hartley(*arguments, stdin=None):
    return subprocess.run(
        [HARTLEY, *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False, timeout=240
    )


def test_generate_on_the_default_model(tmp_path):
    page = tmp_path / "run.html"
    arguments = ("--max-tokens", 8, "--seed", 1, "--temperature", 0, "--no-chat", "--json")
    found = hartley("generate", *arguments, "--html", page, stdin="The capital of France is\n")
    assert found.returncode == 0, found.stderr
    *tokens, last = [json.loads(line) for line in found.stdout.splitlines()]
    assert "Paris" in "".join(token["text"] for token in tokens)
    assert all(token["rank"] == 1 and token["kept"] == 1 for token in tokens)
    assert (last["model"], last["engine"], last["dtype"]) == ("smollm2", "onnx", "int8")
    assert 0 < last["bits_per_byte"] < 2
    assert "Paris" in page.read_text()


def test_compare_on_the_default_model(tmp_path):
    found = hartley(
        "compare", "--sampler", "temperature=1.5,top_h=0.4", "--sampler", "temperature=1.5", "--prompt", "A story.",
        "--seeds", 2, "--max-tokens", 12, "--out", tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    measures = json.loads((tmp_path / "compare.json").read_text())["measures"]
    kept = [line["mean_kept"]["mean"] for line in measures.values()]
    assert kept[0] < 1000 < kept[1] == 49152


def test_env_shows_the_model():
    found = hartley("env", "--json")
    assert "onnx-int8" in json.loads(found.stdout)["default model"]["converted"]


def test_papers_are_found():
    found = json.loads(hartley("papers", "--json").stdout)
    assert {"mirostat", "top-h"} <= {paper["slug"] for paper in found}
