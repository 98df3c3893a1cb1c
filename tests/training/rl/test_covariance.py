import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.info import entropy
from hartley.training.rl import (
    ClipCovLoss,
    KLCovLoss,
    clip_cov_loss,
    clip_cov_tokens,
    kl_cov_loss,
    kl_cov_tokens,
    policy_entropy,
    ppo_loss,
    token_covariance,
    token_entropy,
)

from .batches import batch, gradient

SEEDS = st.integers(0, 2**32)


def weighted_cov(p, a, b):
    return float((p * a * b).sum() - (p * a).sum() * (p * b).sum())


def test_the_lemma_on_three_actions():
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    advantages = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64) - 0.7
    assert float(token_entropy(p.log())) == pytest.approx(0.801819, abs=1e-6)
    assert weighted_cov(p, p.log(), advantages) == pytest.approx(0.311601, abs=1e-6)
    assert weighted_cov(p, p.log(), p * advantages) == pytest.approx(0.098555, abs=1e-6)
    rare = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) - 0.1
    assert weighted_cov(p, p.log(), rare) == pytest.approx(-0.150077, abs=1e-6)
    after = float(token_entropy(p.log() + 1e-3 * advantages))
    assert after - float(token_entropy(p.log())) == pytest.approx(-3.11643e-4, abs=1e-9)


def test_four_tokens():
    log_prob, advantages = torch.tensor([-0.1, -2.0, -0.5, -3.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    found = token_covariance(log_prob, advantages, torch.ones(4))
    torch.testing.assert_close(found, torch.tensor([1.3, -0.6, -0.9, 1.6]))


@given(seed=SEEDS, shift=st.floats(-5, 5))
def test_covariance_is_blind_to_shifts_and_its_mean_is_the_covariance(seed, shift):
    log_prob, _, advantages, mask = batch(seed)
    found = token_covariance(log_prob, advantages, mask)
    torch.testing.assert_close(token_covariance(log_prob + shift, advantages - shift, mask), found)
    pair = torch.stack([log_prob[mask], advantages[mask]])
    if mask.sum() > 1:
        assert float(found.sum() / mask.sum()) == pytest.approx(float(torch.cov(pair, correction=0)[0, 1]), abs=1e-9)
    assert (found[~mask] == 0).all()


@given(seed=SEEDS)
def test_clip_cov_is_ppo_but_for_the_chosen_tokens(seed):
    given = batch(seed)
    chosen = clip_cov_tokens(*given, ratio=0.3, cov_low=0.05, generator=torch.Generator().manual_seed(0))
    _, plain = gradient(ppo_loss, *given)
    _, found = gradient(clip_cov_loss, *given, tokens=chosen)
    assert torch.equal(found, plain.masked_fill(chosen, 0))
    covariance = token_covariance(given[0], given[2], given[3])
    assert (covariance[chosen] > 0.05).all()
    assert (covariance[chosen] < 5).all()
    assert (plain[chosen] != 0).logical_or(given[2][chosen] == 0).all(), "a token that PPO clips was chosen"
    eligible = int(((covariance > 0.05) & (covariance < 5) & given[3] & (plain != 0)).sum())
    assert int(chosen.sum()) == min(eligible, max(1, math.floor(0.3 * int(given[3].sum()))))


@given(seed=SEEDS)
def test_clip_cov_that_selects_nothing_is_ppo(seed):
    given = batch(seed)
    plain = gradient(ppo_loss, *given)
    for settings in ({"ratio": 0.0, "cov_low": -9.0}, {"ratio": 1.0, "cov_low": 1e9, "cov_high": 2e9}):
        value, found = gradient(clip_cov_loss, *given, **settings)
        assert torch.equal(value, plain[0])
        assert torch.equal(found, plain[1])


@given(seed=SEEDS, beta=st.floats(0, 3))
def test_kl_cov_adds_a_pull_of_beta_on_the_chosen_tokens(seed, beta):
    log_prob, old, advantages, mask = given = batch(seed)
    chosen = kl_cov_tokens(log_prob, advantages, mask, ratio=0.3)
    _, plain = gradient(ppo_loss, *given, epsilon=1.0, epsilon_high=1e9)
    _, found = gradient(kl_cov_loss, *given, ratio=0.3, beta=beta)
    pull = beta * (log_prob - old).sign() / mask.sum()
    torch.testing.assert_close(found, plain + torch.where(chosen, pull, 0))
    covariance = token_covariance(log_prob, advantages, mask)
    assert covariance[chosen].min() >= covariance[mask & ~chosen].max()
    assert int(chosen.sum()) == max(1, math.floor(0.3 * int(mask.sum())))


@given(seed=SEEDS)
def test_kl_cov_does_nothing_at_the_first_update_and_clip_cov_does(seed):
    log_prob, _, advantages, mask = batch(seed)
    same = (log_prob, log_prob, advantages, mask)
    assert torch.equal(gradient(kl_cov_loss, *same, ratio=0.5)[1], gradient(kl_cov_loss, *same, beta=0.0)[1])
    if clip_cov_tokens(*same, ratio=0.5, cov_low=0.0).any():
        assert not torch.equal(gradient(clip_cov_loss, *same, ratio=0.5, cov_low=0.0)[1], gradient(ppo_loss, *same)[1])


@pytest.mark.parametrize("loss", [clip_cov_loss, kl_cov_loss, ppo_loss])
def test_masked_tokens_may_hold_anything_and_nothing_kept_is_zero(loss):
    log_prob, old, advantages, mask = batch(3)
    if loss is clip_cov_loss:
        loss = partial(loss, ratio=1.0)  # all of the band: no chance in it
    value, found = gradient(loss, log_prob, old, advantages, mask)
    spoilt = [torch.where(mask, x, float("nan")) for x in (log_prob, old, advantages)]
    same, also = gradient(loss, *spoilt, mask)
    assert torch.equal(value, same)
    assert torch.equal(found, also)
    nothing, zero = gradient(loss, *spoilt, torch.zeros_like(mask))
    assert nothing == 0
    assert (zero == 0).all()


def test_one_token():
    one = torch.tensor([[-0.5]])
    assert not clip_cov_tokens(one, one, torch.ones(1), torch.ones(1, 1), ratio=1.0).any()
    assert kl_cov_tokens(one, torch.ones(1), torch.ones(1, 1)).all()


@pytest.mark.parametrize("loss", [clip_cov_loss, kl_cov_loss])
def test_gradients_are_those_of_the_value(loss):
    log_prob, old, advantages, mask = batch(1)
    chosen = kl_cov_tokens(log_prob, advantages, mask, ratio=0.3)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, old, advantages, mask, tokens=chosen)[0], log_prob.requires_grad_()
    )


def test_extreme_ratios_stay_finite():
    log_prob, old = torch.tensor([[-0.1, -200.0]]), torch.tensor([[-200.0, -0.1]])
    for loss in (clip_cov_loss, kl_cov_loss):
        value, found = gradient(loss, log_prob, old, torch.tensor([1.0]), torch.ones(1, 2))
        assert value.isfinite()
        assert found.isfinite().all()


def test_half_precision_is_computed_in_float32():
    given = [x.bfloat16() for x in batch(2)[:3]] + [batch(2)[3]]
    wide = [x.float() for x in given[:3]] + [given[3]]
    for loss in (clip_cov_loss, kl_cov_loss):
        assert loss(*given)[0].dtype == torch.float32
        assert torch.equal(loss(*given)[0], loss(*wide)[0])


def test_quantile_thresholds_choose_by_rank():
    given = batch(4, rows=20, length=20)
    chosen = clip_cov_tokens(*given, ratio=1.0, cov_low=0.9, cov_high=1.0, thresholds="quantile", epsilon=9.0)
    covariance = token_covariance(given[0], given[2], given[3])[given[3]]
    above = covariance.quantile(0.9)
    assert int(chosen.sum()) == int(((covariance > above) & (covariance < covariance.max())).sum()) > 20


@given(seed=SEEDS, temperature=st.floats(0.2, 5))
def test_entropies_are_those_of_info(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 5, 11, generator=generator)
    mask = torch.rand(4, 5, generator=generator) < 0.5
    mask[0, 0] = True
    expected = entropy(logits=logits.double() / temperature)
    found = token_entropy(logits, mask, temperature=temperature)
    torch.testing.assert_close(found, torch.where(mask, expected, 0).float())
    mean = policy_entropy(logits, mask, temperature=temperature)
    assert float(mean) == pytest.approx(float(expected[mask].mean()), rel=1e-5)


def test_a_mask_of_nothing_has_no_entropy():
    assert policy_entropy(torch.full((2, 3, 4), torch.nan), torch.zeros(2, 3)) == 0


def test_modules_are_their_functions():
    given = batch(5)
    clip = {"ratio": 0.3, "cov_low": 0.1, "epsilon": 0.1, "epsilon_high": 0.3}
    for module, function, settings in (
        (ClipCovLoss(**clip), clip_cov_loss, clip),
        (KLCovLoss(ratio=0.3, beta=2.0), kl_cov_loss, {"ratio": 0.3, "beta": 2.0}),
    ):
        extra = {"generator": torch.Generator().manual_seed(1)}
        expected, metrics = function(
            *given, **settings, **({"generator": torch.Generator().manual_seed(1)} if function is clip_cov_loss else {})
        )
        found, same = module(*given, **extra)
        assert torch.equal(found, expected)
        assert same == metrics


@pytest.mark.parametrize("module", [ClipCovLoss(ratio=0.3, cov_low=0.05), KLCovLoss(ratio=0.3, beta=2.0)])
def test_as_advantages_has_the_same_gradient(module):
    log_prob, old, advantages, mask = given = batch(6)
    chosen = module.choose(*given, generator=torch.Generator().manual_seed(0))
    assert chosen.any()
    _, expected = gradient(module, *given, chosen=chosen)
    told = module.as_advantages(log_prob, old, advantages, chosen)
    clip = {"epsilon": module.epsilon} if module.epsilon is not None else {"epsilon": 1.0, "epsilon_high": 1e9}
    _, found = gradient(ppo_loss, log_prob, old, told, mask, **clip)
    torch.testing.assert_close(found, expected)


def test_errors_say_what_and_where():
    log_prob, old, advantages, mask = batch(0)
    with pytest.raises(ValueError, match=r"advantages must have log_prob's shape or \[B\], \(6, 7\); got \(5,\)"):
        kl_cov_loss(log_prob, old, torch.ones(5), mask)
    with pytest.raises(ValueError, match=r"mask must have log_prob's shape, \(6, 7\); got \(6, 6\)"):
        clip_cov_loss(log_prob, old, advantages, mask[:, :6])
    broken = advantages.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"advantages must be finite where the mask keeps; got nan at \(0, 0\)"):
        kl_cov_loss(log_prob, old, broken, mask)
    with pytest.raises(ValueError, match="beta must be finite and at least 0; got -1"):
        kl_cov_loss(log_prob, old, advantages, mask, beta=-1)
    with pytest.raises(ValueError, match=r"cov_high must be a share in \[0, 1\] with thresholds='quantile'; got 5"):
        clip_cov_loss(log_prob, old, advantages, mask, cov_low=0.5, thresholds="quantile")
    with pytest.raises(ValueError, match=r"mask must have shape|places|\(2,\)"):
        token_entropy(torch.zeros(3, 4), torch.ones(2))
