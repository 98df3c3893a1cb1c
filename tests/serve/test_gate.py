"""Who may come in, how much they may say, and what leaves with every answer."""

import asyncio
import json
import logging

import pytest

from hartley.serve import gate
from hartley.serve.app import create_app
from serving import KEY, client_of

pytestmark = pytest.mark.anyio
AUTH = {"Authorization": f"Bearer {KEY}"}
BODY = {"prompt": "hello"}


async def test_every_route_but_the_page_and_the_probes_needs_the_key(backend):
    app = create_app(backend, key=KEY.encode())

    @app.get("/forgotten")  # a route that was added without a thought
    def forgotten():
        raise AssertionError("this ran without a key")

    paths = [(path, method) for path, methods in app.openapi()["paths"].items() for method in methods]
    assert ("/v1/completions", "post") in paths
    assert ("/forgotten", "get") in paths
    async with client_of(app) as client:
        for path, method in [*paths, ("/openapi.json", "get"), ("/nowhere", "get"), ("/v1", "options")]:
            answer = await client.request(method, path.replace("{model}", "fake"), json=None if method == "get" else {})
            if path in ("/healthz", "/readyz"):
                assert answer.status_code == 200
                continue
            assert answer.status_code == 401, f"{method} {path} answers {answer.status_code} without a key"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["error"]["type"] == "authentication_error"
    assert not backend.jobs


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer  {KEY} ", 200),
        (f"Bearer {KEY}x", 401),
        (f"Bearer {KEY[:-1]}", 401),
        ("Bearer", 401),
        (f"Basic {KEY}", 401),
        (KEY, 401),
        ("Bearer é", 401),
    ],
)
async def test_the_key_is_compared_whole(keyed, given, status):
    answer = await keyed.get("/v1/models", headers={"Authorization": given.encode("latin-1")})
    assert answer.status_code == status


async def test_a_wrong_key_is_told_before_the_body_is_read(backend):
    app = create_app(backend, key=KEY.encode())
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"", "query_string": b"",
        "root_path": "", "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1),
        "headers": [(b"host", b"localhost"), (b"content-length", b"999999999")],
    }  # fmt: skip
    await app(scope, receive, send)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 400),
        ("evil.example:8000", 400),
        ("localhost.evil.example", 400),
        ("localhost@evil.example", 400),
        ("", 400),
    ],
)
async def test_other_names_of_this_machine_are_refused(make_client, host, status):
    answer = await make_client(hosts=gate.LOOPBACK).get("/healthz", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["param"] == "Host"


async def test_a_body_is_counted_and_not_believed(make_client, backend):
    def parts(size):
        async def sent():
            for _ in range(size // 65536):
                yield b" " * 65536
            yield json.dumps(BODY).encode()

        return sent()

    headers = {"Content-Type": "application/json"}
    async with make_client() as client:
        allowed = await client.post("/v1/completions", content=parts(gate.LONGEST - 65536), headers=headers)
        assert allowed.status_code == 200
        answer = await client.post("/v1/completions", content=parts(gate.LONGEST), headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_long"
        endless = await client.post("/v1/completions", content=parts(1 << 40), headers=headers)
        assert endless.status_code == 413
    assert len(backend.jobs) == 1


async def test_a_body_that_does_not_arrive_is_given_up(make_client, monkeypatch):
    monkeypatch.setattr(gate, "READ_SECONDS", 0.05)

    async def slow():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    answer = await make_client().post("/v1/completions", content=slow(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 408


async def test_every_answer_has_the_headers(keyed, make_client):
    async with make_client() as client:
        answers = [
            await client.get("/healthz"),
            await client.get("/nowhere"),
            await client.post("/v1/completions", json={}),
            await client.post("/v1/completions", json=BODY | {"stream": True}),
            await keyed.get("/v1/models"),
        ]
    assert [answer.status_code for answer in answers] == [200, 404, 422, 200, 401]
    for answer in answers:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


async def test_other_pages_may_call_only_where_they_are_named(make_client):
    asking = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
    async with make_client(cors=["https://friend.example"], key=KEY.encode()) as client:
        before = await client.options("/v1/completions", headers=asking)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://friend.example"
        answer = await client.get("/v1/models", headers=AUTH | {"Origin": "https://friend.example"})
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        stranger = await client.get("/v1/models", headers=AUTH | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers
        refused = await client.options("/v1/completions", headers=asking | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers
    async with make_client() as client:
        answer = await client.get("/v1/models", headers={"Origin": "https://friend.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_failure_is_told_without_the_inside_and_logged_without_the_prompt(make_client, backend, caplog):
    from hartley.serve.logs import Lines

    backend.fault = RuntimeError("secret words of a prompt")
    with caplog.at_level(logging.INFO, "hartley.serve"):
        answer = await make_client().post("/v1/completions", json=BODY)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    lines = [json.loads(Lines().format(record)) for record in caplog.records if record.name == "hartley.serve"]
    failed = next(line for line in lines if line["level"] == "error")
    assert failed["error"] == "RuntimeError"
    assert "serving.py" in failed["where"][-1]
    assert "secret" not in json.dumps(lines)


@pytest.mark.parametrize("log_prompts", [False, True])
async def test_one_line_a_request_and_prompts_only_where_asked_for(make_client, caplog, log_prompts):
    from hartley.serve.logs import Lines

    with caplog.at_level(logging.INFO, "hartley.serve"):
        await make_client(log_prompts=log_prompts).post("/v1/completions?q=1", json={"prompt": "hush", "n": 2})
    (record,) = [record for record in caplog.records if record.name == "hartley.serve"]
    line = json.loads(Lines().format(record))
    assert (line["method"], line["path"], line["status"], line["tokens"]) == ("POST", "/v1/completions", 200, 6)
    assert line["ms"] >= 0
    assert ("hush" in json.dumps(line)) == log_prompts
