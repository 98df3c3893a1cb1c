"""Largest error of entropy and varentropy, in nats and nats^2, against mpmath at 50 digits on the very numbers stored.

`python -m benchmarks.exactness [--out FILE]`. Rows are Gaussian logits of standard deviation 3, rounded to each dtype
first, so that the error is the arithmetic's and not the input's. The tests use the same table.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import mpmath
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.common import RESULTS, machine
from hartley.info.measures import entropy, varentropy

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SIZES = (10, 1000, 49_152)
SEED = 20_260_101
DIGITS = 50


def reference(logits: Tensor) -> tuple[Any, Any]:
    """Entropy and varentropy of one row of logits, to 50 digits; -inf is a removed token."""
    with mpmath.workdps(DIGITS):
        x = [mpmath.mpf(value) for value in logits.double().tolist() if value != -torch.inf]
        weights = [mpmath.exp(value) for value in x]
        total = mpmath.fsum(weights)
        mean = mpmath.fdot(weights, x) / total
        spread = mpmath.fsum(w * (value - mean) ** 2 for w, value in zip(weights, x, strict=True)) / total
        return mpmath.log(total) - mean, spread


def error_table(sizes: tuple[int, ...] = SIZES, rows: int = 4) -> list[dict[str, Any]]:
    """One record for each dtype and V: the largest absolute error over ``rows`` rows."""
    table: list[dict[str, Any]] = []
    for size in sizes:
        drawn = 3 * torch.randn(rows, size, dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
        for dtype in DTYPES:
            logits = drawn.to(dtype)
            exact = [reference(row) for row in logits]
            measured = (entropy(logits=logits), varentropy(logits=logits))
            errors = [
                max(abs(mpmath.mpf(float(got)) - true[i]) for got, true in zip(values, exact, strict=True))
                for i, values in enumerate(measured)
            ]
            table.append(
                {
                    "dtype": str(dtype).removeprefix("torch."),
                    "V": size,
                    "entropy_error_nats": float(errors[0]),
                    "varentropy_error_nats2": float(errors[1]),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "exactness.json", help="where to write the JSON")
    parser.add_argument("--rows", type=int, default=4, help="rows for each dtype and V")
    arguments = parser.parse_args()
    table = error_table(rows=arguments.rows)
    shown = Table("dtype", "V", "entropy error (nats)", "varentropy error (nats²)", title="Against mpmath at 50 digits")
    for row in table:
        shown.add_row(
            row["dtype"], f"{row['V']:,}", f"{row['entropy_error_nats']:.1e}", f"{row['varentropy_error_nats2']:.1e}"
        )
    Console().print(shown)
    facts = {"seed": SEED, "digits": DIGITS, "rows_each": arguments.rows, "logits": "Gaussian, sd 3", "rows": table}
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_text(json.dumps({"machine": machine(), **facts}, indent=1) + "\n")
    temporary.replace(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
