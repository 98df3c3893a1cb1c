import pytest
import torch

from hartley.decoding import (
    chain,
    epsilon_cutoff,
    eta_cutoff,
    min_p,
    mirostat,
    temperature,
    top_h,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
)
from strategies import fractions, generators, law, rows, seeds, subset

pytestmark = pytest.mark.usefixtures("backend")


@law(rows(), seeds())
def test_without_samplers_the_model_is_drawn_from_as_it_is(logits, seed):
    assert torch.equal(chain().mask(logits), logits)
    draw, state = chain().step(logits, None, generators(seed, len(logits)))
    assert torch.equal(draw.log_prob, -draw.surprisal)
    assert torch.equal(draw.drawn_entropy, draw.entropy)
    assert draw.mass.tolist() == [1.0] * len(logits)
    assert state == ()


@law(rows(), fractions(), fractions())
def test_a_chain_masks_one_after_the_other(logits, p, q):
    samplers = [temperature(0.7), top_p(p), min_p(q)]
    masked = logits
    for sampler in samplers:
        masked = sampler.mask(masked)
    together = chain(*samplers).mask(logits)
    odd = (masked > -torch.inf) != (together > -torch.inf)
    # A token on the boundary may fall either way, since the second mask reads rounded logits
    assert odd.sum() <= len(logits)
    both = (masked > -torch.inf) & (together > -torch.inf)
    torch.testing.assert_close(masked[both], together[both])


@law(rows(), fractions())
def test_the_order_is_the_order_written(logits, p):
    hot_last = chain(top_p(p), temperature(2.0)).mask(logits)
    assert torch.equal(hot_last > -torch.inf, top_p(p).mask(logits) > -torch.inf)
    assert subset(chain(temperature(0.5), top_p(p)).mask(logits), torch.where(logits > -torch.inf, 0.0, -torch.inf))


@law(rows(), seeds())
def test_truncations_of_one_model_draw_alike_where_they_can(logits, seed):
    """A row's seed decides by token: what a set still holds wins in it if it won in a larger one."""

    def own():
        return generators(seed, len(logits))

    large = chain().step(logits, None, own())[0].token
    for sampler in (top_p(0.7), typical_p(0.5), min_p(0.2), top_k(3)):
        kept = (sampler.mask(logits) > -torch.inf).gather(-1, large[:, None]).squeeze(-1)
        small = sampler.step(logits, None, own())[0].token
        assert torch.equal(small[kept], large[kept])


@law(rows(), seeds())
def test_both_kernels_and_both_dtypes_draw_alike(logits, seed):
    """float64 always runs on the definition, float32 on the fast path where there is one."""
    for sampler in (chain(), temperature(1.3), top_k(40)):
        tokens = [sampler.step(x, None, generators(seed, len(x)))[0].token for x in (logits, logits.double())]
        assert torch.equal(*tokens)


def test_a_chain_of_one_is_that_sampler():
    assert chain(top_p(0.9)) == top_p(0.9)
    assert chain(chain(temperature(2.0)), chain(top_p(0.9), top_k(5))) == chain(temperature(2.0), top_p(0.9), top_k(5))


def test_state_is_one_for_each():
    state = chain(temperature(1.5), mirostat(tau=3.0)).init(2)
    assert state[0] is None
    assert state[1].tolist() == [6.0, 6.0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (top_p(0.9), mirostat()),
        (mirostat(), top_p(0.9)),
        (mirostat(), temperature(0.7)),
        (mirostat(), mirostat()),
        (top_k(5), top_k(7)),
        (top_p(0.5), top_p(0.9)),
        (temperature(0.0), top_p(0.9)),
        (chain(temperature(0.5), top_h(0.4)), mirostat()),
    ],
)
def test_samplers_that_would_silence_each_other_are_refused_by_name(first, second):
    with pytest.raises(ValueError, match="cannot be chained") as error:
        chain(first, second)
    assert repr(second) in str(error.value)
    assert repr(getattr(first, "samplers", (first,))[-1]) in str(error.value)


@pytest.mark.parametrize(
    "sampler",
    [chain(), temperature(0.8), top_k(4), top_p(0.8), min_p(0.1), typical_p(0.5), top_h(0.5), top_n_sigma(1.0),
     epsilon_cutoff(0.01), eta_cutoff(0.01), mirostat(), mirostat(1)],
    ids=repr,
)  # fmt: skip
def test_bad_rows_are_named(sampler):
    for bad, what in ((torch.nan, "NaN"), (torch.inf, r"\+inf"), (-torch.inf, "nothing but -inf")):
        logits = torch.zeros(4, 200)
        logits[2] = bad
        with pytest.raises(ValueError, match=rf"{what}.*in row 2"):
            sampler.step(logits, None, torch.Generator())
        with pytest.raises(ValueError, match=rf"{what}.*in row 2"):
            sampler.mask(logits)


def test_bad_shapes_are_refused():
    for shape in [(5,), (0, 5), (2, 0), (1, 2, 5)]:
        with pytest.raises(ValueError, match="shape"):
            chain().step(torch.zeros(shape), None, torch.Generator())
    with pytest.raises(TypeError, match="floating point"):
        chain().mask(torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="2 generators for 3 rows"):
        chain().step(torch.zeros(3, 5), None, generators(0, 2))
