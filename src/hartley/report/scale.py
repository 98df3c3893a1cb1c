"""The colours of surprisal, in steps that a colour-blind eye tells apart by lightness alone, and how text is shown."""

import itertools
import re
from bisect import bisect_right

EDGES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # nats: each step doubles
UNDERLINED = 5  # from this step on text is underlined too, for where there is no colour

# (background, text) of each step above the first, which stays plain. Lightness falls along the light scale and rises
# along the dark one, so that in both the surprising tokens stand out.
LIGHT = (
    ("#f0f3cf", "#111111"),
    ("#cfe6b4", "#111111"),
    ("#93cfb4", "#111111"),
    ("#4fb0c0", "#111111"),
    ("#2b6cab", "#ffffff"),
    ("#202c74", "#ffffff"),
)
DARK = (
    ("#22305a", "#ffffff"),
    ("#25507d", "#ffffff"),
    ("#22717f", "#ffffff"),
    ("#2fa583", "#0b0d10"),
    ("#93cf4e", "#0b0d10"),
    ("#fde73a", "#0b0d10"),
)

# Control characters, and the marks that turn the direction of text around: harmless here, not in a page or terminal.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def step_of(surprisal: float | None) -> int:
    """The step, 0 to 6, of a surprisal in nats; 0 where there is none.

    >>> [step_of(nats) for nats in (0.0, 0.3, 3.0, 20.0)]
    [0, 1, 4, 6]
    """
    return 0 if surprisal is None else bisect_right(EDGES, surprisal)


def step_names() -> list[str]:
    """What each step stands for, in nats."""
    inner = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(EDGES)]
    return [f"under {EDGES[0]:g}", *inner, f"{EDGES[-1]:g} and more"]


def visible(text: str) -> str:
    r"""``text`` with control and direction characters written out; line feeds and tabs stay.

    >>> visible("\x1b[31mred")
    '\\x1b[31mred'
    """
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def quoted(text: str) -> str:
    r"""A token on one line, its spaces and line feeds marked.

    >>> quoted(" a\n")
    '␣a↵'
    """
    return visible(text).replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
