"""Batch runs: killed three ways and whole at the end; rows a second with one and two workers; memory as input grows.

``python -m benchmarks.batch`` does all parts on the default model; ``--part kills --prompts 200 --tokens 4`` tries one.
Every run is the command ``hartley batch`` in a process of its own.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.csv
from pyarrow import parquet

from benchmarks.common import peak, write

SEED = 0
ROOT = Path(__file__).parents[1]
SENTENCES = (ROOT / "tests" / "data" / "moby_dick.txt").read_text(encoding="utf-8").split(".")


def prompts(path: Path, count: int) -> Path:
    """A JSONL file of sentences of Moby Dick, numbered."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            text = f"{i}. {' '.join(SENTENCES[i % len(SENTENCES)].split())[:120]}"
            file.write(json.dumps({"id": f"p{i}", "prompt": text}) + "\n")
    return path


def command(args: argparse.Namespace, file: Path, out: Path, *more: str) -> list[str]:
    """``hartley batch`` on these prompts."""
    # a shell's background job ignores Ctrl-C, and its children with it
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code += "; from hartley.cli.main import main; main()"
    settings = ["--model", args.model, "--engine", args.engine, "--max-tokens", str(args.tokens), "--seed", str(SEED)]
    return [
        sys.executable, "-c", code, "batch", str(file), "--out", str(out), *settings,
        "--sampler", "temperature=1.5,top_h=0.4", "--shard", str(args.shard), *more,
    ]  # fmt: skip


def whole(out: Path, count: int) -> dict[str, Any]:
    """Count what is wrong with a finished run: prompts missing or twice, rows cut, files that do not belong."""
    texts = [row for file in sorted((out / "texts").iterdir()) for row in parquet.read_table(file).to_pylist()]
    tokens = [row for file in sorted((out / "tokens").iterdir()) for row in parquet.read_table(file).to_pylist()]
    places: dict[str, list[int]] = {}
    pieces: dict[str, str] = {}
    for token in tokens:
        places.setdefault(token["id"], []).append(token["position"])
        pieces[token["id"]] = pieces.get(token["id"], "") + token["text"]
    ids = [row["id"] for row in texts]
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    belong = {f"{part}/{i:08d}.parquet" for part in ("texts", "tokens") for i in range(len(files) // 2)} | {"run.json"}
    return {
        "prompts": count,
        "missing": len({f"p{i}" for i in range(count)} - set(ids)),
        "twice": len(ids) - len(set(ids)),
        "half rows": sum(
            places.get(row["id"], []) != list(range(row["n_tokens"])) or pieces.get(row["id"], "") != row["text"]
            for row in texts
        ),
        "tokens of no text": len(set(places) - set(ids)),
        "stray files": len(files ^ belong),
        "tokens": len(tokens),
    }


def shards(out: Path) -> int:
    """How many are there."""
    return len(list(out.glob("texts/*.parquet")))


def workers_of(driver: int) -> list[psutil.Process]:
    """The processes of a driver that hold an engine."""
    family = psutil.Process(driver).children(recursive=True)
    return [one for one in family if any("MapWorker" in word for word in one.cmdline())]


def kills(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill -9 the driver, then a worker, then both; finish; count what is wrong."""
    file, out = prompts(folder / "prompts.jsonl", args.prompts), folder / "run"
    total = -(-args.prompts // args.shard)
    draw, story = random.Random(args.seed), []
    ray = ("--ray", "--workers", "2")
    for kind, more in (("driver", ()), ("worker", ray), ("driver and workers", ray)):
        with open(folder / "stderr.txt", "wb") as said:
            process = subprocess.Popen(command(args, file, out, *more), stderr=said)
        before = shards(out)
        # a moment drawn from the next quarter of the run, then from within a shard
        goal = before + 1 + int(draw.random() * total / 4)
        while shards(out) < goal and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.5)
        assert process.poll() is None, f"over before the kill: {(folder / 'stderr.txt').read_text()}"
        at = shards(out)
        found = workers_of(process.pid) if more else []
        family = psutil.Process(process.pid).children(recursive=True)
        names = {one.pid: one.name() for one in family}
        targets = {"driver": [], "worker": found[:1], "driver and workers": found}[kind]
        for one in targets:
            one.send_signal(signal.SIGKILL)
        if kind != "worker":
            process.send_signal(signal.SIGKILL)
            process.wait()
        else:  # the run mends itself; see it commit more, then stop it with Ctrl-C
            while shards(out) < at + 4 and process.poll() is None:
                time.sleep(0.01)
            healed = {one.pid for one in workers_of(process.pid)} - {one.pid for one in found}
            process.send_signal(signal.SIGINT)
            process.wait()
        parts = len(list(out.rglob("*.part")))
        begun = time.monotonic()
        if kind != "worker":
            psutil.wait_procs(family, timeout=60)
        story.append(
            {
                "killed": kind,
                "shards before": at,
                "of": total,
                "part files left": parts,
                "workers": len(found),
                **({"new workers": len(healed), "exit": process.returncode} if kind == "worker" else {}),
                "left running after 60 s": [names[one.pid] for one in family if one.is_running()],
                "seconds until all processes were gone": round(time.monotonic() - begun, 1),
            }
        )
        print(story[-1], flush=True)
    subprocess.run(command(args, file, out), check=True)
    found = {"kills": story, **whole(out, args.prompts)}
    print({key: value for key, value in found.items() if key != "kills"}, flush=True)
    return found


def scaling(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Rows a second on this machine without Ray and with one and two workers, from the first shard to the last."""
    file = prompts(folder / "prompts.jsonl", args.prompts)
    rows = []
    for name, more in (
        ("no Ray", ()),
        ("Ray, 1 worker", ("--ray", "--workers", "1")),
        ("Ray, 2 workers", ("--ray", "--workers", "2")),
    ):
        out = folder / name.replace(" ", "-")
        start = time.perf_counter()
        subprocess.run(command(args, file, out, *more), check=True)
        seconds = time.perf_counter() - start
        times = sorted(path.stat().st_mtime for path in out.glob("texts/*.parquet"))
        steady = (args.prompts - args.shard) / (times[-1] - times[0])
        rows.append({"how": name, "seconds in all": round(seconds, 1), "rows a second": round(steady, 2)})
        print(rows[-1], flush=True)
    return rows


def memory(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Peak memory of whole runs, and of reading alone, as the input grows tenfold."""
    rows = []
    few = max(args.shard * 2, args.prompts // 10)
    for count in (few, 10 * few):
        file = prompts(folder / f"{count}.jsonl", count)
        rows.append(
            {"what": "hartley batch", "prompts": count, "MB": peak(command(args, file, folder / f"run{count}"))}
        )
        print(rows[-1], flush=True)
    code = (
        "import sys; from hartley.engines.batch.prompts import Shards, survey;"
        "rows = survey(sys.argv[1]).rows; shards = Shards(sys.argv[1], 64);"
        "assert sum(len(shards.take(i)) for i in range(-(-rows // 64))) == rows"
    )
    for count in (100_000, 1_000_000):
        table = pa.table(
            {"id": [f"p{i}" for i in range(count)], "prompt": [SENTENCES[i % len(SENTENCES)] for i in range(count)]}
        )
        parquet.write_table(table, folder / f"{count}.parquet")
        pa.csv.write_csv(table, folder / f"{count}.csv")
        prompts(folder / f"{count}.jsonl", count)
        for kind in ("parquet", "csv", "jsonl"):
            file = folder / f"{count}.{kind}"
            rows.append(
                {"what": f"reading {kind}", "prompts": count, "MB": peak([sys.executable, "-c", code, str(file)])}
            )
            print(rows[-1], flush=True)
    return rows


PARTS = {"kills": kills, "scaling": scaling, "memory": memory}


def main() -> None:
    """Run the parts, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--shard", type=int, default=16)
    parser.add_argument("--seed", type=int, default=SEED, help="of the moments of the kills")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/batch.json")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for part in args.part or PARTS:
        folder = Path(tempfile.mkdtemp(prefix="hartley-bench-"))
        try:
            rows.append({"part": part, "found": PARTS[part](args, folder)})
        finally:
            shutil.rmtree(folder)
    if args.keep:
        facts = {name: getattr(args, name) for name in ("model", "engine", "prompts", "tokens", "shard", "seed")}
        print(write("batch", rows, **facts))


if __name__ == "__main__":
    main()
