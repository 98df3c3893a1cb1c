"""Mirostat: a feedback loop that holds the mean surprisal of a text at a target, in bits."""

import math
from typing import Literal

import torch
from torch import Tensor

from hartley.decoding.draw import Draw
from hartley.decoding.sampler import PerRow, Sampler, State, sampler
from hartley.decoding.top_k import first
from hartley.info.checks import check_count, check_one_of, check_positive
from hartley.info.head import Head

LN2 = math.log(2.0)
Surprise = Literal["model", "truncated"]
Compat = Literal["paper", "official", "llama.cpp"]


class Mirostat(Sampler):
    """See :func:`mirostat`. The state is ``mu [B]``, float64, in bits."""

    rules_alone = True

    def init(self, batch: int) -> Tensor:
        """Twice the target, unless ``mu`` was given."""
        start = self.settings["mu"]
        start = 2.0 * self.settings["tau"] if start is None else start
        return torch.as_tensor(start, dtype=torch.float64).expand(batch).clone()

    def apply(self, head: Head, state: State) -> Head:
        """Cut where the surprisal reaches ``mu``: the actual one (mode 2) or that of a fitted Zipf law (mode 1)."""
        mu = state.to(head.logits.device)
        if self.settings["mode"] == 2:
            return head.above((-mu * LN2)[:, None])
        compat, m = self.settings["compat"], self.settings["m"]
        ratios = m if compat == "official" else m - 1
        head = head.widen(k=ratios + 1)
        size = 50_000 if compat == "official" else head.logits.shape[1]
        k = zipf_cut(zipf_exponent(head.log_probs[:, : ratios + 1]), mu, size, compat)
        return head.keep(lambda head: first(head, k), k=k + 1)

    def update(self, state: State, draw: Draw) -> Tensor:
        """Move ``mu`` by ``eta`` times what the drawn token missed the target by."""
        nats = draw.surprisal if self.settings["surprise"] == "model" else -draw.log_prob
        missed = nats.to(state) / LN2 - torch.as_tensor(self.settings["tau"], dtype=state.dtype)
        eta = torch.as_tensor(self.settings["eta"], dtype=state.dtype)
        return (state - eta * missed).clamp(self.settings["mu_min"], self.settings["mu_max"])


@sampler
def mirostat(
    mode: int = 2,
    tau: PerRow = 5.0,
    eta: PerRow = 0.1,
    m: int = 100,
    surprise: Surprise = "model",
    compat: Compat = "paper",
    mu: PerRow | None = None,
    mu_min: float = -math.inf,
    mu_max: float = math.inf,
) -> Sampler:
    """Hold the mean surprisal of what is drawn at ``tau`` bits a token, moving the cut by ``eta`` times each miss.

    ``mode`` 2 cuts at an actual surprisal of ``mu`` bits, ``mode`` 1 where a Zipf law fitted to the top ``m`` tokens
    reaches it. ``mu`` starts at ``2 * tau`` and is kept per sequence. ``surprise="model"`` measures a token under the
    model at temperature 1 (the target is then the text's perplexity), ``"truncated"`` under the distribution drawn
    from, as llama.cpp does. ``compat`` follows the rounding of the paper, of its official script (100 ratios, a
    vocabulary of 50,000, one token more) or of llama.cpp (truncation), in mode 1 alone. ``mu_min`` and ``mu_max`` stop
    ``mu`` from running away when the target cannot be met. The paper uses ``tau`` 3 and ``eta`` 1. Raises
    ``ValueError`` naming the argument that is out of range.

    >>> generator = torch.Generator().manual_seed(0)
    >>> target = mirostat(tau=3.0)
    >>> draw, state = target.step(torch.zeros(1, 8), None, generator)  # 8 equal tokens: 3 bits, as wanted
    >>> float(draw.surprisal / LN2), state
    (3.0, tensor([6.0000], dtype=torch.float64))

    Source: Basu et al. 2021, "Mirostat", algorithm 1; mode 2 as llama.cpp defines it.
    """
    settings = dict(locals())
    check_one_of("mirostat", mode, (1, 2))
    check_positive("mirostat_tau", tau)
    check_positive("mirostat_eta", eta)
    check_count("mirostat_m", m)
    check_one_of("mirostat_surprise", surprise, ("model", "truncated"))
    check_one_of("mirostat_compat", compat, ("paper", "official", "llama.cpp"))
    if not mu_min < mu_max:
        raise ValueError(f"mirostat_mu_min must be below mirostat_mu_max, got {mu_min} and {mu_max}")
    return Mirostat("mirostat", settings)


def zipf_exponent(log_probs: Tensor) -> Tensor:
    """Exponent of the Zipf law fitted to falling ``log_probs [B, m]`` by least squares; NaN with fewer than 2 finite.

    >>> zipf_exponent(-1.3 * torch.arange(1.0, 101.0, dtype=torch.float64).log()[None])
    tensor([1.3000], dtype=torch.float64)

    Source: Basu et al. 2021, equation 31.
    """
    values = log_probs.double()
    ranks = torch.arange(1, values.shape[1] + 1, dtype=torch.float64, device=values.device).log()
    steps = ranks.diff()
    pairs = values[:, 1:] > -torch.inf
    falls = (values[:, :-1] - values[:, 1:]).masked_fill(~pairs, 0.0)
    return (steps * falls).sum(-1) / (steps.square() * pairs).sum(-1)


def zipf_cut(exponent: Tensor, mu: Tensor, size: int, compat: Compat = "paper") -> Tensor:
    """Rank where a Zipf law over ``size`` tokens reaches a surprisal of ``mu`` bits, int64 ``[B]``, in ``[1, size]``.

    An ``exponent`` below 1e-3 (a flat distribution) or NaN keeps every token. Source: Basu et al. 2021, algorithm 1.
    """
    eps = exponent - 1.0
    log_size = math.log(max(size, 2))
    near_one = eps.abs() < 1e-6
    safe = eps.masked_fill(near_one, 1.0)
    log_ratio = (safe / -torch.expm1(-safe * log_size)).log().masked_fill(near_one, -math.log(log_size))
    log_k = ((log_ratio + mu * LN2) / exponent).nan_to_num(nan=log_size).clamp(0.0, log_size)
    log_k = log_k.masked_fill(~(exponent >= 1e-3), log_size)
    k = log_k.exp().floor() if compat == "llama.cpp" else log_k.exp().round()
    return (k + (compat == "official")).clamp(1, size).long()
