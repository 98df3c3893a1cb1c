"""PURE on digits: the model is causal, the control mirrors the curve, and the verdict follows from the rows."""

import pytest
import torch

from hartley.decoding import entropy_to_k
from hartley.papers import pure_entropy_topk as pure
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence


@pytest.fixture(scope="module")
def model() -> pure.PixelModel:
    images, classes = pure.digits()
    return pure.PixelModel(images[:50], torch.eye(10)[classes[:50]], 5, torch.Generator().manual_seed(0))


def test_a_prediction_sees_only_earlier_pixels(model: pure.PixelModel) -> None:
    images, classes = pure.digits()
    one, other = images[:1], images[:1].clone()
    other[0, 4, 3:] = 16 - other[0, 4, 3:]
    label = torch.eye(10)[classes[:1]]
    same = (model.entropy(one, label) == model.entropy(other, label)).flatten()
    changed = 4 * 8 + 3
    assert same[: changed + 1].all()
    assert not same[changed + 1 :].all()


def test_drawn_images_are_grey_levels_and_repeat_with_the_seed(model: pure.PixelModel) -> None:
    label = torch.eye(10)[:3]
    one, kept = model.draw(label, pure.RULES["k = 5"], torch.Generator().manual_seed(1))
    again, _ = model.draw(label, pure.RULES["k = 5"], torch.Generator().manual_seed(1))
    other, _ = model.draw(label, pure.RULES["k = 5"], torch.Generator().manual_seed(2))
    assert one.shape == (3, 8, 8)
    assert one.min() >= 0
    assert one.max() <= 16
    assert kept == pytest.approx(5)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_control_is_the_curve_turned_round() -> None:
    logits = torch.randn(40, 17, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 8, 40)[:, None]
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    reverse = pure.RULES["reversed curve"].mask(logits).isfinite().sum(1)
    straight = pure.RULES["k from entropy"].mask(logits).isfinite().sum(1)
    assert torch.equal(straight, entropy_to_k(entropy, **pure.CURVE))
    assert ((straight + reverse) - 18).abs().max() <= 1  # k_min + k_max, each rounded
    order = entropy.argsort()
    assert (straight[order].diff() >= 0).all()
    assert (reverse[order].diff() <= 0).all()


def test_reduced_digits_keep_the_mean() -> None:
    images, _ = pure.digits()
    torch.testing.assert_close(pure.reduced(images).mean(1), images.float().mean((1, 2)))


def test_gradient_of_a_ramp_is_its_slope() -> None:
    ramp = torch.arange(8).expand(1, 8, 8) * 2
    torch.testing.assert_close(pure.gradient(ramp), torch.full((1, 8, 8), 2.0, dtype=torch.float64))


def planted(better: float) -> list[pure.Measured]:
    """Three seeds in which k from the entropy beats (or not) every rule in every measure by ``better``."""
    runs = []
    for seed in range(3):
        noise = 0.01 * seed
        value = {"kept": 7.0, "flat_psnr": 20.0 + noise, "sharpness": 0.8, "accuracy": 0.9, "spread_gap": 0.4}
        best = {**value, **{key: value[key] + better for key in ("flat_psnr", "sharpness", "accuracy")}}
        best["spread_gap"] -= better
        rules = {name: best if name == "k from entropy" else value for name in pure.RULES}
        entropy = {"flat": 1.0, "edge": 1.0 + better, "correlation": better}
        runs.append(pure.Measured(entropy, rules, torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)))
    return runs


def test_the_verdict_follows_the_measurements() -> None:
    assert verdict_from(pure.judge(planted(better=0.1))) == "holds"
    assert verdict_from(pure.judge(planted(better=-0.1))) == "not at this scale"
    mixed = [run._replace(entropy={"flat": 0.1, "edge": 1.0, "correlation": 0.5}) for run in planted(better=-0.1)]
    assert verdict_from(pure.judge(mixed)) == "holds in part"


@pytest.mark.slow
def test_reproduces_at_the_tiny_scale_without_touching_the_global_seed() -> None:
    before = torch.get_rng_state()
    evidence = pure.reproduce("tiny")
    assert torch.equal(torch.get_rng_state(), before)
    check_evidence(evidence, axes=3)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers() -> None:
    one, again, other = (pure.measure(seed, 5, 10) for seed in (0, 0, 1))
    assert (one.entropy, one.rules) == (again.entropy, again.rules)
    assert one.rules != other.rules
