"""Condition numbers beside torch's, and nearest codes beside scikit-learn's brute force.

`python -m benchmarks.representation [--quick] [--part condition|hamming]`. Medians of rounds in turn, in one process,
on as many threads as torch takes. scikit-learn's neighbours are timed on a slice of the pairs, and compared by the
pair: all of them would take minutes for each thousand queries.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin would count as work

import argparse
import math
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from benchmarks.common import RESULTS, in_turn, write
from hartley import models
from hartley.info.hamming import hamming_neighbors
from hartley.papers.intervals import rank_correlation
from hartley.representation import condition_numbers

CODES, BITS = 60_000, 4096


def weights(quick: bool) -> dict[str, Tensor]:
    """All 2-d weights of the default model; of the first two layers if it should be quick."""
    found = load_file(models.load().directory / "model.safetensors")
    matrices = {name: w.float() for name, w in found.items() if w.ndim == 2}
    return {name: w for name, w in matrices.items() if not quick or ".0." in name or ".1." in name}


def condition(quick: bool, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`condition_numbers` and a loop of torch.linalg.cond over the same matrices, and how far they agree."""
    matrices = weights(quick)
    seconds = in_turn(
        {
            "condition_numbers": lambda: condition_numbers(matrices, max_dim=None),
            "torch.linalg.cond": lambda: [torch.linalg.cond(w) for w in matrices.values()],
        },
        least=rounds,
        seconds=0,
    )
    ours = np.array([each.kappa for each in condition_numbers(matrices, max_dim=None)])
    theirs = np.array([float(torch.linalg.cond(w)) for w in matrices.values()])
    exact = [torch.linalg.svdvals(w.double()) for w in matrices.values() if len(w) < 10_000]
    right = np.array([float(s[0] / s[-1]) for s in exact])
    small = np.array([len(w) < 10_000 for w in matrices.values()])
    low = torch.randn(576, 100, generator=torch.Generator().manual_seed(0))
    singular = {
        "rank 100 of 576": low @ low.T,
        "a row twice": torch.cat([low[:99], low[:1]]),
        "ones": torch.ones(3, 4),
    }
    facts = {
        "matrices": len(matrices),
        "Spearman with torch": rank_correlation(ours, theirs),
        "largest relative error, ours (of float64's SVD)": float(np.abs(ours[small] / right - 1).max()),
        "largest relative error, torch": float(np.abs(theirs[small] / right - 1).max()),
        "largest kappa": float(ours.max()),
        "singular matrices": {name: _said(w) for name, w in singular.items()},
    }
    rows = [
        {"what": "condition numbers", "way": way, "s": took, "times": seconds["torch.linalg.cond"] / took}
        for way, took in seconds.items()
    ]
    return rows, facts


def _said(w: Tensor) -> dict[str, str]:
    """What ours and torch's say of a singular matrix, as text: infinity is no JSON."""
    ours = condition_numbers({"w": w})[0].kappa
    return {"ours": "singular" if math.isinf(ours) else f"{ours:.3g}", "torch": f"{float(torch.linalg.cond(w)):.3g}"}


def hamming(quick: bool, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """1-NN of packed codes of random activations, and the peers on a slice."""
    count, asked = (6000, 100) if quick else (CODES, 1000)
    g = torch.Generator().manual_seed(0)
    began, packing, parts = time.perf_counter(), 0.0, []
    for size in [2000] * (count // 2000) + [asked]:
        activations = torch.randn(size, BITS, generator=g)
        start = time.perf_counter()
        parts.append(torch.from_numpy(np.packbits((activations > 0).numpy(), axis=1)))
        packing += time.perf_counter() - start
    codes, queries = torch.cat(parts[:-1]), parts[-1]
    few, some = queries[:16], codes[:2000]
    bits = [np.unpackbits(rows.numpy(), axis=1).astype(bool) for rows in (few, some)]
    peer = NearestNeighbors(n_neighbors=1, algorithm="brute", metric="hamming").fit(bits[1])
    words = [rows.numpy().view(np.uint64) for rows in (few, codes)]
    work = {
        "hamming_neighbors": (asked * count, lambda: hamming_neighbors(queries, codes)),
        "NumPy: bitwise_count": (
            16 * count,
            lambda: [np.bitwise_count(q ^ words[1]).sum(1).argmin() for q in words[0]],
        ),
        "scikit-learn, brute": (16 * 2000, lambda: peer.kneighbors(bits[0])),
    }
    seconds = in_turn({way: run for way, (_, run) in work.items()}, least=rounds, seconds=0)
    pair = {way: seconds[way] / pairs for way, (pairs, _) in work.items()}
    distance, place = hamming_neighbors(few, some)
    their_distance, _ = peer.kneighbors(bits[0])
    near = (torch.from_numpy(bits[1])[place[:, 0]] != torch.from_numpy(bits[0])).sum(1)
    facts = {
        "seconds to make the codes": time.perf_counter() - began,
        "seconds to pack them": packing,
        "MB of codes": codes.nbytes / 1e6,
        "distances equal scikit-learn's": bool(np.allclose(distance[:, 0].numpy(), BITS * their_distance[:, 0])),
        "places are at that distance": bool((near == distance[:, 0]).all()),
    }
    rows = [
        {
            "what": f"1-NN of {BITS} bits",
            "way": way,
            "s": seconds[way],
            "queries x codes": f"{asked} x {count}" if way == "hamming_neighbors" else f"16 x {pairs // 16}",
            "ns a pair": 1e9 * pair[way],
            "times": pair["scikit-learn, brute"] / pair[way],
        }
        for way, (pairs, _) in work.items()
    ]
    return rows, facts


PARTS = {"condition": condition, "hamming": hamming}


def main() -> None:
    """Measure, print and write; a quick run writes nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--part", choices=list(PARTS))
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    table = Table("what", "way", "s", "ns a pair", "times the peer", title="Representation")
    for name in [asked.part] if asked.part else list(PARTS):
        found, facts[name] = PARTS[name](asked.quick, asked.rounds)
        rows += found
        for row in found:
            pair = f"{row['ns a pair']:.1f}" if "ns a pair" in row else ""
            table.add_row(row["what"], row["way"], f"{row['s']:.3f}", pair, f"{row['times']:.2f}")
    Console().print(table, facts)
    if not asked.quick and not asked.part:
        print(write("representation", rows, **facts).relative_to(RESULTS.parent))


if __name__ == "__main__":
    main()
