"""Whether a model's text gives the expected answer, by a rule short enough to know by heart."""

import re
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")


def is_correct(text: str, answer: str) -> bool:
    """Whether ``text`` ends in ``answer``.

    If the answer is a number, the last number in the text must equal it (``1,000`` is ``1000.0``; ``$`` and ``%``
    around it do not count). Otherwise the whole text, or its last line that is not empty, must be the answer, apart
    from case, surrounding spaces and marks at either end. An answer elsewhere in the text does not count.

    >>> is_correct("2 + 2 is 4, so the total is $1,004.", "1004")
    True
    >>> is_correct("It is Paris, not Lyon.", "Paris"), is_correct("Let me think.\\n**Paris**.", "paris")
    (False, True)
    """
    expected = _value(answer.strip().strip("$%"))
    if expected is not None:
        numbers = _NUMBER.findall(text)
        return bool(numbers) and _value(numbers[-1]) == expected
    lines = [line for line in text.splitlines() if line.strip()]
    return bool(lines) and _plain(answer) in (_plain(text), _plain(lines[-1])) and bool(_plain(answer))


def _value(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "")) if _NUMBER.fullmatch(text) else None
    except InvalidOperation:
        return None


def _plain(text: str) -> str:
    return re.sub(r"^[\W_]+|[\W_]+$", "", " ".join(text.split())).casefold()
