"""The claim of entropy-guided attention: judged rightly on planted runs, and run once at the tiny scale."""

import pytest
import torch

from hartley.info import HeadEntropy
from hartley.papers import entropy_guided_attention as paper
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence


def planted() -> dict[str, list[paper.Trained]]:
    """Runs that behave as the paper says."""
    loss = {"SM+LN+G": 2.1, "SM+ScFuFFN": 2.4, "SM(t)+ScFuFFN": 2.4, "EReg(SM(t)+ScFuFFN)": 2.3}
    outside = {"overloaded": 0.9, "overloaded, EReg": 0.1, "collapsed": 0.8, "collapsed, EReg": 0.2}
    heads = HeadEntropy(torch.full((3, 4), 0.5), 10)
    return {
        name: [paper.Trained(loss.get(name, 3) + i / 100, heads, outside.get(name, 0.5) + i / 100) for i in range(4)]
        for name in paper.WAYS
    }


def test_runs_that_do_what_the_paper_says_hold():
    assert verdict_from(paper.judge(planted())) == "holds"


def test_a_regulariser_that_wins_nothing_is_said():
    found = planted()
    found["EReg(SM(t)+ScFuFFN)"] = [run._replace(loss=run.loss + 0.2) for run in found["EReg(SM(t)+ScFuFFN)"]]
    rows = {row.what: row for row in paper.judge(found)}
    assert rows["loss: SM+ScFuFFN less EReg(SM(t)+ScFuFFN)"].holds is False
    assert verdict_from(rows.values()) == "holds in part"


@pytest.mark.slow
def test_reproduces_at_the_tiny_scale():
    check_evidence(paper.reproduce("tiny"), axes=3)
