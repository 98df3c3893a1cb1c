"""A verdict in one sentence, which says what it means and what it does not."""

from hartley.detection.attribution import Attribution
from hartley.detection.verdict import Detection


def explain(found: Detection, model: str, kind: str | None = None) -> str:
    """What the verdict on a text means, and what it does not.

    ``kind`` is that of the calibration, if one was used.

    >>> from hartley.detection import decide, score_from_logits
    >>> import torch
    >>> print(explain(decide(score_from_logits(torch.zeros(1, 9), [4])), "smollm2"))
    Undecidable: the text has no token with a prediction: the first one has none; neither verdict would mean anything.
    """
    if found.decision == "undecidable":
        return f"Undecidable: {found.reason}; neither verdict would mean anything."
    null = f"{model} had written it in this way" if kind is None else f"it were one of the {kind} texts"
    if found.decision == "not rejected":
        return (
            f"Not rejected: the text would not be unusual if {null}; that does not show that it is so, since another "
            "writer can be as surprising."
        )
    chance = "about" if found.method == "zscore" else "at most"
    return (
        f"Rejected: the text is {_how(found, model, kind)}, which has a chance of {chance} {found.p_value:.2g} if "
        f"{null}; that does not show who did write it: a person, another model, prompt or sampler, or an edit."
    )


def explain_attribution(found: Attribution) -> str:
    """What an attribution means, and what it does not."""
    if found.writer is None:
        if all(reading.n_tokens == 0 for reading in found.readings.values()):
            return "Undecidable: the text has no token with a prediction."
        return "A tie: the models give the text the same likelihood."
    strength = ""
    if found.p_value is not None:
        other = list(found.readings)[1]
        strength = f" (a ratio this large has a chance of at most {found.p_value:.2g} if {other} had written it)"
    return (
        f"{found.writer} gives the text more likelihood a byte{strength}; that does not show that either of the models "
        "wrote it."
    )


def _how(found: Detection, model: str, kind: str | None) -> str:
    if found.impossible:
        return f"made of tokens that could not have been drawn ({found.impossible} of {found.n_tokens})"
    if kind is not None:
        return f"unlike the {kind} texts of the calibration (T {found.statistic:+.3f} nats a token)"
    return f"more {'surprising' if found.statistic > 0 else 'predictable'} than text of {model}"
