"""In-context navigation's experiment: gold sets, the planted model, and the tiny scale."""

import pytest
import torch

from hartley.decoding.in_context_navigation import TextModel, list_prompt
from hartley.papers.icn import PAPER, PROBES, distinct_right, gold_sets, planted_lists, reproduce
from hartley.papers.paper import verdict_from


@pytest.fixture(scope="module")
def evidence():
    return reproduce("tiny")


def test_the_tiny_scale_judges_both_halves_of_the_claim(evidence):
    judged = {row.what: row for row in evidence.rows if row.holds is not None}
    assert len(judged) == 5
    assert evidence.verdict == verdict_from(evidence.rows)
    assert evidence.figure is not None
    assert PAPER.slug == "icn"


def test_the_planted_model_shows_the_effect_it_was_made_for(evidence):
    measured = {row.what: row.measured for row in evidence.rows}
    assert measured["accuracy at ranks 5-40: outside less inside the clusters of the top 4"] > 0
    assert measured[f"distinct right answers of {PROBES} probes: navigated less plain"] > 0
    assert measured["product of query and explored keys: fall when they are listed"] > 0


def test_rows_agree_with_each_other(evidence):
    measured = {row.what: row.measured for row in evidence.rows}
    gap = measured["distinct right answers, navigated"] - measured["distinct right answers, plain"]
    assert measured[f"distinct right answers of {PROBES} probes: navigated less plain"] == pytest.approx(gap)
    assert 0 < measured["share of ranks 5-40 inside"] < 100


def test_the_planted_keys_lie_in_clusters():
    planted = planted_lists()
    assert isinstance(planted, TextModel)
    distance = torch.cdist(planted.keys, planted.keys)
    same = planted.clusters[:, None] == planted.clusters
    assert planted.clusters.bincount().tolist() == [8] * 20
    assert distance[same].max() <= 2 * planted.SPREAD + 1e-5  # both ends lie within SPREAD of the centre
    logits = planted.next_logits(list_prompt("List words of category 3.", ["word60"]))
    assert logits.topk(5).indices.float().sub(69.5).abs().lt(10).sum() >= 3  # words 60-79 are the category
    assert logits[60] < planted.next_logits(list_prompt("List words of category 3."))[60]


def test_gold_sets_read_answers_as_a_person_would():
    sets = {question.name: question for question in gold_sets()}
    assert len(sets) == 12
    assert sets["countries"].right("The Netherlands") == "Netherlands"
    assert sets["countries"].right("usa") == sets["countries"].right("United States") == "United States"
    assert sets["countries"].right("Paris") is None
    assert sets["animals"].right("Dogs") == "dog"
    assert sets["chemical elements"].right("Aluminum") == "Aluminium"
    assert len(set(sets["US states"].key.values())) == 50
    assert len(set(sets["chemical elements"].key.values())) == 118
    assert not sets["months"].judge("")
    assert sets["months"].judge("May.")


def test_distinct_right_answers_count_once():
    class Answers:
        answers = ("May", "may", "nothing", "June", "Juny")

    months = next(question for question in gold_sets() if question.name == "months")
    assert distinct_right(months, Answers()) == [1, 1, 1, 2, 2]
