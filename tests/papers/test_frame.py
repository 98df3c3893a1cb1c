"""The frame of the papers: rows, verdicts, evidence on disk, discovery, pages."""

import dataclasses
import importlib
import json
import os
import pkgutil
import types
import xml.dom.minidom

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hartley.papers
from hartley.papers import pages, paper
from hartley.papers.figures import PALETTE, figure, render, shades
from hartley.papers.paper import Evidence, Paper, Row, verdict_from

PAPER = Paper("toy-paper", "A [toy] paper", "A. Author", 2024, "2401.00001", "It works.", ("hartley.toy",))


def row(holds, measured=1.0, error=None):
    return Row("a | b", "up", measured, "nats", holds, error)


def drawn():
    with figure(title="A line rises") as (fig, [axis]):
        axis.plot([1, 2], [1, 2])
        axis.set(xlabel="step", ylabel="entropy (nats)")
    return fig


def evidence(**changes):
    rows = (row(True, error=0.1), row(None))
    return Evidence(rows, verdict_from(rows), drawn(), seeds=(1, 2), settings={"steps": 3}, **changes)


@given(st.lists(st.sampled_from([True, False, None])))
def test_the_verdict_is_what_the_judged_rows_say(holds):
    judged = [h for h in holds if h is not None]
    if not judged:
        with pytest.raises(ValueError, match="holds"):
            verdict_from(map(row, holds))
        return
    verdict = verdict_from(map(row, holds))
    assert (verdict == "holds") == (False not in judged)
    assert (verdict == "not at this scale") == (True not in judged)
    assert (verdict == "holds in part") == (len(set(judged)) == 2)


def test_no_verdict_by_hand():
    with pytest.raises(ValueError, match="'holds in part'; got 'holds'"):
        Evidence([row(True), row(False)], "holds")


@pytest.mark.parametrize(
    ("measured", "error", "shown"),
    [
        (1.23456789, None, "1.23457 nats"),
        (29, None, "29 nats"),
        (1.23456, 0.0123, "1.235 ± 0.012 nats"),
        (1234.5, 67.8, "1234 ± 68 nats"),
        (2.77e-7, 6.1e-9, "2.77e-07 ± 6e-09 nats"),
        (-0.5, 2.0, "-0.5 ± 2.0 nats"),
        (3.0, 0.0, "3 nats"),
        (5e9, 2e8, "5.0e+09 ± 2e+08 nats"),
    ],
)
def test_values_are_shown_as_far_as_their_error_bar_allows(measured, error, shown):
    assert row(True, measured, error).value == shown


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_measurement_is_a_finite_number(bad):
    with pytest.raises(ValueError, match="measured"):
        row(True, bad)
    with pytest.raises(ValueError, match="error"):
        row(True, 1.0, bad)


def test_evidence_survives_the_disk(tmp_path):
    made = evidence(slug="toy-paper", scale="tiny", seconds=1.5)
    paths = made.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["evidence.json", "figure.svg", "figure.png"]
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == sorted(path.name for path in paths)  # nothing left over
    read = Evidence.from_json(paths[0].read_text())
    assert read.rows == made.rows
    assert read.to_json() == made.to_json()
    assert xml.dom.minidom.parse(str(paths[1])).documentElement.tagName == "svg"
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert Evidence([row(True)], "holds").write(tmp_path) == [tmp_path / "evidence.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    evidence(scale="tiny").write(tmp_path)
    before = (tmp_path / "evidence.json").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        evidence(scale="small").write(tmp_path)
    assert (tmp_path / "evidence.json").read_bytes() == before
    assert len(os.listdir(tmp_path)) == 3


@pytest.fixture
def toy(monkeypatch):
    """A paper in the house for one test."""
    module = types.ModuleType("hartley.papers.toy_paper")

    def reproduce(scale):
        """Draw a line."""
        return evidence()

    module.PAPER, module.reproduce = PAPER, reproduce
    monkeypatch.setitem(importlib.import_module("sys").modules, module.__name__, module)
    return module


def test_a_run_adds_what_the_frame_knows(toy):
    found = paper.run("toy-paper", "tiny")
    assert (found.slug, found.scale) == ("toy-paper", "tiny")
    assert found.seconds >= 0
    assert found.hardware["cores"] >= 1
    assert {"python", "hartley", "torch"} <= set(found.versions)
    assert len(found.date) == 10
    assert json.loads(found.to_json())["rows"][0]["unit"] == "nats"
    with pytest.raises(ValueError, match="scale must be one of tiny, small"):
        paper.run("toy-paper", "huge")


def test_an_unknown_slug_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'riemann-ce'"):
        paper.run("rieman-ce")
    with pytest.raises(ValueError, match="there are "):
        paper.run("xyzzy")
    with pytest.raises(ValueError, match="slug"):
        paper.run("figures")  # a module of the package and no paper


def test_papers_are_found_by_their_place():
    found = paper.discover()
    assert "riemann-ce" in found
    for entry in pkgutil.iter_modules(hartley.papers.__path__):
        module = importlib.import_module(f"hartley.papers.{entry.name}")
        assert hasattr(module, "PAPER") == hasattr(module, "reproduce"), entry.name
        assert not hasattr(module, "PAPER") or found[entry.name.replace("_", "-")] is module


def test_a_module_is_named_after_its_slug(toy):
    toy.PAPER = dataclasses.replace(PAPER, slug="other")
    with pytest.raises(ValueError, match=r"'other' in toy_paper\.py"):
        paper._checked(toy)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "docs" / "papers").mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"# Toy\n\n{pages.BEGIN}\nstale text\n{pages.END}\n\nend\n", encoding="utf-8")
    return tmp_path


def test_pages_are_written_and_checked(toy, tree, monkeypatch, capsys):
    monkeypatch.setattr(pages, "discover", lambda: {"toy-paper": toy})
    names = ["README.md", "docs/papers/index.md", "docs/papers/toy-paper.md"]
    assert pages.main(["--check"], tree) == 1
    assert capsys.readouterr().out.split("\n")[:3] == [f"{name} is not up to date" for name in names]
    assert pages.main([], tree) == 0
    assert pages.main(["--check"], tree) == 0
    assert "Not run yet: `hartley reproduce toy-paper`" in (tree / names[2]).read_text(encoding="utf-8")

    pages.keep(paper.run("toy-paper", "tiny"), tree)
    assert pages.main(["--check"], tree) == 1
    assert pages.main([], tree) == 0
    page = (tree / names[2]).read_text(encoding="utf-8")
    for part in (
        "# A [toy] paper", "https://arxiv.org/abs/2401.00001", "**Claim.** It works.", "`hartley.toy`", "Draw a line.",
        "## Verdict: holds\n", "| a \\| b | up | 1.00 ± 0.10 nats | yes |", "| not judged |",
        "(img/toy-paper.svg)", "Seeds: 1, 2", "Settings: steps 3", "Versions: python",
    ):  # fmt: skip
        assert part in page
    readme = (tree / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# Toy\n")
    assert readme.endswith("end\n")
    assert "stale text" not in readme
    assert "[A \\[toy\\] paper](docs/papers/toy-paper.md)" in readme
    assert pages.last("toy-paper", tree).verdict == "holds"

    (tree / "docs" / "papers" / "stray.md").write_text("left behind")
    assert pages.main(["--check"], tree) == 1
    assert "stray.md belongs to no paper" in capsys.readouterr().out


def test_a_readme_without_its_markers_is_an_error(toy, tree):
    (tree / "README.md").write_text("# Toy\n")
    with pytest.raises(ValueError, match="papers:begin"):
        pages.pages({"toy-paper": toy}, tree)


def test_figures_want_both_labels():
    half = figure(1, 2, title="t")
    _, axes = half.__enter__()
    axes[0].set(xlabel="step", ylabel="entropy (nats)")
    axes[1].set(xlabel="step")
    with pytest.raises(ValueError, match="axis 1 lacks one"):
        half.__exit__(None, None, None)
    with figure(title="t") as (_, [axis]):
        axis.set_axis_off()


def test_figures_leave_no_state_and_repeat_to_the_byte():
    import matplotlib

    before = dict(matplotlib.rcParams)
    once, again = (render(drawn(), "svg") for _ in range(2))
    assert once == again
    assert dict(matplotlib.rcParams) == before


def test_colours_differ_in_lightness_where_they_have_an_order():
    def luminance(colour):
        return 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]

    lights = [luminance(colour) for colour in shades(6)]
    assert lights == sorted(lights, reverse=True)
    assert len(set(PALETTE)) == len(PALETTE)
