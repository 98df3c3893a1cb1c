"""A tiny model on disk, and commands run in this process as a shell would run them."""

import sys
from typing import NamedTuple

import pytest

from tiny_models import write_folder


class Result(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a tiny random model with a chat template."""
    folder = tmp_path_factory.mktemp("tiny")
    write_folder(folder)
    return str(folder)


@pytest.fixture
def hartley(capsys, monkeypatch):
    """Run ``hartley`` with these arguments; not with traceback and not in colour."""
    monkeypatch.delenv("HARTLEY_DEBUG", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        from hartley.cli.main import main

        monkeypatch.setattr(sys, "argv", ["hartley", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(ended.value.code or 0, *capsys.readouterr())

    return run
