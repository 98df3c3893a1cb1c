"""Surprisal, entropy and cumulants of written tokens: the definition, then padding, batches, constants, samplers."""

import math

import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import chain, mirostat, temperature, top_k, top_p
from hartley.detection import LAMBDAS, score_from_logits
from hartley.info import token_cumulants
from hartley.info.kernels import cumulants_reference
from strategies import entropy64, law, log_softmax64, rows

UNEVEN = torch.tensor([0.5, 0.25, 0.25]).log()


def text(length=12, size=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(length, size, generator=generator), torch.randint(size, (length,), generator=generator)


@law(rows(), st.integers(0, 2**32), examples=60)
def test_the_definition(logits, seed):
    tokens = torch.randint(logits.shape[1], logits.shape[:1], generator=torch.Generator().manual_seed(seed))
    found = token_cumulants(logits, tokens, LAMBDAS)
    log_p = log_softmax64(logits)
    h = entropy64(log_p)
    own = -log_p.gather(-1, tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(found.surprisal, own, atol=3e-6, rtol=1e-6)
    torch.testing.assert_close(found.entropy, h, atol=3e-6, rtol=1e-6)
    spread = (-log_p.masked_fill(log_p.isinf(), 0.0) - h[:, None]).square()
    torch.testing.assert_close(found.varentropy, (log_p.exp() * spread).sum(-1), atol=2e-5, rtol=2e-5)
    expected = torch.stack([(log_p.exp() ** (1 - value)).sum(-1).log() for value in LAMBDAS], -1)
    torch.testing.assert_close(found.functions, expected, atol=5e-6, rtol=1e-6)


@law(rows(), examples=30)
def test_the_kernel_is_the_definition(logits):
    tokens = torch.zeros(len(logits), dtype=torch.int64)
    fast = token_cumulants(logits, tokens, LAMBDAS)
    slow, functions = cumulants_reference.cumulants(logits.double(), tokens, torch.tensor(LAMBDAS))
    torch.testing.assert_close(torch.stack(fast[:2]), slow[:2], atol=3e-6, rtol=1e-6)
    torch.testing.assert_close(fast.varentropy, slow[2], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(fast.functions, functions, atol=5e-6, rtol=1e-6)


def test_the_closed_forms_of_an_uneven_coin():
    found = score_from_logits(UNEVEN.expand(4, 3), [0, 0, 1, 2])
    assert found.mean_entropy == pytest.approx(1.039721, abs=1e-6)
    assert math.sqrt(float(found.varentropy[0])) == pytest.approx(0.346574, abs=1e-6)
    # Tokens in the shares (1/4, 1/4, 1/2)
    other = score_from_logits(UNEVEN.expand(5, 3), [0, 0, 1, 2, 2])
    assert other.log_perplexity == pytest.approx(1.213008, abs=1e-6)
    assert other.statistic == pytest.approx(0.173287, abs=1e-6)


@pytest.mark.parametrize("size", [1, 2, 50, 5000])
def test_equal_tokens_have_no_statistic_and_no_variance(size):
    found = score_from_logits(torch.full((40, size), 1.3), torch.arange(40) % size)
    assert found.statistic == pytest.approx(0, abs=1e-6)
    assert found.log_perplexity == pytest.approx(math.log(size), abs=1e-6)
    assert found.total_variance == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("size", "largest"), [(2, 0.4392), (3, 0.7618), (10, 2.0584), (100, 6.2269), (1000, 12.9004)])
def test_the_variance_is_at_most_what_the_sheet_says(size, largest):
    share = torch.linspace(1 / size, 1, 2001, dtype=torch.float64)[:-1]
    rest = torch.log((1 - share) / (size - 1))[:, None].expand(-1, size - 1)
    logits = torch.cat([share.log()[:, None], rest], 1)
    found = token_cumulants(logits, torch.zeros(len(logits), dtype=torch.int64)).varentropy
    assert float(found.max()) == pytest.approx(largest, abs=2e-3)
    assert float(found.max()) <= 0.25 * math.log(max(size - 1, 1)) ** 2 + 1


@law(st.integers(0, 5), st.integers(0, 5), st.floats(-50, 50), examples=20)
def test_padding_batching_and_a_constant_change_nothing(left, right, constant):
    logits, ids = text()
    alone = score_from_logits(logits, ids)
    padded = torch.full((2, len(ids) + left + right, logits.shape[1]), 7.0)
    padded[0, left : left + len(ids)] = logits + constant
    padded[1, : len(ids)] = logits.flip(0)
    every = torch.zeros(padded.shape[:2], dtype=torch.int64)
    every[0, left : left + len(ids)] = ids
    mask = torch.zeros_like(every)
    mask[0, left : left + len(ids)] = 1
    mask[1, : len(ids)] = 1
    found = score_from_logits(padded, every, mask)[0]
    for name in ("surprisal", "entropy", "functions"):
        torch.testing.assert_close(getattr(found, name), getattr(alone, name), atol=2e-5, rtol=1e-5)


def test_a_text_is_the_sum_of_its_parts_and_a_prompt_is_not_judged():
    logits, ids = text()
    whole = score_from_logits(logits, ids)
    assert whole.n_tokens == 11
    assert score_from_logits(logits, ids, skip=5).n_tokens == 7
    joined = whole[:4] + score_from_logits(logits, ids, skip=5)
    assert torch.equal(joined.surprisal, whole.surprisal)
    assert score_from_logits(logits[:1], ids[:1]).n_tokens == 0
    assert math.isnan(score_from_logits(logits[:0], ids[:0]).statistic)


def test_a_sampler_is_judged_by_what_it_draws_from():
    logits, ids = text()
    same = score_from_logits(logits, ids, sampler=temperature(0.5))
    torch.testing.assert_close(same.surprisal, score_from_logits(2 * logits, ids).surprisal)
    torch.testing.assert_close(same.entropy, score_from_logits(logits, ids, temperature=0.5).entropy)
    cut = score_from_logits(logits, ids, sampler=chain(temperature(1.5), top_k(3)))
    assert (cut.entropy <= math.log(3) + 1e-6).all()
    outside = cut.surprisal.isinf()
    assert outside.any()
    assert not outside.all()
    floored = score_from_logits(logits, ids, sampler=chain(temperature(1.5), top_k(3)), floor=1e-3)
    assert torch.equal(floored.surprisal[~outside], cut.surprisal[~outside])
    assert floored.surprisal[outside].tolist() == pytest.approx([math.log(1000)] * int(outside.sum()))


def test_half_precision_and_float64_are_read():
    logits, ids = text()
    exact = score_from_logits(logits.double(), ids)
    torch.testing.assert_close(score_from_logits(logits, ids).surprisal, exact.surprisal, atol=1e-5, rtol=0)
    half = score_from_logits(logits.bfloat16(), ids)
    torch.testing.assert_close(half.surprisal, score_from_logits(logits.bfloat16().float(), ids).surprisal)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input_ids": [0, 1]}, ValueError, "shapes"),
        ({"input_ids": [0, 1, 9]}, ValueError, r"0 \.\. 8; got 9"),
        ({"attention_mask": torch.tensor([1, 0, 1])}, ValueError, "a hole"),
        ({"skip": -1}, ValueError, "skip must be at least 0"),
        ({"temperature": 0.0}, ValueError, "temperature must be finite and above 0"),
        ({"temperature": 2.0, "sampler": top_k(3)}, ValueError, "put it in the sampler"),
        ({"sampler": mirostat(tau=3.0)}, ValueError, "without memory"),
        ({"sampler": chain(temperature(0.7), mirostat(tau=3.0))}, ValueError, "without memory"),
        ({"sampler": "top_k=3"}, TypeError, "sampler must have mask"),
        ({"floor": 1.5}, ValueError, "floor must be None or in"),
        ({"logits": torch.full((3, 9), torch.nan)}, ValueError, "NaN"),
        ({"logits": torch.zeros(3, 9, dtype=torch.int64)}, TypeError, "floating point"),
        ({"input_ids": torch.zeros(3)}, TypeError, "tokens must be integers"),
    ],
)
def test_bad_input_is_named(change, error, message):
    given = {"logits": torch.zeros(3, 9), "input_ids": [0, 1, 2]} | change
    with pytest.raises(error, match=message):
        score_from_logits(**given)


def test_samplers_without_memory_are_taken():
    for sampler in (chain(), top_p(0.9), chain(temperature(0.7), top_p(0.9))):
        assert score_from_logits(*text(), sampler=sampler).n_tokens == 11
