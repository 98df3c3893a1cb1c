"""``hartley papers`` and ``hartley reproduce``: the claims the house implements, and what they come to here."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def papers(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List the papers in the house, where to find each and what its last reproduction showed."""
    from hartley.papers.pages import last
    from hartley.papers.paper import discover

    found: list[dict[str, Any]] = []
    for slug, module in sorted(discover().items()):
        paper, evidence = module.PAPER, last(slug)
        found.append(
            {
                "slug": slug,
                "title": paper.title,
                "authors": paper.authors,
                "year": paper.year,
                "arxiv": paper.arxiv,
                "claim": paper.claim,
                "where": list(paper.where),
                "evidence": None
                if evidence is None
                else {
                    "verdict": evidence.verdict,
                    "scale": evidence.scale,
                    "date": evidence.date,
                    "seconds": evidence.seconds,
                },
            }
        )
    if as_json:
        print(json.dumps(found, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    from hartley.report.terminal import output

    table = Table(show_lines=True)
    for head in ("slug", "title", "where to find it", "last evidence"):
        table.add_column(head, overflow="fold", no_wrap=head == "slug")
    for entry in found:
        evidence = entry["evidence"]
        shown = "none yet" if evidence is None else f"{evidence['verdict']} ({evidence['scale']}, {evidence['date']})"
        title = f"{entry['title']} ({entry['authors']}, {entry['year']})"
        table.add_row(*map(Text, (entry["slug"], title, "\n".join(entry["where"]), shown)))
    output().print(table)


def reproduce(
    slug: Annotated[str, typer.Argument(help="Which paper; see hartley papers.")],
    scale: Annotated[
        Literal["tiny", "small"],
        typer.Option(help="How much to run: tiny shows that it works, small is what the verdict is about."),
    ] = "small",
    as_json: Annotated[bool, typer.Option("--json", help="Print the evidence as one JSON object.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write evidence.json, figure.svg and figure.png to this folder."),
    ] = None,
) -> None:
    """Run a paper's experiment here and say whether its claim holds.

    In the source tree the evidence of scale small becomes the paper's last one, which its page and the README show.
    """
    from hartley.papers.pages import in_source_tree, keep
    from hartley.papers.paper import find, run
    from hartley.report.terminal import messages, output

    paper = find(slug).PAPER
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    with messages().status(f"reproducing {slug} at scale {scale}"):
        evidence = run(slug, scale)
    saved: list[Any] = [] if out is None else list(evidence.write(out))
    if out is None and scale == "small" and in_source_tree():
        keep(evidence)
        saved = [f"docs/papers/evidence/{slug}.json; python -m hartley.papers.pages renews its page"]
    if as_json:
        print(json.dumps(json.loads(evidence.to_json()), ensure_ascii=False))
    else:
        output().print(_report(paper, evidence))
    if saved:
        print(f"Saved to {', '.join(map(str, saved))}", file=sys.stderr)


def _report(paper: Any, evidence: Any) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for head in ("what", "the paper", "measured here ± standard error", "holds"):
        table.add_column(head, overflow="fold")
    for row in evidence.rows:
        table.add_row(*map(Text, (row.what, row.paper, row.value, {True: "yes", False: "no", None: "–"}[row.holds])))
    head = Text(f"{paper.title} ({paper.authors}, {paper.year}, arXiv {paper.arxiv})\nClaim: {paper.claim}")
    where = f"{evidence.hardware.get('cpu', '')}, {evidence.seconds:.1f} s, scale {evidence.scale}, {evidence.date}"
    return Group(head, table, Text(f"Verdict: {evidence.verdict}", "bold"), Text(where, "dim"))
