"""Real text that comes with the package, in the public domain; the licence of each file lies beside it."""

from importlib.resources import files


def passages() -> list[str]:
    """Eight paragraphs of Moby-Dick.

    >>> len(passages())
    8
    """
    return _blocks("moby_dick.txt")


def speeches() -> list[str]:
    """An excerpt of each of 40 State of the Union addresses, 1790 to 2016.

    >>> len(speeches())
    40
    """
    return _blocks("state_of_the_union.txt")


def _blocks(name: str) -> list[str]:
    return files(__name__).joinpath(name).read_text(encoding="utf-8").strip().split("\n\n")
