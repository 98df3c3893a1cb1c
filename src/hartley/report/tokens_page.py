"""One run as a page: its tokens coloured by surprisal, the alternatives to each, its entropy and what was kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from hartley.report.intervals import ends, entropy_written
from hartley.report.pages import Token, cell, decimal, name_of, render, rows
from hartley.report.scale import visible
from hartley.report.strips import strip
from hartley.report.summary import totals


def tokens_page(
    tokens: Sequence[Token],
    *,
    prompt: str | None = None,
    settings: Mapping[str, Any] | None = None,
    title: str = "One run",
    note: str | None = None,
) -> str:
    """The HTML page of a run, self-contained.

    ``settings`` are shown as they come (a None is left out), ``note`` at the top: that a run was interrupted, say.
    Raises ``KeyError`` for a token dict without ``text`` or ``surprisal``.

    >>> page = tokens_page([{"text": "<u>", "surprisal": 0.7}])
    >>> "&lt;u&gt;" in page, "<u>" in page
    (True, False)
    """
    notes = [note_of(number, token) for number, token in enumerate(tokens, 1)]
    entropy = strip(
        "Entropy before each token",
        "nats",
        [token.get("entropy") for token in tokens],
        notes,
        dots=[token["surprisal"] for token in tokens],
    )
    kept = strip("Tokens kept", "tokens, logarithmic", [token.get("kept") for token in tokens], notes, log=True)
    return render(
        "tokens.html.jinja",
        title=title,
        note=note,
        prompt=None if prompt is None else visible(prompt),
        cells=[cell(token, number) for number, token in enumerate(tokens, 1)],
        figures=_figures(totals(tokens), settings or {}),
        strips=[found for found in (entropy, kept) if found is not None],
        settings=rows(settings or {}),
    )


def _figures(found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Name, value and what stands under it, of each of the run's totals that is known."""
    speed = settings.get("tokens per second")
    figures = [
        ("entropy", found["mean_entropy"], ["nats a token", _per_byte(found["bits_per_byte_entropy"])]),
        ("surprisal", found["mean_surprisal"], ["nats a token", _per_byte(found["bits_per_byte"])]),
        ("varentropy", found["mean_varentropy"], ["nats² a token"]),
        ("kept", found["mean_kept"], ["tokens on average"]),
        ("length", found["tokens"], ["tokens", "" if speed is None else f"{speed} a second"]),
    ]
    return [
        (name, decimal(value, digits=_digits(name, value)), [line for line in lines if line])
        for name, value, lines in figures
        if value is not None
    ]


def _per_byte(bits: float | None) -> str:
    return "" if bits is None else f"{bits:.3f} bits per byte"


def _digits(name: str, value: float) -> int:
    return 0 if name == "length" or value >= 1000 else 1 if name == "kept" else 3


def note_of(number: int, token: Token) -> str:
    facts = [f"{number}. {name_of(token)}"]
    if token["surprisal"] is not None:
        facts.append(f"surprisal {token['surprisal']:.2f} nats")
    if ends(token) is not None:
        facts.append(f"entropy {entropy_written(token)}")
    if token.get("kept") is not None:
        facts.append(f"kept {token['kept']:,}")
    return ", ".join(facts)
