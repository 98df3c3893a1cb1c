"""SinKD's claim: judged rightly on planted students and paths, its batched loss is the library's, and it runs."""

import numpy as np
import pytest
import torch

from hartley.papers import sinkd
from hartley.papers.paper import verdict_from
from hartley.training.losses import SinKDLoss, SinkhornKDLoss

from .evidence_checks import check_evidence

SPREAD = np.array([-0.1, 0.0, 0.1])


def students() -> dict[str, sinkd.Found]:
    """What the paper says: SinKD is right more often, and closer."""
    accuracy = {"CE": 90.0, "CE+KL": 91.0, "CE+RKL": 92.0, "CE+JS": 93.0}
    return {
        kind: sinkd.Found(accuracy.get(kind, 95.0) + SPREAD, (0.2 if kind in accuracy else 0.1) + 0.01 * SPREAD)
        for kind in sinkd.KINDS
    }


def path(kept: dict[str, float], values: dict[str, float]) -> sinkd.Landscape:
    """A path whose gradients end at these shares of what they were halfway."""
    line = {name: np.stack([np.array([1.0, 1.0, share + s]) for s in 0.01 * SPREAD]) for name, share in kept.items()}
    ends = {name: np.stack([np.array([0.0, 1.0, value + s]) for s in SPREAD]) for name, value in values.items()}
    return sinkd.Landscape(np.array([1.0, 0.5, 0.0]), ends, line, line)


GOOD = path(
    {"KL": 1.0, "reverse KL": 1.0, "JS": 0.0, "Sinkhorn": 1.0}, {"KL": 9, "reverse KL": 9, "JS": 0.69, "Sinkhorn": 2}
)


def test_students_and_paths_that_do_what_the_paper_says_hold() -> None:
    assert verdict_from([*sinkd.judge(students()), *sinkd.judge_landscape(GOOD)]) == "holds"


def test_being_no_better_than_kl_is_said() -> None:
    found = students()
    found["CE+KL"] = found[sinkd.OURS]._replace(accuracy=95.0 - SPREAD)
    rows = {row.what: row for row in sinkd.judge(found)}
    assert rows["accuracy: SinKD less CE+KL"].holds is False
    assert rows["held-out batch distance: CE+KL less SinKD"].holds is False
    assert rows["accuracy: SinKD less CE+JS"].holds is True
    assert rows["accuracy: SinKD less CE+JS"].measured == pytest.approx(2)
    assert "changes accuracy by +0.000 ±" in sinkd.draw(found, GOOD).get_suptitle()


def test_a_gradient_that_goes_away_is_said() -> None:
    flat = path(
        {"KL": 1.0, "reverse KL": 1.0, "JS": 0.2, "Sinkhorn": 0.1},
        {"KL": 1.5, "reverse KL": 9, "JS": 0.69, "Sinkhorn": 2},
    )
    assert [row.holds for row in sinkd.judge_landscape(flat)[:2]] == [False, False]


def test_the_loss_of_many_seeds_is_the_library_s_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 8, 4, generator=generator)
    labels = torch.randint(4, (3, 8), generator=generator)
    library = SinKDLoss(SinkhornKDLoss(), alpha=sinkd.ALPHA, temperature=sinkd.TEMPERATURE)
    for seed, found in enumerate(sinkd.loss(sinkd.OURS, student, teacher, labels)):
        probs = (teacher[seed] / sinkd.TEMPERATURE).softmax(-1)
        entropy = -(probs * probs.log()).sum(-1).mean()  # KL is the soft cross-entropy less what no student changes
        expected = library(student[seed], teacher[seed], labels[seed]) - sinkd.ALPHA * entropy
        torch.testing.assert_close(found, expected)


def test_the_ends_of_the_path_have_closed_forms() -> None:
    found = sinkd.landscape(3, 1)
    assert found.overlap[0] == pytest.approx(1)
    assert found.overlap[-1] == pytest.approx(1e-4)
    assert found.value["JS"][0, -1] == pytest.approx(np.log(2), abs=2e-3)
    assert found.value["Sinkhorn"][0, -1] == pytest.approx(2, abs=1e-3)
    assert found.value["KL"][0, 0] == pytest.approx(0, abs=1e-12)
    assert found.by_logits["KL"][0, 0] == pytest.approx(0, abs=1e-12)


def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(sinkd.reproduce("tiny"), axes=3)
