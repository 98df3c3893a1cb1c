import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hartley.models.cache import build_once, cache_directory

BUILDER = """
import sys, time
from pathlib import Path
from hartley.models.cache import build_once

def build(scratch):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    (scratch / "half").write_text("x")
    print("begun", flush=True)
    time.sleep(float(sys.argv[3]))
    (scratch / "whole").write_text("y")

build_once(Path(sys.argv[1]), build)
"""


def start(target: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(target), str(log), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def silent(message: str) -> None:
    pass


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HARTLEY_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("HARTLEY_CACHE")
    assert cache_directory().name == "hartley"


def test_builds_once_and_leaves_nothing_else(tmp_path):
    target, built = tmp_path / "deep" / "model", []

    def build(scratch: Path) -> None:
        built.append(scratch)
        (scratch / "a").write_text("1")
        assert not target.exists()

    for _ in range(2):
        assert build_once(target, build) == target
    assert len(built) == 1
    assert [p.name for p in target.iterdir()] == ["a"]
    assert {p.name for p in target.parent.iterdir()} == {"model", "model.lock"}


@pytest.mark.parametrize("error", [ValueError("bad weights"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing_behind_and_can_be_tried_again(tmp_path, error):
    def build(scratch: Path) -> None:
        (scratch / "a").write_text("1")
        raise error

    with pytest.raises(type(error)):
        build_once(tmp_path / "model", build)
    assert [p.name for p in tmp_path.iterdir()] == ["model.lock"]
    build_once(tmp_path / "model", lambda scratch: None)
    assert (tmp_path / "model").is_dir()


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match="about 500 MB") as caught:
        build_once(tmp_path / "model", lambda scratch: pytest.fail("began all the same"), needs=500_000_000)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path)
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    target, log = tmp_path / "model", tmp_path / "log"
    process = start(target, log, 60)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not target.exists()
    assert len(list(tmp_path.glob("model.part-*"))) == 1

    build_once(target, lambda scratch: (scratch / "whole").touch(), progress=silent)
    assert [p.name for p in target.iterdir()] == ["whole"]
    assert list(tmp_path.glob("model.part-*")) == []


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path):
    target, log = tmp_path / "model", tmp_path / "log"
    processes = [start(target, log, 0.5) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"
    assert {p.name for p in target.iterdir()} == {"half", "whole"}
    assert list(tmp_path.glob("model.part-*")) == []
