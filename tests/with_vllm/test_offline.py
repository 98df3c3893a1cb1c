"""Our processor, numbers and engine in a real vLLM, on the default model in float32."""

import dataclasses
import math
import threading

import pytest
import torch

from hartley.decoding import chain, mirostat, parse, top_h
from hartley.decoding.logits_processor import as_logits_processor
from hartley.engines import Request, generate, logits_of, open_engine
from hartley.engines.vllm import channel

PROMPT = "The lighthouse keeper had not spoken to anyone for three weeks when"


@pytest.fixture(scope="module")
def engine():
    return open_engine("smollm2", "vllm")


@pytest.fixture(scope="module")
def exact():
    return open_engine("smollm2", "transformers")


def run(engine, extra, count=1, **settings):
    from vllm import SamplingParams

    params = SamplingParams(**{"max_tokens": 12, "seed": 0, "ignore_eos": True, **settings}, extra_args=extra)
    return [result.outputs[0] for result in engine.llm.generate([PROMPT] * count, params, use_tqdm=False)]


def logits_after(exact, output):
    """The logits each token of an output was drawn from, ``[T, V]``, by transformers."""
    ids = [*exact.tokenizer.encode(PROMPT), *output.token_ids]
    return logits_of(exact, ids)[-len(output.token_ids) - 1 : -1]


def test_the_stand_ins_of_the_other_tests_are_like_the_real_ones():
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality

    import vllm_batches

    ours, theirs = (list(one.__dataclass_fields__) for one in (vllm_batches.BatchUpdate, BatchUpdate))
    assert ours == theirs
    assert [one.name for one in MoveDirectionality] == [one.name for one in vllm_batches.MoveDirectionality]
    stand_in = vllm_batches.params({"top_h": 0.4})
    for name, value in vars(stand_in).items():
        assert getattr(SamplingParams(extra_args={"top_h": 0.4}), name) == value, name


def test_both_loaders_of_vllm_take_our_class():
    from vllm.v1.sample.logits_processor import _load_logitsprocs_plugins
    from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcRequestState
    from vllm.v1.worker.gpu.sample.logits_processor.loader import _load_v2_logitsprocs_plugins

    from hartley.engines.vllm.processor import HartleyProcessor

    assert HartleyProcessor in _load_logitsprocs_plugins()
    assert HartleyProcessor in _load_v2_logitsprocs_plugins()
    for kind, names in {
        LogitsContext: {"idx_mapping_np", "seq_lens_upper_bound_np"},
        LogitsProcRequestState: {"all_token_ids", "prefill_len"},
    }.items():
        assert names <= {field.name for field in dataclasses.fields(kind)}


def test_every_hop_is_wrapped(engine):
    import importlib

    assert channel.trouble == ""
    for name, hops in channel.HOPS.items():
        module = importlib.import_module(name)
        for owner, function, _, _ in hops:
            assert getattr(getattr(module, owner), function).hartley
    assert channel.trouble == ""


def test_numbers_agree_with_vllms_log_probabilities_and_with_transformers(engine, exact):
    for output in run(engine, {"entropy": True}, count=3, logprobs=0, temperature=0.8, top_p=0.9):
        numbers = output.hartley
        assert list(numbers) == list(channel.ALL[:6])
        theirs = [next(iter(step.values())) for step in output.logprobs]
        assert numbers["surprisal"] == pytest.approx([-one.logprob for one in theirs], abs=1e-4)
        assert numbers["rank"] == [one.rank for one in theirs]
        log_probs = logits_after(exact, output).double().log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        variance = (log_probs.exp() * (-log_probs - entropy[:, None]) ** 2).sum(-1)
        assert numbers["entropy"] == pytest.approx(entropy.tolist(), abs=1e-3)
        assert numbers["varentropy"] == pytest.approx(variance.tolist(), abs=1e-2)
        assert numbers["mass"] == [1.0] * 12


def test_a_request_that_asks_nothing_gets_nothing(engine):
    assert run(engine, None)[0].hartley is None
    assert run(engine, {"top_h": 0.4, "entropy": False})[0].hartley is None


def test_every_choice_has_its_own_numbers(engine):
    from vllm import SamplingParams

    params = SamplingParams(n=2, max_tokens=5, seed=1, ignore_eos=True, extra_args={"entropy": True})
    first, second = engine.llm.generate([PROMPT], params, use_tqdm=False)[0].outputs
    assert first.token_ids != second.token_ids
    assert first.hartley["entropy"][0] == pytest.approx(second.hartley["entropy"][0])
    assert first.hartley["surprisal"] != second.hartley["surprisal"]


def test_requests_of_all_kinds_together_are_each_cut_as_transformers_would(engine, exact):
    """Mirostat's memory with others joining and leaving: each cut follows from all draws before it."""
    from vllm import SamplingParams

    texts = ["top_h=0.4", "mirostat=2,mirostat_tau=3,mirostat_eta=1", "typical_p=0.9", "entropy_top_k=300", "top_p=0.9"]
    asked = [(texts[i % 5], 3 + 5 * i % 17) for i in range(20)]
    params = [
        SamplingParams(max_tokens=most, seed=i, ignore_eos=True, extra_args={"hartley": text})
        for i, (text, most) in enumerate(asked)
    ]
    results = engine.llm.generate([PROMPT] * len(asked), params, use_tqdm=False)
    prompt = exact.tokenizer.encode(PROMPT)
    for (text, most), result in zip(asked, results, strict=True):
        output = result.outputs[0]
        assert len(output.hartley["kept"]) == most
        adapter = as_logits_processor(parse(text))
        for step, row in enumerate(logits_after(exact, output)):
            adapter(torch.tensor([[*prompt, *output.token_ids[:step]]]), row[None])
        trace = adapter.finish(torch.tensor([[*prompt, *output.token_ids]]))
        # the logits are transformers', so a cut that falls between two close tokens may fall one token aside
        for kept, draw in zip(output.hartley["kept"], trace, strict=True):
            assert kept == pytest.approx(draw.kept.item(), rel=0.02, abs=1)
            assert draw.log_prob.item() > -math.inf


def test_what_is_out_of_range_is_refused_and_the_engine_goes_on(engine):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match=r"top_h must be in \(0, 1\]; got 3"):
        run(engine, {"top_h": 3})
    assert len(run(engine, {"top_h": 0.3})[0].token_ids) == 12


def test_the_engine_streams_steps_like_the_others(engine):
    sampler = chain(top_h(0.4))
    requests = [Request(PROMPT, sampler, 8, seed=1), Request(PROMPT, mirostat(tau=3.0), 5, seed=2, stop=("zzz",))]
    steps = list(generate(engine, requests))
    assert [sum(step.index == i for step in steps) for i in (0, 1)] == [8, 5]
    assert [step.finish for step in steps if step.finish] == ["length", "length"]
    for index in (0, 1):
        own = [step for step in steps if step.index == index]
        assert [step.position for step in own] == list(range(len(own)))
        text = "".join(step.text for step in own)
        assert text == engine.tokenizer.decode([step.token for step in own])
        for step in own:
            assert step.draw["token"] == step.token
            assert step.draw["log_prob"] > -math.inf
            assert len(step.draw["top_tokens"]) == 20
    again = list(generate(engine, requests))
    by_row = [sorted(run, key=lambda step: (step.index, step.position)) for run in (steps, again)]
    for one, other in zip(*by_row, strict=True):  # the same seeds; vLLM may batch the prompts in another way: rounding
        assert (one.token, one.text, one.finish) == (other.token, other.text, other.finish)
        assert one.draw["entropy"] == pytest.approx(other.draw["entropy"], abs=1e-3)
    assert engine.waiting == {}


def test_a_stop_string_a_closed_iterator_and_a_cancelled_run_leave_nothing_behind(engine):
    text = "".join(step.text for step in generate(engine, [Request(PROMPT, parse(""), 12, seed=3)]))
    cut = text[5:8]
    steps = list(generate(engine, [Request(PROMPT, parse(""), 12, seed=3, stop=(cut,))]))
    assert steps[-1].finish == "stop"
    assert "".join(step.text for step in steps) == text[: text.index(cut)]

    running = generate(engine, [Request(PROMPT, parse(""), 100, seed=3)] * 2)
    next(running)
    running.close()

    cancel = threading.Event()
    running = generate(engine, [Request(PROMPT, parse(""), 100, seed=3)], cancel=cancel)
    next(running)
    cancel.set()
    assert [step.finish for step in running] == ["cancelled"]
    assert engine.waiting == {}
    assert engine.llm.llm_engine.get_num_unfinished_requests() == 0


def test_the_engine_refuses_what_it_cannot_do(engine):
    with pytest.raises(ValueError, match="the prompt of request 0 is empty"):
        generate(engine, [Request("", parse(""))])
    with pytest.raises(ValueError, match="a value for each row"):
        generate(engine, [Request(PROMPT, parse("top_p=[0.5 0.9]"))])
    with pytest.raises(NotImplementedError, match="transformers or the onnx engine"):
        engine.score([1])
