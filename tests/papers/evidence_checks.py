"""What every evidence must satisfy, whatever it found."""

from hartley.papers.paper import Evidence, verdict_from

UNITLESS = {"temperature", "tokens written", "test digits", "dark is low, bright is high"}


def check_evidence(evidence: Evidence, axes: int) -> None:
    assert evidence.rows
    assert len({row.what for row in evidence.rows}) == len(evidence.rows)
    assert evidence.verdict == verdict_from(evidence.rows)
    assert all(row.error is not None for row in evidence.rows)
    assert evidence.seeds
    assert evidence.settings
    assert Evidence.from_json(evidence.to_json()).rows == tuple(evidence.rows)
    assert evidence.figure is not None
    found = evidence.figure.axes
    assert len(found) == axes
    for axis in found:
        for label in (axis.get_xlabel(), axis.get_ylabel()):
            assert "(" in label or label in UNITLESS, f"{label!r} has no unit"
