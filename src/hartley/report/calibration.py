"""Calibration against a reference text: is the model's first choice right as often as it says?

For every token whose context is the reference so far, the probability of the model's first choice is set beside whether
the reference goes on with it. Where a generated text leaves the reference, the place where it does is the last that
counts: from there on the model answers another context.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from hartley.report.readers import Reading, Text
from hartley.report.summary import Token

BINS = 10
Z = 1.96
SEEN, REACH = 24, 200  # characters


class Bin(NamedTuple):
    """Tokens whose first choice has a probability in one tenth: its mean, the share that was right, a 95 % interval."""

    size: int
    confidence: float
    accuracy: float
    low: float
    high: float


class Calibration(NamedTuple):
    """How sure the first choice was and how often it was right, over ``size`` of a file's ``tokens``.

    ``gap`` is mean probability less share right, ``error`` its standard error with tokens taken as independent;
    ``expected_error`` the mean distance of the bins from the diagonal (ECE), which sampling alone makes positive.
    """

    size: int
    tokens: int
    confidence: float
    accuracy: float
    gap: float
    error: float
    expected_error: float
    bins: list[Bin]

    @property
    def verdict(self) -> str:
        """What was found: a gap counts when it is more than two standard errors from 0."""
        points = f"{100 * abs(self.gap):.1f} ± {100 * self.error:.1f} points"
        if abs(self.gap) <= 2 * self.error:
            return f"no miscalibration to be seen (a gap of {points})"
        return f"{'over' if self.gap > 0 else 'under'}confident by {points}"

    @property
    def finding(self) -> str:
        """What was found, in a sentence."""
        return (
            f"The first choice was the reference's token for {100 * self.accuracy:.1f} % of {self.size:,} tokens at a "
            f"mean probability of {100 * self.confidence:.1f} %: {self.verdict}"
        )


def calibration(reading: Reading, reference: str) -> Calibration:
    """Compare the model's first choices with a reference text, which may begin with the prompt.

    Raises ``ValueError`` when fewer than two tokens of the file can be set beside the reference.
    """
    if not reference.strip():
        raise ValueError("the reference text is empty; give the text that the model should have written")
    texts = [text for text in reading.texts if text.tokens]
    pairs = max((aligned(text, reference) for text in texts), key=len)
    if len(pairs) < 2:
        raise ValueError(
            f"{reading.source} and the reference text do not begin alike (or no alternatives are known): the file "
            f"begins with {texts[0].text[:40]!r}, the reference with {reference[:40]!r}"
        )
    return reliability(pairs, max(len(text.tokens) for text in texts))


def aligned(text: Text, reference: str) -> list[tuple[float, bool]]:
    """Probability of the first choice, and whether the reference has it, of each token that can be compared."""
    place = len(text.prompt) if text.prompt and reference.startswith(text.prompt) else 0
    if text.is_prompt and not reference.startswith(text.text[:SEEN], place):
        place = max(0, reference.find(text.text[:SEEN], 0, REACH))  # providers leave the first token of a prompt out
    pairs: list[tuple[float, bool]] = []
    for number, token in enumerate(text.tokens):
        spelled, first = token["text"], _first_choice(token)
        if not pairs and token["surprisal"] is None and not reference.startswith(spelled, place):
            continue  # a token that only begins a text
        if number == 0 and not reference.startswith(spelled, place):
            spelled, place = spelled.lstrip(), place + len(reference[place:]) - len(reference[place:].lstrip())
        if place >= len(reference):
            break
        if reference.startswith(spelled, place):
            place += len(spelled)
            if spelled and first is not None:  # a token that ends in half a character shows no text of its own
                pairs.append((first[0], first[2]))
            continue
        if first is not None and first[1]:
            pairs.append((first[0], not first[2] and reference.startswith(first[1], place)))
        break
    return pairs


def _first_choice(token: Token) -> tuple[float, str, bool] | None:
    """Probability and text of the model's most probable token, and whether it is the drawn one; None if not known."""
    top = token.get("top") or []
    drawn = token["surprisal"]
    if token.get("rank") == 1 and drawn is not None:
        return math.exp(-drawn), token.get("piece") or token["text"], True
    if not top and (drawn is None or drawn >= math.log(2)):
        return None
    if drawn is not None and (not top or -drawn >= top[0]["log_prob"]):
        if len(top) < 2 and drawn >= math.log(2) and token.get("rank") is None:
            return None  # the list may be of the drawn token alone
        return math.exp(-drawn), token.get("piece") or token["text"], True
    return math.exp(top[0]["log_prob"]), top[0]["text"], False


def reliability(pairs: Sequence[tuple[float, bool]], tokens: int) -> Calibration:
    """Sum up (probability, right) pairs, at least two.

    >>> found = reliability([(0.8, True), (0.8, False)], 2)
    >>> round(found.gap, 3), round(found.expected_error, 3), found.bins[0].size
    (0.3, 0.3, 2)
    """
    count = len(pairs)
    confidence = math.fsum(share for share, _ in pairs) / count
    accuracy = sum(right for _, right in pairs) / count
    gap = confidence - accuracy
    error = math.sqrt(math.fsum((share - right - gap) ** 2 for share, right in pairs) / (count - 1) / count)
    groups: dict[int, list[tuple[float, bool]]] = {}
    for share, right in pairs:
        groups.setdefault(min(int(share * BINS), BINS - 1), []).append((share, right))
    bins = [_bin(groups[place]) for place in sorted(groups)]
    expected = math.fsum(one.size * abs(one.confidence - one.accuracy) for one in bins) / count
    return Calibration(count, tokens, confidence, accuracy, gap, error, expected, bins)


def _bin(pairs: Sequence[tuple[float, bool]]) -> Bin:
    n, right = len(pairs), sum(right for _, right in pairs)
    share = right / n
    middle, width = share + Z**2 / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = (middle - width) / (1 + Z**2 / n), (middle + width) / (1 + Z**2 / n)  # Wilson's interval
    return Bin(n, math.fsum(one for one, _ in pairs) / n, share, max(low, 0.0), min(high, 1.0))
