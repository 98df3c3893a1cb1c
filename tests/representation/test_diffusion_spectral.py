"""Diffusion spectral entropy: its closed forms, its laws, and every way of computing it against plain float64."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import DiffusionSpectralEntropy, diffusion_spectral, diffusion_spectral_entropy, lanczos
from hartley.representation.diffusion_operator import DiffusionOperator, bandwidth
from hartley.representation.diffusion_spectral import exact_spectrum
from hartley.representation.low_rank import approximate, entropy_gap, spectral_entropy

seeds = st.integers(0, 2**32 - 1)
DIRECT = 300


@pytest.fixture
def small(monkeypatch):
    """What is for many rows is done for few."""
    monkeypatch.setattr(diffusion_spectral, "DIRECT", DIRECT)


def cloud(seed: int, count: int = 40, width: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width))


def gaussians(Z: np.ndarray, sigma: float) -> np.ndarray:
    apart = ((Z[:, None] - Z[None]) ** 2).sum(-1)
    return np.exp(-apart / (2 * sigma**2))


def bits_of(eigenvalues: np.ndarray, t: float) -> float:
    a = np.abs(eigenvalues) ** t
    p = a[a > 0] / a.sum()
    return float(-(p * np.log2(p)).sum())


def reference(Z: np.ndarray, sigma: float, t: float) -> float:
    """The definition, with matrices written out, in float64."""
    G = gaussians(Z, sigma)
    root = np.diag(G.sum(1) ** -0.5)
    return bits_of(np.linalg.eigvalsh(root @ G @ root), t)


def operator_of(Z: np.ndarray, sigma: float, dtype: torch.dtype = torch.float64) -> DiffusionOperator:
    return DiffusionOperator(torch.from_numpy(Z), sigma, "symmetric", 0.5, dtype)


@given(seeds, st.floats(0.05, 20), st.sampled_from([0.5, 1, 2, 3.5, 20]))
def test_it_is_the_definition(seed, sigma, t):
    Z = cloud(seed)
    assert diffusion_spectral_entropy(Z, sigma=sigma, t=t) == pytest.approx(reference(Z, sigma, t), abs=1e-5)


@given(seeds, st.floats(0.2, 5), st.sampled_from([0.0, 0.5, 1.0]))
def test_anisotropic_has_the_eigenvalues_of_the_random_walk(seed, sigma, alpha):
    Z = cloud(seed, 20)
    G = gaussians(Z, sigma)
    q = G.sum(1) ** alpha
    weights = G / np.outer(q, q)
    walk = np.linalg.eigvals(weights / weights.sum(1, keepdims=True)).real
    found, spectrum = diffusion_spectral_entropy(
        Z, sigma=sigma, normalization="anisotropic", alpha=alpha, return_spectrum=True
    )
    np.testing.assert_allclose(spectrum, np.sort(walk)[::-1], atol=1e-8)
    assert found == pytest.approx(bits_of(walk, 1), abs=1e-5)
    if alpha == 0:
        assert found == diffusion_spectral_entropy(Z, sigma=sigma)


def test_two_points():
    """Eigenvalues 1 and (1 - g) / (1 + g)."""
    value, spectrum = diffusion_spectral_entropy([[0.0, 0.0], [1.0, 1.0]], sigma=1.0, return_spectrum=True)
    assert spectrum == pytest.approx([1.0, math.tanh(0.5)])
    assert value == pytest.approx(0.900046, abs=1e-6)
    assert diffusion_spectral_entropy([[0.0, 0.0], [1.0, 1.0]], sigma=1.0, base=None) == pytest.approx(
        value * math.log(2)
    )


@pytest.mark.parametrize("method", ["exact", "lanczos"])
@pytest.mark.parametrize("count", [1, 8, DIRECT + 88])
def test_alike_points_have_none_and_isolated_points_all(method, count, small):
    alike = np.full((count, 3), 0.1)
    assert diffusion_spectral_entropy(alike, method=method) == pytest.approx(0.0, abs=1e-6)
    apart = 1e3 * np.arange(count)[:, None]
    found = diffusion_spectral_entropy(apart, sigma=1.0, method=method, random_state=0)
    assert found == pytest.approx(math.log2(count), abs=1e-6)


@pytest.mark.parametrize(("clusters", "one_step"), [(1, 4.09), (2, 4.88), (4, 5.63), (8, 6.19)])
def test_tight_clusters_are_counted_after_many_steps(clusters, one_step):
    random = np.random.default_rng(0)
    Z = 10 * np.eye(10)[np.arange(200) % clusters] + 0.3 * random.normal(size=(200, 10))
    assert diffusion_spectral_entropy(Z, sigma=1.0, t=20) == pytest.approx(math.log2(clusters), abs=1e-3)
    assert diffusion_spectral_entropy(Z, sigma=1.0) == pytest.approx(one_step, abs=0.1)  # other draws


@given(seeds, st.floats(0.1, 5), st.floats(1e-3, 1e3))
@settings(max_examples=40)
def test_moving_turning_shuffling_and_scaling_change_nothing(seed, sigma, scale):
    Z = cloud(seed)
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]
    moved = scale * (random.permutation(Z) @ turn + random.normal(size=3) * 10)
    value = diffusion_spectral_entropy(Z, sigma=sigma)
    assert 0 <= value <= math.log2(40) + 1e-9
    assert diffusion_spectral_entropy(moved, sigma=scale * sigma) == pytest.approx(value, abs=1e-6)
    for normalization in ("symmetric", "anisotropic"):
        once = diffusion_spectral_entropy(Z, sigma=sigma, normalization=normalization, alpha=1.0)
        if normalization == "symmetric":  # q doubles, and so does what it divides
            twice = diffusion_spectral_entropy(np.concatenate([Z, Z]), sigma=sigma, normalization=normalization)
            assert twice == pytest.approx(once, abs=1e-6)


@given(seeds, st.floats(0.1, 5), st.lists(st.floats(0.3, 30), min_size=2, max_size=4))
@settings(max_examples=40)
def test_more_steps_never_raise_it_and_the_largest_eigenvalue_is_1(seed, sigma, steps):
    found = [diffusion_spectral_entropy(cloud(seed), sigma=sigma, t=t) for t in sorted(steps)]
    assert all(b <= a + 1e-9 for a, b in pairwise(found))
    spectrum = diffusion_spectral_entropy(cloud(seed), sigma=sigma, return_spectrum=True)[1]
    assert spectrum[0] == pytest.approx(1.0)
    assert (spectrum >= 0).all()
    assert (np.diff(spectrum) <= 0).all()


@given(seeds, st.floats(0, 8), st.floats(-14, 0), st.floats(0.3, 4))
def test_the_gap_holds_whatever_is_added(seed, decades, rest, t):
    """The law behind the low-rank way: eigenvalues grow by a known sum, anywhere, and stay within 0 .. 1."""
    random = np.random.default_rng(seed)
    below = 10 ** -random.uniform(0, decades, 30) * random.integers(0, 2, 30)
    below[0] = 1.0
    added = random.dirichlet(np.full(30, random.choice([0.01, 1.0]))) * 10**rest
    above = np.minimum(below + added, 1.0)
    rise = float((above**t - below**t).sum())
    gap = entropy_gap(torch.from_numpy(below**t), rise, 30)
    assert abs(bits_of(above, t) - bits_of(below, t)) * math.log(2) <= gap + 1e-12


WAYS = {  # rows, sigma, t, and which way is then taken
    "low rank": (0.3, 6.0, 1, "zeros"),
    "low rank, two steps": (0.3, 2.0, 2, "zeros"),
    "float32": (1.0, 1.0, 1, "float32"),
    "float32, isolated": (1.0, 0.3, 1, "float32"),
    "float64, t below 1": (1.0, 3.0, 0.5, "float64"),
}


@pytest.mark.parametrize(("spread", "sigma", "t", "way"), WAYS.values(), ids=WAYS)
def test_every_way_of_the_exact_method_is_within_its_promise(spread, sigma, t, way, small, monkeypatch):
    Z = spread * cloud(3, DIRECT + 100, 4)
    asked = []
    dense = DiffusionOperator.dense
    monkeypatch.setattr(
        DiffusionOperator, "dense", lambda self, dtype, **more: (asked.append(dtype), dense(self, dtype, **more))[1]
    )
    value, spectrum = diffusion_spectral_entropy(Z, sigma=sigma, t=t, return_spectrum=True)
    wanted = {"zeros": [], "float32": [torch.float32], "float64": [torch.float64]}[way]
    assert asked == wanted
    assert value == pytest.approx(reference(Z, sigma, t), abs=1e-4)
    assert spectrum.shape == (len(Z),)


def test_float32_that_loses_too_much_is_done_again_in_float64(small, monkeypatch):
    Z = cloud(3, DIRECT + 100, 4)
    asked = []
    dense = DiffusionOperator.dense

    def noisy(self, dtype, **more):
        asked.append(dtype)
        noise = 1e-5 * torch.randn(len(self), len(self), generator=torch.Generator().manual_seed(0))
        return dense(self, dtype, **more) + (noise + noise.T if dtype == torch.float32 else 0)

    monkeypatch.setattr(DiffusionOperator, "dense", noisy)
    assert diffusion_spectral_entropy(Z, sigma=1.0) == pytest.approx(reference(Z, 1.0, 1), abs=1e-9)
    assert asked == [torch.float32, torch.float64]


@given(seeds, st.floats(0.3, 30), st.sampled_from([1, 1.5, 2, 2.5, 4]), st.booleans())
@settings(max_examples=50)
def test_a_low_rank_part_lies_below_and_tells_how_far(seed, sigma, t, patient):
    operator = operator_of(cloud(seed, 120), sigma)
    exact = exact_spectrum(operator, t)
    part = approximate(operator, t, 1e-7, 60, patient=patient)
    assert bool((part.eigenvalues <= exact[: len(part.eigenvalues)] + 1e-10).all())
    assert float(torch.linalg.eigvalsh(operator.dense(torch.float64) - part.factor @ part.factor.T)[0]) > -1e-10
    assert abs(spectral_entropy(exact, t) - spectral_entropy(part.eigenvalues, t)) <= part.gap + 1e-9


def test_a_product_leaves_little_of_high_powers():
    operator = operator_of(cloud(3, 500, 4), 3.0)
    found = approximate(operator, 4, 1e-6, 128)
    assert found.gap <= 1e-6 < approximate(operator, 4, 1e-6, 128, patient=True).gap
    assert len(found.eigenvalues) <= 64


@pytest.mark.parametrize(("sigma", "t"), [(0.5, 1), (1.5, 1), (1.5, 2), (0.3, 0.5), (6.0, 1)])
def test_lanczos_is_within_what_it_states(sigma, t, small, monkeypatch):
    """Four standard errors of 24 probes: false alarm 6e-4 a draw; the truncation is added, and no K is ever stored."""
    Z = cloud(5, 400, 6)
    wanted = reference(Z, sigma, t)
    monkeypatch.setattr(DiffusionOperator, "dense", None)
    for seed in range(3):
        found = DiffusionSpectralEntropy(sigma=sigma, t=t, method="lanczos", random_state=seed).fit(Z)
        assert found.spectrum_ is None
        assert abs(found.entropy_ - wanted) <= 4 * found.standard_error_ + found.truncation_ + 1e-6
        assert found.standard_error_ < 0.05
        again = DiffusionSpectralEntropy(sigma=sigma, t=t, method="lanczos", random_state=seed).fit(Z)
        assert again.entropy_ == found.entropy_


def test_the_standard_error_of_lanczos_is_that_of_its_draws(small, monkeypatch):
    """24 runs: the spread of the values over the mean stated error is within 0.6 .. 1.6 (false alarm below 1e-3)."""
    monkeypatch.setattr(lanczos, "RANK", 32)  # leaves something to the probes
    monkeypatch.setattr(lanczos, "STEPS", 12)
    Z = cloud(5, 301, 6)
    runs = [DiffusionSpectralEntropy(sigma=1.5, method="lanczos", random_state=seed).fit(Z) for seed in range(24)]
    spread = np.std([run.entropy_ for run in runs], ddof=1)
    assert 0.6 < spread / np.mean([run.standard_error_ for run in runs]) < 1.6


def test_gauss_and_radau_enclose_the_quadratic_form():
    operator = operator_of(cloud(2, 60), 0.7)
    values, vectors = torch.linalg.eigh(operator.dense(torch.float64))
    probes = torch.ones(60, 1, dtype=torch.float64)
    probes[::3] = -1
    seen = (vectors.T @ probes)[:, 0].square()
    exact = float((seen * -torch.special.xlogy(values.clamp(min=0), values.clamp(min=1e-300))).sum())
    recurrence = lanczos._Recurrence(operator, probes)
    upper = lower = math.nan
    for step in range(12):
        recurrence.advance()
        upper, lower = (
            float((lanczos._masses(nodes, 1)[1] * weights).sum())
            for nodes, weights in (recurrence.rule(False), recurrence.rule(True))
        )
        assert lower - 1e-9 <= exact <= upper + 1e-9, step
    assert upper - lower < 0.05


@pytest.mark.parametrize("offset", [1e2, 1e5])
def test_near_points_far_from_the_centre_are_told_apart(offset):
    """Distances of 1 among points at ``offset`` sigma: what float32 products would lose."""
    near = cloud(0, 30, 2)
    Z = np.concatenate([near, near + offset, near - offset])
    operator = operator_of(Z, 1.0, torch.float32)
    G = gaussians(Z, 1.0)
    q = G.sum(1)
    np.testing.assert_allclose(operator.dense(torch.float64), G / np.sqrt(np.outer(q, q)), atol=1e-5)
    every = operator.times(torch.eye(90, dtype=operator.points.dtype))
    np.testing.assert_allclose(every, G / np.sqrt(np.outer(q, q)), atol=1e-5)
    assert operator_of(near * 1e7, 1.0, torch.float32).far
    assert diffusion_spectral_entropy(near * 1e7, sigma=1.0) == pytest.approx(math.log2(30))


def test_the_median_bandwidth():
    rows = torch.tensor([[0.0], [1.0], [4.0]])
    assert bandwidth(rows, "median") == 3.0
    assert bandwidth(torch.zeros(5, 2), "median") == 1.0
    assert bandwidth(torch.tensor([[0.0]] * 9 + [[2.0]]), "median") == 2.0  # most distances are 0
    found = DiffusionSpectralEntropy(sigma="median").fit(rows)
    assert found.sigma_ == 3.0
    assert found.entropy_ == pytest.approx(reference(rows.double().numpy(), 3.0, 1))


def test_arrays_tensors_and_half_precision_agree():
    Z = cloud(1).astype(np.float16)
    value = diffusion_spectral_entropy(Z.astype(np.float64), sigma=1.0)
    for other in (Z, torch.from_numpy(Z), torch.from_numpy(Z.astype(np.float32)).requires_grad_(), Z.tolist()):
        assert diffusion_spectral_entropy(other, sigma=1.0) == pytest.approx(value)
    assert DiffusionSpectralEntropy(sigma=1.0).fit(torch.from_numpy(Z).reshape(4, 10, 3)).entropy_ == pytest.approx(
        value
    )


def test_more_rows_than_max_samples_are_sampled():
    Z = cloud(4, 300)
    found = DiffusionSpectralEntropy(sigma=1.0, max_samples=100, random_state=7).fit(Z)
    assert found.n_samples_ == 100
    assert found.entropy_ == DiffusionSpectralEntropy(sigma=1.0, max_samples=100, random_state=7).fit(Z).entropy_
    assert found.entropy_ != diffusion_spectral_entropy(Z, sigma=1.0, max_samples=100, random_state=8)
    assert diffusion_spectral_entropy(Z, sigma=1.0, max_samples=None) == pytest.approx(reference(Z, 1.0, 1), abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Z": [[1.0], [math.nan]]}, "Z must be finite; got nan in row 1"),
        ({"Z": [1.0, 2.0]}, r"Z must be \[N, D\]"),
        ({"Z": np.empty((0, 3))}, r"got shape \(0, 3\)"),
        ({"sigma": 0.0}, "sigma must be finite and above 0; got 0.0"),
        ({"sigma": "mean"}, "sigma must be a number above 0 or \"median\"; got 'mean'"),
        ({"Z": [[0.0], [1e300]]}, "sigma must not vanish beside the distances in Z; got 10"),
        ({"t": 0}, "t must be finite and above 0; got 0"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]; got 1.5"),
        ({"normalization": "none"}, "normalization must be one of 'symmetric', 'anisotropic'"),
        ({"method": "dense"}, "method must be one of 'exact', 'lanczos'; got 'dense'"),
        ({"base": 1}, "base must be"),
        ({"max_samples": 0}, "max_samples must be a whole number"),
        ({"method": "lanczos", "return_spectrum": True}, "return_spectrum needs"),
    ],
)
def test_refusals_name_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        diffusion_spectral_entropy(**{"Z": [[0.0], [1.0]], **change})


@parametrize_with_checks([DiffusionSpectralEntropy(), DiffusionSpectralEntropy(sigma="median", method="lanczos")])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
