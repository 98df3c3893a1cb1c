"""``hartley serve``: what it refuses before anything is opened; what it does is tested in tests/serve/."""

import socket

import pytest


@pytest.fixture(autouse=True)
def _never_opened(monkeypatch):
    def never(*_):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("hartley.cli.serve.open_model", never)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_another_host_than_this_machines_own_needs_a_key(hartley, host):
    found = hartley("serve", "--host", host)
    assert found.status == 2
    assert "can be reached from other machines: give --api-key-file" in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize("key", ["", "short", "with a space in it", "x" * 4097, "schlüssel-schlüssel-schlüssel"])
def test_a_key_that_is_none_is_refused(hartley, tmp_path, key):
    path = tmp_path / "key"
    path.write_text(key)
    found = hartley("serve", "--api-key-file", path)
    assert found.status == 2
    assert f"--api-key-file {path} must hold one key" in found.err
    assert key == "" or key not in found.err


@pytest.mark.parametrize("origin", ["*", "example.org", "https://example.org/path", "https://*", "null", "https://a b"])
def test_an_origin_that_is_none_is_refused(hartley, origin):
    found = hartley("serve", "--cors", origin)
    assert found.status == 2
    assert "--cors must be an origin" in found.err


def test_a_port_that_is_taken_is_told_first(hartley):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = hartley("serve", "--port", port)
    assert found.status == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in found.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"], ["--streams", "0"], ["--queue", "0"], ["--max-tokens", "0"], ["--timeout", "0"],
        ["--timeout", "nan"], ["--grace", "-1"], ["--grace", "inf"],
    ],
)  # fmt: skip
def test_numbers_have_bounds(hartley, arguments):
    assert hartley("serve", *arguments).status == 2


@pytest.mark.parametrize(
    ("url", "said"), [("localhost:8000", "upstream must be an address"), ("http://127.0.0.1:9", "does not answer")]
)
def test_an_upstream_that_is_none_is_one_line(hartley, url, said):
    found = hartley("serve", "--port", 0, "--upstream", url)
    assert found.status == 2
    assert said in found.err
    assert "Traceback" not in found.err


def test_a_missing_extra_is_named(hartley, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "hartley.serve.app", None)
    found = hartley("serve")
    assert found.status == 2
    assert 'pip install "hartley[serve]"' in found.err
