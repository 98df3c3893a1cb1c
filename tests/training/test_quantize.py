"""Fake quantisation: the grids written out, rounding, the straight-through gradient, and the count of bits."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from hartley.training import fake_quantize, quantize_model_, total_bits
from strategies import law

seeds = st.integers(0, 2**32)
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def weights(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grid(row, bits, symmetric, fmt):
    """Every number that a row can be rounded to, and the largest step between two."""
    top = np.abs(row).max()
    if fmt == "fp4_e2m1":
        found = np.array([-x for x in FP4] + FP4) * top / 6
    elif fmt == "fp8_e4m3":
        codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
        found = codes[codes.isfinite()].numpy() * top / 448
    elif symmetric:
        found = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)) * top / (2 ** (bits - 1) - 1)
    else:
        low, high = min(row.min(), 0), max(row.max(), 0)
        scale = (high - low) / (2**bits - 1)
        found = (np.arange(2**bits) - np.round(-low / scale)) * scale
    return np.sort(found)


CASES = [(2, True, "int"), (3, True, "int"), (8, True, "int"), (1, False, "int"), (3, False, "int"), (8, False, "int")]
CASES += [(4, True, "fp4_e2m1"), (8, True, "fp8_e4m3")]


@pytest.mark.parametrize(("bits", "symmetric", "fmt"), CASES)
@law(seeds, st.integers(1, 12), st.sampled_from([1e-6, 1.0, 1e6]), st.sampled_from([None, 1, 3]))
def test_every_number_goes_to_the_nearest_of_the_grid(bits, symmetric, fmt, seed, groups, size, group_size):
    w = size * weights(seed, 2, 3 * groups)
    found = fake_quantize(w, bits, group_size, symmetric, fmt)
    length = group_size or w.shape[1]
    for row, got in zip(w.reshape(-1, length).numpy(), found.reshape(-1, length).numpy(), strict=True):
        allowed = grid(row, bits, symmetric, fmt)
        apart = np.abs(row[:, None] - allowed[None]).min(1)
        np.testing.assert_allclose(np.abs(row - got), apart, rtol=1e-9, atol=1e-12 * size)
        assert np.abs(got[:, None] - allowed[None]).min(1).max() < 1e-9 * size


@pytest.mark.parametrize(("bits", "symmetric", "fmt"), CASES)
@law(seeds)
def test_rounding_again_changes_nothing(bits, symmetric, fmt, seed):
    once = fake_quantize(weights(seed, 3, 10), bits, symmetric=symmetric, fmt=fmt)
    torch.testing.assert_close(fake_quantize(once, bits, symmetric=symmetric, fmt=fmt), once, rtol=1e-12, atol=1e-12)


@law(seeds)
def test_error_is_half_a_step_and_goes_away_with_bits(seed):
    w = weights(seed, 3, 20)
    for bits in (2, 4, 8, 16):
        scale = w.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((fake_quantize(w, bits) - w).abs() <= scale / 2 * (1 + 1e-9)).all()
    torch.testing.assert_close(fake_quantize(w, 16), w, rtol=0, atol=1e-4 * w.abs().max().item())


def test_halves_go_to_even_codes():
    w = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 3.0])
    assert fake_quantize(w, 3).tolist() == [0, 2, 2, 0, -2, 3]
    w = torch.tensor([0.25, 0.75, 1.25, 2.5, 3.5, 5.0, 6.0])
    assert fake_quantize(w, 4, fmt="fp4_e2m1").tolist() == [0, 1, 1, 2, 4, 4, 6]


@law(seeds, st.sampled_from([1.0, 1e-2, 1e-5]))
def test_fp8_is_torch_s(seed, small):
    w = torch.cat([weights(seed, 1, 50) * 50 * small, torch.tensor([[448.0]], dtype=torch.float64)], -1).float()
    w = w.clamp(-448, 448)
    assert torch.equal(fake_quantize(w, 8, fmt="fp8_e4m3"), w.to(torch.float8_e4m3fn).float())


def test_zero_stays_zero():
    for bits, symmetric, fmt in CASES:
        w = weights(bits, 3, 8)
        w[:, 3] = 0
        w[1] = 0
        found = fake_quantize(w, bits, symmetric=symmetric, fmt=fmt)
        assert (found[:, 3] == 0).all()
        assert (found[1] == 0).all()
        w[0] = w[0].abs()
        assert fake_quantize(w, bits, symmetric=symmetric, fmt=fmt)[0, 3] == 0


def test_the_gradient_goes_straight_through_inside_the_grid_and_stops_outside():
    w = torch.tensor([-1.5, 0.0, 0.7, 1.5], requires_grad=True)  # scale 1, zero point round(1.5) = 2, so 1.5 has code 4
    found = fake_quantize(w, 2, symmetric=False)
    assert found.tolist() == [-2, 0, 1, 1]
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (found * weight).sum().backward()
    assert w.grad.tolist() == [1, 2, 3, 0]
    w = weights(0, 3, 8).requires_grad_()
    for bits, symmetric, fmt in CASES:
        if symmetric:
            (gradient,) = torch.autograd.grad((fake_quantize(w, bits, fmt=fmt) * w.detach()).sum(), w)
            assert torch.equal(gradient, w.detach())


def test_dtype_is_kept_and_half_precision_worked_in_float32():
    w = weights(0, 4, 16).bfloat16()
    found = fake_quantize(w, 8)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, fake_quantize(w.float(), 8).bfloat16())


# Models


class Small(nn.Module):
    """An embedding, two linear layers and a head that shares the embedding's weight if ``tied``."""

    def __init__(self, tied=False):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.head = nn.Linear(8, 10, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.second(self.first(self.embedding(ids)).relu()))


def model(tied=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small(tied)


def test_a_model_rounds_its_layers_and_trains_what_is_underneath():
    plain = model()
    rounded = quantize_model_(copy.deepcopy(plain), 3, skip=("head",))
    ids = torch.arange(10)
    by_hand = copy.deepcopy(plain)
    for layer in (by_hand.first, by_hand.second):
        layer.weight.data = fake_quantize(layer.weight.data, 3)
    torch.testing.assert_close(rounded(ids), by_hand(ids))
    assert not torch.allclose(rounded(ids), plain(ids))
    assert torch.equal(rounded.head.weight, plain.head.weight)
    optimiser = torch.optim.SGD(rounded.parameters(), lr=0.1)
    before = rounded.first.parametrizations.weight.original.clone()
    rounded(ids).square().sum().backward()
    optimiser.step()
    after = rounded.first.parametrizations.weight.original
    assert not torch.equal(before, after)
    assert torch.equal(rounded.first.weight, fake_quantize(after, 3))
    parametrize.remove_parametrizations(rounded.first, "weight")
    assert all(len(row.unique()) <= 8 for row in rounded.first.weight)


def test_activations_are_rounded_token_by_token():
    plain = model()
    rounded = quantize_model_(copy.deepcopy(plain), 16, 4, skip=("second", "head"))
    hidden = plain.embedding(torch.arange(10))
    expected = plain.first.forward(fake_quantize(hidden, 4))
    torch.testing.assert_close(rounded.first(hidden), expected, rtol=0, atol=1e-3)
    assert not torch.allclose(expected, plain.first(hidden), atol=1e-2)


@pytest.mark.parametrize(("group_size", "expected"), [(100, 4.16e6), (50, 4.32e6), (1000, 4.016e6), (None, 4.016e6)])
def test_bits_of_a_million_weights(group_size, expected):
    layer = quantize_model_(nn.Linear(1000, 1000, bias=False), 4, group_size=group_size)
    assert total_bits(layer) == expected


def test_the_sheet_s_bits():
    """1e6 weights in groups of 128 and 64 (the last group of a row would be short, so a row of 128,000)."""
    for group_size, expected in ((128, 4.125), (64, 4.25)):
        layer = quantize_model_(nn.Linear(128_000, 8, bias=False), 4, group_size=group_size)
        assert total_bits(layer) / (8 * 128_000) == expected


def test_bits_of_what_is_not_rounded_count_too():
    small = quantize_model_(model(), 3, symmetric=False, skip=("head",))
    rounded = 2 * 64 * 3 + 16 * (16 + 3)
    others = 80 + 8 + 80
    assert total_bits(small) == rounded + 32 * others
    assert total_bits(small, other_bits=16) == rounded + 16 * others
    assert total_bits(small, scale_bits=8, other_bits=16) == rounded - 16 * 8 + 16 * others
    assert total_bits(model()) == 32 * (others + 128)
    assert total_bits(model(tied=True)) == 32 * (80 + 8 + 128)
    assert total_bits(model().bfloat16()) == 16 * (others + 128)


def test_what_does_not_fit_is_named():
    w = weights(0, 2, 6)
    for settings, message in [
        ({"bits": 1}, r"bits must be from 2 to 16 \(from 1 where symmetric is False\); got 1"),
        ({"bits": 17}, "from 2 to 16"),
        ({"bits": 3, "fmt": "fp4_e2m1"}, "bits must be 4 for 'fp4_e2m1'; got 3"),
        ({"bits": 8, "fmt": "fp8_e4m3", "symmetric": False}, "symmetric must be True for 'fp8_e4m3'"),
        ({"bits": 4, "fmt": "nf4"}, "fmt must be one of 'int', 'fp4_e2m1', 'fp8_e4m3'; got 'nf4'"),
        ({"bits": 4, "group_size": 4}, "group_size must divide the last axis of w, 6; got 4"),
        ({"bits": 4, "group_size": 0}, "group_size must be a whole number of at least 1; got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            fake_quantize(w, **settings)
    with pytest.raises(ValueError, match="w must be finite; got NaN or inf"):
        fake_quantize(w.index_fill(1, torch.tensor(0), torch.inf), 4)
    with pytest.raises(TypeError, match=r"w must be floating point; got torch.int64"):
        fake_quantize(w.long(), 4)
    with pytest.raises(ValueError, match="skip must leave at least one linear layer"):
        quantize_model_(model(), 4, skip=("*",))
    with pytest.raises(ValueError, match="not be quantised already; got a parametrised weight in 'first'"):
        quantize_model_(quantize_model_(model(), 4), 4)
    with pytest.raises(ValueError, match="group_size must divide the inputs of 'first', 8; got 3"):
        quantize_model_(model(), 4, group_size=3)
    with pytest.raises(ValueError, match="skip must hold 'head', whose weight is also that of 'embedding'"):
        quantize_model_(model(tied=True), 4)
    assert total_bits(quantize_model_(model(tied=True), 4, skip=("head",))) == 128 * 4 + 16 * 16 + 32 * 88
