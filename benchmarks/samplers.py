"""One full sampling step (statistics, cut, draw) beside transformers' warper + softmax + multinomial.

`python -m benchmarks.samplers [--quick]`. Milliseconds a step, medians, everything timed in turn in one run; ratios to
torch's own logsumexp over the same logits, which is the least anybody pays.
"""

import sys
from collections.abc import Callable

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.common import in_turn, write
from hartley.decoding import (
    Sampler,
    chain,
    entropy_top_k,
    epsilon_cutoff,
    eta_cutoff,
    min_p,
    mirostat,
    top_h,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
)

SIZES = (49_152, 151_936, 262_144)
SAMPLERS: dict[str, tuple[Sampler, Callable[[Tensor, Tensor], Tensor] | None]] = {
    "plain": (chain(), lambda ids, x: x),
    "top_k 50": (top_k(50), transformers.TopKLogitsWarper(50)),
    "top_p 0.9": (top_p(0.9), transformers.TopPLogitsWarper(0.9)),
    "min_p 0.1": (min_p(0.1), transformers.MinPLogitsWarper(0.1)),
    "typical_p 0.9": (typical_p(0.9), transformers.TypicalLogitsWarper(0.9)),
    "top_h 0.4": (top_h(0.4), transformers.TopHLogitsWarper(0.4)),
    "epsilon 6e-4": (epsilon_cutoff(6e-4), transformers.EpsilonLogitsWarper(6e-4)),
    "eta 2e-3": (eta_cutoff(2e-3), transformers.EtaLogitsWarper(2e-3)),
    "top_n_sigma 1": (top_n_sigma(1.0), None),
    "entropy_top_k": (entropy_top_k(), None),
    "mirostat 2": (mirostat(2), None),
    "mirostat 1": (mirostat(1), None),
}


def recorded(rows: int) -> Tensor:
    """Next-token logits of the default model over a public-domain text, ``[rows, 49152]``."""
    from hartley.engines import open_engine
    from hartley.models.texts import passages

    engine = open_engine("smollm2")
    ids = engine.tokenizer.encode("\n\n".join(passages()))
    logits = engine.score(ids[: 8 * rows])
    return logits[8 - 1 :: 8][:rows].float().contiguous()


def tile(logits: Tensor, size: int) -> Tensor:
    """Repeat a vocabulary up to ``size``, each copy 20 nats lower, so that the top stays as it was recorded."""
    copies = -(-size // logits.shape[1])
    return torch.cat([logits - 20.0 * copy for copy in range(copies)], -1)[:, :size].contiguous()


def main(quick: bool) -> None:
    """Time every sampler on every kind of row, print the table and write it."""
    torch.set_num_threads(2)
    generator = torch.Generator().manual_seed(0)
    real = recorded(32)
    results: list[dict[str, object]] = []
    table = Table("rows", "V", "B", "sampler", "ms", "/ logsumexp", "transformers ms", "times faster", title="One step")
    for size in SIZES[:1] if quick else SIZES:
        kinds = {
            "recorded": tile(real, size),
            "Gaussian sd 3": 3.0 * torch.randn(32, size, generator=generator),
            "flat": torch.zeros(32, size),
        }
        for kind, rows in kinds.items():
            for batch in (1, 32):
                logits = rows[:batch].contiguous()
                for name, (sampler, warper) in SAMPLERS.items():
                    state = sampler.init(batch)
                    work = {
                        "logsumexp": lambda x=logits: torch.logsumexp(x, -1),
                        "hartley": lambda x=logits, s=sampler, state=state: s.step(x, state, generator),
                    }
                    if warper is not None:
                        work["transformers"] = lambda x=logits, w=warper: torch.multinomial(
                            torch.softmax(w(None, x), -1), 1, generator=generator
                        )
                    times = in_turn(work, seconds=0.1 if quick else 0.3, least=5)
                    ours, floor, peer = times["hartley"], times["logsumexp"], times.get("transformers")
                    results.append(
                        {
                            "rows": kind,
                            "V": size,
                            "B": batch,
                            "sampler": name,
                            "hartley_ms": round(ours * 1e3, 4),
                            "logsumexp_ms": round(floor * 1e3, 4),
                            "transformers_ms": peer and round(peer * 1e3, 4),
                            "times_logsumexp": round(ours / floor, 2),
                            "times_faster": peer and round(peer / ours, 2),
                        }
                    )
                    table.add_row(
                        kind,
                        f"{size:,}",
                        str(batch),
                        name,
                        f"{ours * 1e3:.3f}",
                        f"{ours / floor:.1f}",
                        f"{peer * 1e3:.2f}" if peer else "",
                        f"{peer / ours:.1f}" if peer else "",
                    )
    Console(width=120).print(table)
    if not quick:
        print(write("samplers", results, unit="milliseconds a step, median; float32, 2 threads"))


if __name__ == "__main__":
    main("--quick" in sys.argv)
