"""PLD's claim: judged rightly on planted accuracies, and run once at the tiny scale."""

import pytest
import torch

from hartley.papers import pld
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence


def planted(**points: float) -> dict[str, torch.Tensor]:
    """Accuracies of four seeds around 80%, moved for the losses named."""
    base = torch.tensor([79.0, 80.0, 81.0, 80.5], dtype=torch.float64)
    wiggle = torch.tensor([0.1, -0.1, 0.3, 0.1], dtype=torch.float64)
    moved = {"PLD 4": 3.0, "ListMLE": -10.0, **{name.replace("_", " "): by for name, by in points.items()}}
    return {name: base + moved.get(name, 0.0) + (wiggle if name == "PLD 4" else 0) for name in pld.losses()}


def test_students_that_do_what_the_paper_says_hold():
    rows = pld.judge(planted(), torch.full((4,), 97.0) + torch.arange(4))
    assert verdict_from(rows) == "holds"
    assert {row.what: row.measured for row in rows}["accuracy, the teachers"] == 98.5


def test_losing_to_dist_is_said():
    found = planted(DIST=4.0)
    rows = {row.what: row for row in pld.judge(found, torch.arange(4.0))}
    row = rows["accuracy: PLD, temperature 4, less DIST"]
    assert row.holds is False
    assert row.measured == pytest.approx(-0.9)
    assert rows["accuracy: PLD, temperature 4, less CE"].holds is True
    assert verdict_from(rows.values()) == "holds in part"
    assert "+3.1 points by PLD at temperature 4, +0.0 by KD, +4.0 by DIST, -10.0" in pld.draw(found).get_suptitle()


def test_baselines_are_what_they_say():
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, 10, generator=g, dtype=torch.float64).unbind()
    labels = torch.randint(10, (3, 8), generator=g)
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    ce = -log_p.gather(-1, labels[..., None])[..., 0]
    torch.testing.assert_close(pld.losses()["CE"](student, teacher, labels), ce)
    soft_p, soft_q = (student / 2).log_softmax(-1), (teacher / 2).log_softmax(-1)
    kl = (soft_q.exp() * (soft_q - soft_p)).sum(-1)
    torch.testing.assert_close(pld.losses()["KD T=2"](student, teacher, labels), 0.1 * ce + 0.9 * 4 * kl)
    inter = torch.stack([torch.corrcoef(pair)[0, 1] for pair in torch.stack([log_p, log_q], -2).exp().flatten(0, 1)])
    intra = torch.stack(
        [torch.corrcoef(pair)[0, 1] for pair in torch.stack([log_p.mT, log_q.mT], -2).exp().flatten(0, 1)]
    )
    expected = 0.1 * ce + 0.45 * (1 - inter.reshape(3, 8)) + 0.45 * (1 - intra.reshape(3, 10)).mean(-1, keepdim=True)
    torch.testing.assert_close(pld.losses()["DIST"](student, teacher, labels), expected, rtol=1e-6, atol=1e-6)


def test_reproduces_at_the_tiny_scale():
    check_evidence(pld.reproduce("tiny"), axes=3)
