"""Condition numbers: closed forms, the laws of kappa, and float64's singular values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from hartley.representation import WeightCondition, condition_numbers, gaussian_output_entropy
from strategies import law, seeds


def one(matrix: torch.Tensor) -> WeightCondition:
    return condition_numbers({"w": matrix})[0]


def rotation(size: int, g: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64)).Q


def with_values(s: torch.Tensor, rows: int, seed: int) -> torch.Tensor:
    """A float64 matrix of these singular values."""
    g = torch.Generator().manual_seed(seed)
    long = torch.linalg.qr(torch.randn(rows, len(s), generator=g, dtype=torch.float64)).Q
    return long * s @ rotation(len(s), g)


def test_closed_forms():
    found = one(torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0])))
    assert found.kappa == pytest.approx(8, rel=1e-12)
    assert found.sum_log_s == pytest.approx(6 * math.log(2), rel=1e-12)
    shares = np.array([64, 16, 4, 1]) / 85
    assert found.effective_rank == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=1e-12)
    turned = one(rotation(6, torch.Generator().manual_seed(0)))
    assert (turned.kappa, turned.sum_log_s, turned.effective_rank) == pytest.approx((1, 0, 6), abs=1e-12)


def test_entropy_of_a_gaussian():
    assert gaussian_output_entropy(torch.eye(3)) == pytest.approx(4.256816, abs=1e-6)
    squares = torch.tensor([2.5, 0.4, 0.1], dtype=torch.float64)
    assert gaussian_output_entropy(with_values(squares.sqrt(), 3, 1)) == pytest.approx(3.105523, abs=1e-6)
    assert one(with_values(squares.sqrt(), 3, 1)).sum_log_s == pytest.approx(-1.151293, abs=1e-6)
    assert gaussian_output_entropy(torch.ones(2, 2)) == gaussian_output_entropy(torch.zeros(2, 3)) == -math.inf


@law(seeds(), st.integers(2, 5), st.integers(2, 5))
def test_entropy_with_a_covariance(seed, m, n):
    g = torch.Generator().manual_seed(seed)
    w, root = (
        torch.randn(m, n, generator=g, dtype=torch.float64),
        torch.randn(n, n + 2, generator=g, dtype=torch.float64),
    )
    cov = root @ root.T
    k = min(m, n)
    if m <= n:
        volume = 0.5 * torch.logdet(w @ cov @ w.T)
    else:
        volume = 0.5 * (torch.logdet(w.T @ w) + torch.logdet(cov))
    expected = k / 2 * math.log(2 * math.pi * math.e) + float(volume)
    assert gaussian_output_entropy(w, cov) == pytest.approx(expected, abs=1e-9)


@law(seeds(), st.integers(2, 40), st.integers(2, 40))
def test_as_float64_says(seed, rows, columns):
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    s = torch.linalg.svdvals(w.double())
    found = one(w)
    assert found.kappa == pytest.approx(float(s[0] / s[-1]), rel=1e-7)
    assert found.sum_log_s == pytest.approx(float(s.log().sum()), abs=1e-7)
    assert found.n_params == rows * columns


@pytest.mark.parametrize("kappa", [1e2, 1e4, 1e5, 2e5, 1e6])
@pytest.mark.parametrize("rows", [60, 2500])
def test_ill_conditioned_matrices(kappa, rows):
    """On both sides of the place where the SVD takes over: 1e-4 of the smallest eigenvalue is 5e-5 of kappa."""
    s = torch.logspace(0, -math.log10(kappa), 60, dtype=torch.float64)
    found = one(with_values(s, rows, 0))
    assert found.kappa == pytest.approx(kappa, rel=5e-5)
    assert found.sum_log_s == pytest.approx(float(s.log().sum()), abs=1e-4)
    assert one(with_values(s, rows, 0).float()).kappa == pytest.approx(kappa, rel=2e-7 * kappa)


@law(seeds(), st.floats(-12, 12).map(lambda power: 10.0**power))
def test_the_laws_of_kappa(seed, factor):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(7, 5, generator=g, dtype=torch.float64)
    found = one(w)
    turned = rotation(7, g) @ w @ rotation(5, g)
    for same in (w * factor, turned, w.T):
        again = one(same)
        assert again.kappa == pytest.approx(found.kappa, rel=1e-9)
        assert again.effective_rank == pytest.approx(found.effective_rank, rel=1e-9)
    assert one(w * factor).sum_log_s == pytest.approx(found.sum_log_s + 5 * math.log(factor), abs=1e-9)
    assert found.kappa >= 1
    norm = float(w.norm())
    assert found.sum_log_s <= 5 * math.log(norm / math.sqrt(5))
    assert 1 <= found.effective_rank <= 5


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_the_ends_of_float64(scale):
    w = torch.diag(torch.tensor([4.0, 2.0], dtype=torch.float64)) * scale
    assert one(w).kappa == pytest.approx(2)
    assert one(w).sum_log_s == pytest.approx(math.log(8) + 2 * math.log(scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_matrices_are_said_to_be(dtype):
    low = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for w in (
        torch.ones(3, 4, dtype=dtype),
        low @ low.T,
        torch.cat([low, low], 1),
        torch.eye(5, dtype=dtype)[:, [0, 0, 1]],
    ):
        found = one(w)
        assert (found.kappa, found.sum_log_s) == (math.inf, -math.inf)
        assert 1 <= found.effective_rank < min(w.shape)


def test_a_long_random_matrix_is_near_its_limit():
    # Marchenko and Pastur: (sqrt m + sqrt n) / (sqrt m - sqrt n) = 3, from below at finite sizes
    g = torch.Generator().manual_seed(0)
    weights = {f"{i}": torch.randn(64, 16, generator=g) for i in range(200)}
    draws = [each.kappa for each in condition_numbers(weights)]
    assert np.mean(draws) == pytest.approx(2.65, abs=4 * float(np.std(draws)) / math.sqrt(200))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.ModuleDict({"up_proj": nn.Linear(4, 6), "gate": nn.Linear(4, 1)})
        self.experts = nn.Module()
        self.experts.register_parameter("gate_up_proj", nn.Parameter(torch.randn(3, 4, 5)))
        self.experts.register_parameter("down_proj", nn.Parameter(torch.zeros(3, 4, 5)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(100, 4)
        self.layers = nn.ModuleList([Layer(), Layer()])
        self.norm = nn.LayerNorm(4)
        self.convolution = nn.Conv2d(2, 3, 5)
        self.head = nn.Linear(4, 100, bias=False)
        self.head.weight = self.embed.weight


def test_which_weights_are_measured():
    with torch.random.fork_rng():
        model = Network()
    found = condition_numbers(model)
    assert [(each.name, each.kind, each.shape) for each in found] == [
        ("embed.weight", "embed", (100, 4)),
        ("layers.0.mlp.up_proj.weight", "mlp.up_proj", (6, 4)),
        ("layers.0.experts.gate_up_proj", "experts.gate_up_proj", (3, 4, 5)),
        ("layers.1.mlp.up_proj.weight", "mlp.up_proj", (6, 4)),
        ("layers.1.experts.gate_up_proj", "experts.gate_up_proj", (3, 4, 5)),
        ("convolution.weight", "convolution", (3, 2, 5, 5)),
    ]
    by_name = {each.name: each for each in found}
    flat = model.convolution.weight.detach().reshape(3, 50)
    assert by_name["convolution.weight"].kappa == pytest.approx(one(flat).kappa, rel=1e-9)
    experts = [one(expert) for expert in model.get_parameter("layers.0.experts.gate_up_proj").detach()]
    fused = by_name["layers.0.experts.gate_up_proj"]
    assert fused.fused
    assert fused.kappa == pytest.approx(np.mean([each.kappa for each in experts]), rel=1e-9)
    assert fused.sum_log_s == pytest.approx(np.mean([each.sum_log_s for each in experts]), rel=1e-9)
    assert [each.name for each in condition_numbers(model, include=r"1\.mlp")] == ["layers.1.mlp.up_proj.weight"]
    assert "embed.weight" not in {each.name for each in condition_numbers(model, max_dim=99)}
    assert condition_numbers(dict(model.named_parameters())) == found
    assert condition_numbers(model.state_dict(keep_vars=True)) == found  # tied: by place, since names differ


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.3.mlp.experts.7.up_proj.weight", "mlp.experts.up_proj"),
        ("0.weight", "weight"),
        ("features.0.weight", "features"),
        ("lm_head.weight", "lm_head"),
        ("encoder.layer.2.attention.in_proj_weight", "attention.in_proj_weight"),
    ],
)
def test_kinds(name, kind):
    assert condition_numbers({name: torch.eye(2)})[0].kind == kind


def test_threads_change_nothing():
    weights = {f"{i}": torch.randn(20, 10, generator=torch.Generator().manual_seed(i)) for i in range(9)}
    found, before = condition_numbers(weights), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert condition_numbers(weights) == found
    finally:
        torch.set_num_threads(before)


def test_half_precision_is_read_as_float32():
    w = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert one(w).kappa == one(w.float()).kappa


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"a.weight": torch.tensor([[1.0, torch.nan], [0.0, 1.0]])}, ValueError, r"a.weight must be finite; got NaN"),
        ({"a.weight": torch.tensor([[1.0, torch.inf], [0, 1]])}, ValueError, r"a.weight must be finite; got infinity"),
        ({"a.weight": torch.ones(2, 2, dtype=torch.uint8)}, TypeError, r"a.weight must be floating point; got torch"),
        ({"a.weight": torch.ones(2, 2, device="meta")}, ValueError, r"a.weight is on the meta device"),
        ({"a.weight": torch.zeros(2, 2), "b": torch.ones(3)}, ValueError, r"model must hold a weight matrix that"),
        ({}, ValueError, r"model must hold a weight matrix"),
    ],
)  # fmt: skip
def test_bad_weights(weights, error, message):
    with pytest.raises(error, match=message):
        condition_numbers(weights)


def test_a_pattern_that_nothing_has():
    with pytest.raises(ValueError, match=r"whose name has 'attn' in it"):
        condition_numbers({"mlp.weight": torch.eye(2)}, include="attn")


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        (np.eye(2), r"cov must be symmetric, of shape \(3, 3\); got shape \(2, 2\)"),
        (np.triu(np.ones((3, 3))), r"cov must be symmetric"),
        (np.ones((3, 3)), r"cov must be positive definite"),
        (np.full((3, 3), np.nan), r"cov must be finite; got nan"),
    ],
)
def test_bad_covariances(cov, message):
    with pytest.raises(ValueError, match=message):
        gaussian_output_entropy(np.eye(3), cov)
