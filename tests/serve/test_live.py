"""A real server process on the loopback interface, driven by OpenAI's client and plain HTTP."""

import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import openai
import pytest
from pydantic import TypeAdapter

from hartley.decoding import parse
from hartley.detection import detect
from hartley.engines import Request, generate, open_engine
from hartley.serve import schemas
from serving import KEY, live

LONG = {"prompt": "the and", "max_tokens": 200, "n": 8, "seed": 5, "sampler": "top_k=100"}
CHAT = [{"role": "user", "content": "Name three rivers."}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture(scope="module")
def engine(tiny):
    """The same model in this process."""
    return open_engine(str(tiny), "transformers", device="cpu")


def metric(http, name):
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} "))


def busy(http):
    return metric(http, "hartley_choices_running") + metric(http, "hartley_choices_waiting")


def events(lines):
    for line in lines:
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def eventually(true, seconds=5):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_openais_client_streams_a_chat(client):
    stream = client.chat.completions.create(
        model="tiny", messages=CHAT, stream=True, stream_options={"include_usage": True}, seed=3, max_tokens=20,
        temperature=0.8, logprobs=True, top_logprobs=2, extra_body={"top_h": 0.9, "entropy": True},
    )  # fmt: skip
    *chunks, last = list(stream)
    assert last.usage.completion_tokens == len(chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    whole = client.chat.completions.create(
        model="tiny", messages=CHAT, seed=3, max_tokens=20, temperature=0.8, logprobs=True, top_logprobs=2,
        extra_body={"top_h": 0.9, "entropy": True},
    )  # fmt: skip
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content
    for chunk, entry in zip(chunks, whole.choices[0].logprobs.content, strict=True):
        (one,) = chunk.choices[0].logprobs.content
        assert one.logprob == pytest.approx(entry.logprob, abs=1e-4)
        assert len(one.top_logprobs) == 2
        assert chunk.choices[0].hartley["surprisal"] == [-one.logprob]
    assert whole.sampler == "temperature=0.8,top_h=0.9"


def test_openais_client_reads_completions_with_logprobs(client, engine):
    answer = client.completions.create(model="tiny", prompt="the and", max_tokens=12, n=2, seed=9, logprobs=4)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for i, choice in enumerate(answer.choices):
        steps = list(generate(engine, [Request("the and", parse(""), 12, 9 + i)]))
        assert choice.text == "".join(step.text for step in steps), "choice i is what seed + i gives alone"
        found = choice.logprobs
        assert found.token_logprobs == pytest.approx([-step.draw["surprisal"] for step in steps], abs=1e-4)
        assert all(token in top for token, top in zip(found.tokens, found.top_logprobs, strict=True))


def test_the_example_of_the_documentation_runs(server, capsys):
    page = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"
    code = re.search(r"^```py\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)[1]
    for theirs, ours in {"http://127.0.0.1:8000": server.url, '"none"': repr(KEY), '"smollm2"': '"tiny"'}.items():
        assert theirs in code
        code = code.replace(theirs, ours)
    exec(compile(code, "<example>", "exec"), {})
    assert re.search(r" \[\d+\.\d+\]$", capsys.readouterr().out, re.M)


def test_openais_client_finds_the_model(client):
    (model,) = client.models.list().data
    assert model.id == "tiny"
    assert model.hartley["engine"] == "transformers"
    assert client.models.retrieve("tiny").id == "tiny"


ERRORS = [
    (openai.BadRequestError, 400, {"prompt": "the " * 2000}),
    (openai.BadRequestError, 400, {"extra_body": {"sampler": "top_q=1"}}),
    (openai.NotFoundError, 404, {"model": "gpt-9"}),
    (openai.APIStatusError, 413, {"prompt": "a" * 1_100_000}),
    (openai.UnprocessableEntityError, 422, {"temperature": -1}),
]


@pytest.mark.parametrize(("kind", "status", "asked"), ERRORS)
def test_openais_client_knows_the_errors(client, kind, status, asked):
    with pytest.raises(kind) as caught:
        client.completions.create(**{"model": "tiny", "prompt": "a", "max_tokens": 2} | asked)
    assert caught.value.status_code == status
    assert caught.value.body["message"]


def test_openais_client_knows_a_wrong_key(server):
    stranger = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sk-wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_openais_client_knows_a_full_queue(client, http):
    body = LONG | {"stream": True, "max_tokens": 400}
    with http.stream("POST", "/v1/completions", json=body) as one, httpx.Client() as second:
        lines = one.iter_lines()  # the connection ends with it
        next(lines)
        more = {"json": body | {"n": 4}, "headers": http.headers, "timeout": 60}
        with second.stream("POST", http.base_url.join("v1/completions"), **more):  # four run, and eight wait now
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model="tiny", prompt="a", n=8)
            assert int(caught.value.response.headers["retry-after"]) >= 1
    eventually(lambda: busy(http) == 0)


def test_an_answer_does_not_depend_on_who_else_asks(http):
    asked = [
        {"prompt": prompt, "max_tokens": 30, "seed": 11, "sampler": sampler}
        for prompt in ("the", "an and the")
        for sampler in ("", "top_h=0.5", "mirostat=2,mirostat_tau=3")
    ]
    alone = [http.post("/v1/completions", json=body).json()["choices"] for body in asked]
    with ThreadPoolExecutor(6) as pool:
        together = [
            answer.json()["choices"] for answer in pool.map(lambda body: http.post("/v1/completions", json=body), asked)
        ]
    assert together == alone


def test_a_text_ends_before_its_stop(http):
    asked = {"prompt": "the", "max_tokens": 60, "seed": 1, "sampler": "top_k=100"}
    (choice,) = http.post("/v1/completions", json=asked).json()["choices"]
    text, stop = choice["text"], choice["text"][20:23]
    assert choice["finish_reason"] == "length"
    (ended,) = http.post("/v1/completions", json=asked | {"stop": ["never this", stop]}).json()["choices"]
    assert ended["text"] == text[: text.index(stop)]
    assert ended["finish_reason"] == "stop"


def test_a_text_goes_on_from_an_alternative(http):
    asked = {"messages": CHAT, "max_tokens": 8, "seed": 1, "entropy": True, "return_token_ids": True}
    (choice,) = http.post("/v1/chat/completions", json=asked).json()["choices"]
    other = next(one for one in choice["hartley"]["top"][3] if one["token_id"] != choice["token_ids"][3])
    prompt = choice["prompt_token_ids"] + choice["token_ids"][:3]
    again = {"prompt": prompt, "max_tokens": 1, "sampler": "top_k=20", "logprobs": 8, "entropy": True, "seed": 1}
    (found,) = http.post("/v1/completions", json=again).json()["choices"]
    values = {one["token_id"]: one["log_prob"] for one in found["hartley"]["top"][0]}
    assert values[other["token_id"]] == pytest.approx(other["log_prob"], abs=1e-4), "it is the same place"
    more = http.post("/v1/completions", json={"prompt": [*prompt, other["token_id"]], "max_tokens": 4})
    assert more.json()["usage"]["prompt_tokens"] == len(prompt) + 1


def test_a_text_is_scored_as_the_engine_scores_it(http, engine):
    text = "the and an the"
    found = http.post("/v1/score", json={"text": text, "top": 3}).json()
    TypeAdapter(schemas.Score).validate_python(found, strict=True)
    ids = engine.tokenizer.encode(text)
    assert found["tokens"]["token_ids"] == ids
    log_probs = engine.score(ids[:-1]).double().log_softmax(-1)
    expected = [-log_probs[i, token].item() for i, token in enumerate(ids[1:])]
    assert found["tokens"]["surprisal"] == [None, *(pytest.approx(value, abs=1e-4) for value in expected)]
    entropies = [-(row.exp() * row).sum().item() for row in log_probs]
    assert found["tokens"]["entropy"][1:] == pytest.approx(entropies, abs=1e-4)
    for row, rank, top, token in zip(
        log_probs, found["tokens"]["rank"][1:], found["tokens"]["top"][1:], ids[1:], strict=True
    ):
        assert rank == 1 + (row > row[token]).sum().item()
        assert [one["token_id"] for one in top] == row.topk(3).indices.tolist()
    assert found["totals"]["mean_surprisal"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    assert found["totals"]["tokens"] == len(ids)
    assert http.post("/v1/score", json={"text": ids, "top": 3}).json() == found
    one = http.post("/v1/score", json={"text": ids[:1]}).json()
    assert one["tokens"]["surprisal"] == [None]


def test_a_text_is_judged_as_the_library_judges_it(http, engine):
    text = "the and an the " * 20
    found = http.post("/v1/detect", json={"text": text, "level": 0.01, "sampler": "temperature=2"}).json()
    TypeAdapter(schemas.Verdict).validate_python(found, strict=True)
    expected = detect(text, engine, alpha=0.01, sampler=parse("temperature=2")).to_dict()
    for name, value in expected.items():
        assert found[name] == (pytest.approx(value, rel=1e-3, abs=1e-6) if isinstance(value, float) else value), name
    with_prompt = http.post("/v1/detect", json={"text": text, "prompt": "Why?"}).json()
    assert with_prompt["n_tokens"] == found["n_tokens"] + 1, "after a prompt the first token is judged too"


@pytest.mark.parametrize("path", ["/v1/score", "/v1/detect"])
def test_a_text_longer_than_is_read_here_is_refused(http, path):
    answer = http.post(path, json={"text": "the and " * 1000})
    assert answer.status_code == 400
    assert "tokens" in answer.json()["error"]["message"]


def test_clients_that_vanish_leave_no_slot(http, server):
    began = time.monotonic()
    assert http.post("/v1/completions", json=LONG).status_code == 200
    whole = time.monotonic() - began  # 1600 tokens
    for stream in (True, False):
        for _ in range(3):
            with httpx.Client(base_url=server.url, headers=http.headers, timeout=60 if stream else whole / 10) as other:
                try:
                    with other.stream("POST", "/v1/completions", json=LONG | {"stream": stream}) as answer:
                        next(answer.iter_lines())
                except httpx.ReadTimeout:
                    assert not stream
            left = time.monotonic()
            eventually(lambda: busy(http) == 0)
            assert time.monotonic() - left < whole / 2, "the work went on without its client"
    assert http.post("/v1/completions", json={"prompt": "the", "n": 4}).status_code == 200


def test_a_server_that_is_told_to_end_finishes_what_it_can_and_says_what_it_cannot(tiny):
    with live("--model", tiny, "--streams", 4, "--queue", 100, "--grace", 4) as server:

        def stream(begun, **body):
            url = f"{server.url}/v1/completions"
            with httpx.stream(
                "POST", url, json=LONG | {"stream": True, "max_tokens": 400} | body, timeout=60
            ) as answer:
                found = []
                for event in events(answer.iter_lines()):
                    found.append(event)
                    begun.set()
                return found

        def whole(**body):
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
            try:
                return client.completions.create(model="tiny", prompt="the", extra_body={"top_k": 100}, **body)
            except openai.InternalServerError as error:
                return error

        with ThreadPoolExecutor(12) as pool, httpx.Client(base_url=server.url) as http:
            short = Event()
            streams = [pool.submit(stream, short, n=1, max_tokens=120)]
            wholes = [pool.submit(whole, max_tokens=120)]
            assert short.wait(20)
            eventually(lambda: wholes[0].done() or busy(http) >= 2)
            streams += [pool.submit(stream, Event()) for _ in range(7)]
            wholes += [pool.submit(whole, n=8, max_tokens=400)]
            eventually(lambda: metric(http, "hartley_choices_waiting") >= 50)
            assert server.end(seconds=30) == -signal.SIGTERM
            finished, *broken = [one.result() for one in streams]
            answer, refused = [one.result() for one in wholes]
        assert finished[-1] == "[DONE]"
        assert len(finished) == 121
        assert answer.usage.completion_tokens == 120
        for found in broken:
            assert found[-1]["error"]["code"] == "draining"
        assert refused.status_code == 503
        assert int(refused.response.headers["retry-after"]) >= 1


def test_the_log_is_one_object_a_request_without_its_prompt(http, server):
    http.post("/v1/completions", json={"prompt": "wordofmine", "max_tokens": 1})
    http.post("/v1/completions", json={"prompt": "wordofmine", "sampler": "wordofmine"})
    eventually(lambda: json.loads(server.log[-1]).get("status") == 400)
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    assert [line["status"] for line in lines[-2:]] == [200, 400]
    assert lines[-2]["tokens"] == 1
    assert "wordofmine" not in "".join(server.log)
