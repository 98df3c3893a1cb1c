"""The definition of the statistics of written tokens, in plain torch; the numba kernel is tested against it.

Shapes: N tokens, V vocabulary, P values of lambda.
"""

import torch
from torch import Tensor


def cumulants(logits: Tensor, tokens: Tensor, lambdas: Tensor) -> tuple[Tensor, Tensor]:
    """``[3, N]`` (surprisal, entropy, varentropy) and the cumulant functions ``[N, P]``, all in float64.

    NaN in a row of ``logits [N, V]`` with NaN, +inf or nothing but -inf.
    """
    log_probs = logits.double().log_softmax(-1)
    probs = log_probs.exp()
    surprisal = -log_probs.masked_fill(probs == 0, 0.0)
    entropy = (probs * surprisal).sum(-1)
    varentropy = (probs * (surprisal - entropy[:, None]).square()).sum(-1)
    functions = probs.new_empty(len(probs), len(lambdas))
    for place in range(len(lambdas)):
        functions[:, place] = torch.logsumexp((1 - float(lambdas[place])) * log_probs, -1)
    written = -log_probs.gather(-1, tokens[:, None]).squeeze(-1)
    return torch.stack([written, entropy, varentropy]), functions
