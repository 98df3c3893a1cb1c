"""Neural codes: what they are, the laws of redundancy, and streams that no split changes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.nn import functional as F

from hartley.representation import HashCodes, NeuralCodeTransformer, code_entropy, neural_code, redundancy_ratio
from strategies import law, seeds


def network(seed: int, sizes: tuple[int, ...] = (5, 7, 6, 3), norm: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for wide, out in pairwise(sizes):
            layers += [nn.Linear(wide, out), *([nn.BatchNorm1d(out)] if norm else []), nn.ReLU()]
        return nn.Sequential(*layers[:-1]).double()


def layer(x: torch.Tensor, model: nn.Module, name: str) -> torch.Tensor:
    return F.linear(x, model.get_parameter(f"{name}.weight"), model.get_parameter(f"{name}.bias"))


def inputs(seed: int, count: int = 40, width: int = 5) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits(seed: int, count: int = 30, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).random((count, width)) < 0.5


@law(seeds())
def test_a_code_is_the_signs_of_every_hidden_unit(seed):
    model, x = network(seed), inputs(seed)
    first = F.relu(layer(x, model, "0"))
    second = F.relu(layer(first, model, "2"))
    expected = torch.cat([first > 0, second > 0], 1)
    assert torch.equal(neural_code(model, x, batch_size=7), expected)
    assert torch.equal(neural_code(model, x.numpy(), ["3", "1"]), expected.roll(-7, 1))
    packed = neural_code(model, x, packed=True, batch_size=9)
    np.testing.assert_array_equal(packed.numpy(), np.packbits(expected.numpy(), axis=1))


def test_a_threshold_and_zero():
    model = nn.Sequential(nn.ReLU())
    assert neural_code(model, [[-1.0, 0.0, 0.5, 2.0]]).tolist() == [[False, False, True, True]]
    assert neural_code(model, [[-1.0, 0.0, 0.5, 2.0]], threshold=1.0).tolist() == [[False, False, False, True]]


def test_the_modes_are_put_back_and_no_batch_matters():
    model, x = network(0, norm=True), inputs(1)
    model.train()
    model[1].eval()
    together = neural_code(model, x)
    assert torch.equal(torch.cat([neural_code(model, row[None]) for row in x]), together)
    assert [module.training for module in model] == [True, False, *[True] * (len(model) - 2)]
    assert all(not module._forward_hooks for module in model.modules())


def test_a_module_that_runs_twice_gives_its_bits_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu(1 - self.relu(x.clone()))

    assert neural_code(Twice(), [[0.5, 2.0, -1.0]]).tolist() == [[True, True, False, True, False, True]]


def test_feature_maps_are_flattened():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(8, 2))
    assert neural_code(model, torch.randn(5, 1, 4, 4)).shape == (5, 8)


@law(seeds(), st.floats(0.1, 10))
def test_scaling_a_layer_keeps_its_bits_and_those_after_it_if_undone(seed, factor):
    model, x = network(seed), inputs(seed)
    before = neural_code(model, x)
    with torch.no_grad():
        model[0].weight *= factor
        model[0].bias *= factor
    assert torch.equal(neural_code(model, x)[:, :7], before[:, :7])
    with torch.no_grad():
        model[2].weight /= factor
    assert torch.equal(neural_code(model, x), before)


@law(seeds(), examples=5)
def test_equal_codes_are_one_affine_map(seed):
    model, x = network(seed, (3, 4, 2)), inputs(seed, 16, 3)
    codes = neural_code(model, x)
    jacobians = [torch.autograd.functional.jacobian(model, row) for row in x]
    pairs = [(i, j) for i in range(16) for j in range(i) if torch.equal(codes[i], codes[j])]
    assert pairs
    for i, j in pairs:
        torch.testing.assert_close(jacobians[i], jacobians[j], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(model(x[j]), model(x[i]) + jacobians[i] @ (x[j] - x[i]), rtol=1e-10, atol=1e-10)


@law(seeds(), st.integers(1, 3), st.integers(1, 6))
def test_no_more_codes_than_regions_of_an_arrangement(seed, width, units):
    codes = neural_code(network(seed, (width, units, 1)), 10 * inputs(seed, 500, width))
    assert len(codes.unique(dim=0)) <= sum(math.comb(units, j) for j in range(width + 1))


@law(seeds())
def test_each_bit_flips_at_most_once_along_a_segment(seed):
    model, (a, b) = network(seed, (5, 8, 2)), inputs(seed, 2)
    codes = neural_code(model, torch.lerp(a, b, torch.linspace(0, 1, 200, dtype=torch.float64)[:, None]))
    flips = codes.diff(dim=0).sum(0)
    assert flips.max() <= 1
    assert flips.sum() == (codes[0] ^ codes[-1]).sum()


@law(seeds(), st.integers(1, 12))
def test_the_laws_of_redundancy(seed, width):
    codes, rng = bits(seed, width=width), np.random.default_rng(seed)
    distinct = len({row.tobytes() for row in codes})
    ratio = redundancy_ratio(codes)
    assert ratio == 1 - distinct / 30
    assert ratio >= 1 - 2**width / 30
    for same in (
        codes[:, rng.permutation(width)],
        codes ^ rng.integers(0, 2, width, dtype=bool),
        np.hstack([codes, np.ones_like(codes), np.zeros_like(codes)]),
        codes[rng.permutation(30)],
        np.packbits(codes, axis=1),
        torch.from_numpy(codes),
    ):
        assert redundancy_ratio(same) == ratio
    assert redundancy_ratio(np.hstack([codes, bits(seed + 1)])) <= ratio


def test_the_ends_of_redundancy():
    assert redundancy_ratio(np.ones((8, 3), bool)) == 1 - 1 / 8
    assert redundancy_ratio(np.eye(8, dtype=bool)) == 0


def test_random_codes_collide_as_birthdays_do():
    # 400 codes of 16 bits: 399 / 2^17 of them are redundant; over 60 draws a Poisson count of 73, within 5 deviations
    found = sum(redundancy_ratio(bits(seed, 400, 16)) * 400 for seed in range(60))
    assert abs(found - 60 * 400 * 399 / 2**17) < 5 * math.sqrt(73)


def test_entropy_of_codes():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 1]], bool)
    assert float(code_entropy(codes).value) == pytest.approx(1.5 * math.log(2))
    assert float(code_entropy(codes, base=2).value) == pytest.approx(1.5)
    assert float(code_entropy(np.eye(9, dtype=bool)).value) == pytest.approx(math.log(9))
    # The delta method: surprisals ln 2 (twice), 2 ln 2, 2 ln 2 have the variance (ln 2)^2 / 4
    assert float(code_entropy(codes).stderr) == pytest.approx(math.log(2) / 2 / 2)


@law(seeds(), st.lists(st.integers(1, 29), unique=True, max_size=4))
def test_no_split_and_no_order_changes_what_was_seen(seed, cuts):
    x = np.random.default_rng(seed).standard_normal((30, 4))
    whole, kept = HashCodes().fit(x), NeuralCodeTransformer().fit(x)
    parts = np.split(np.random.default_rng(seed).permutation(x), sorted(cuts))
    streamed, merged, bits_merged = HashCodes(), HashCodes(), NeuralCodeTransformer()
    for part in parts:
        streamed.partial_fit(part)
        merged = HashCodes().fit(part).merge(merged)
        bits_merged.merge(NeuralCodeTransformer().fit(part))
    for found in (streamed, merged):
        for name in ("n_samples_", "n_distinct_", "redundancy_ratio_", "entropy_", "standard_error_"):
            assert getattr(found, name) == getattr(whole, name)
    assert whole.redundancy_ratio_ == redundancy_ratio(x > 0)
    assert whole.entropy_ == pytest.approx(float(code_entropy(x > 0).value), abs=1e-12)
    np.testing.assert_array_equal(bits_merged.kept_, kept.kept_)
    np.testing.assert_array_equal(kept.kept_, (x > 0).any(0) & ~(x > 0).all(0))


def test_constant_bits_are_dropped_and_stay_dropped():
    train = np.array([[1.0, -1.0, 2.0, 0.0], [3.0, 1.0, -2.0, 0.0]])
    fitted = NeuralCodeTransformer().fit(torch.tensor(train))
    assert fitted.kept_.tolist() == [False, True, True, False]
    assert fitted.transform([[-5.0, -5.0, 5.0, 5.0]]).tolist() == [[False, True]]


def test_one_sample_and_dead_networks():
    one = HashCodes().fit([[1.0, -1.0]])
    assert (one.redundancy_ratio_, one.entropy_, one.standard_error_) == (0, 0, 0)
    assert NeuralCodeTransformer().fit_transform(np.zeros((5, 3))).shape == (5, 0)
    dead = HashCodes().fit(np.zeros((5, 3)))
    assert (dead.redundancy_ratio_, dead.entropy_) == (0.8, 0)


def test_half_precision_tensors():
    assert HashCodes().fit(torch.tensor([[1.0, -1.0]], dtype=torch.bfloat16)).n_distinct_ == 1


@pytest.mark.parametrize("kind", [HashCodes, NeuralCodeTransformer])
def test_codes_of_another_length_do_not_merge(kind):
    with pytest.raises(ValueError, match=r"other must have 2 features, as this one; got 3"):
        kind().fit([[1.0, 2.0]]).merge(kind().fit([[1.0, 2.0, 3.0]]))


def test_bad_models_and_examples():
    model = network(0)
    with pytest.raises(ValueError, match=r"model has no module of an activation with two signs"):
        neural_code(nn.Linear(5, 2), inputs(0))
    with pytest.raises(ValueError, match=r"no module '11'; the nearest name is '1'"):
        neural_code(model, inputs(0), ["11"])
    with pytest.raises(ValueError, match=r"x must have shape \[N, ...\] with at least one example; got \(0, 5\)"):
        neural_code(model, np.zeros((0, 5)))
    with pytest.raises(ValueError, match=r"layers must name at least one module; got none"):
        neural_code(model, inputs(0), [])
    with pytest.raises(ValueError, match=r"layers must give one row an example; '1' gave \(4, 50\) for 40"):
        neural_code(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (4, 50)), nn.ReLU()), inputs(0), ["1"])
    with torch.no_grad():
        model.get_parameter("2.bias")[0] = torch.nan
    with pytest.raises(ValueError, match=r"layer '3' gave NaN"):
        neural_code(model, inputs(0))


def test_a_layer_that_does_not_run_is_named():
    class Spare(nn.Sequential):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return self[0](input)

    with pytest.raises(ValueError, match=r"layers must run in the model's forward pass; '1' does not"):
        neural_code(Spare(nn.ReLU(), nn.ReLU()), inputs(0))


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (np.zeros((2, 3)), TypeError, r"codes must be bool, or uint8 with 8 bits packed in each; got float64"),
        (np.zeros((0, 3), bool), ValueError, r"at least one row; got \(0, 3\)"),
        (np.zeros(3, bool), ValueError, r"at least one row; got \(3,\)"),
    ],
)
def test_bad_codes(codes, error, message):
    for measure in (redundancy_ratio, code_entropy):
        with pytest.raises(error, match=message):
            measure(codes)


@parametrize_with_checks([HashCodes(), NeuralCodeTransformer()])
def test_scikit_learn_agrees(estimator, check):
    check(estimator)
