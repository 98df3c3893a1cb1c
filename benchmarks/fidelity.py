"""How far the packed default model is from the exact one; `python -m benchmarks.fidelity` renews the shipped record."""

import shutil
from pathlib import Path

import hartley.engines
from benchmarks.common import write
from hartley.engines import open_engine
from hartley.engines.fidelity import fidelity
from hartley.models.pack import PACKED_DTYPES

TEXT = Path(__file__).parents[1] / "tests" / "data" / "moby_dick.txt"
RECORD = Path(hartley.engines.__file__).with_name("fidelity.json")


def main() -> None:
    """Measure, print and write."""
    reference = open_engine("smollm2", "transformers", "float32", device="cpu")
    ids = reference.tokenizer.encode(TEXT.read_text(encoding="utf-8"))
    rows = []
    for dtype in PACKED_DTYPES:
        found = fidelity(open_engine("smollm2", "onnx", dtype), reference, ids)
        rows.append({"dtype": dtype, **{name: float(f"{value:.3g}") for name, value in found._asdict().items()}})
        rows[-1]["tokens"] = found.tokens
        print(f"{dtype:8} KL {found.kl:.2e} ± {found.standard_error:.1e} nats a token, arg-max {found.agreement:.1%}")
    path = write(
        "fidelity", rows, model="smollm2", text=TEXT.name, unit="nats a token", reference="transformers float32"
    )
    shutil.copyfile(path, RECORD)
    print(path)


if __name__ == "__main__":
    main()
