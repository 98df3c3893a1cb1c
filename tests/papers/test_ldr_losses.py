"""The LDR losses' claim: judged rightly on planted accuracies, and run once at the tiny scale."""

import pytest
import torch

from hartley.papers import ldr_losses
from hartley.papers.digit_nets import generators
from hartley.papers.ldr_losses import Found
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

SEEDS = 4


def planted(better: dict[str, float], gap: float) -> dict[tuple[str, float], dict[str, Found]]:
    """Accuracies that differ from cross-entropy's where labels are noisy, and lambdas that tell wrong labels."""
    base = torch.tensor([80.0, 81.0, 79.0, 80.5], dtype=torch.float64)
    wiggle = torch.tensor([0.1, 0.0, -0.1, 0.0], dtype=torch.float64)
    noises = [*(("uniform", rate) for rate in ldr_losses.UNIFORM), ("paired", ldr_losses.PAIRED)]
    found = {}
    for noise in noises:
        wrong = torch.rand(SEEDS, 200, generator=torch.Generator().manual_seed(0)) < 0.5
        lambdas = 0.7 + gap * wrong + 0.01 * torch.rand(SEEDS, 200, generator=torch.Generator().manual_seed(1))
        found[noise] = {
            method: Found(
                {
                    k: base + 2 * k + (better.get(method, 0.0) + wiggle if noise[1] and method != "CE" else 0)
                    for k in (1, 2, 3)
                },
                lambdas if method.startswith("ALDR") else None,
                wrong,
            )
            for method in ldr_losses.METHODS
        }
    return found


def test_losses_that_do_what_the_paper_says_hold():
    found = planted({"LDR-KL 10": 4.0, "LDR-KL 1": 1.0, "ALDR-KL 1": 2.0}, gap=0.1)
    rows = {row.what: row for row in ldr_losses.judge(found)}
    assert verdict_from(rows.values()) == "holds"
    assert rows["lambda, 60% redrawn: wrong labels less right ones"].measured == pytest.approx(0.1, abs=0.002)
    assert "86.1% right under LDR-KL 10, 84.1% under ALDR-KL 1, 82.1% under" in ldr_losses.draw(found).get_suptitle()


def test_a_lambda_that_tells_nothing_and_an_adaptation_that_does_not_help_are_said():
    rows = {
        row.what: row
        for row in ldr_losses.judge(planted({"LDR-KL 10": 4.0, "ALDR-KL 1": 1.0, "LDR-KL 1": 2.0}, gap=-0.1))
    }
    assert rows["lambda, 60% redrawn: wrong labels less right ones"].holds is False
    assert rows["top-1, 60% redrawn: ALDR-KL 1 less LDR-KL 1"].holds is False
    assert rows["top-1, 60% redrawn: LDR-KL 10 less CE"].holds is True
    assert verdict_from(rows.values()) == "holds in part"


def test_noise_is_as_frequent_as_it_says():
    """10,000 labels a seed: the share moved lies within 4 standard errors, a false alarm once in 16,000 seeds."""
    labels = torch.arange(10).repeat(2, 1000)
    randoms = generators([0, 1])
    redrawn = ldr_losses._with_noise(labels, "uniform", 0.6, randoms)
    share = (redrawn != labels).double().mean().item()
    assert abs(share - 0.6 * 0.9) < 4 * (0.54 * 0.46 / 20_000) ** 0.5
    paired = ldr_losses._with_noise(labels, "paired", 0.3, randoms)
    moved = paired != labels
    assert abs(moved.double().mean().item() - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5
    assert torch.equal(paired[moved], (labels[moved] + 1) % 10)


def test_reproduces_at_the_tiny_scale():
    check_evidence(ldr_losses.reproduce("tiny"), axes=3)
