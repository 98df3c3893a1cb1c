import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.training.rl import SteerLoss, entropy_change, ppo_loss, steer_loss, steer_weights, token_entropy

from .batches import batch

SEEDS = st.integers(0, 2**32)


def moved(p, change):
    """True change of the entropy when the logits move."""
    return float(token_entropy(p.log() + change) - token_entropy(p.log()))


def test_the_estimators_on_three_actions():
    p, eta = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64), 1e-4
    one, h = torch.ones((), dtype=torch.float64), token_entropy(p.log())
    first = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    omega = entropy_change(p[0].log(), p[0].log(), one, h)
    assert -float(omega) == pytest.approx(-0.092909, abs=1e-6)
    assert moved(p, eta * (1 - p) * first) / eta == pytest.approx(-0.09291, abs=1e-5)
    exact = entropy_change(p[0].log(), p[0].log(), one, h, estimator="exact", logits=p.log())
    assert -float(exact) == pytest.approx(-0.134498, abs=1e-6)
    assert moved(p, eta * (first - p)) / eta == pytest.approx(-0.134502, abs=1e-6)


@given(seed=SEEDS)
def test_the_exact_estimator_is_the_derivative(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(9, generator=generator, dtype=torch.float64)
    action = int(torch.randint(9, (), generator=generator))
    p = logits.softmax(-1)
    step = torch.nn.functional.one_hot(torch.tensor(action), 9) - p
    x = logits.clone().requires_grad_()
    (slope,) = torch.autograd.grad(token_entropy(x), x)
    found = entropy_change(
        p[action].log(), p[action].log(), torch.ones((), dtype=p.dtype), token_entropy(logits), None, "exact",
        logits=logits,
    )  # fmt: skip
    assert -float(found) == pytest.approx(float((slope * step).sum()), abs=1e-9)


def test_omega_and_the_released_metric():
    p, h, one = torch.tensor([0.9, 0.05, 0.5]), torch.tensor([0.5, 2.0, 1.0]), torch.ones(3)
    omega = entropy_change(p.log(), p.log(), one, h)
    torch.testing.assert_close(omega, torch.tensor([0.035518, -0.047297, 0.076713]), atol=1e-6, rtol=0)
    theirs = entropy_change(p.log(), p.log(), one, h, estimator="official").abs()
    torch.testing.assert_close(theirs, torch.tensor([0.039464, 0.945946, 0.153427]), atol=1e-6, rtol=0)


@given(seed=SEEDS, factor=st.floats(0.1, 3))
def test_omega_is_linear_in_the_ratio(seed, factor):
    log_prob, old, advantages, _ = batch(seed)
    once = entropy_change(log_prob, old, advantages, torch.ones_like(old))
    more = entropy_change(log_prob, old - math.log(factor), advantages, torch.ones_like(old))
    torch.testing.assert_close(more, factor * once)


def test_clipped_tokens_change_nothing_in_the_published_form_alone():
    p, clipped = torch.tensor([0.5, 0.5]).log(), torch.tensor([True, False])
    settings = (p, p, torch.ones(2), torch.ones(2), clipped)
    assert entropy_change(*settings)[0] == 0
    assert entropy_change(*settings, "official")[0] != 0


def test_weights_of_the_sheet():
    omega, ones = torch.tensor([0.0, 0.01, 0.02, 0.1]), torch.ones(4)

    def check(found, *expected):
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)

    check(steer_weights(omega, ones), 1, 0.977933, 0.956353, 0.8)
    check(steer_weights(omega, ones, mapping="linear"), 1.2, 1.16, 1.12, 0.8)
    check(steer_weights(omega / 10, ones), 1, 0.977933, 0.956353, 0.8)
    check(steer_weights(omega / 10, ones, floor=0.02), 1, 0.988905, 0.977933, 0.894427)


@given(seed=SEEDS, lambda_min=st.floats(0.05, 1), factor=st.floats(0.01, 100))
def test_weights_fall_with_the_size_of_the_change(seed, lambda_min, factor):
    omega, _, _, mask = batch(seed)
    weights = steer_weights(omega, mask, lambda_min)
    order = omega.abs()[mask].argsort()
    assert (weights[mask][order].diff() <= 1e-12).all()
    assert float(weights[mask].min()) == pytest.approx(lambda_min)
    assert (weights[~mask] == 0).all()
    torch.testing.assert_close(steer_weights(-factor * omega, mask, lambda_min), weights)
    assert torch.equal(steer_weights(torch.where(mask, omega, 1e9), mask, lambda_min), weights)


def test_no_change_gives_the_plain_weights():
    nothing, mask = torch.zeros(2, 3), torch.ones(2, 3)
    assert (steer_weights(nothing, mask) == 1).all()
    assert (steer_weights(nothing, mask, floor=0.02) == 1).all()
    assert (steer_weights(nothing, mask, mapping="linear") == 1).all()
    assert (steer_weights(nothing, torch.zeros(2, 3)) == 0).all()


def test_a_quantile_frees_the_others_of_an_outlier():
    omega = torch.tensor([0.1] * 99 + [10.0])
    assert float(steer_weights(omega, torch.ones(100))[0]) == pytest.approx(0.8**0.01)
    capped = steer_weights(omega, torch.ones(100), top=0.5)
    torch.testing.assert_close(capped, torch.full((100,), 0.8))


def run(loss, *given, **settings):
    log_prob = given[0].detach().clone().requires_grad_()
    value, metrics = loss(log_prob, *given[1:], **settings)
    (found,) = torch.autograd.grad(value, log_prob)
    return value.detach(), found, metrics


@given(seed=SEEDS)
def test_lambda_of_one_is_the_plain_loss_bit_for_bit(seed):
    log_prob, old, advantages, mask = batch(seed)
    h = torch.rand_like(log_prob)
    value, found, _ = run(steer_loss, log_prob, old, advantages, h, mask, lambda_min=1.0, dual_clip=None)
    plain, expected, _ = run(ppo_loss, log_prob, old, advantages, mask, epsilon_high=0.28)
    assert torch.equal(value, plain)
    assert torch.equal(found, expected)


@given(seed=SEEDS)
def test_the_gradient_is_ppos_times_the_weight(seed):
    log_prob, old, advantages, mask = batch(seed)
    h = torch.rand_like(log_prob)
    module = SteerLoss(lambda_min=0.5, dual_clip=None)
    weights = module.choose(log_prob, old, advantages, mask, h)
    _, found, metrics = run(module, log_prob, old, advantages, mask, h)
    _, plain, _ = run(ppo_loss, log_prob, old, advantages, mask, epsilon_high=0.28)
    torch.testing.assert_close(found, weights * plain)
    assert (weights[mask & (plain == 0)] == 1).all(), "a clipped token has a weight of 1"
    told = module.as_advantages(log_prob, old, advantages, weights)
    _, also, _ = run(ppo_loss, log_prob, old, told, mask, epsilon_high=0.28)
    torch.testing.assert_close(also, found)
    assert metrics["weight_min"] == pytest.approx(float(weights[mask].min()))


def test_the_dual_clip_bounds_the_loss_of_bad_tokens():
    log_prob, old = torch.tensor([[-0.1, -0.1]]), torch.tensor([[-5.0, -5.0]])
    settings = (log_prob, old, torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2), torch.ones(1, 2))
    value, found, _ = run(steer_loss, *settings, lambda_min=1.0)
    assert float(value) == pytest.approx((10 - 1.28) / 2)
    assert (found == 0).all()
    with pytest.raises(ValueError, match="dual_clip must be above 1, or None; got 1"):
        steer_loss(*settings, dual_clip=1)


def test_masked_tokens_may_hold_anything_and_nothing_kept_is_zero():
    log_prob, old, advantages, mask = batch(7)
    h = torch.rand_like(log_prob)
    value, found, _ = run(steer_loss, log_prob, old, advantages, h, mask)
    nan = [torch.where(mask, x, float("nan")) for x in (log_prob, old, advantages, h)]
    same, also, _ = run(steer_loss, *nan, mask)
    assert torch.equal(value, same)
    assert torch.equal(found, also)
    nothing, zero, _ = run(steer_loss, *nan, torch.zeros_like(mask))
    assert nothing == 0
    assert (zero == 0).all()


def test_the_gradient_is_that_of_the_value():
    log_prob, old, advantages, mask = batch(8)
    h = torch.rand_like(log_prob)
    weights = SteerLoss().choose(log_prob, old, advantages, mask, h)
    assert torch.autograd.gradcheck(
        lambda x: steer_loss(x, old, advantages, h, mask, weights=weights)[0], log_prob.requires_grad_()
    )


def test_errors():
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="estimator must be one of 'omega', 'official', 'exact'; got 'paper'"):
        entropy_change(one, one, one, one, None, "paper")
    with pytest.raises(ValueError, match="logits must be given with estimator='exact'"):
        entropy_change(one, one, one, one, None, "exact")
    with pytest.raises(ValueError, match=r"entropy must have log_prob's shape, \(1, 1\); got \(1, 2\)"):
        steer_loss(-one, -one, torch.ones(1), torch.ones(1, 2), one)
    with pytest.raises(ValueError, match="entropy must be given"):
        SteerLoss()(-one, -one, torch.ones(1), one)
    with pytest.raises(ValueError, match=r"lambda_min must be in \(0, 1\]; got 0"):
        steer_weights(one, one, 0)
