"""``hartley xray`` on the default model and the bundled text, twice: seconds, most memory, and whether the JSON agrees.

``python -m benchmarks.xray`` runs the command in processes of its own.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import peak, write

RUNS = 2


def run(out: Path) -> dict[str, Any]:
    """One run of the command in a process of its own: seconds from start to end, and the most memory it held."""
    code = "from hartley.cli.main import main; main()"
    began = time.perf_counter()
    most = peak([sys.executable, "-c", code, "xray", "--out", str(out)])
    return {"seconds": round(time.perf_counter() - began, 1), "most_memory_mb": most}


def main() -> None:
    """Measure and write ``results/xray.json``."""
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder) / str(number) for number in range(RUNS)]
        rows = [run(out) for out in outs]
        texts = [(out / "xray.json").read_bytes() for out in outs]
        facts = {"same_json": len(set(texts)) == 1, "html_bytes": (outs[0] / "xray.html").stat().st_size}
    print(rows, facts)
    write("xray", rows, model="smollm2", **facts)


if __name__ == "__main__":
    main()
