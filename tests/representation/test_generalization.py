"""Distances of samples, bounds of the gap and the funnel: closed forms, laws, and gaps that a bound must cover."""

import math
from typing import Any, cast

import numpy as np
import ot
import pytest
import torch
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from hartley.representation import (
    estimate_kl,
    gaussian_kl,
    generalization_funnel,
    kl_bound,
    lipschitz_constant,
    operator_norm,
    wasserstein_bound,
    wasserstein_distance,
)
from hartley.representation.sample_distances import mean_projection
from strategies import law, seeds


def clouds(seed: int, n: int, m: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)), random.normal(0.5, 2.0, (m, width))


sizes = st.integers(1, 12)


# 1-Wasserstein


@law(seeds(), sizes, sizes)
def test_one_feature_is_the_transport_cost(seed, n, m):
    x, y = clouds(seed, n, m, 1)
    expected = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cdist(x, y))
    for method in ("sliced", "exact"):
        assert wasserstein_distance(x, torch.tensor(y), method=method) == pytest.approx(expected, abs=1e-12)


@law(seeds(), sizes, sizes, st.integers(2, 5))
def test_exact_is_the_transport_cost(seed, n, m, width):
    x, y = clouds(seed, n, m, width)
    expected = ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cdist(x, y))
    assert wasserstein_distance(x, y, method="exact") == pytest.approx(expected, abs=1e-9)


def test_sliced_is_that_of_pot_over_the_mean_projection():
    x, y = clouds(0, 40, 30, 7)
    lines = np.random.default_rng(3).standard_normal((7, 64))
    lines /= np.linalg.norm(lines, axis=0)
    theirs = ot.sliced_wasserstein_distance(x, y, projections=lines, p=1)
    ours = wasserstein_distance(x, y, n_projections=64, random_state=3)
    assert ours * mean_projection(7) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("width", [1, 2, 3, 50])
def test_mean_projection_is_the_mean_of_one_coordinate(width):
    random = np.random.default_rng(0)
    lines = random.standard_normal((100_000, width))
    drawn = np.abs(lines[:, 0]) / np.linalg.norm(lines, axis=1)
    assert mean_projection(width) == pytest.approx(drawn.mean(), abs=5 * drawn.std() / 100_000**0.5 + 1e-12)


@law(seeds(), st.integers(2, 20), st.integers(2, 6))
def test_a_move_is_as_far_as_it_is_long(seed, n, width):
    x, step = clouds(seed, n, 1, width)
    far = float(np.linalg.norm(step))
    assert wasserstein_distance(x, x + step, method="exact") == pytest.approx(far, rel=1e-9)
    # one line projects step to between 0 and its length; 2,000 lines average to E|u_1|: five standard errors
    sliced = wasserstein_distance(x, x + step, n_projections=2000, random_state=seed % 1000)
    assert sliced == pytest.approx(far, rel=5 * (math.pi / 2 - 1) ** 0.5 / 2000**0.5)


@law(seeds(), st.integers(2, 12), st.integers(2, 6))
def test_sliced_stays_below_exact(seed, n, width):
    x, y = clouds(seed, n, n, width)
    exact = wasserstein_distance(x, y, method="exact")
    assert wasserstein_distance(x, y, n_projections=2000, random_state=0) <= exact * (1 + 5 * 0.76 / 2000**0.5)


@law(seeds(), sizes, sizes, st.integers(1, 4), st.sampled_from(["sliced", "exact"]))
def test_distance_is_symmetric_and_scales_and_is_0_of_itself(seed, n, m, width, method):
    x, y = clouds(seed, n, m, width)

    def distance(a, b):
        return wasserstein_distance(a, b, method=method, random_state=5)

    assert distance(x, y) == pytest.approx(distance(y, x), abs=1e-9)
    assert distance(3 * x + 1, 3 * y + 1) == pytest.approx(3 * distance(x, y), abs=1e-8)
    assert distance(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def closed_form(m1: float, s1: float, m2: float, s2: float) -> float:
    delta, s = m1 - m2, abs(s1 - s2)
    if s == 0:
        return abs(delta)
    return s * math.sqrt(2 / math.pi) * math.exp(-(delta**2) / 2 / s**2) + delta * (1 - 2 * float(norm.cdf(-delta / s)))


@pytest.mark.parametrize(("m2", "s2", "value"), [(1, 1, 1.0), (0, 2, 0.797885), (1, 2, 1.166631)])
def test_gaussians_in_one_dimension(m2, s2, value):
    assert closed_form(0, 1, m2, s2) == pytest.approx(value, abs=1e-6)
    places = norm.ppf((np.arange(200_000) + 0.5) / 200_000)[:, None]
    assert wasserstein_distance(places, m2 + s2 * places) == pytest.approx(value, abs=1e-4)


# KL divergence


def test_gaussian_kl_is_that_of_torch():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 5, 5))
    covs, means = (a @ a.T + np.eye(5), b @ b.T + np.eye(5)), random.normal(size=(2, 5))
    p, q = (
        torch.distributions.MultivariateNormal(torch.tensor(m), torch.tensor(c))
        for m, c in zip(means, covs, strict=True)
    )
    expected = float(torch.distributions.kl_divergence(p, q))
    assert gaussian_kl(means[0], covs[0], means[1], covs[1]) == pytest.approx(expected, rel=1e-10)
    assert gaussian_kl(means[0], covs[0], means[0], covs[0]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("estimator", ["gaussian", "knn", "classifier"])
def test_estimates_come_near_the_truth(estimator):
    random = np.random.default_rng(0)
    p, q = random.normal(size=(2, 4000, 2))
    p[:, 0] += 1  # KL is 0.5; an estimate's standard deviation, over 20 seeds, is 0.02
    assert estimate_kl(p, q, estimator=estimator, random_state=0) == pytest.approx(0.5, abs=0.1)
    alike = random.normal(size=(4000, 2))
    assert estimate_kl(q, alike, estimator=estimator, random_state=0) == pytest.approx(0, abs=0.05)


def test_the_direction_is_train_to_test():
    random = np.random.default_rng(0)
    narrow, wide = random.normal(0, 1, (4000, 1)), random.normal(0, 3, (4000, 1))
    forward = math.log(3) + 1 / 18 - 0.5
    for estimator in ("gaussian", "knn"):
        assert estimate_kl(narrow, wide, estimator=estimator) == pytest.approx(forward, abs=0.05)


@law(seeds(), st.integers(1, 4))
def test_gaussian_estimate_does_not_depend_on_coordinates(seed, width):
    x, y = clouds(seed, 30, 40, width)
    turn = np.linalg.qr(np.random.default_rng(seed % 100).normal(size=(width, width)))[0] * 7
    assert estimate_kl(x @ turn + 2, y @ turn + 2) == pytest.approx(estimate_kl(x, y), rel=1e-8)


def test_labels_add_their_own_divergence_and_noise_spares_it():
    random = np.random.default_rng(0)
    x, z = random.normal(size=(400, 2)), random.normal(0.3, 1, (400, 2))
    y = np.arange(400) % 2
    skewed = (np.arange(400) % 4 == 0).astype(int)
    of_labels = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    plain = kl_bound(x, z, 0.5, labels_train=y, labels_test=skewed)
    within = sum(0.5 * estimate_kl(x[y == c], z[skewed == c]) for c in (0, 1))
    assert plain.distance == pytest.approx(of_labels + within)
    assert plain.bound == pytest.approx(0.5 * math.sqrt(2 * plain.distance))
    noisy = kl_bound(x, z, 0.5, labels_train=y, labels_test=skewed, contraction=0.25)
    assert noisy.distance == pytest.approx(of_labels + within / 4)
    nothing_passes = kl_bound(x, z, 0.5, labels_train=y, labels_test=skewed, contraction=0)
    assert nothing_passes.distance == pytest.approx(of_labels)


# Operator norms and Lipschitz constants

LAYERS = {
    "padded": (nn.Conv2d(2, 3, 3, padding=1), (2, 6, 5)),
    "strided": (nn.Conv2d(4, 4, 3, stride=2, groups=2, bias=False), (4, 7, 7)),
    "circular": (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (2, 5, 5)),
    "one axis": (nn.Conv1d(3, 2, 5), (3, 12)),
    "transposed": (nn.ConvTranspose2d(2, 2, 3, stride=2), (2, 4, 4)),
    "average": (nn.AvgPool2d(3, stride=2), (1, 9, 9)),
    "linear": (nn.Linear(7, 4), (7,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_operator_norm_is_the_largest_singular_value_of_the_dense_matrix(name):
    module, shape = LAYERS[name]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in module.parameters():
            parameter.normal_()
        basis = torch.eye(math.prod(shape)).reshape(-1, *shape)
        dense = (module(basis) - module(torch.zeros(1, *shape))).flatten(1)
    expected = float(torch.linalg.matrix_norm(dense.double(), ord=2))
    assert operator_norm(module, shape) == pytest.approx(expected, rel=1e-4)
    assert lipschitz_constant(module, shape) == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_norm_of_a_dead_layer_is_0():
    dead = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(dead.weight)
    assert operator_norm(dead, (1, 5, 5)) == 0.0


SMOOTH = [
    nn.ReLU(), nn.ReLU6(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.GELU(), nn.SiLU(), nn.ELU(2.0), nn.LeakyReLU(1.5),
    nn.Softmax(-1), nn.MaxPool1d(2), nn.MaxPool1d(3, stride=1), nn.MaxPool1d(3, stride=2, dilation=2), nn.Flatten(),
]  # fmt: skip


@pytest.mark.parametrize("module", SMOOTH, ids=repr)
def test_nothing_stretches_more_than_its_constant_and_something_nearly_as_much(module):
    generator = torch.Generator().manual_seed(0)
    scale = 10 ** (4 * torch.rand(20_000, 1, 1, generator=generator, dtype=torch.float64) - 3)
    x = 3 * torch.randn(20_000, 1, 8, generator=generator, dtype=torch.float64)
    alone = (torch.rand(20_000, 1, 8, generator=generator) < 0.2) * scale
    y = x + 1e-4 * alone * torch.randn(20_000, 1, 8, generator=generator, dtype=torch.float64)
    y[:200], x[:200] = 0, 0
    x[:200, 0, ::2] = torch.linspace(0.01, 4, 200, dtype=torch.float64)[:, None]
    y[:200, 0, ::2] = x[:200, 0, ::2] + 1e-4
    moved = (module(x) - module(y)).flatten(1).norm(dim=1)
    stretch = (moved / (x - y).flatten(1).norm(dim=1).clamp(min=1e-12)).max()
    assert stretch <= lipschitz_constant(module, (1, 8)) * (1 + 1e-6)
    if not isinstance(module, nn.MaxPool1d | nn.Softmax):
        assert stretch >= 0.98 * lipschitz_constant(module, (1, 8))


def test_batch_normalisation_in_evaluation():
    norm_layer = nn.BatchNorm1d(3).eval()
    norm_layer.running_var = torch.tensor([4.0, 0.25, 1.0])
    with torch.no_grad():
        norm_layer.weight.copy_(torch.tensor([8.0, -3.0, 1.0]))
    assert lipschitz_constant(norm_layer) == pytest.approx(6.0, rel=1e-4)
    with pytest.raises(ValueError, match=r"evaluation mode .*BatchNorm1d is in training"):
        lipschitz_constant(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="got LayerNorm: give tails="):
        lipschitz_constant(nn.LayerNorm(3))


# The funnel

RELU = nn.ReLU()
TWICE = nn.Sequential(RELU, RELU).eval()


def network(seed: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hidden = nn.Sequential(nn.Linear(6, 5), activation())
        return nn.Sequential(hidden, nn.Dropout(0.5), nn.Linear(5, 4), activation(), nn.Linear(4, 3)).eval()


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def examples(seed: int, n: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return torch.randn(n, 6, generator=generator) + y[:, None] / 2, y


@law(st.integers(0, 10_000), st.integers(0, 10_000), examples=15)
def test_the_exact_bound_covers_the_gap_of_the_samples(seed, data_seed):
    model, train, test = network(seed), examples(data_seed), examples(data_seed + 1)
    with torch.no_grad():
        gap = F.cross_entropy(model(test[0]), test[1]) - F.cross_entropy(model(train[0]), train[1])
    funnel = generalization_funnel(model, train, test, method="exact")
    assert funnel.layers == ("input", "1", "3", "4")
    assert min(funnel.bounds) >= abs(float(gap)) - 1e-6
    assert funnel.layer == funnel.layers[int(np.argmin(funnel.bounds))]
    assert funnel.tails[-1] == 1.0


def test_the_funnel_is_the_product_of_its_parts():
    model, train, test = network(0), examples(0), examples(1)
    funnel = generalization_funnel(model, train, test, method="exact", lipschitz_loss=2.0)
    norms = [float(torch.linalg.matrix_norm(layer.weight.detach(), ord=2)) for layer in linears(model)]
    assert funnel.tails == pytest.approx([math.prod(norms), norms[1] * norms[2], norms[2], 1.0], rel=1e-6)
    with torch.no_grad():
        inner = [model[0](x).numpy() for x, _ in (train, test)]
    expected = 0.0
    for c in range(3):
        costs = cdist(inner[0][c::3], inner[1][c::3])
        expected += costs[linear_sum_assignment(costs)].mean() / 3
    assert funnel.distances[1] == pytest.approx(expected, rel=1e-6)
    assert funnel.bounds == pytest.approx([2 * a * b for a, b in zip(funnel.distances, funnel.tails, strict=True)])


@law(st.floats(0.1, 10), examples=10)
def test_a_factor_moved_from_one_relu_layer_to_the_next_changes_no_bound(c):
    model, train, test = network(3, nn.ReLU), examples(0), examples(1)
    before = generalization_funnel(model, train, test, random_state=1)
    with torch.no_grad():
        first, second, _ = linears(model)
        first.weight.mul_(c)
        first.bias.mul_(c)
        second.weight.div_(c)
    after = generalization_funnel(model, train, test, random_state=1)
    assert after.bounds == pytest.approx(before.bounds, rel=1e-4)
    assert after.distances[1] == pytest.approx(c * before.distances[1], rel=1e-4)


def test_batches_and_their_order_make_no_difference():
    model, train, test = network(0), examples(0), examples(1)
    whole = generalization_funnel(model, train, test)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    batches = list(zip(train[0][order].split(7), train[1][order].split(7), strict=True))
    split = generalization_funnel(model, batches, test)
    assert split.bounds == pytest.approx(whole.bounds, rel=1e-6)
    few = generalization_funnel(model, train, test, max_samples=20)
    assert few.bounds == pytest.approx(generalization_funnel(model, batches, test, max_samples=20).bounds, rel=1e-6)
    assert few.bounds != pytest.approx(whole.bounds, rel=1e-6)


def test_equal_representations_are_sampled_one_by_one():
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        linears(model)[0].weight.zero_()
        linears(model)[0].bias.fill_(-1)
    funnel = generalization_funnel(model, examples(0, 300), examples(1, 300), max_samples=50)
    assert funnel.distances[1:] == (0.0, 0.0)


def test_a_convolutional_network_and_named_tails():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    x, y = torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    train, test = (x[:20], y[:20]), (x[20:], y[20:])
    funnel = generalization_funnel(model, train, test)
    assert funnel.layers == ("input", "3", "4")
    norm4 = operator_norm(model[4])
    assert funnel.tails == pytest.approx([norm4 * operator_norm(model[0], (1, 6, 6)), norm4, 1.0])

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x)

    named = generalization_funnel(Wrapped().eval(), train, test, tails={"input": 2.0, "inner.3": norm4})
    assert named.bounds[1] == pytest.approx(funnel.bounds[1])
    assert named.bounds[0] == pytest.approx(funnel.bounds[0] * 2 / funnel.tails[0])
    with pytest.raises(ValueError, match=r"got Wrapped without"):
        generalization_funnel(Wrapped().eval(), train, test)


def test_without_labels_the_tail_counts_at_least_1():
    x, y = clouds(0, 20, 20, 2)
    bounds = [wasserstein_bound(x, y, tail, lipschitz_loss=1.0, method="exact").bound for tail in (0.0, 0.5, 1.0, 3.0)]
    assert bounds == pytest.approx([bounds[2]] * 3 + [3 * bounds[2]])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: wasserstein_distance(np.empty((0, 2)), np.ones((1, 2))), r"x must be \[N, D\] .*shape \(0, 2\)"),
        (lambda: wasserstein_distance(np.ones((1, 2)), np.ones((1, 3))), "must have the same features; got 2 and 3"),
        (lambda: wasserstein_distance([[1.0], [math.nan]], [[1.0]]), "x must be finite; got nan in row 1"),
        (lambda: wasserstein_distance([[1.0]], [[1.0]], method=cast(Any, "fast")), "method must be .* got 'fast'"),
        (lambda: estimate_kl(np.ones((3, 3)), np.ones((9, 3))), "p must have more rows than its 3 features .*; got 3"),
        (lambda: estimate_kl(np.ones((9, 2)), np.ones((9, 2))), "a feature is constant"),
        (lambda: estimate_kl(np.ones((9, 2)), np.ones((9, 2)), estimator="knn"), "must not have 5 equal rows"),
        (lambda: estimate_kl(np.ones((5, 2)), np.ones((9, 2)), estimator="knn"), "p must have at least 6 rows"),
        (lambda: estimate_kl(np.ones((9, 2)), np.ones((4, 2)), estimator="classifier"), "q must have at least 5 rows"),
        (lambda: kl_bound([[1.0]], [[1.0]], 0.0), "sigma must be finite and above 0"),
        (lambda: kl_bound([[1.0]], [[1.0]], 1.0, contraction=1.5), r"contraction must be in \(0, 1\]; got 1.5"),
        (lambda: wasserstein_bound([[1.0]], [[1.0]], 1.0, labels_train=[0]), "must be given both, or neither"),
        (lambda: wasserstein_bound([[1.0]], [[1.0]], 1.0, labels_train=[0], labels_test=[1]), "got 0 on one side only"),
        (lambda: wasserstein_bound([[1.0]], [[1.0]], 1.0, labels_train=[0, 1], labels_test=[1]), "got shape .2,."),
        (lambda: wasserstein_bound([[1.0]], [[1.0]], -1.0), "lipschitz_tail must be"),
        (lambda: generalization_funnel(network(0).train(), examples(0), examples(1)), "got training mode"),
        (lambda: generalization_funnel(TWICE, examples(0), examples(1)), "must not hold one module in two places"),
        (lambda: generalization_funnel(network(0), [], examples(1)), "train must hold at least one batch"),
        (lambda: generalization_funnel(network(0), iter([examples(0)]), examples(1)), "got an iterator"),
        (lambda: generalization_funnel(network(0), (torch.ones(3, 6), torch.ones(2)), examples(1)), "got 2 for 3"),
        (lambda: generalization_funnel(network(0), (torch.ones(3, 6) / 0, torch.ones(3)), examples(1)), "'0.0' gave"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
