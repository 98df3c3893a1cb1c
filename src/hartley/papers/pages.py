"""The pages of the papers and the README's table, written from the last evidence kept.

``python -m hartley.papers.pages`` writes them; with ``--check`` it names what differs and exits with 1.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from hartley.papers.figures import render
from hartley.papers.paper import Evidence, Paper, discover
from hartley.report.files import write_atomic

ROOT = Path(__file__).parents[3]
BEGIN, END = "<!-- papers:begin -->", "<!-- papers:end -->"
HOLDS = {True: "yes", False: "no", None: "not judged"}


def in_source_tree() -> bool:
    """Whether this package runs from its source tree, where evidence can be kept and pages written."""
    return (ROOT / "pyproject.toml").is_file() and (ROOT / "src" / "hartley" / "papers").samefile(Path(__file__).parent)


def keep(evidence: Evidence, root: Path = ROOT) -> None:
    """Keep an evidence as its paper's last one, figure included, under ``docs/papers`` of the source tree ``root``."""
    papers = root / "docs" / "papers"
    for folder in ("img", "evidence"):
        (papers / folder).mkdir(parents=True, exist_ok=True)
    if evidence.figure is not None:
        write_atomic(papers / "img" / f"{evidence.slug}.svg", render(evidence.figure, "svg"))
    write_atomic(papers / "evidence" / f"{evidence.slug}.json", evidence.to_json())


def last(slug: str, root: Path = ROOT) -> Evidence | None:
    """The last evidence kept for a paper, without its figure; None where there is none.

    An installed package has no source tree: it carries the evidence it was released with beside this file.
    """
    for folder in (root / "docs" / "papers" / "evidence", Path(__file__).parent / "evidence"):
        if (path := folder / f"{slug}.json").is_file():
            return Evidence.from_json(path.read_text(encoding="utf-8"))
    return None


def pages(papers: dict[str, ModuleType], root: Path = ROOT) -> dict[Path, str]:
    """The text that every generated file should have, by its path."""
    docs, kept = root / "docs" / "papers", {slug: last(slug, root) for slug in papers}
    texts = {
        docs / f"{slug}.md": page(
            module.PAPER, inspect.getdoc(module.reproduce) or "", kept[slug], (docs / "img" / f"{slug}.svg").is_file()
        )
        for slug, module in papers.items()
    }
    found = [(module.PAPER, kept[slug]) for slug, module in sorted(papers.items())]
    texts[docs / "index.md"] = (
        "# Papers\n\n"
        "Every method in the house comes from a published paper, and every paper has an experiment that tests its "
        "claim here, in minutes: `hartley reproduce SLUG`. The verdict is computed from the table of the run, error "
        "bars included.\n\n"
        f"{table(found)}"
    )
    readme = (root / "README.md").read_text(encoding="utf-8")
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md must hold {BEGIN} and {END} once each")
    before, _, rest = readme.partition(BEGIN)
    texts[root / "README.md"] = f"{before}{BEGIN}\n{table(found, 'docs/papers/')}{END}{rest.partition(END)[2]}"
    return texts


def page(paper: Paper, experiment: str, evidence: Evidence | None, figure: bool) -> str:
    """One paper's page in Markdown."""
    parts = [
        f"# {paper.title}",
        f"{paper.authors}, {paper.year}. [arXiv {paper.arxiv}]({paper.url})",
        f"**Claim.** {paper.claim}",
        f"**In the house.** {_places(paper)}",
        f"## The experiment\n\n{experiment}",
    ]
    command = f"hartley reproduce {paper.slug}"
    if evidence is None:
        return "\n\n".join([*parts, f"Not run yet: `{command}`."]) + "\n"
    header = ["What", "The paper says", f"Measured, {evidence.scale} scale", "Holds"]
    lines = [[row.what, row.paper, row.value, HOLDS[row.holds]] for row in evidence.rows]
    parts.append(f"## Verdict: {evidence.verdict}\n\n{_markdown([header, *lines])}")
    parts.append("An error bar is one standard error.")
    if figure:
        parts.append(f"![{_plain(paper.title)}: the measurements](img/{paper.slug}.svg)")
    facts = [
        f"`{command} --scale {evidence.scale}`, {evidence.seconds:.0f} s, {evidence.date}",
        "Seeds: " + (", ".join(map(str, evidence.seeds)) or "none"),
        "Settings: " + (", ".join(f"{name} {value}" for name, value in evidence.settings.items()) or "none"),
        "Machine: " + ", ".join(f"{name} {value}" for name, value in evidence.hardware.items()),
        "Versions: " + ", ".join(f"{name} {value}" for name, value in evidence.versions.items()),
    ]
    parts.append("## The run\n\n" + "\n".join(f"- {fact}" for fact in facts))
    return "\n\n".join(parts) + "\n"


def table(papers: Sequence[tuple[Paper, Evidence | None]], folder: str = "") -> str:
    """The table of papers in Markdown; links lead into ``folder``."""
    lines = [["Paper", "Year", "In the house", "Claim here"]]
    for paper, evidence in papers:
        shown = (
            "not run yet" if evidence is None else f"{evidence.verdict} ({evidence.scale}, {evidence.seconds:.0f} s)"
        )
        lines.append([f"[{_plain(paper.title)}]({folder}{paper.slug}.md)", str(paper.year), _places(paper), shown])
    return _markdown(lines) + "\n"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write the pages, or with ``--check`` name those that differ from what they should be."""
    parser = argparse.ArgumentParser(prog="python -m hartley.papers.pages", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page is not up to date")
    check: bool = parser.parse_args(arguments).check
    wanted = pages(discover(), root)
    orphans = set((root / "docs" / "papers").glob("*.md")) - set(wanted)
    for path in sorted(orphans):
        print(f"{path.relative_to(root)} belongs to no paper")
    stale = [p for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text]
    for path in sorted(stale):
        print(f"{path.relative_to(root)} {'is not up to date' if check else 'written'}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, wanted[path])
    return int(bool(orphans) or (check and bool(stale)))


def _places(paper: Paper) -> str:
    return ", ".join(f"`{place}`" for place in paper.where)


def _plain(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]")


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([cells[0], "|" + "---|" * len(lines[0]), *cells[1:]]) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
