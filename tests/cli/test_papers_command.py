"""``hartley papers`` and ``hartley reproduce`` on a paper made up here."""

import json
from types import SimpleNamespace

import pytest

import hartley.papers.pages as pages
import hartley.papers.paper as frame

PAPER = frame.Paper(
    "made-up",
    "A <made up> [title]",
    "N. N.",
    2020,
    "2001.00001",
    "Up is up.",
    ("hartley.decoding.top_k", "hartley env"),
)
ROWS = (frame.Row("up", "up", 1.0, "nats", holds=True, error=0.25), frame.Row("down", "down", 2.0, "", holds=False))


@pytest.fixture
def house(monkeypatch, tmp_path):
    """A house with one paper, that keeps its evidence in a folder of its own."""

    def reproduce(scale):
        return frame.Evidence(ROWS, frame.verdict_from(ROWS), seeds=(1,), settings={"scale": scale})

    module = SimpleNamespace(__name__="made_up", PAPER=PAPER, reproduce=reproduce)
    monkeypatch.setattr(frame, "discover", lambda: {PAPER.slug: module})
    kept = []

    def find(slug, real=frame.find):
        return module if slug == PAPER.slug else real(slug)

    monkeypatch.setattr(frame, "find", find)
    monkeypatch.setattr(pages, "keep", kept.append)
    monkeypatch.setattr(pages, "last", lambda slug: kept[-1] if kept else None)
    monkeypatch.setattr(pages, "in_source_tree", lambda: True)
    return kept


def test_papers_are_listed_with_where_they_are_and_their_last_evidence(hartley, house):
    (before,) = json.loads(hartley("papers", "--json").out)
    assert before["slug"] == "made-up"
    assert before["where"] == ["hartley.decoding.top_k", "hartley env"]
    assert before["evidence"] is None
    assert "none yet" in hartley("papers").out
    assert hartley("reproduce", "made-up").status == 0
    (after,) = json.loads(hartley("papers", "--json").out)
    assert after["evidence"]["verdict"] == "holds in part"
    found = hartley("papers").out
    for part in ("made-up", "A <made up> [title]", "hartley env", "holds in part (small"):
        assert part in found


def test_a_reproduction_prints_its_table_and_writes_its_evidence(hartley, house, tmp_path):
    found = hartley("reproduce", "made-up", "--scale", "tiny", "--out", tmp_path / "out")
    assert found.status == 0
    for part in ("1.00 ± 0.25 nats", "Verdict: holds in part", "Up is up.", "A <made up> [title]"):
        assert part in found.out
    evidence = frame.Evidence.from_json((tmp_path / "out" / "evidence.json").read_text())
    assert (evidence.slug, evidence.scale) == ("made-up", "tiny")
    assert str(tmp_path / "out" / "evidence.json") in found.err
    assert house == []


def test_only_the_small_scale_becomes_the_last_evidence(hartley, house):
    hartley("reproduce", "made-up", "--scale", "tiny")
    assert house == []
    hartley("reproduce", "made-up")
    assert [evidence.scale for evidence in house] == ["small"]


def test_json_is_the_evidence(hartley, house):
    found = json.loads(hartley("reproduce", "made-up", "--scale", "tiny", "--json").out)
    assert [row["what"] for row in found["rows"]] == ["up", "down"]
    assert found["verdict"] == "holds in part"


def test_an_unknown_paper_or_scale_is_refused_with_a_hint(hartley, house):
    found = hartley("reproduce", "made-upp")
    assert (found.status, found.out) == (2, "")
    assert "did you mean 'made-up'?" in found.err
    assert found.err.count("\n") == 1
    assert hartley("reproduce", "made-up", "--scale", "huge").status == 2
