import math
from importlib.util import find_spec

import pytest
import torch

from hartley.decoding import chain, mirostat, temperature, top_k
from hartley.engines import Request, generate, logits_of, open_engine
from hartley.engines.fidelity import fidelity, recorded
from hartley.engines.transformers import TransformersEngine
from tiny_models import tiny_model


class Fixed:
    """An engine that gives the same logits after every token."""

    name, model_name, dtype, context_length, tokenizer = "fixed", "fixed", "float32", 10, None

    def __init__(self, *probs: float) -> None:
        self.logits = torch.tensor(probs).log()
        self.vocab_size = len(probs)

    def score(self, ids):
        return self.logits.repeat(len(ids), 1)


def test_by_hand():
    found = fidelity(Fixed(0.25, 0.75), Fixed(0.5, 0.5 + 1e-6), [0, 1, 0])
    assert found.kl == pytest.approx(0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), abs=1e-5)
    assert found.largest == pytest.approx(found.kl)
    assert found.standard_error == pytest.approx(0, abs=1e-9)
    assert (found.agreement, found.tokens) == (1.0, 3)
    assert fidelity(Fixed(0.9, 0.1), Fixed(0.1, 0.9), [0]).agreement == 0.0


def test_an_engine_agrees_with_itself(tiny):
    engine = TransformersEngine(tiny_model(), None)  # type: ignore[arg-type]
    found = fidelity(engine, engine, [5, 6, 7])
    assert (found.kl, found.agreement) == (0.0, 1.0)


def test_the_record_keeps_what_was_promised():
    bounds = {"int8": 0.01, "float32": 1e-6, "Q4_1": 0.01}
    for row in recorded()["rows"]:
        assert row["kl"] < bounds[row["dtype"]]


@pytest.mark.model
def test_the_record_is_true_of_the_default_model(moby_dick):
    reference = open_engine("smollm2", "transformers", "float32", device="cpu")
    ids = reference.tokenizer.encode(moby_dick)[:300]
    for row in (row for row in recorded()["rows"] if row["text"] == "Moby Dick"):
        if row["engine"] == "llama" and find_spec("llama_cpp") is None:
            continue
        found = fidelity(open_engine("smollm2", row["engine"], row["dtype"]), reference, ids)
        assert found.kl < 1.5 * row["kl"] + 1e-9
        assert found.agreement > row["agreement"] - 0.05


@pytest.mark.model
def test_the_default_model_writes_the_same_text_in_any_batch():
    engine = open_engine()
    samplers = [temperature(0.8), mirostat(2, tau=4.0), chain(temperature(1.5), top_k(20))]
    prompts = [engine.tokenizer.chat("What is entropy?"), "Call me", "Once upon a time there was a"]
    requests = [
        Request(prompt, sampler, max_tokens=8 + 2 * i, seed=i)
        for i, (prompt, sampler) in enumerate(zip(prompts, samplers, strict=True))
    ]
    together = list(generate(engine, requests))
    for i, request in enumerate(requests):
        alone = list(generate(engine, [request]))
        assert [s.draw for s in alone] == [s.draw for s in together if s.index == i]
        assert "".join(s.text for s in alone) == "".join(s.text for s in together if s.index == i)


@pytest.mark.model
def test_both_engines_give_the_same_numbers_while_decoding():
    exact, packed = open_engine(engine="transformers", device="cpu"), open_engine(dtype="float32")
    ids = exact.tokenizer.encode("The capital of France is")
    steps = list(generate(packed, [Request(ids, temperature(0.7), max_tokens=8, seed=3)]))
    drawn = [step.token for step in steps]
    log_probs = logits_of(exact, [*ids, *drawn])[len(ids) - 1 : -1].log_softmax(-1)
    for step, row in zip(steps, log_probs, strict=True):
        assert step.draw["surprisal"] == pytest.approx(-row[step.token].item(), abs=1e-4)
        assert step.draw["entropy"] == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-4)
