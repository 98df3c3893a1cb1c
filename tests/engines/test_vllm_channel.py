"""The way back from the sampler to the caller, hop by hop, with stand-ins for vLLM's objects."""

import asyncio
import inspect
import json
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from hartley.engines import open_engine
from hartley.engines.vllm import channel
from hartley.engines.vllm.processor import HartleyProcessor
from vllm_batches import BatchUpdate, params


@pytest.fixture
def processor():
    found = HartleyProcessor(None, torch.device("cpu"), False)
    added = [(0, params({"entropy": True}), [1], []), (1, params(None), [1], []), (2, params({"entropy": 1}), [1], [])]
    found.update_state(BatchUpdate(3, [], added, []))
    found.apply(torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 2.0]]))
    return found


def outputs_of(runner_output, processor):
    """Through the runner and the scheduler: what each request's output carries then."""
    runner = SimpleNamespace(input_batch=SimpleNamespace(logitsprocs=SimpleNamespace(non_argmax_invariant=[processor])))
    result = channel._sample_tokens(lambda self: runner_output)(runner)
    inner = getattr(result, "_model_runner_output", getattr(result, "model_runner_output", result))
    made = [
        SimpleNamespace(request_id=name, new_token_ids=tokens, kv_transfer_params=free)
        for name, tokens, free in (("a", [1], None), ("b", [0], None), ("c", [], None), ("c", [1], {"their": "own"}))
    ]
    scheduler = channel._update_from_output(lambda self, asked, output: {0: SimpleNamespace(outputs=made)})
    return scheduler(None, None, inner)[0].outputs


@pytest.mark.parametrize("way", ["V1", "V1 ahead of itself", "V2"])
def test_numbers_travel_with_the_tokens_that_count_and_no_others(processor, way):
    inner = SimpleNamespace(req_ids=["a", "b", "c"], sampled_token_ids=[[1], [0], [1]])
    tokens = torch.tensor([[1], [0], [1]], dtype=torch.int32)
    given = {
        "V1": inner,
        "V1 ahead of itself": SimpleNamespace(_model_runner_output=inner, _sampled_token_ids=tokens),
        "V2": SimpleNamespace(model_runner_output=inner, sampler_output=SimpleNamespace(sampled_token_ids=tokens)),
    }[way]
    a, b, thrown_away, c = outputs_of(given, processor)
    ln2 = torch.tensor(2.0).log().item()
    assert a.kv_transfer_params == {"hartley": pytest.approx([ln2, 0.0, ln2, 2, 2, 1.0], abs=1e-6)}
    assert b.kv_transfer_params is None
    assert thrown_away.kv_transfer_params is None
    assert c.kv_transfer_params["their"] == "own"
    assert c.kv_transfer_params["hartley"][3] == 1


def test_a_failure_on_the_way_costs_the_numbers_and_not_the_step(processor, caplog):
    broken = SimpleNamespace(sampled_token_ids=None, req_ids=["a", "b", "c"])
    runner = SimpleNamespace(input_batch=SimpleNamespace(logitsprocs=SimpleNamespace(non_argmax_invariant=[processor])))
    assert channel._sample_tokens(lambda self: broken)(runner) is broken
    assert "numbers of a step are lost" in caplog.text


def test_a_token_that_is_none_does_no_harm(processor):
    assert sorted(processor.drawn(torch.tensor([-1, 10**9, 10**9]))) == [0, 2]


def front_end(*steps, delta):
    """Feed steps of one request to the front end; what the caller gets at each."""

    class State(SimpleNamespace):
        def new(self, count):
            return SimpleNamespace(index=0, token_ids=self.tokens[-count:] if delta else self.tokens)

    state = State(tokens=[])
    owner = SimpleNamespace(request_states={"r": state})
    seen = []
    for free, count in steps:
        output = SimpleNamespace(request_id="r", kv_transfer_params=free)
        channel._process_outputs(lambda self, outputs: None)(owner, [output])
        seen.append(output.kv_transfer_params)
        state.tokens.extend([7] * count)
        made = channel._new_completion_output(State.new)(state, count)
        yield made
    assert seen == [{"kv": 1} if i == 1 else None for i in range(len(steps))]


def test_the_caller_gets_all_numbers_or_the_new_ones_as_it_gets_tokens():
    rows = [[float(i), 0.5, 1.5, 3, 9, 1.0] for i in range(3)]
    steps = [({"hartley": rows[0]}, 1), ({"hartley": rows[1], "kv": 1}, 1), ({"hartley": rows[2]}, 1)]
    assert [out.hartley["entropy"] for out in front_end(*steps, delta=True)] == [[0.0], [1.0], [2.0]]
    whole = list(front_end(*steps, delta=False))[-1].hartley
    assert list(whole) == ["entropy", "varentropy", "surprisal", "rank", "kept", "mass"]
    assert whole["entropy"] == [0.0, 1.0, 2.0]
    assert whole["rank"] == [3, 3, 3]


def test_outputs_that_pile_up_are_joined():
    result = SimpleNamespace(outputs=[SimpleNamespace(index=0, hartley={"entropy": [1.0]})])
    more = SimpleNamespace(outputs=[SimpleNamespace(index=0, hartley={"entropy": [2.0, 3.0]})])
    channel._add(lambda self, next_output, aggregate: None)(result, more, True)
    assert result.outputs[0].hartley == {"entropy": [1.0, 2.0, 3.0]}


def test_streamed_events_carry_what_came_since_the_last_one_of_their_choice():
    async def server(self, request, result_generator):
        yield 'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
        async for result in result_generator:
            if result.text:
                yield f'data: {{"choices": [{{"index": 0, "delta": {{"content": "{result.text}"}}}}]}}\n\n'
        yield "data: [DONE]\n\n"

    async def results():
        for i, text in enumerate(("a", "", "é")):  # a token without text sends no event
            yield SimpleNamespace(text=text, outputs=[SimpleNamespace(index=0, hartley={"entropy": [float(i)]})])

    async def events():
        wrapped = channel._stream(server)
        return [event async for event in wrapped(None, SimpleNamespace(n=None), results())]

    first, *rest, done = asyncio.run(events())
    assert done == "data: [DONE]\n\n"
    assert "hartley" not in first
    chunks = [json.loads(event.removeprefix("data: "))["choices"][0] for event in rest]
    assert [chunk["hartley"]["entropy"] for chunk in chunks] == [[0.0], [1.0, 2.0]]
    assert "é" in rest[1]


@pytest.fixture
def strange(monkeypatch):
    """A module where vLLM's is expected."""
    monkeypatch.setattr(channel, "trouble", "")

    def make(**classes):
        module = ModuleType("vllm.outputs")
        module.__dict__.update(classes, CompletionOutput=type("CompletionOutput", (), {}))
        return module

    return make


def test_a_function_that_changed_is_not_wrapped_and_said_so(strange, caplog):
    class RequestOutput:
        def add(self, other):
            """Another signature."""

    module = strange(RequestOutput=RequestOutput)
    before = RequestOutput.add
    channel._wrap(module)
    assert RequestOutput.add is before
    assert "vllm.outputs.RequestOutput.add is not what Hartley knows" in channel.trouble
    assert channel.trouble in caplog.text


def test_wrapping_twice_wraps_once(strange):
    class RequestOutput:
        def add(self, next_output, aggregate):
            """The known one."""

    module = strange(RequestOutput=RequestOutput)
    channel._wrap(module)
    once = RequestOutput.add
    channel._wrap(module)
    assert RequestOutput.add is once
    assert list(inspect.signature(once).parameters) == ["self", "next_output", "aggregate"]
    assert module.CompletionOutput.hartley is None
    assert channel.trouble == ""


def test_an_unknown_vllm_is_refused_loudly(monkeypatch, caplog):
    monkeypatch.setattr(channel, "trouble", "")
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0.99.1"))
    finders = list(sys.meta_path)
    channel.install()
    assert sys.meta_path == finders
    assert "vLLM 0.99.1 is unknown" in channel.trouble
    assert "vLLM 0.99.1 is unknown" in caplog.text


def test_a_missing_vllm_names_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r'pip install "hartley\[vllm\]"'):
        open_engine(tiny, "vllm")
    with pytest.raises(ValueError, match="device must be None for the vllm engine"):
        open_engine(tiny, "vllm", device="cpu")
