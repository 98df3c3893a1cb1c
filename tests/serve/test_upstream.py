"""Our interface in front of a vLLM with the plug-in, whose place a small server takes."""

import asyncio
import json
import math
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from hartley.decoding import parse
from hartley.engines import Request as Asked
from hartley.engines import generate, open_engine
from hartley.engines.vllm.arguments import ALL, arguments
from hartley.serve.app import create_app
from hartley.serve.upstream import Upstream
from serving import client_of

pytestmark = pytest.mark.anyio


class StandIn:
    """Says what a vLLM would say of the tiny model, two tokens an event, with the plug-in's columns."""

    def __init__(self, engine):
        self.engine = engine
        self.reset()
        self.app = FastAPI()
        self.app.get("/health")(lambda: Response(status_code=200 if self.healthy else 503))
        self.app.get("/v1/models")(lambda: {"data": [{"id": "tiny", "max_model_len": engine.context_length}]})
        self.app.post("/tokenize")(self.tokenize)
        self.app.post("/detokenize")(self.detokenize)
        self.app.post("/v1/completions")(self.completions)

    def reset(self):
        self.asked, self.ended, self.seen = [], 0, set()
        self.plugin, self.pause, self.breaks_at, self.healthy = True, 0.0, None, True

    async def tokenize(self, request: Request):
        body = await request.json()
        tokenizer = self.engine.tokenizer
        ids = tokenizer.chat(body["messages"]) if "messages" in body else tokenizer.encode(body["prompt"])
        return {"count": len(ids), "max_model_len": self.engine.context_length, "tokens": ids}

    async def detokenize(self, request: Request):
        (token,) = (await request.json())["tokens"]
        assert token not in self.seen, "a token is asked for once"
        self.seen.add(token)
        return {"prompt": self.engine.tokenizer.decode([token])}

    async def completions(self, request: Request):
        body = await request.json()
        self.asked.append(body)
        if body["max_tokens"] == 13:
            return JSONResponse({"error": {"message": "thirteen is unlucky", "type": "x", "code": 400}}, 400)
        if body["max_tokens"] == 14:
            return JSONResponse({"error": {"message": "sk-secret", "type": "x", "code": 401}}, 401)
        return StreamingResponse(self.events(body), media_type="text/event-stream")

    async def events(self, body):
        asked = arguments(body["vllm_xargs"])
        sent = 0
        try:
            for place, prompt in enumerate(body["prompt"]):
                for i in range(body["n"]):
                    request = Asked(prompt, asked.sampler, body["max_tokens"], body["seed"] + i, tuple(body["stop"]))
                    steps = list(generate(self.engine, [request]))
                    for at in range(0, len(steps), 2):
                        if sent == self.breaks_at:
                            return
                        sent += 1
                        part = steps[at : at + 2]
                        columns = {name: [finite(step.draw[name]) for step in part] for name in ALL}
                        choice = {
                            "index": place * body["n"] + i,
                            "text": "".join(step.text for step in part),
                            "logprobs": None,
                            "finish_reason": part[-1].finish,
                            "token_ids": [step.token for step in part],
                        }
                        if self.plugin:
                            choice["hartley"] = {name: columns[name] for name in asked.numbers}
                        yield f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\n\n"
                        await asyncio.sleep(self.pause)
            yield "data: [DONE]\n\n"
        finally:
            self.ended += 1


def finite(value):
    if isinstance(value, list):
        return [finite(one) for one in value]
    return value if math.isfinite(value) else None


@pytest.fixture(scope="module")
def engine(tiny):
    return open_engine(str(tiny), "transformers", device="cpu")


@pytest.fixture(scope="module")
def stand_in(engine):
    """The stand-in, listening."""
    made = StandIn(engine)
    server = uvicorn.Server(uvicorn.Config(made.app, port=0, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    made.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield made
    server.should_exit = server.force_exit = True
    thread.join(10)


@pytest.fixture
def vllm(stand_in):
    stand_in.reset()
    return stand_in


@pytest.fixture
def client(vllm):
    return client_of(create_app(Upstream.connect(f"{vllm.url}/v1/"), max_tokens=400))


def steps_alone(engine, prompt, sampler, count, seed):
    return list(generate(engine, [Asked(prompt, parse(sampler), count, seed)]))


async def test_an_answer_is_the_same_as_that_of_the_model_here(client, vllm, engine):
    asked = {"prompt": ["the and", "an"], "n": 2, "max_tokens": 7, "seed": 4, "entropy": True, "logprobs": 3}
    asked |= {"sampler": "temperature=2,top_h=0.9", "return_token_ids": True}
    answer = (await client.post("/v1/completions", json=asked)).json()
    assert answer["sampler"] == "temperature=2,top_h=0.9"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    for index, choice in enumerate(answer["choices"]):
        prompt = asked["prompt"][index // 2]
        steps = steps_alone(engine, prompt, asked["sampler"], 7, 4 + index % 2)
        assert choice["text"] == "".join(step.text for step in steps)
        assert choice["token_ids"] == [step.token for step in steps]
        assert choice["prompt_token_ids"] == engine.tokenizer.encode(prompt)
        for name in ("surprisal", "entropy", "kept", "mass", "drawn_entropy"):
            assert choice["hartley"][name] == pytest.approx([step.draw[name] for step in steps]), name
        tops = [[one["token_id"] for one in top] for top in choice["hartley"]["top"]]
        assert tops == [step.draw["top_tokens"][:8] for step in steps]
        assert choice["hartley"]["texts"] == [engine.tokenizer.decode([step.token]) for step in steps]
        likeliest = [engine.tokenizer.decode([token]) for token in steps[0].draw["top_tokens"][:3]]
        assert set(choice["logprobs"]["top_logprobs"][0]) == {*likeliest, choice["hartley"]["texts"][0]}
    told = vllm.asked[0]
    assert told["vllm_xargs"] == {"hartley": "temperature=2,top_h=0.9", "entropy": "all"}
    assert (told["temperature"], told["top_p"], told["top_k"], told["min_p"]) == (1, 1, 0, 0), (
        "nothing comes after ours"
    )


async def test_a_stream_is_one_chunk_a_token_here_too(client, engine):
    asked = {
        "messages": [{"role": "user", "content": "the"}],
        "max_tokens": 9,
        "seed": 2,
        "entropy": True,
        "stream": True,
    }
    text = (await client.post("/v1/chat/completions", json=asked)).text
    *lines, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    choices = [json.loads(line)["choices"][0] for line in lines]
    steps = steps_alone(engine, engine.tokenizer.chat("the"), "", 9, 2)
    assert [token for one in choices for token in one["hartley"]["token_ids"]] == [step.token for step in steps]
    assert all(len(one["hartley"]["token_ids"]) == 1 for one in choices)
    assert "".join(one["delta"]["content"] for one in choices) == "".join(step.text for step in steps)


async def test_who_asks_for_no_numbers_does_not_pay_for_them(client, vllm):
    await client.post("/v1/completions", json={"prompt": "the", "max_tokens": 3})
    assert vllm.asked[0]["vllm_xargs"] == {"hartley": "", "entropy": True}
    assert not vllm.seen


async def test_a_text_ends_where_the_context_does(client, vllm):
    prompt = [5] * 500
    answer = await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 400, "seed": 1})
    assert answer.json()["usage"]["completion_tokens"] <= 12
    assert vllm.asked[0]["max_tokens"] == 12
    refused = await client.post("/v1/completions", json={"prompt": [5] * 512})
    assert refused.status_code == 400
    assert "512 of the context" in refused.json()["error"]["message"]


async def test_the_model_is_told_as_the_one_there(client):
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["id"], model["hartley"]["engine"], model["hartley"]["context_length"]) == ("tiny", "vllm", 512)
    for path in ("/v1/score", "/v1/detect"):
        answer = await client.post(path, json={"text": "the"})
        assert answer.status_code == 400
        assert "vLLM gives no logits" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "status", "word"), [({"max_tokens": 13}, 400, "unlucky"), ({"max_tokens": 14}, 503, "refuses")]
)
async def test_what_is_refused_there_is_refused_here(client, asked, status, word):
    answer = await client.post("/v1/completions", json={"prompt": "the"} | asked)
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]


async def test_a_server_without_the_plugin_is_told_from_one_with_it(client, vllm):
    vllm.plugin = False
    answer = await client.post("/v1/completions", json={"prompt": "the"})
    assert answer.status_code == 503
    assert "without Hartley's plug-in" in answer.json()["error"]["message"]


async def test_a_server_that_breaks_off_is_told(client, vllm):
    vllm.breaks_at = 2
    body = {"prompt": "the", "max_tokens": 40, "sampler": "top_k=50"}
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 503
    stream = (await client.post("/v1/completions", json=body | {"stream": True})).text
    assert json.loads(stream.split("data: ")[-1])["error"]["code"] == "upstream"
    assert "[DONE]" not in stream


async def test_readiness_is_that_of_both(client, vllm):
    assert (await client.get("/readyz")).status_code == 200
    vllm.healthy = False
    assert (await client.get("/readyz")).status_code == 503


async def test_what_ends_here_ends_there(vllm):
    from hartley.serve.backend import Job

    vllm.pause = 0.05
    backend = Upstream.connect(vllm.url)
    job = Job(["the"], None, parse(""), 300, 2, 0, (), False)
    run = await backend.start(job)
    steps = aiter(run.steps)
    await anext(steps)
    assert backend.load() == (2, 0)
    run.steps.cancel()
    last = [step async for step in steps][-2:]
    assert [(step.index, step.finish) for step in last] == [(0, "cancelled"), (1, "cancelled")]
    assert backend.load() == (0, 0)
    for _ in range(100):
        if vllm.ended:
            break
        await asyncio.sleep(0.02)
    assert vllm.ended == 1


async def test_draining_waits_and_then_ends(vllm):
    from hartley.serve.backend import Job
    from hartley.serve.errors import Refusal

    vllm.pause = 0.02
    backend = Upstream.connect(vllm.url)
    job = Job([[5]], None, parse("top_k=50"), 6, 1, 0, (), False)
    run = await backend.start(job)
    reading = asyncio.create_task(collect(run))
    await backend.drain(10)
    assert [step.finish for step in await reading][-1] in ("length", "stop")
    with pytest.raises(Refusal) as caught:
        await backend.start(job)
    assert caught.value.status_code == 503

    vllm.pause = 0.5
    other = Upstream.connect(vllm.url)
    run = await other.start(job)
    reading = asyncio.create_task(collect(run))
    await other.drain(0.1)
    assert [step.finish for step in await asyncio.wait_for(reading, 2)][-1] == "cancelled"


async def collect(run):
    return [step async for step in run.steps]


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "http://a:b@localhost", "http://h?x=1"]
)
async def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="upstream must be an address"):
        Upstream.connect(url)


async def test_nobody_there_is_one_clear_error():
    with pytest.raises(OSError, match="does not answer"):
        Upstream.connect("http://127.0.0.1:9")
