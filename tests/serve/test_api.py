"""The routes in this process, in front of a backend whose every step is known."""

import asyncio
import json
import math
from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from hartley.decoding import parse
from hartley.engines import Step
from hartley.serve import schemas
from hartley.serve.app import create_app
from hartley.serve.errors import busy
from serving import FakeBackend, client_of, steps_of

pytestmark = pytest.mark.anyio
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
TEXT = {"prompt": "hello"}
PATHS = {"/v1/completions": TEXT, "/v1/chat/completions": CHAT}
both = pytest.mark.parametrize(("path", "body"), PATHS.items())


def check(schema, value):
    return TypeAdapter(schema).validate_python(value, strict=True)


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@both
async def test_an_answer_is_what_the_schema_says(make_client, backend, path, body):
    asked = body | {"n": 2, "seed": 7, "entropy": True, "return_token_ids": True, "temperature": 0.5}
    answer = (await make_client().post(path, json=asked)).json()
    check(schemas.Completion if body is TEXT else schemas.Chat, answer)
    assert (answer["model"], answer["seed"], answer["sampler"]) == ("fake", 7, "temperature=0.5")
    assert [one["index"] for one in answer["choices"]] == [0, 1]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    for one in answer["choices"]:
        assert one["token_ids"] == one["hartley"]["token_ids"] == [0, 1, 3]
        assert one["prompt_token_ids"] == [0, 1, 2]
        assert one["hartley"]["texts"] == ["Hello", " wörld", "!"]
        assert one["hartley"]["surprisal"] == [0.5, 1.5, 3.5]
        assert one.get("text", one.get("message", {}).get("content")) == "Hello wörld!"
    assert backend.runs[0].cancelled, "its work is given up for good"


@both
async def test_a_stream_is_one_chunk_a_token_and_joins_to_the_answer(make_client, path, body):
    asked = body | {"n": 2, "seed": 7, "entropy": True, "return_token_ids": True}
    client = make_client()
    whole = (await client.post(path, json=asked)).json()
    *chunks, last, done = events(
        await client.post(path, json=asked | {"stream": True, "stream_options": {"include_usage": True}})
    )
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert len(chunks) == 6
    for chunk in [*chunks, last]:
        check(schemas.CompletionChunk if body is TEXT else schemas.ChatChunk, chunk)
        assert (chunk["seed"], chunk["id"]) == (7, last["id"])
    for one in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == one["index"]]
        assert ["prompt_token_ids" in part for part in parts] == [True, False, False]
        assert [token for part in parts for token in part["token_ids"]] == one["token_ids"]
        assert [value for part in parts for value in part["hartley"]["entropy"]] == one["hartley"]["entropy"]
        assert parts[-1]["finish_reason"] == one["finish_reason"] == "length"


async def test_who_does_not_ask_gets_openais_fields_alone(make_client):
    answer = (await make_client().post("/v1/completions", json=TEXT)).json()
    assert set(answer["choices"][0]) == {"index", "text", "logprobs", "finish_reason"}
    assert events(await make_client().post("/v1/completions", json=TEXT | {"stream": True}))[0].get("usage") is None


@pytest.mark.parametrize(
    ("asked", "sampler"),
    [
        ({}, ""),
        ({"temperature": 1, "top_p": 1}, ""),
        ({"temperature": 0, "top_p": 1}, "temperature=0"),
        ({"top_p": 0.9, "temperature": 0.7}, "temperature=0.7,top_p=0.9"),
        ({"mirostat_eta": 1, "mirostat_tau": 3, "temperature": 2.0}, "temperature=2,mirostat_tau=3,mirostat_eta=1"),
        ({"sampler": "top_h=0.4, temperature=1.5"}, "top_h=0.4,temperature=1.5"),
        ({"sampler": ""}, ""),
    ],
)
@both
async def test_settings_become_one_sampler_which_is_told(make_client, backend, asked, sampler, path, body):
    answer = (await make_client().post(path, json=body | asked)).json()
    assert backend.jobs[0].sampler == parse(sampler)
    assert answer["sampler"] == str(parse(sampler))


async def test_what_is_asked_reaches_the_backend(make_client, backend):
    client = make_client(max_tokens=100)
    await client.post("/v1/completions", json={"prompt": [5, 6], "stop": "x", "max_tokens": 9, "seed": 1})
    await client.post("/v1/completions", json={"prompt": [[5], [6]], "n": 2, "logprobs": 3})
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat = {"messages": [{"role": "system", "content": "c"}, {"role": "user", "content": parts}], "stop": ["x", "y"]}
    await client.post("/v1/chat/completions", json=chat)
    await client.post("/v1/chat/completions", json=CHAT | {"max_completion_tokens": 5})
    one, two, three, four = backend.jobs
    assert (one.prompts, one.stop, one.max_tokens, one.n, one.seed, one.numbers) == ([[5, 6]], ("x",), 9, 1, 1, False)
    assert (two.prompts, two.stop, two.max_tokens, two.n, two.numbers) == ([[5], [6]], (), 16, 2, True)
    assert three.messages == [{"role": "system", "content": "c"}, {"role": "user", "content": "ab"}]
    assert (three.stop, three.max_tokens, four.max_tokens) == (("x", "y"), 100, 5)


async def test_a_whole_number_may_be_written_with_a_point(make_client, backend):
    body = '{"prompt": [5.0, 6], "n": 2.0, "seed": 3.0, "max_tokens": 4e0, "mirostat": 2.0, "logprobs": 1.0}'
    answer = await make_client().post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    (job,) = backend.jobs
    assert repr((job.prompts, job.n, job.seed, job.max_tokens, str(job.sampler))) == "([[5, 6]], 2, 3, 4, 'mirostat=2')"


@both
async def test_null_is_what_is_not_given(make_client, backend, path, body):
    names = ("n", "stream", "stream_options", "stop", "seed", "max_tokens", "logprobs", "temperature", "top_p", "model")
    client = make_client()
    for asked in (body, body | dict.fromkeys(names)):
        assert (await client.post(path, json=asked)).status_code == 200
    one, other = (replace(job, seed=0) for job in backend.jobs)
    assert one == other


async def test_a_seed_is_drawn_and_told(make_client, backend):
    client = make_client()
    seeds = [(await client.post("/v1/completions", json=TEXT)).json()["seed"] for _ in range(3)]
    assert seeds == [job.seed for job in backend.jobs]
    assert len(set(seeds)) == 3  # fails once in 2**31


DEEP = "[" * 5000 + "]" * 5000
BAD = [
    # path, body or text of a body, status, field, a word of the message
    ("/v1/completions", {}, 422, "prompt", "required"),
    ("/v1/completions", {"prompt": ""}, 422, "prompt", ""),
    ("/v1/completions", {"prompt": []}, 422, "prompt", ""),
    ("/v1/completions", {"prompt": [""]}, 422, "prompt[0]", ""),
    ("/v1/completions", {"prompt": ["a"] * 9}, 422, "prompt", "8"),
    ("/v1/completions", {"prompt": [-1]}, 422, "prompt[0]", ""),
    ("/v1/completions", {"prompt": [2**31]}, 422, "prompt[0]", ""),
    ("/v1/completions", {"prompt": [1.5]}, 422, "prompt[0]", ""),
    ("/v1/completions", {"prompt": [True]}, 422, "prompt[0]", ""),
    ("/v1/completions", {"prompt": None}, 422, "prompt", ""),
    ("/v1/completions", TEXT | {"max_tokens": 0}, 422, "max_tokens", "1"),
    ("/v1/completions", TEXT | {"max_tokens": 4097}, 422, "max_tokens", "4096"),
    ("/v1/completions", TEXT | {"max_tokens": 10**400}, 422, "max_tokens", ""),
    ("/v1/completions", TEXT | {"max_tokens": "5"}, 422, "max_tokens", "integer"),
    ("/v1/completions", TEXT | {"max_tokens": True}, 422, "max_tokens", "integer"),
    ("/v1/completions", TEXT | {"n": 0}, 422, "n", "1"),
    ("/v1/completions", TEXT | {"n": 9}, 422, "n", "8"),
    ("/v1/completions", TEXT | {"seed": -1}, 422, "seed", "0"),
    ("/v1/completions", TEXT | {"seed": 2**53}, 422, "seed", ""),
    ("/v1/completions", TEXT | {"logprobs": 21}, 422, "logprobs", "20"),
    ("/v1/completions", TEXT | {"logprobs": -1}, 422, "logprobs", "0"),
    ("/v1/completions", TEXT | {"echo": True}, 422, "echo", ""),
    ("/v1/completions", TEXT | {"stop": ""}, 422, "stop", ""),
    ("/v1/completions", TEXT | {"stop": "x" * 201}, 422, "stop", "200"),
    ("/v1/completions", TEXT | {"stop": ["x"] * 5}, 422, "stop", "4"),
    ("/v1/completions", TEXT | {"stop": [""]}, 422, "stop[0]", ""),
    ("/v1/completions", TEXT | {"sampler": "x" * 1001}, 422, "sampler", "1000"),
    ("/v1/completions", TEXT | {"temperature": -0.1}, 422, "temperature", "0"),
    ("/v1/completions", TEXT | {"temperature": 101}, 422, "temperature", "100"),
    ("/v1/completions", TEXT | {"temperature": "1"}, 422, "temperature", "number"),
    ("/v1/completions", TEXT | {"temperature": 10**400}, 422, "temperature", ""),
    ("/v1/completions", '{"prompt": "a", "temperature": NaN}', 422, "temperature", "finite"),
    ("/v1/completions", '{"prompt": "a", "temperature": Infinity}', 422, "temperature", "finite"),
    ("/v1/completions", '{"prompt": "a", "temperature": 1e999}', 422, "temperature", "finite"),
    ("/v1/completions", '{"prompt": "a", "seed": NaN}', 422, "seed", "integer"),
    ("/v1/completions", '{"prompt": "a", "seed": -Infinity}', 422, "seed", "integer"),
    ("/v1/completions", '{"prompt": [NaN]}', 422, "prompt[0]", "integer"),
    ("/v1/completions", TEXT | {"top_p": 0}, 422, "top_p", "0"),
    ("/v1/completions", TEXT | {"top_h": 1.1}, 422, "top_h", "1"),
    ("/v1/completions", TEXT | {"top_k": 0}, 422, "top_k", "1"),
    ("/v1/completions", TEXT | {"top_k": 10**7}, 422, "top_k", ""),
    ("/v1/completions", TEXT | {"mirostat": 3}, 422, "mirostat", "2"),
    ("/v1/completions", TEXT | {"mirostat_tau": 0}, 422, "mirostat_tau", "0"),
    ("/v1/completions", TEXT | {"stream": "yes"}, 422, "stream", "boolean"),
    ("/v1/completions", TEXT | {"stream_options": {"usage": True}}, 422, "stream_options.usage", "not permitted"),
    ("/v1/completions", TEXT | {"frequency_penalty": 0.1}, 422, "frequency_penalty", "0"),
    ("/v1/completions", TEXT | {"logit_bias": {}}, 422, "logit_bias", "not permitted"),
    ("/v1/completions", TEXT | {"sampler": "top_hh=0.4"}, 400, "sampler", "did you mean 'top_h'"),
    ("/v1/completions", TEXT | {"sampler": "top_h=nan"}, 400, "sampler", "top_h"),
    ("/v1/completions", TEXT | {"sampler": "mirostat_mu=nan"}, 400, "sampler", "mirostat_mu"),
    ("/v1/completions", TEXT | {"sampler": "top_p=[0.9 0.8]"}, 400, "sampler", "each row"),
    ("/v1/completions", TEXT | {"sampler": f"top_k={10**30}"}, 400, "sampler", "top_k"),
    ("/v1/completions", TEXT | {"sampler": "top_h=word"}, 400, "sampler", "top_h"),
    ("/v1/completions", TEXT | {"sampler": "top_p=0.9", "top_k": 5}, 400, "sampler", "top_k"),
    ("/v1/completions", TEXT | {"mirostat": 2, "top_p": 0.5}, 400, "sampler", "cannot be chained"),
    ("/v1/completions", TEXT | {"model": "gpt-9"}, 404, "model", "fake"),
    ("/v1/completions", TEXT | {"model": "x" * 201}, 422, "model", "200"),
    ("/v1/completions", "[]", 422, "body", ""),
    ("/v1/completions", "", 422, "body", ""),
    ("/v1/completions", "null", 422, "body", ""),
    ("/v1/completions", "{", 422, "body", "JSON"),
    ("/v1/completions", DEEP, 422, "body", "JSON"),
    ("/v1/completions", "1" * 5000, 422, "body", ""),
    ("/v1/completions", '{"prompt": "\\ud800"}', 422, "body", "JSON"),
    ("/v1/completions", b'{"prompt": "\xff"}', 422, "body", "JSON"),
    ("/v1/chat/completions", {}, 422, "messages", "required"),
    ("/v1/chat/completions", {"messages": []}, 422, "messages", "1"),
    ("/v1/chat/completions", {"messages": CHAT["messages"] * 257}, 422, "messages", "256"),
    ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "a"}]}, 422, "messages[0].role", "user"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 422, "messages[0].content", "required"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 1}]}, 422, "messages[0].content", ""),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "x": 1}]}, 422, "messages[0].x", ""),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]},
        422,
        "messages[0].content[0].type",
        "text",
    ),
    ("/v1/chat/completions", CHAT | {"logprobs": 3}, 422, "logprobs", "boolean"),
    ("/v1/chat/completions", CHAT | {"top_logprobs": 21}, 422, "top_logprobs", "20"),
    ("/v1/chat/completions", CHAT | {"top_logprobs": 2}, 400, "top_logprobs", "logprobs"),
    ("/v1/chat/completions", CHAT | {"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_tokens", "differ"),
    ("/v1/chat/completions", CHAT | {"max_completion_tokens": 4097}, 422, "max_completion_tokens", "4096"),
    ("/v1/chat/completions", CHAT | {"tools": []}, 422, "tools", "not permitted"),
    ("/v1/score", {}, 422, "text", "required"),
    ("/v1/score", {"text": ""}, 422, "text", ""),
    ("/v1/score", {"text": "a", "top": 21}, 422, "top", "20"),
    ("/v1/score", {"text": "a"}, 400, "text", "fake"),
    ("/v1/detect", {"text": "a", "level": 0}, 422, "level", "0"),
    ("/v1/detect", {"text": "a", "level": 1}, 422, "level", "1"),
    ("/v1/detect", '{"text": "a", "level": NaN}', 422, "level", "finite"),
    ("/v1/detect", {"text": "a", "sampler": "top_z=1"}, 400, "sampler", "top_z"),
]


@pytest.mark.parametrize(("path", "body", "status", "param", "word"), BAD)
async def test_bad_input_has_the_right_status_and_names_the_field(plain, path, body, status, param, word):
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = await plain.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    check(schemas.Faulty, answer.json())
    assert error["param"] == param, error
    assert word in error["message"]
    if status == 422:
        assert error["message"].startswith(param)


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_nothing_but_json_is_read(make_client, backend, kind):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await make_client().post("/v1/completions", content=json.dumps(TEXT), headers=headers)
    assert answer.status_code == 415
    assert not backend.jobs
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert (await make_client().post("/v1/completions", content=json.dumps(TEXT), headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/models/other", 404), ("GET", "/v1/completions", 405), ("PUT", "/", 405)],
)
async def test_what_is_not_there_is_told_in_openais_form(plain, method, path, status):
    answer = await plain.request(method, path)
    assert answer.status_code == status
    check(schemas.Faulty, answer.json())
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_nothing_comes_from_elsewhere(plain, path):
    assert (await plain.get(path)).status_code == 404


async def test_models_say_what_a_client_has_to_know(make_client):
    client = make_client(max_tokens=77)
    found = check(schemas.Models, (await client.get("/v1/models")).json())
    (model,) = found["data"]
    assert model == (await client.get("/v1/models/fake")).json()
    about = model["hartley"]
    assert (about["max_tokens"], about["context_length"], about["chat"]) == (77, 64, True)
    assert about["samplers"]["mirostat"]["mirostat"]["enum"] == [1, 2]
    bounds = about["samplers"]["temperature"]["temperature"]
    assert (bounds["minimum"], bounds["maximum"]) == (0, 100)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_queue_and_a_server_that_ends_say_when_to_come_again(make_client, backend, stream):
    for fault, status in (
        (busy("the queue is full", "queue_full", status=429), 429),
        (busy("ending", "draining"), 503),
    ):
        backend.fault = fault
        answer = await make_client().post("/v1/completions", json=TEXT | {"stream": stream})
        assert answer.status_code == status
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == fault.code


async def test_what_the_model_cannot_do_is_a_bad_request(make_client, backend):
    backend.fault = ValueError("the prompt of request 0 has 99 tokens, more than the 64 of the context")
    answer = await make_client().post("/v1/completions", json=TEXT)
    assert answer.status_code == 400
    assert "more than the 64" in answer.json()["error"]["message"]


BREAKS = {
    "draining": [*steps_of(0, 1, 3)[:2], Step(0, 2, None, "", None, "cancelled")],
    "failed": [*steps_of(0, 1, 3)[:2], RuntimeError("secret")],
    "timeout": [*steps_of(0, 1, 3)[:2], 5.0],
    "short": steps_of(0, 1, 3)[:2],
}


@pytest.mark.parametrize(("how", "status"), [("draining", 503), ("failed", 500), ("timeout", 503), ("short", 503)])
@both
async def test_an_answer_that_breaks_off_says_so(path, body, how, status):
    backend = FakeBackend(lambda job: BREAKS[how])
    client = client_of(create_app(backend, seconds=0.2))
    whole = await client.post(path, json=body)
    assert whole.status_code == status
    assert "secret" not in whole.text
    stream = await client.post(path, json=body | {"stream": True})
    assert stream.status_code == 200
    first, second, last = events(stream)
    assert first["choices"][0]["finish_reason"] is None
    assert second["choices"]
    check(schemas.Faulty, last)
    assert last["error"]["type"] == "server_error"
    assert "secret" not in stream.text
    assert [run.cancelled for run in backend.runs] == [True, True]
    if how == "timeout":
        assert whole.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_work(stream):
    backend = FakeBackend(lambda job: [*steps_of(0, 1)[:1], 60.0])
    app = create_app(backend)
    gone = asyncio.Event()
    content = json.dumps(TEXT | {"stream": stream}).encode()
    waiting = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive():
        if waiting:
            return waiting.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {
        "type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"", "query_string": b"",
        "root_path": "", "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1),
        "headers": [
            (b"host", b"localhost"), (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ],
    }  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))
    while not backend.runs:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert not backend.runs[0].cancelled
    gone.set()
    await asyncio.wait_for(task, 1)
    assert backend.runs[0].cancelled


async def test_probes(make_client, backend):
    client = make_client()
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).status_code == 200
    backend.is_ready = False
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert (await client.get("/healthz")).status_code == 200


async def test_metrics_count_what_was_done(make_client):
    client = make_client()
    await client.post("/v1/completions", json=TEXT | {"mirostat_tau": 1.0, "n": 2})
    await client.post("/v1/completions", json={})
    await client.get("/nowhere/with/a/name/of/its/own")
    found = {}
    for line in (await client.get("/metrics")).text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    assert found['hartley_requests_total{route="/v1/completions",status="200"}'] == 1
    assert found['hartley_requests_total{route="/v1/completions",status="422"}'] == 1
    assert found['hartley_requests_total{route="other",status="404"}'] == 1, "paths from outside are no labels"
    assert found['hartley_tokens_total{kind="completion"}'] == 6
    assert found['hartley_tokens_total{kind="prompt"}'] == 3
    assert found["hartley_first_token_seconds_count"] == 1
    mean = found["hartley_token_entropy_nats_sum"] / found["hartley_token_entropy_nats_count"]
    assert mean == pytest.approx((1 + 2 + 4) / 3)
    bits = (0.5 + 1.5 + 3.5) / 3 / math.log(2)
    assert found["hartley_mirostat_error_bits_sum"] == pytest.approx(2 * abs(bits - 1.0))
    assert (found["hartley_choices_running"], found["hartley_choices_waiting"]) == (1, 2)


async def test_the_description_is_whole(make_client):
    """Every reference resolves, every object is closed, every number and text of a request has bounds."""
    document = (await make_client(max_tokens=50).get("/openapi.json")).json()
    known = document["components"]["schemas"]
    for name in json.dumps(document).split("#/components/schemas/")[1:]:
        assert name.partition('"')[0] in known
    assert known["CompletionRequest"]["properties"]["max_tokens"]["anyOf"][0]["maximum"] == 50
    assert {"CompletionChunk", "ChatChunk", "Columns", "Faulty"} <= set(known)

    def walk(part, path):
        if isinstance(part, dict):
            kind = part.get("type")
            bounded = "enum" in part or "const" in part
            if kind in ("integer", "number") and not bounded:
                assert {"minimum", "exclusiveMinimum"} & set(part), path
                assert {"maximum", "exclusiveMaximum"} & set(part), path
            if kind == "string" and not bounded:
                assert "maxLength" in part, path
            if kind == "array":
                assert "maxItems" in part, path
            if kind == "object" and "properties" in part:
                assert part["additionalProperties"] is False, path
            for key, value in part.items():
                walk(value, f"{path}.{key}")
        elif isinstance(part, list):
            for value in part:
                walk(value, path)

    for name in (
        "CompletionRequest",
        "ChatRequest",
        "ScoreRequest",
        "DetectRequest",
        "Message",
        "TextPart",
        "StreamOptions",
    ):
        walk(known[name], name)
    for name, schema in known.items():
        if schema.get("type") == "object":
            assert schema["additionalProperties"] is False, name
