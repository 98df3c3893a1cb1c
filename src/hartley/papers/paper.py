"""A paper in the house: its claim, the experiment that tests it, and the evidence the experiment leaves."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import math
import os
import pkgutil
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

from hartley.report.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scale = Literal["tiny", "small"]
Verdict = Literal["holds", "holds in part", "not at this scale"]

VERSIONS = ("hartley", "torch", "numpy", "scipy", "numba", "transformers", "onnxruntime-genai")


@dataclass(frozen=True)
class Paper:
    """What a published method claims, in one falsifiable sentence, and where a user reaches it.

    ``where`` holds import paths and commands, such as ``hartley.decoding.min_p``.
    """

    slug: str
    title: str
    authors: str
    year: int
    arxiv: str
    claim: str
    where: tuple[str, ...]

    @property
    def url(self) -> str:
        """The paper's page at arXiv."""
        return f"https://arxiv.org/abs/{self.arxiv}"


@dataclass(frozen=True)
class Row:
    """One line of a paper's table: what the paper says, what was measured, and whether the claim holds.

    ``error`` is one standard error of ``measured``, None where nothing was sampled. ``holds`` None marks a row that is
    shown beside the others and not judged. Raises ``ValueError`` for a measurement that is no finite number.

    >>> print(Row("P(Z >= 4)", paper="3.167e-5", measured=3.2e-5, error=6e-7, unit="", holds=True).value)
    3.20e-05 ± 6e-07
    """

    what: str
    paper: str
    measured: float
    unit: str
    holds: bool | None
    error: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured", float(self.measured))
        object.__setattr__(self, "holds", None if self.holds is None else bool(self.holds))
        object.__setattr__(self, "error", None if self.error is None else float(self.error))
        for name in ("measured", "error"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number; got {value} in row {self.what!r}")

    @property
    def value(self) -> str:
        """The measurement with its error bar and unit, to as many places as the error bar allows."""
        unit = f" {self.unit}" if self.unit else ""
        if not self.error:
            return f"{self.measured:.6g}{unit}"
        size = max(abs(self.measured), self.error)
        if 1e-4 <= size < 1e6:
            places = max(0, 1 - math.floor(math.log10(self.error)))
            return f"{self.measured:.{places}f} ± {self.error:.{places}f}{unit}"
        places = max(1, math.floor(math.log10(size)) - math.floor(math.log10(self.error)))
        return f"{self.measured:.{places}e} ± {self.error:.0e}{unit}"


def verdict_from(rows: Iterable[Row]) -> Verdict:
    """Sum up the judged rows: all hold, some do, or none at this scale.

    Raises ``ValueError`` where no row is judged.

    >>> verdict_from([Row("a", "up", 1.0, "nats", holds=True), Row("b", "up", -1.0, "nats", holds=False)])
    'holds in part'
    """
    judged = [row.holds for row in rows if row.holds is not None]
    if not judged:
        raise ValueError("rows must hold at least one with holds=True or holds=False; got none")
    return "holds" if all(judged) else "holds in part" if any(judged) else "not at this scale"


@dataclass(frozen=True)
class Evidence:
    """What one run of a paper's experiment showed.

    ``reproduce`` gives the rows, their verdict, a figure, the seeds and the settings; :func:`run` adds what it alone
    knows: slug, scale, seconds, machine, versions and date.
    Raises ``ValueError`` for a verdict that the rows do not give.
    """

    rows: Sequence[Row]
    verdict: Verdict
    figure: Figure | None = None
    seeds: Sequence[int] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    slug: str = ""
    scale: str = ""
    seconds: float = 0.0
    hardware: Mapping[str, Any] = field(default_factory=dict[str, Any])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    date: str = ""

    def __post_init__(self) -> None:
        if self.verdict != (computed := verdict_from(self.rows)):
            raise ValueError(f"verdict must be verdict_from(rows), {computed!r}; got {self.verdict!r}")

    def to_json(self) -> str:
        """Everything but the figure, as JSON text."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "figure"}
        content["rows"] = [dataclasses.asdict(row) for row in self.rows]
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Evidence:
        """Read back what :meth:`to_json` wrote; the figure is not in it."""
        content = json.loads(text)
        content["rows"] = tuple(Row(**row) for row in content["rows"])
        return cls(**content)

    def write(self, out_dir: str | os.PathLike[str]) -> list[Path]:
        """Write ``evidence.json``, ``figure.svg`` and ``figure.png`` into ``out_dir``, made where missing.

        Each file appears whole or not at all. Returns the paths written.
        """
        out = Path(out_dir)
        out.mkdir(parents=True, exist_ok=True)
        paths = [write_atomic(out / "evidence.json", self.to_json())]
        if self.figure is not None:
            from hartley.papers.figures import render

            paths += [write_atomic(out / f"figure.{kind}", render(self.figure, kind)) for kind in ("svg", "png")]
        return paths


def discover() -> dict[str, ModuleType]:
    """Find the papers by their place: every module of ``hartley.papers`` with a ``PAPER`` and a ``reproduce``, by slug.

    Raises ``ValueError`` for a module not named after its slug.
    """
    package = importlib.import_module("hartley.papers")
    modules = [
        importlib.import_module(f"hartley.papers.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    return {m.PAPER.slug: _checked(m) for m in modules if hasattr(m, "PAPER") and hasattr(m, "reproduce")}


def find(slug: str) -> ModuleType:
    """Import the module of one paper.

    Raises ``ValueError`` for an unknown slug, naming the nearest one.
    """
    name = f"hartley.papers.{slug.replace('-', '_')}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # the module is there; something that it imports is not
            raise
        module = None
    if module is None or not hasattr(module, "PAPER") or not hasattr(module, "reproduce") or module.PAPER.slug != slug:
        known = sorted(discover())
        near = difflib.get_close_matches(slug, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"slug must be that of a paper in the house; got {slug!r}: {hint}")
    return module


def run(slug: str, scale: Scale = "small") -> Evidence:
    """Run a paper's experiment, time it, and return its evidence with the machine, the versions and the date.

    Raises ``ValueError`` for an unknown slug or scale.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}; got {scale!r}")
    module = find(slug)
    began = time.perf_counter()
    evidence: Evidence = module.reproduce(scale)
    seconds = time.perf_counter() - began
    return dataclasses.replace(
        evidence,
        slug=slug,
        scale=scale,
        seconds=round(seconds, 2),
        hardware=hardware(),
        versions=versions(),
        date=date.today().isoformat(),
    )


def hardware() -> dict[str, Any]:
    """The machine: processor, cores this process may use, memory in GiB, and the accelerator if torch sees one."""
    import torch

    found: dict[str, Any] = {"cpu": _processor(), "cores": len(os.sched_getaffinity(0)) if _linux() else os.cpu_count()}
    if _linux():
        found["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def versions() -> dict[str, str]:
    """The versions of Python and of what decides a number."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _checked(module: ModuleType) -> ModuleType:
    place = module.__name__.rpartition(".")[2]
    if module.PAPER.slug.replace("-", "_") != place:
        raise ValueError(f"slug must be the module's name with dashes; got {module.PAPER.slug!r} in {place}.py")
    return module


def _linux() -> bool:
    return platform.system() == "Linux"


def _processor() -> str:
    if _linux():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
