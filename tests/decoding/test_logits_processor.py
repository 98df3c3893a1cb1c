import math
import subprocess
import sys

import pytest
import torch

from hartley.decoding import chain, mirostat, parse, temperature, top_k, top_p
from hartley.decoding.logits_processor import as_logits_processor
from strategies import log_softmax64

LN2 = math.log(2.0)


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=80, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.8, bos_token_id=0, eos_token_id=None, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


PROMPT = torch.tensor([[3, 14, 15], [9, 26, 5]])


def generate(model, processor, prompt=PROMPT, seed=0, **kwargs):
    torch.manual_seed(seed)
    settings = {"do_sample": True, "top_k": 0, "max_new_tokens": 12, **kwargs}
    return model.generate(
        prompt, attention_mask=torch.ones_like(prompt), logits_processor=[processor], pad_token_id=1, **settings
    )


def drawn(sequences, prompt=PROMPT):
    return sequences[:, prompt.shape[1] :]


def test_the_trace_has_every_token_as_the_model_saw_it(model):
    processor = as_logits_processor(chain(temperature(1.5), top_p(0.8)))
    sequences = generate(model, processor)
    assert len(processor.trace) == 11  # the last one is not known yet
    trace = processor.finish(sequences)
    assert torch.equal(torch.stack([draw.token for draw in trace], 1), drawn(sequences))
    log_probs = log_softmax64(model(sequences).logits.detach())[:, 2:-1]
    surprisal = -log_probs.gather(-1, drawn(sequences)[..., None]).squeeze(-1)
    torch.testing.assert_close(
        torch.stack([draw.surprisal for draw in trace], 1).double(), surprisal, atol=1e-4, rtol=1e-4
    )
    for draw in trace:
        assert (draw.log_prob > -torch.inf).all()
        assert (draw.mass <= 1).all()


def test_the_masked_scores_are_the_samplers(model):
    output = generate(model, as_logits_processor(top_k(3)), return_dict_in_generate=True, output_scores=True)
    assert all((step > -torch.inf).sum(-1).tolist() == [3, 3] for step in output.scores)


@pytest.mark.parametrize("text", ["mirostat=2,mirostat_eta=0.5", "mirostat=1", "temperature=1.3,mirostat_tau=4"])
def test_mirostat_keeps_its_promise_in_generate(model, text):
    """The telescoping identity, exact for every row and run, holds only if each token moved mu once."""
    sampler = parse(text)
    processor = as_logits_processor(sampler)
    trace = processor.finish(generate(model, processor, max_new_tokens=30, return_dict_in_generate=True))
    last = getattr(sampler, "samplers", [sampler])[-1]
    mu = processor._state[-1] if isinstance(processor._state, tuple) else processor._state
    tau, eta = last.settings["tau"], last.settings["eta"]
    mean = torch.stack([draw.surprisal for draw in trace]).double().mean(0) / LN2
    torch.testing.assert_close(mean - tau, (2 * tau - mu) / (30 * eta), atol=1e-6, rtol=0)


def test_the_same_calls_give_the_same_cuts_as_our_own_loop(model):
    sampler = mirostat(tau=2.0, eta=1.0)
    processor = as_logits_processor(sampler)
    sequences = generate(model, processor)
    state = sampler.init(2)
    logits = model(sequences).logits.detach()[:, 2:-1]
    for step, draw in enumerate(processor.finish(sequences)):
        left = (sampler.mask(logits[:, step], state) > -torch.inf).sum(-1)
        assert torch.equal(draw.kept, left)
        state = sampler.update(state, draw)


def test_a_new_call_of_generate_starts_anew(model):
    once = as_logits_processor(mirostat(tau=2.0, eta=1.0))
    first = generate(model, once)
    again = generate(model, once)  # the same prompt
    assert torch.equal(first, again)
    assert len(once.finish(again)) == 12
    other = torch.tensor([[7, 7, 8]])
    fresh = as_logits_processor(mirostat(tau=2.0, eta=1.0))
    assert torch.equal(generate(model, once, other), generate(model, fresh, other))  # another prompt, another batch
    longer = first[:, :9] + 0
    longer[:, 0] = 2
    assert torch.equal(generate(model, once, longer), generate(model, fresh, longer))


def steps(processor, ids, logits):
    for length in range(2, ids.shape[1] + 1):
        yield processor(ids[:, :length], logits[length - 2])


def test_calling_twice_at_one_length_updates_once():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 2, 30, generator=generator)
    ids = torch.randint(30, (2, 5), generator=generator)
    once, twice = (as_logits_processor(mirostat(mu=100.0, eta=1.0)) for _ in range(2))
    for length in range(2, 6):
        masked = once(ids[:, :length], logits[length - 2])
        for _ in range(3):
            assert torch.equal(twice(ids[:, :length], logits[length - 2]), masked)
    assert torch.equal(once._state, twice._state)
    assert len(once.trace) == len(twice.trace) == 3
    moved = sum(draw.surprisal.double() / LN2 - 5.0 for draw in once.trace)
    torch.testing.assert_close(once._state, 100.0 - moved)


def test_a_row_that_ended_keeps_its_state():
    end, pad = 7, 0
    logits = torch.randn(6, 2, 30, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[2, 3, 5, end, pad, pad, pad], [2, 4, 6, 8, 10, 12, 14]])
    both = as_logits_processor(mirostat(mu=100.0, eta=1.0), eos_token_id=[end, 29])
    list(steps(both, ids, logits))
    alone = as_logits_processor(mirostat(mu=100.0, eta=1.0), eos_token_id=end)
    list(steps(alone, ids[:1, :4], logits[:, :1]))
    assert both._state[0] == alone._state[0]
    assert [draw.token.tolist() for draw in both.trace] == [[5, 6], [end, 8], [-1, 10], [-1, 12], [-1, 14]]
    after = both.trace[-1]
    assert after.surprisal.isnan().tolist() == [True, False]
    assert after.kept.tolist() == [0, 30]
    assert after.row(1)["token"] == 14


def test_padding_that_the_sampler_removed_is_seen_without_an_eos():
    logits = torch.arange(10.0).expand(1, 10)
    for pad in (0, -100, 50):  # removed by top_k, or no token at all
        processor = as_logits_processor(chain(top_k(3)))
        for ids in ([[5]], [[5, 9]], [[5, 9, pad]], [[5, 9, pad, 9]]):
            processor(torch.tensor(ids), logits)
        assert [draw.token.item() for draw in processor.trace] == [9, -1, -1]


def test_generate_pads_rows_that_ended(model):
    probable = model(PROMPT).logits[:, -1].argmax(-1)
    processor = as_logits_processor(temperature(0.7), eos_token_id=probable.tolist())
    sequences = generate(model, processor, eos_token_id=probable.tolist(), max_new_tokens=40, seed=1)
    trace = processor.finish(sequences)
    tokens = torch.stack([draw.token for draw in trace], 1)
    for row, got in zip(drawn(sequences).tolist(), tokens.tolist(), strict=True):
        ends = [place for place, token in enumerate(row) if token in probable.tolist()]
        stop = ends[0] + 1 if ends else len(row)
        assert got[:stop] == row[:stop]
        assert got[stop:] == [-1] * (len(row) - stop)


def test_beam_search_is_refused(model):
    for do_sample in (False, True):
        with pytest.raises(ValueError, match="beam search"):
            generate(model, as_logits_processor(temperature(1.2)), num_beams=4, do_sample=do_sample, max_new_tokens=30)


def test_tokens_taken_back_are_refused_until_reset():
    processor = as_logits_processor(mirostat())
    logits = torch.zeros(1, 10)
    for ids in ([[1, 2]], [[1, 2, 3]], [[1, 2, 3, 4]]):
        processor(torch.tensor(ids), logits)
    with pytest.raises(ValueError, match=r"assisted decoding.*reset\(\)"):
        processor(torch.tensor([[1, 2, 5]]), logits)
    processor.reset()
    processor(torch.tensor([[1, 2, 5]]), logits)
    assert processor.trace == []


def test_finish_is_safe_to_repeat_and_refuses_strangers(model):
    processor = as_logits_processor(top_p(0.9))
    with pytest.raises(ValueError, match="do not go on"):
        processor.finish(PROMPT)
    sequences = generate(model, processor)
    assert len(processor.finish(sequences)) == len(processor.finish(sequences)) == 12
    with pytest.raises(ValueError, match="do not go on"):
        processor.finish(sequences.flip(0))


def test_scores_are_not_changed_in_place():
    scores = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    as_logits_processor(top_k(2))(torch.tensor([[1], [2]]), scores)
    assert torch.equal(scores, before)


def test_refuses_what_is_no_sampler():
    with pytest.raises(TypeError, match=r"such as top_p\(0.9\)"):
        as_logits_processor("top_p=0.9")


def test_transformers_is_not_imported():
    code = "import sys, hartley.decoding.logits_processor; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
