"""Diffusion spectral entropy beside dense eigenvalues in float64: its time, its error, its memory, its growth with N.

`python -m benchmarks.spectral [--quick] [--rounds 5] [--subsets 3]`. The peer of the exact way is
`numpy.linalg.eigvalsh` of the same matrix, in turn in one process, the matrix ready for the one and its rows for the
other. N = 20,000 runs by "lanczos" in a process of its own, whose peak is all that it held, libraries included. Errors
are against "exact", which the first table compares with float64. Draws docs/img/spectral-cost.png.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import in_turn, write
from hartley.papers.digit_nets import Nets, batches, digits, generators
from hartley.report.plotting import BLUE, GREEN, MARKERS, ORANGE, figure, render
from hartley.representation import DiffusionSpectralEntropy
from hartley.representation.diffusion_operator import DiffusionOperator, Sigma, bandwidth
from hartley.representation.diffusion_spectral import exact_spectrum
from hartley.representation.low_rank import spectral_entropy

BIT = math.log(2)
FIGURE = Path(__file__).parents[1] / "docs" / "img" / "spectral-cost.png"
HARD = 0.5  # the bandwidth of "hidden units" at which most steps are needed


def clouds(count: int) -> dict[str, Tensor]:
    """Rows of three kinds: digits with noise on the pixels, what a trained layer makes of them, and Gaussians."""
    x, y = digits()
    randoms = generators([0])
    nets = Nets([64, 128, 10], generators([1]), torch.relu)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-2)
    for at in batches(len(x), 64, 10, randoms):
        optimizer.zero_grad()
        F.cross_entropy(nets(x[at])[0], y[at[0]]).backward()
        optimizer.step()
    generator = randoms[0]
    pixels = x[torch.randint(len(x), (count,), generator=generator)]
    pixels = pixels + 0.2 * torch.randn(pixels.shape, generator=generator)
    hidden = F.normalize(torch.relu(pixels @ nets.weights[0][0].detach() + nets.biases[0][0].detach()))
    gaussian = torch.randn(count, 128, generator=generator) / torch.arange(1, 129)
    return {"pixels": pixels, "hidden units": hidden, "Gaussian": gaussian}


def exact(count: int, rounds: int, *sigmas: Sigma) -> list[dict[str, Any]]:
    """Time and error of the exact way at several bandwidths and powers."""
    rows: list[dict[str, Any]] = []
    for name, Z in clouds(count).items():
        for sigma in sigmas:
            operator = DiffusionOperator(Z, bandwidth(Z, sigma), "symmetric", 0.5, torch.float64)
            matrix = operator.dense(torch.float64).numpy()
            reference = torch.from_numpy(np.linalg.eigvalsh(matrix).copy())
            for t in (1, 2):
                found = exact_spectrum(operator, t)
                seconds = in_turn(
                    {"ours": partial(exact_spectrum, operator, t), "peer": partial(np.linalg.eigvalsh, matrix)},
                    least=rounds,
                )
                wanted = spectral_entropy(reference, t) / BIT
                row = {"cloud": name, "D": Z.shape[1], "N": count, "sigma": sigma, "t": t, "bits": wanted}
                row |= {"error": spectral_entropy(found, t) / BIT - wanted, "rank": int((found > 0).sum())}
                rows.append(row | {"s": seconds["ours"], "peer s": seconds["peer"]})
    return rows


def error(count: int, subsets: int) -> list[dict[str, Any]]:
    """Lanczos against the exact way, on subsets of the large cloud."""
    rows: list[dict[str, Any]] = []
    sigmas: tuple[Sigma, ...] = ("median", HARD)
    for name, Z in clouds(4 * count).items():
        for sigma in sigmas:
            for seed in range(subsets):
                settings = {"sigma": sigma, "max_samples": count, "random_state": seed}  # the same sample for both
                found = DiffusionSpectralEntropy(**settings, method="lanczos").fit(Z)
                right = DiffusionSpectralEntropy(**settings).fit(Z).entropy_
                row = {"cloud": name, "sigma": sigma, "N": count, "seed": seed, "bits": right}
                row |= {"error": found.entropy_ - right, "standard error": found.standard_error_}
                rows.append(row | {"truncation": found.truncation_})
    return rows


def large(count: int, cloud: str, sigma: Sigma) -> dict[str, Any]:
    """One run of "lanczos" in this process, timed and weighed."""
    Z = clouds(count)[cloud]
    start = time.perf_counter()
    found = DiffusionSpectralEntropy(sigma=sigma, max_samples=None, method="lanczos", random_state=0).fit(Z)
    seconds = time.perf_counter() - start
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    row = {"cloud": cloud, "D": Z.shape[1], "N": count, "sigma": sigma, "s": seconds, "peak MB": int(peak[1]) / 1024}
    row |= {"bits": found.entropy_, "standard error": found.standard_error_, "truncation": found.truncation_}
    return row


def growth(sizes: list[int], most: dict[str, int]) -> list[dict[str, Any]]:
    """Seconds of each way from rows to entropy, against N; one run each, up to the most that it is given."""
    Z = clouds(max(sizes))["hidden units"]
    rows: list[dict[str, Any]] = []
    for count in sizes:
        part = Z[:count]
        for way, limit in most.items():
            if count > limit:
                continue
            start = time.perf_counter()
            if way not in ("exact", "lanczos"):
                operator = DiffusionOperator(part, HARD, "symmetric", 0.5, torch.float64)
                np.linalg.eigvalsh(operator.dense(torch.float64).numpy())
            else:
                DiffusionSpectralEntropy(sigma=HARD, max_samples=None, method=way, random_state=0).fit(part)
            rows.append({"way": way, "N": count, "s": time.perf_counter() - start})
    return rows


def draw(rows: list[dict[str, Any]], goal: dict[str, Any]) -> None:
    """Seconds against N."""
    title = f"N = {goal['N']:,} by Lanczos: {goal['s']:.0f} s, ± {goal['standard error']:.3f} bits"
    with figure(title=title) as (fig, [axis]):
        ways = {"dense float64": ORANGE, "exact": BLUE, "lanczos": GREEN}
        for (way, color), marker in zip(ways.items(), MARKERS, strict=False):
            found = [(row["N"], row["s"]) for row in rows if row["way"] == way]
            found += [(goal["N"], goal["s"])] if way == "lanczos" else []
            axis.plot(*zip(*found, strict=True), marker=marker, color=color, label=way)
        axis.set(xlabel="N (rows of 128 features)", ylabel="time (s)", xscale="log", yscale="log")
        axis.legend()
    FIGURE.write_bytes(render(fig, "png"))


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table."""
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=150).print(table)


def main() -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing written: shows that it runs")
    parser.add_argument("--rounds", type=int, default=5, help="of the exact way and its peer in turn")
    parser.add_argument(
        "--subsets", type=int, default=3, help="of 5,000 rows, on which Lanczos is held to the exact way"
    )
    parser.add_argument("--large", nargs=3, metavar=("N", "CLOUD", "SIGMA"), help="run one by lanczos, print its JSON")
    asked = parser.parse_args()
    if asked.large:
        count, cloud, sigma = asked.large
        print(json.dumps(large(int(count), cloud, sigma if sigma == "median" else float(sigma))))
        return
    quick = asked.quick
    first = exact(1200 if quick else 2000, 2 if quick else asked.rounds, 10.0, "median", HARD)
    first += exact(1300 if quick else 5000, 1, "median")
    show("Exact, and numpy.linalg.eigvalsh in float64", first)
    second = error(1200 if quick else 5000, 1 if quick else asked.subsets)
    show("Lanczos less exact", second)
    third: list[dict[str, Any]] = []
    for cloud, sigma in (("hidden units", "median"), ("hidden units", str(HARD)), ("Gaussian", "median")):
        command = [sys.executable, "-m", "benchmarks.spectral", "--large", "1500" if quick else "20000", cloud, sigma]
        third.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    show("Lanczos, large", third)
    sizes = [300, 600, 1200] if quick else [500, 1000, 2000, 4000, 8000]
    limits = {"dense float64": 600, "exact": 1200} if quick else {"dense float64": 4000, "exact": 8000}
    fourth = growth(sizes, limits | {"lanczos": sizes[-1]})
    show("Growth", fourth)
    if not quick:
        draw(fourth, third[1])
        write("spectral", first, errors=second, large=third, growth=fourth)


if __name__ == "__main__":
    main()
