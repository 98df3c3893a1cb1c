"""Did this model write this text?"""

from __future__ import annotations

from collections.abc import Sequence

from hartley.detection.calibration import Calibration, drawn
from hartley.detection.protocol import Reader, Transformation
from hartley.detection.reading import read
from hartley.detection.verdict import Alternative, Detection, Method, decide


def detect(
    text: str | Sequence[int],
    model: Reader,
    *,
    prompt: str | Sequence[int] = "",
    alternative: Alternative = "two-sided",
    alpha: float = 0.05,
    method: Method = "evalue",
    calibration: Calibration | None = None,
    temperature: float = 1.0,
    sampler: Transformation | None = None,
    floor: float | None = None,
    window: int | None = None,
) -> Detection:
    """Test "the model wrote this text": compare its log-perplexity with the model's mean entropy along it.

    Parameters
    ----------
    text, prompt
        As text, or as token ids where they are known: a sampled text read back as text is not always cut into the
        tokens that were drawn, which makes it a little more surprising. The prompt is context and is not judged.
    model
        Anything with a tokenizer and ``score(ids) -> logits``: every engine of :mod:`hartley.engines`.
    alternative, alpha, method, calibration
        As for :func:`decide`. A calibration must have been made with the same model and sampler.
    temperature, sampler, floor
        How the text is supposed to have been drawn, as for :func:`score_from_logits`. Other settings look like another
        writer, and rightly so.
    window
        Tokens read at once, as for long texts in :func:`read`.

    Returns a :class:`Detection`, which states what its p-value guarantees. For several texts, each has its own level;
    E-values may be averaged.

    Raises ``ValueError`` for arguments out of range, a token the model does not know and a calibration of another
    model or sampler.

    Source: Radvand et al. 2025, test 1. The E-value takes the place of the paper's bound, whose constants hold for a
    bounded surprisal only.
    """
    if calibration is not None:
        ours = (model.model_name, drawn(temperature, sampler))
        if (calibration.model, calibration.drawn) != ours:
            raise ValueError(
                f"calibration must be of the model and sampler at hand, {ours[0]!r} and {ours[1]!r}; got "
                f"{calibration.model!r} and {calibration.drawn!r}"
            )
    scores = read(text, model, prompt=prompt, temperature=temperature, sampler=sampler, floor=floor, window=window)
    return decide(scores, alternative=alternative, alpha=alpha, method=method, calibration=calibration)
