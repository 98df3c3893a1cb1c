"""The claims of diffusion spectral entropy: judged rightly on planted numbers, and run once at the tiny scale."""

import pytest
import torch
from torch import Tensor

from hartley.papers import diffusion_spectral_entropy as paper
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

SIZES = paper.SIZES["tiny"]
SPREAD = torch.tensor([-0.01, 0.01])


def planted(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None] + SPREAD


def training(entropy: float, label: float, accuracy: float) -> paper.Training:
    """Rises to these from 0.5 bits and 10%, in two seeds that agree on the rise."""
    return paper.Training(
        planted(0.5, entropy), planted(9, 9), planted(0.5, label), planted(0, label), planted(10, accuracy)
    )


def as_claimed() -> tuple[dict[str, paper.Training], paper.Spheres, Tensor]:
    trainings = {"true": training(1.5, 1.4, 95), "shuffled": training(3, 0.55, 11)}
    spheres = {}
    for noise in paper.NOISES:
        spheres["DSE", noise] = planted(4.8, 5.8, 7, 7.8)
        spheres["CSE", noise] = planted(5.9, 5.9, 5.9, 5.9)
    return trainings, spheres, planted(0.6, 0.3, 0)


def holds(trainings: dict[str, paper.Training], spheres: paper.Spheres, blobs: Tensor) -> dict[str, bool | None]:
    return {row.what: row.holds for row in paper.judge(trainings, spheres, blobs, SIZES)}


def test_what_the_paper_says_holds() -> None:
    assert verdict_from(paper.judge(*as_claimed(), SIZES)) == "holds"
    title = paper.draw(*as_claimed(), SIZES).get_suptitle()
    assert "rises by 0.90 bits, and by 0.05 if the labels are shuffled" in title


def test_information_that_rises_on_shuffled_labels_is_said() -> None:
    trainings, spheres, blobs = as_claimed()
    trainings["shuffled"] = training(3, 1.5, 11)
    found = holds(trainings, spheres, blobs)
    assert found["DSMI with the true label: rise over training on shuffled labels"] is False
    assert found["rise of DSMI with the true label: true labels less shuffled ones"] is False
    assert found["DSMI with the label: rise over training"] is True


def test_spheres_and_blobs_out_of_order_do_not_hold() -> None:
    trainings, spheres, _ = as_claimed()
    spheres["DSE", paper.NOISES[0]] = planted(4.8, 5.8, 5.7, 7.8)
    found = holds(trainings, spheres, planted(0.3, 0.6, 0))
    assert found["DSE of spheres at noise 0.25: least step from one dimension to the next"] is False
    assert found["range over the dimensions at noise 0.25: DSE less CSE"] is True
    assert found["DSMI of blobs: least fall from one share of corrupted labels to the next"] is False
    assert found["DSMI of blobs follows the share of labels left, rank correlation"] is True


@pytest.mark.filterwarnings("ignore:at sigma")
def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(paper.reproduce("tiny"), axes=4)
