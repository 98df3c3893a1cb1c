"""Files appear whole or not at all."""

import os

import pytest

from hartley.report import check_writable, write_atomic


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "page.html"
    write_atomic(target, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_bytes_and_text_are_written_as_they_are_with_ordinary_rights(tmp_path):
    assert write_atomic(tmp_path / "a", b"\x00\xff").read_bytes() == b"\x00\xff"
    text = write_atomic(tmp_path / "b", "né\n")
    assert text.read_bytes() == "né\n".encode()
    (tmp_path / "c").touch()
    assert text.stat().st_mode == (tmp_path / "c").stat().st_mode


def test_an_impossible_place_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"--html .*missing.* does not exist"):
        check_writable("--html", tmp_path / "missing" / "page.html")
    with pytest.raises(ValueError, match="is a folder"):
        check_writable("--html", tmp_path)
    check_writable("--html", tmp_path / "page.html")
