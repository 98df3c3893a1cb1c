import os

import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import entropy_top_k, epsilon_cutoff, min_p, mirostat, top_h, top_k, top_n_sigma, top_p, typical_p
from hartley.info import Head
from strategies import KINDS, entropy64, in_order, law, log_softmax64, rows, seeds

temperatures = st.floats(-3.0, 3.0).map(lambda power: 10.0**power)


@pytest.fixture(scope="module", params=["numba", "reference"], autouse=True)
def backend(request):
    if request.param == "numba" and os.environ.get("HARTLEY_KERNELS") == "reference":
        pytest.skip("the fast paths are switched off")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "reference":
            patch.setenv("HARTLEY_KERNELS", "reference")
        yield


def same(one, other):
    """The same lists, whatever the width they are stored in."""
    width = min(one.tokens.shape[1], other.tokens.shape[1])
    assert torch.equal(one.known, other.known)
    assert int(one.known.max()) <= width
    for a, b in ((one.tokens, other.tokens), (one.log_probs, other.log_probs)):
        torch.testing.assert_close(a[:, :width], b[:, :width], atol=1e-6, rtol=1e-6)


@law(rows(), st.integers(1, 6000))
def test_lists_the_most_probable_tokens_in_order_with_exact_probabilities(logits, k):
    head = Head.of(logits, k)
    log_probs, order = in_order(logits)
    finite = (logits > -torch.inf).sum(-1)
    assert torch.equal(head.known, finite.clamp(max=k))
    assert torch.equal(head.complete, (finite < k) | (finite == logits.shape[1]).logical_and(k >= finite))
    width = head.tokens.shape[1]
    filled = head.filled
    assert torch.equal(head.tokens[filled], order[:, :width][filled])
    torch.testing.assert_close(head.log_probs[filled].double(), log_probs[:, :width][filled], atol=1e-6, rtol=1e-6)
    assert (head.log_probs[~filled] == -torch.inf).all()
    assert (head.tokens[~filled] == 0).all()
    torch.testing.assert_close(head.rest, log_probs[:, width:].exp().sum(-1), atol=2e-6, rtol=0)
    torch.testing.assert_close(head.logsumexp, logits.double().logsumexp(-1), atol=1e-6, rtol=1e-7)
    torch.testing.assert_close(head.entropy.double(), entropy64(log_softmax64(logits)), atol=1e-6, rtol=3e-7)


@law(rows(), st.integers(1, 200), st.integers(1, 6000))
def test_widening_is_having_looked_further(logits, k, more):
    head = Head.of(logits, k)
    same(head.widen(k=more), Head.of(logits, max(k, more)))
    same(head.widen(), Head.of(logits, 2 * k))


@law(rows(), st.integers(1, 200), seeds())
def test_only_the_rows_asked_for_are_widened(logits, k, seed):
    asked = torch.rand(len(logits), generator=torch.Generator().manual_seed(seed)) < 0.5
    head = Head.of(logits, k).widen(asked)
    narrow, wide = Head.of(logits, k), Head.of(logits, 2 * k)
    assert torch.equal(head.known, torch.where(asked, wide.known, narrow.known))
    for row in range(len(logits)):
        known = int(head.known[row])
        assert torch.equal(head.tokens[row, :known], wide.tokens[row, :known])
        assert torch.equal(head.log_probs[row, :known], wide.log_probs[row, :known])


@law(rows(), temperatures, st.integers(1, 300))
def test_temper_divides_and_renormalises(logits, t, k):
    head = Head.of(logits, k).temper(t)
    true, _ = in_order(logits.double() / t)
    width = head.tokens.shape[1]
    scale = 1 + (logits.nan_to_num(neginf=0.0).abs().max() / t).item()
    torch.testing.assert_close(
        head.log_probs[head.filled].double(), true[:, :width][head.filled], atol=3e-7 * scale + 1e-6, rtol=1e-6
    )
    torch.testing.assert_close(head.entropy.double(), entropy64(true), atol=2e-6, rtol=1e-6)
    assert torch.equal(head.tokens[head.filled], Head.of(logits, k).tokens[head.filled])
    assert head.origin.entropy.equal(Head.of(logits, k).entropy)
    wider = head.widen(k=logits.shape[1])
    torch.testing.assert_close(wider.log_probs[:, :width], head.log_probs, atol=1e-6, rtol=1e-6)


def test_one_temperature_a_row():
    logits = torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
    head = Head.of(logits).temper(torch.tensor([0.5, 2.0]))
    for row, t in enumerate([0.5, 2.0]):
        alone = Head.of(logits[row : row + 1]).temper(t)
        torch.testing.assert_close(head.log_probs[row : row + 1], alone.log_probs)


@law(rows(), seeds(), temperatures.filter(lambda t: 0.1 < t < 10))
def test_restrict_conditions_and_temper_commutes_with_it(logits, seed, t):
    head = Head.of(logits)
    mask = torch.rand(head.tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 0] = True
    kept = head.restrict(mask)
    assert kept.complete.all()
    assert kept.rest.tolist() == [0.0] * len(logits)
    assert (kept.log_probs.double().exp().sum(-1) - 1).abs().max() < 1e-5
    left = torch.full_like(logits, -torch.inf)
    for row in range(len(logits)):
        ids = head.tokens[row, : int(head.known[row])][mask[row, : int(head.known[row])]]
        left[row, ids] = logits[row, ids]
    same(kept, Head.of(left).restrict(Head.of(left).filled))
    torch.testing.assert_close(kept.logsumexp, left.double().logsumexp(-1), atol=2e-6, rtol=1e-6)
    same(kept.temper(t), head.temper(t).restrict(mask))
    torch.testing.assert_close(kept.temper(t).logsumexp, (left.double() / t).logsumexp(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [top_p(0.95), min_p(0.001), typical_p(0.6), typical_p(0.95), top_h(0.7), top_h(0.9, rule="partial"), top_k(200),
     top_n_sigma(2.0), epsilon_cutoff(1e-4), entropy_top_k(), mirostat(mu=12.0), mirostat(1, mu=9.0)],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["narrow", "wide", "tied", "zipf", "flat"])
def test_no_rule_depends_on_how_far_the_first_look_went(sampler, kind):
    generator = torch.Generator().manual_seed(3)
    logits = torch.stack([KINDS[kind](3000, generator) for _ in range(3)])
    logits[1, ::3] = -torch.inf
    first, second = (sampler.apply(Head.of(logits, k), sampler.init(3)) for k in (1, 3000))
    same(first, second)


@law(rows(), st.floats(-15.0, 0.0))
def test_keep_asks_again_until_it_has_seen_enough(logits, level):
    def rule(head):
        mask = head.log_probs > level
        mask[:, 0] = True
        return mask

    same(Head.of(logits, 1).keep(rule), Head.of(logits, logits.shape[1]).keep(rule))


def test_a_rule_that_keeps_nothing_is_refused_by_row():
    head = Head.of(torch.zeros(3, 4))
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(ValueError, match="at least one token; none is left in row 1"):
        head.restrict(mask)


@law(rows(), seeds())
def test_facts_of_any_token(logits, seed):
    """A given token is described as a drawn one is, removed tokens with a log-probability of -inf."""
    token = torch.randint(logits.shape[1], (len(logits),), generator=torch.Generator().manual_seed(seed))
    log_probs = log_softmax64(logits).gather(-1, token[:, None]).squeeze(-1)
    for head in (Head.of(logits), Head.of(logits).temper(2.0), top_k(3).apply(Head.of(logits), None)):
        facts = head.facts(token)
        torch.testing.assert_close(facts.surprisal.double(), -log_probs, atol=1e-6, rtol=1e-6)
        removed = (log_probs == -torch.inf) | (head.restricted & (facts.rank > 3))
        assert torch.equal(facts.log_prob == -torch.inf, removed)
        drawn = head.draw(torch.arange(len(logits)))
        assert (head.facts(drawn).log_prob > -torch.inf).all()


@pytest.mark.parametrize("token", [-1, 50, 10**9])
def test_a_token_outside_the_vocabulary_is_refused(token):
    for head in (Head.of(torch.zeros(2, 50)), top_k(3).apply(Head.of(torch.zeros(2, 50)), None)):
        with pytest.raises(ValueError, match=f"token must be in 0 .. 49; got {token}"):
            head.facts(torch.tensor([3, token]))


def test_half_precision_is_read_as_float32_and_float64_stays():
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        same(Head.of(logits.to(dtype)), Head.of(logits.to(dtype).float()))
        assert Head.of(logits.to(dtype)).entropy.dtype == torch.float32
    assert Head.of(logits.double()).entropy.dtype == torch.float64


def test_strided_logits_and_gradients_are_taken():
    wide = torch.randn(3, 400, requires_grad=True)
    same(Head.of(wide[:, ::2]), Head.of(wide.detach()[:, ::2].contiguous()))
    assert not Head.of(wide).entropy.requires_grad


def test_refuses():
    for shape in [(5,), (0, 5), (2, 0), (1, 2, 3)]:
        with pytest.raises(ValueError, match=r"shape \[B, V\]"):
            Head.of(torch.zeros(shape))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        Head.of(torch.zeros(1, 5), k=0)
    with pytest.raises(TypeError, match="floating point"):
        Head.of(torch.zeros(1, 5, dtype=torch.int64))
