"""What the pages share: one template, one style sheet whose hash is all the page allows, tokens made ready to show."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import hartley
from hartley.report.intervals import ends, entropy_written
from hartley.report.scale import DARK, LIGHT, UNDERLINED, quoted, step_names, step_of, visible

Token = Mapping[str, Any]

_TEMPLATES = Environment(
    loader=PackageLoader("hartley.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


class Alternative(NamedTuple):
    """One of the model's likeliest tokens, beside the one that was drawn."""

    text: str
    percent: float
    shown: str
    drawn: bool


class Cell(NamedTuple):
    """A token ready to show: everything is text, nothing is trusted."""

    number: int
    step: int
    lines: list[str]  # the text, cut at its line feeds
    name: str
    facts: list[tuple[str, str]]
    alternatives: list[Alternative]


def render(template: str, **context: Any) -> str:
    """The page of a ``template`` in ``hartley/report/templates``, self-contained: no script, nothing loaded."""
    style = _TEMPLATES.get_template("style.css.jinja").render(light=LIGHT, dark=DARK, underlined=UNDERLINED)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return _TEMPLATES.get_template(template).render(
        style=Markup(style), policy=policy, steps=step_names(), version=hartley.__version__, **context
    )


def cell(token: Token, number: int, alternatives: bool = True) -> Cell:
    """Make a token dict ready to show as the run's token ``number``, counted from 1."""
    others = _alternatives(token) if alternatives else []
    return Cell(
        number, step_of(token["surprisal"]), visible(token["text"]).split("\n"), name_of(token), _facts(token), others
    )


def name_of(token: Token) -> str:
    """The token on one line: by itself where that is known, since a token that ends the text adds nothing to it."""
    return quoted(token.get("piece") or token["text"]) or f"(no text, id {token.get('token_id', 'unknown')})"


def decimal(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number for a table, its unit behind it; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f} {unit}".rstrip()


def percent(share: float) -> str:
    """A probability as a percentage, three figures, and what is tiny as a power of ten.

    >>> percent(0.0312), percent(1.2e-7)
    ('3.12 %', '1.2e-05 %')
    """
    value = 100 * share
    if 0 < value < 0.01:
        return f"{value:.1e} %"
    return f"{value:.3g} %" if value < 99.95 else f"{value:.4g} %"


def _facts(token: Token) -> list[tuple[str, str]]:
    surprisal = token["surprisal"]
    facts = [("surprisal", "not told")]
    if surprisal is not None:
        facts = [("surprisal", f"{surprisal:.3f} nats (p = {percent(math.exp(-surprisal))})")]
    if ends(token) is not None:
        facts.append(("entropy", entropy_written(token, digits=3)))
    if token.get("varentropy") is not None:
        facts.append(("varentropy", f"{token['varentropy']:.3f} nats²"))
    if token.get("rank") is not None:
        facts.append(("rank", f"{token['rank']:,}"))
    if token.get("kept") is not None:
        mass = f", {percent(token['mass'])} of the mass" if token.get("mass") is not None else ""
        facts.append(("kept", f"{token['kept']:,} token{'s' * (token['kept'] != 1)}{mass}"))
    if token.get("token_id") is not None:
        facts.append(("id", str(token["token_id"])))
    return facts


def _alternatives(token: Token) -> list[Alternative]:
    found: list[Alternative] = []
    for other in token.get("top") or ():
        share = math.exp(other["log_prob"])
        if token.get("token_id") is not None and other.get("token_id") is not None:
            drawn = other["token_id"] == token["token_id"]
        else:
            drawn = other["text"] == token["text"]
        found.append(Alternative(name_of(other), round(100 * share, 2), percent(share), drawn))
    return found


def rows(facts: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Settings as rows of text, without those that are None."""
    return [(name, visible(str(value))) for name, value in facts.items() if value is not None]
