"""How far an engine's distribution is from the exact one, measured on a text, and the record of that measurement."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hartley.engines.protocol import Engine, logits_of


class Fidelity(NamedTuple):
    """An engine against a reference on the tokens of some texts."""

    kl: float  #: mean KL(reference || engine), nats a token
    standard_error: float  #: of that mean
    largest: float  #: KL at the worst token, nats
    agreement: float  #: fraction of tokens after which both find the same next token most probable
    tokens: int  #: of all texts


def fidelity(engine: Engine, reference: Engine, *texts: Sequence[int]) -> Fidelity:
    """Compare two engines on the next-token distributions after every prefix of every text; see :class:`Fidelity`.

    Sums run in float64. Raises ``ValueError`` for what :func:`hartley.engines.logits_of` refuses.
    """
    divergences: list[Tensor] = []
    agreements: list[Tensor] = []
    for ids in texts:
        exact, other = (logits_of(one, ids).double().log_softmax(-1) for one in (reference, engine))
        divergences.append((exact.exp() * (exact - other)).sum(-1))
        agreements.append((exact.argmax(-1) == other.argmax(-1)).double())
    kl = torch.cat(divergences)
    return Fidelity(
        kl=kl.mean().item(),
        standard_error=kl.std().item() / len(kl) ** 0.5 if len(kl) > 1 else float("nan"),
        largest=kl.max().item(),
        agreement=torch.cat(agreements).mean().item(),
        tokens=len(kl),
    )


def recorded() -> dict[str, Any]:
    """The measurement shipped with this version: the default model in each fast engine against transformers, float32.

    Written by ``python -m benchmarks.fidelity``; ``rows`` has :class:`Fidelity`'s fields for each engine and text.
    """
    return json.loads(files("hartley.engines").joinpath("fidelity.json").read_text(encoding="utf-8"))
