"""Numbers and samplers over vLLM's own server, on the loopback interface."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from hartley.models import load

PROMPT = "The lighthouse keeper had not spoken to anyone for three weeks when"
NAMES = ["entropy", "varentropy", "surprisal", "rank", "kept", "mass"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(load("smollm2").directory),
        "--served-model-name", "smollm2", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512",
        "--generation-config", "vllm", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(800):
            if process.poll() is not None:
                pytest.fail(f"the server ended: {log.read_text()[-3000:]}")
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def post(url, path, **body):
    """The answer's status and JSON, or the events of a stream."""
    data = json.dumps({"model": "smollm2", "max_tokens": 8, "seed": 0, **body}).encode()
    request = urllib.request.Request(f"{url}/v1/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            text = answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    if body.get("stream"):
        lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        return 200, [json.loads(line) for line in lines]
    return 200, json.loads(text)


def completion(**body):
    return {"prompt": PROMPT, "ignore_eos": True, **body}


def chat(**body):
    return {"messages": [{"role": "user", "content": "Name three rivers."}], **body}


PATHS = [("completions", completion), ("chat/completions", chat)]


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_each_choice_has_its_numbers_streamed_or_not(server, path, body):
    status, whole = post(server, path, **body(vllm_xargs={"top_h": 0.4}, return_token_ids=True))
    assert status == 200
    choice = whole["choices"][0]
    assert list(choice["hartley"]) == NAMES
    assert all(len(values) == len(choice["token_ids"]) > 0 for values in choice["hartley"].values())
    assert max(choice["hartley"]["kept"]) < 49152
    assert whole.get("kv_transfer_params") is None

    _, events = post(server, path, **body(vllm_xargs={"top_h": 0.4}, stream=True))
    pieces = [one["hartley"] for event in events for one in event["choices"] if "hartley" in one]
    assert len(pieces) > 1
    for name in NAMES:
        joined = [value for piece in pieces for value in piece[name]]
        assert joined == pytest.approx(choice["hartley"][name], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_several_choices_are_told_apart(server, path, body):
    _, whole = post(server, path, **body(vllm_xargs={"entropy": True}, n=2))
    _, events = post(server, path, **body(vllm_xargs={"entropy": True}, n=2, stream=True))
    for index in (0, 1):
        got = [
            value
            for event in events
            for one in event["choices"]
            if one["index"] == index
            for value in one.get("hartley", {}).get("surprisal", [])
        ]
        assert got == pytest.approx(whole["choices"][index]["hartley"]["surprisal"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("path", "body"), PATHS)
def test_who_does_not_ask_gets_what_vllm_gives(server, path, body):
    _, whole = post(server, path, **body())
    assert "hartley" not in whole["choices"][0]


@pytest.mark.parametrize(
    ("xargs", "others", "said"),
    [
        ({"top_h": 1.5}, {}, "top_h must be in (0, 1]"),
        ({"hartley": "top_hh=0.4"}, {}, "did you mean 'top_h'"),
        ({"mirostat_tau": 3}, {"top_p": 0.9}, "vLLM's own top_p=0.9"),
        ({"entropy": "yes"}, {}, "entropy must be"),
        ({"top_k": 10**30}, {}, ""),
    ],
)
@pytest.mark.parametrize(("path", "body"), PATHS)
def test_bad_arguments_are_status_400_and_the_server_goes_on(server, path, body, xargs, others, said):
    status, answer = post(server, path, **body(vllm_xargs=xargs, **others))
    assert status == 400, answer
    assert said in json.dumps(answer, ensure_ascii=False)
    assert post(server, path, **body(vllm_xargs={"entropy": True}, max_tokens=1))[0] == 200


def test_the_openai_client_reads_them(server):
    from openai import OpenAI

    client = OpenAI(base_url=f"{server}/v1", api_key="none")
    answer = client.completions.create(
        model="smollm2", prompt=PROMPT, max_tokens=4, extra_body={"vllm_xargs": {"hartley": "mirostat_tau=3"}}
    )
    assert len(answer.choices[0].hartley["entropy"]) == 4


def test_our_own_interface_in_front_of_it_gives_the_same(server):
    """``hartley serve --upstream``, in this process."""
    import asyncio

    import httpx

    from hartley.serve.app import create_app
    from hartley.serve.upstream import Upstream

    async def ask(path, body):
        transport = httpx.ASGITransport(create_app(Upstream.connect(server)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=300) as client:
            return (await client.post(path, json=body)).json()

    asked = {"prompt": PROMPT, "max_tokens": 8, "seed": 0, "entropy": True, "return_token_ids": True, "top_h": 0.4}
    (ours,) = asyncio.run(ask("/v1/completions", asked))["choices"]
    _, theirs = post(
        server, "completions", **completion(vllm_xargs={"top_h": 0.4}, return_token_ids=True, ignore_eos=False)
    )
    (theirs,) = theirs["choices"]
    assert ours["token_ids"] == theirs["token_ids"]
    assert ours["prompt_token_ids"] == theirs["prompt_token_ids"]
    assert ours["text"] == theirs["text"]
    for name in NAMES:
        assert ours["hartley"][name] == pytest.approx(theirs["hartley"][name], rel=1e-3, abs=1e-4)
    assert len(ours["hartley"]["drawn_entropy"]) == len(ours["token_ids"])
    for token, text, likeliest in zip(*(ours["hartley"][name] for name in ("token_ids", "texts", "top")), strict=True):
        assert len(likeliest) == 8
        assert all(one["text"] == text for one in likeliest if one["token_id"] == token)

    messages = [{"role": "user", "content": "Name three rivers."}]
    answer = asyncio.run(ask("/v1/chat/completions", {"messages": messages, "n": 2, "seed": 1, "max_tokens": 6}))
    assert answer["usage"]["completion_tokens"] == 12
    _, chat_of_vllm = post(server, "chat/completions", messages=messages, n=2, seed=1, max_tokens=6)
    assert answer["usage"]["prompt_tokens"] == chat_of_vllm["usage"]["prompt_tokens"], "the same template"
    long = asyncio.run(ask("/v1/completions", {"prompt": [5] * 500, "max_tokens": 4000, "seed": 1}))
    assert long["usage"]["total_tokens"] <= 512
