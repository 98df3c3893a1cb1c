"""The cross-entropy method: exact tails, its own laws, and its stops."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from hartley.info.cross_entropy_method import Bernoulli, Categorical, CrossEntropyMethod, Gaussian

TAILS = {3: (0.00134990, 3.28310), 4: (3.16712e-5, 4.22561), 5: (2.86652e-7, 5.18650)}  # P(Z >= g), E[Z | Z >= g]


def first(x):
    return x[:, 0]


@pytest.mark.parametrize("gamma", [3, 4, 5])
def test_gaussian_tail_matches_its_closed_form_and_optimal_tilt(gamma):
    exact, tilt = TAILS[gamma]
    assert math.isclose(norm.sf(gamma), exact, rel_tol=1e-5)
    assert math.isclose(norm.pdf(gamma) / norm.sf(gamma), tilt, rel_tol=1e-5)
    method = CrossEntropyMethod(n_samples=10_000, smoothing=1, random_state=0)
    found = method.rare_event(first, gamma, 0, 1)
    assert found.success
    assert found.nit == gamma - 1
    assert found.levels[-1] == gamma
    assert abs(found.estimate - exact) < 4.5 * found.stderr  # a false alarm in 1.5e5 where normal
    assert 0.015 < found.stderr / found.estimate < 0.03
    assert found.tilt[0, 0] == pytest.approx(tilt, abs=0.03)
    assert found.tilt[1, 0] == 1.0  # narrower than the nominal one would give an infinite variance


def test_numbers_of_a_known_run():
    found = [
        CrossEntropyMethod(n_samples=10_000, smoothing=1, random_state=0).rare_event(first, g, 0, 1) for g in (3, 4, 5)
    ]
    assert [f.nit for f in found] == [2, 3, 4]
    assert [round(float(f.tilt[0, 0]), 4) for f in found] == [3.2852, 4.2252, 5.1819]
    assert [f"{f.estimate:.3e}" for f in found] == ["1.344e-03", "3.143e-05", "2.771e-07"]


def test_estimates_are_unbiased_and_their_error_bars_true():
    runs = [CrossEntropyMethod(random_state=seed).rare_event(first, 4.0, 0, 1) for seed in range(200)]
    z = np.array([(run.estimate - norm.sf(4)) / run.stderr for run in runs])
    assert abs(z.mean()) < 4.5 / math.sqrt(200)  # 7e-6
    assert 0.78 < z.std() < 1.25  # 4.5 standard deviations of a chi-square of 200


def test_a_two_sided_tail_widens_the_normal():
    found = CrossEntropyMethod(random_state=1, smoothing=1).rare_event(lambda x: abs(x[:, 0]), 4.0, 0, 1)
    assert found.tilt[1, 0] > 2
    assert abs(found.estimate - 2 * norm.sf(4)) < 4.5 * found.stderr


def test_the_levels_rise():
    levels = CrossEntropyMethod(random_state=2).rare_event(first, 5.0, 0, 1).levels
    assert list(levels) == sorted(levels)
    assert levels[-1] == 5.0


@given(st.floats(-1, 1), st.floats(1, 3), st.integers(0, 99))
@settings(max_examples=20)
def test_likelihood_ratios_average_one(mean, sd, seed):
    family, n = Gaussian(), 20_000
    u, v = np.array([[0.0], [1.0]]), np.array([[mean], [sd]])
    x = family.sample(v, n, np.random.default_rng(seed))
    w = np.exp(family.log_density(x, u) - family.log_density(x, v))
    assert abs(w.mean() - 1) <= 6 * w.std() / math.sqrt(n)


def test_discrete_families_reach_the_exact_tail():
    """P(at least 18 of 20 fair coins), as coins and as two-way choices."""
    exact = binom.sf(17, 20, 0.5)
    coins = CrossEntropyMethod(Bernoulli(), random_state=0).rare_event(lambda x: x.sum(-1), 18, np.full(20, 0.5))
    choices = CrossEntropyMethod(Categorical(), random_state=0).rare_event(
        lambda x: x.sum(-1), 18, np.full((20, 2), 0.5)
    )
    for found in (coins, choices):
        assert found.success
        assert abs(found.estimate - exact) < 4.5 * found.stderr
        assert found.stderr < 0.1 * exact


@dataclasses.dataclass
class Exponential:
    """A family of the user's own."""

    def sample(self, params, n, rng):
        return rng.exponential(params, size=(n, len(params)))

    def log_density(self, x, params):
        return (-x / params - np.log(params)).sum(-1)

    def fit(self, x, weights, params):
        return np.average(x, axis=0, weights=weights)


def test_a_family_of_ones_own():
    """The sum of five exponentials is Erlang: P(sum >= 30) = exp(-30) sum_{k<5} 30^k / k!."""
    exact = math.exp(-30) * sum(30**k / math.factorial(k) for k in range(5))
    found = CrossEntropyMethod(Exponential(), random_state=0).rare_event(lambda x: x.sum(-1), 30, np.ones(5))
    assert abs(found.estimate - exact) < 4.5 * found.stderr
    assert found.stderr < 0.1 * exact
    assert 1 < found.effective_sample_size <= 10_000


@given(st.integers(2, 50), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=25)
def test_each_fit_is_the_weighted_maximum_of_likelihood(n, d, seed):
    rng = np.random.default_rng(seed)
    weights = rng.random(n) + 0.01
    starts = {
        Gaussian(): np.stack([np.zeros(d), np.ones(d)]),
        Bernoulli(): np.full(d, 0.4),
        Categorical(): np.full((d, 3), 1 / 3),
    }
    for family, start in starts.items():
        x = family.sample(start, n, rng)
        best = family.fit(x, weights, start)

        def likelihood(params, family=family, x=x):
            return weights @ np.maximum(family.log_density(x, params), -1e9)

        other = family.fit(x, rng.random(n) + 0.01, start)
        assert likelihood(best) >= likelihood(other) - 1e-9 * abs(likelihood(best))


def test_no_choice_of_probability_zero_is_ever_drawn():
    params = np.array([[0.0, 0.3, 0.7, 0.0]])
    x = Categorical().sample(params, 100_000, np.random.default_rng(0))
    assert set(np.unique(x)) == {1, 2}
    assert np.isneginf(Categorical().log_density(np.array([[3]]), params)).all()


def test_finds_the_lowest_of_many_valleys():
    def rastrigin(x):  # valleys at every whole number, the lowest at (2, -1)
        x = x - [2, -1]
        return (x**2 + 10 * (1 - np.cos(2 * np.pi * x))).sum(-1)

    for seed in range(8):
        found = CrossEntropyMethod(random_state=seed).minimize(rastrigin, [0, 0], 4)
        assert found.success
        assert found.x == pytest.approx([2, -1], abs=1e-5)
        assert found.fun == rastrigin(found.x[None])[0]
        assert found.nfev == 1000 * found.nit
        assert len(found.path) == found.nit + 1


def test_finds_the_best_bits():
    secret = np.random.default_rng(5).integers(0, 2, 30)
    found = CrossEntropyMethod(Bernoulli(), random_state=0).minimize(lambda x: (x != secret).sum(-1), np.full(30, 0.5))
    assert found.fun == 0
    assert (found.x == secret).all()


def test_smoothing_keeps_a_small_sample_from_freezing_far_away():
    def far(x):
        return (x[:, 0] - 40) ** 2

    runs = {a: [] for a in (1.0, 0.5)}
    for a, errors in runs.items():
        for seed in range(20):
            method = CrossEntropyMethod(n_samples=20, smoothing=a, random_state=seed)
            errors.append(method.minimize(far, 0, 1).fun)
    assert np.median(runs[0.5]) < np.median(runs[1.0])


def test_points_may_be_forbidden():
    found = CrossEntropyMethod(random_state=0).minimize(lambda x: np.where(x[:, 0] > 1, x[:, 0], np.inf), 0, 1)
    assert 1 < found.x[0] < 1.001


def test_the_seed_decides():
    def run(seed):
        return CrossEntropyMethod(random_state=seed).rare_event(first, 3, 0, 1).estimate

    assert run(1) == run(1) != run(2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    run(np.random.default_rng(0))
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_running_out_of_iterations_is_said():
    short = CrossEntropyMethod(max_iter=1, random_state=0)
    found = short.minimize(lambda x: (x**2).sum(-1), [3, 3], 1)
    assert (found.success, found.nit) == (False, 1)
    tail = short.rare_event(first, 8.0, 0, 1)
    assert not tail.success
    assert "max_iter (1)" in tail.message


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"n_samples": 1}, "n_samples"),
        ({"elite_frac": 0.0}, "elite_frac"),
        ({"elite_frac": 1.5}, "elite_frac"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        CrossEntropyMethod(**settings)


def test_bad_functions_are_named():
    method = CrossEntropyMethod(random_state=0)
    with pytest.raises(ValueError, match="NaN"):
        method.minimize(lambda x: np.full(len(x), np.nan), 0, 1)
    with pytest.raises(ValueError, match="one value a point"):
        method.minimize(lambda x: x, 0, 1)
    with pytest.raises(ValueError, match="finite somewhere"):
        method.minimize(lambda x: np.full(len(x), np.inf), 0, 1)
    with pytest.raises(ValueError, match="gamma"):
        method.rare_event(first, math.inf, 0, 1)
    with pytest.raises(ValueError, match="sigma0"):
        method.rare_event(first, 1, 0, -1)
