"""The Koopman paper's claim: judged rightly on planted runs, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import information_koopman as paper
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

ERRORS = {"plain": 1.0, "consistency": 0.5, "+ MI": 0.45, "+ entropy": 0.45, "all": 0.4, "all, ridge K": 0.6}


def planted(errors: dict[str, float], dimension: float = 10.0) -> dict[str, list[paper.Run]]:
    """Three runs a setting, wide where there is an entropy."""
    return {
        setting: [
            paper.Run(
                error * (1 + 0.01 * seed) * np.linspace(0.1, 1, 50),
                (dimension if "entropy" in setting or "all" in setting else 3.0) + 0.1 * seed,
                np.array([1.0, 0.9 + 0.1j, 0.9 - 0.1j]),
                np.linspace(0.5, 1.5, 9),
            )
            for seed in range(3)
        ]
        for setting, error in errors.items()
    }


def test_runs_that_do_what_the_paper_says_hold():
    found = {name: planted(ERRORS) for name in paper.SYSTEMS}
    rows = paper.judge(found)
    assert verdict_from(rows) == "holds"
    assert {row.what: row.measured for row in rows}["pendulum, all: NRMSE at 50 steps"] == pytest.approx(0.404)


def test_terms_that_do_not_help_are_said():
    found = {"pendulum": planted(ERRORS), "Lorenz 63": planted({**ERRORS, "all": 0.7}, dimension=2.0)}
    rows = {row.what: row for row in paper.judge(found)}
    for n in paper.HORIZONS:
        assert rows[f"Lorenz 63: ln NRMSE at {n} steps, consistency less all terms"].holds is False
        assert rows[f"pendulum: ln NRMSE at {n} steps, consistency less all terms"].holds is True
    assert rows["Lorenz 63: effective dimension, + entropy less consistency"].holds is False
    assert verdict_from(rows.values()) == "holds in part"
    assert (
        "pendulum 0.80 at 5 steps, 0.80 at 20, 0.80 at 50\nLorenz 63 1.40 at 5 steps"
        in paper.draw(found).get_suptitle()
    )


def test_the_pendulum_keeps_its_energy():
    def flow(s: np.ndarray) -> np.ndarray:
        return np.stack([s[:, 1], -np.sin(s[:, 0])], -1)

    path = paper._integrate(flow, np.array([[1.0, 0.5], [2.0, -1.9]]), 200, 0.1)
    energy = path[..., 1] ** 2 / 2 - np.cos(path[..., 0])
    assert np.ptp(energy, axis=1).max() < 1e-4


def test_lorenz_is_on_its_attractor():
    path = paper.lorenz(20, 60, np.random.default_rng(0))
    assert np.abs(path[..., 0]).max() < 22
    assert path[..., 2].mean() == pytest.approx(23.5, abs=3)
    # the volume shrinks by the divergence of the flow, -(10 + 1 + 8/3), so neighbours stay: steps are small
    assert np.abs(np.diff(path, axis=1)).max() < 5


def test_error_of_a_perfect_and_of_a_constant_prediction():
    truth = np.random.default_rng(0).normal(3, 2, (5000, 2, 3))
    assert paper.nrmse(truth, truth).max() == 0
    assert paper.nrmse(np.full_like(truth, 3.0), truth) == pytest.approx(1, abs=0.03)


def test_reproduces_at_the_tiny_scale():
    check_evidence(paper.reproduce("tiny"), axes=4)
