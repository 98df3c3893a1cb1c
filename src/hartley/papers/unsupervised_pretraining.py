"""Unsupervised pretraining: few labels after many unlabelled rows, against the labels alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge

from hartley.papers.digit_nets import digits
from hartley.papers.figures import BLACK, BLUE, GREEN, MARKERS, ORANGE, PURPLE, figure, shades
from hartley.papers.intervals import above, interval, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.representation.pretraining import (
    ClusterLabels,
    ContrastivePretrainer,
    ExcessRiskCurve,
    FactorPretrainer,
    MixturePretrainer,
    PretrainedERM,
    excess_risk_curve,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = Paper(
    slug="unsupervised-pretraining",
    title="On the Provable Advantage of Unsupervised Pretraining",
    authors="Jiawei Ge, Shange Tang, Jianqing Fan, Chi Jin",
    year=2023,
    arxiv="2303.01566",
    claim="Maximum likelihood on many unlabelled rows and a small head on few labelled ones predict better than the "
    "labels alone, in the factor model, a Gaussian mixture and contrastive pairs; with many labels and few unlabelled "
    "rows, weak factors, or labels that depend on more than the latents, they do not.",
    where=("hartley.representation.PretrainedERM", "hartley.representation.excess_risk_curve"),
)

D, R = 100, 3
BETA, NOISE = np.array([1.0, -1.0, 0.5]), 0.1
STRONG, WEAK = (
    2.0,
    0.3,
)  # norms of the loadings of a latent; the edge is (D / m)^(1/4), 0.27 at m = 20,000 and 0.47 at 2,000
OUTSIDE = 1.0  # weight of one feature's own noise in the labels, where they depend on more than the latents
COMPONENTS, DIRECTIONS = 30, 20  # of the mixture and of the principal directions it sees
LABELS = (10, 20, 50, 100, 200)
FIRST_SEED = 100


class Sizes(NamedTuple):
    """How much one scale runs."""

    repeats: int
    ms: tuple[int, ...]
    ns: tuple[int, ...]
    starts: int


SIZES: dict[Scale, Sizes] = {
    "tiny": Sizes(2, (100, 1000), (20, 50, 100), 1),
    "small": Sizes(20, (200, 2000, 20_000), (20, 50, 200, 1000), 3),
}


class Found(NamedTuple):
    """Everything that was measured; excess risks are [..., repeats], accuracies [len(LABELS), repeats] in percent."""

    strong: ExcessRiskCurve
    weak: ExcessRiskCurve
    outside: dict[str, np.ndarray]  # by way to learn, [len(ns), repeats]
    contrastive: np.ndarray  # [len(ns), repeats]
    digits: dict[str, np.ndarray]


def reproduce(scale: Scale) -> Evidence:
    """The factor model at 100 features and 3 latents, and scikit-learn's digits under a mixture.

    Factor model: x = B z + mu, y = (1, -1, 0.5) z + 0.1 noise, columns of B of norm 2 (0.3 where weak), one B for all
    repeats; excess risks are exact. The rival is ridge regression told the best of six penalties by the true risk.
    Pairs are two views of the same z with noise of their own. Where labels depend on more than the latents, the noise
    of one feature is added to y. Digits: half are held out, the images of the other half are unlabelled rows; 30
    components on 20 principal directions, labels by posterior, against logistic regression on the pixels. Judged rows
    hold if Student's 95% interval over 20 repeats does. No deep network is pretrained.
    """
    sizes = SIZES[scale]
    with one_thread():
        found = measure(sizes)
    rows = judge(found)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(found),
        seeds=[FIRST_SEED + i for i in range(sizes.repeats)],
        settings={
            "features": D,
            "latents": R,
            "norms": [STRONG, WEAK],
            "unlabelled rows": list(sizes.ms),
            "labelled rows": list(sizes.ns),
            "mixture": f"{COMPONENTS} components, {DIRECTIONS} directions, {sizes.starts} starts",
            "labelled digits": list(LABELS),
        },
    )


def loadings(norm: float) -> np.ndarray:
    """B [D, R], Gaussian columns scaled to ``norm``; always the same directions."""
    drawn = np.random.default_rng(FIRST_SEED).normal(size=(D, R))
    return norm * drawn / np.linalg.norm(drawn, axis=0)


def measure(sizes: Sizes) -> Found:
    """Run everything, each repeat with a seed of its own where it can be told apart."""
    curves = [
        excess_risk_curve(
            sizes.ms, sizes.ns, B=loadings(norm), beta=BETA, noise=NOISE, repeats=sizes.repeats, random_state=FIRST_SEED
        )
        for norm in (STRONG, WEAK)
    ]
    seeds = [FIRST_SEED + i for i in range(sizes.repeats)]
    outside = [beyond_latents(seed, sizes) for seed in seeds]
    read = [digit_accuracies(seed, sizes.starts) for seed in seeds]
    return Found(
        *curves,
        outside={name: np.stack([run[name] for run in outside], -1) for name in outside[0]},
        contrastive=np.stack([contrastive(seed, sizes) for seed in seeds], -1),
        digits={name: np.stack([run[name] for run in read], -1) for name in read[0]},
    )


def rows_of(random: np.random.Generator, count: int, outside: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows x [count, D], other views of them, and labels that also hold ``outside`` times the first feature's noise."""
    B = loadings(STRONG)
    z, mu = random.normal(size=(count, R)), random.normal(size=(count, D))
    y = z @ BETA + outside * mu[:, 0] + NOISE * random.normal(size=count)
    return z @ B.T + mu, z @ B.T + random.normal(size=(count, D)), y


def risk(w: np.ndarray, outside: float = 0.0) -> np.ndarray:
    """Excess risk of the linear predictor w [..., D]: exact, as `linear_excess_risk` with more in the labels."""
    B = loadings(STRONG)
    sigma = B @ B.T + np.eye(D)
    gap = w - np.linalg.solve(sigma, B @ BETA + outside * np.eye(D)[0])
    return np.einsum("...i,ij,...j->...", gap, sigma, gap)


def head(transform: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The weights [D] that least squares on a linear representation comes to."""
    return transform(np.eye(D)) @ np.linalg.lstsq(transform(x), y, rcond=None)[0]


def ridge(x: np.ndarray, y: np.ndarray, outside: float) -> float:
    """The excess risk of ridge regression at the best of six penalties, by the true risk."""
    fits = [Ridge(alpha=10.0**power, fit_intercept=False).fit(x, y).coef_ for power in range(-1, 5)]
    return float(min(risk(w, outside) for w in fits))


def beyond_latents(seed: int, sizes: Sizes) -> dict[str, np.ndarray]:
    """Excess risks [len(ns)] of pretraining on the most unlabelled rows and of ridge, labels beyond the latents."""
    random = np.random.default_rng(seed)
    unlabelled, _, _ = rows_of(random, sizes.ms[-1])
    x, _, y = rows_of(random, sizes.ns[-1], OUTSIDE)
    model = FactorPretrainer(R, assume_centered=True).fit(unlabelled)
    return {
        "pretrained": np.array([risk(head(model.transform, x[:n], y[:n]), OUTSIDE) for n in sizes.ns]),
        "ridge": np.array([ridge(x[:n], y[:n], OUTSIDE) for n in sizes.ns]),
    }


def contrastive(seed: int, sizes: Sizes) -> np.ndarray:
    """Excess risks [len(ns)] of a head on a contrastive representation of the most pairs."""
    random = np.random.default_rng(seed)
    one, other, _ = rows_of(random, sizes.ms[-1])
    x, _, y = rows_of(random, sizes.ns[-1])
    model = ContrastivePretrainer(R, random_state=seed).fit(one, partners=other)
    return np.array([risk(head(model.transform, x[:n], y[:n])) for n in sizes.ns])


def digit_accuracies(seed: int, starts: int) -> dict[str, np.ndarray]:
    """Accuracies [len(LABELS)] on held-out digits, percent, of the mixture's labels and of the pixels alone."""
    pixels, classes = (tensor.numpy().astype(float) for tensor in digits())
    order = np.random.default_rng(seed).permutation(len(pixels))
    known, held = order[: len(order) // 2], order[len(order) // 2 :]
    directions = PCA(DIRECTIONS, random_state=0).fit(pixels[known])
    x = directions.transform(pixels)
    mixture = MixturePretrainer(COMPONENTS, noise="shared", n_init=starts, random_state=seed)
    ways: dict[str, tuple[Any, np.ndarray, np.ndarray | None]] = {
        "mixture": (PretrainedERM(mixture, ClusterLabels()), x, x[known]),
        "pixels": (LogisticRegression(max_iter=1000), pixels, None),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for n in LABELS:
        for name, (model, rows, unlabelled) in ways.items():
            more = () if unlabelled is None else (unlabelled,)
            model.fit(rows[known[:n]], classes[known[:n]], *more)
            found[name].append(100 * float(model.score(rows[held], classes[held])))
    return {name: np.array(values) for name, values in found.items()}


def judge(found: Found) -> list[Row]:
    """The table, from everything that was measured."""
    strong, weak = found.strong, found.weak
    ms, ns, unit = strong.ms, strong.ns, "(risk)"
    few, many = strong.pretrained[-1, 0], strong.ridge[-2]
    gains = [np.log(curve.ridge[1] / curve.pretrained[-1, 1]) for curve in (strong, weak)]
    edge = "supervised wins"
    rows = [
        above(
            f"excess risk: ridge with {ns[-2]} labels less pretraining on {ms[-1]} rows with {ns[0]}",
            "above 0",
            many - few,
            unit,
        ),
        above(
            f"excess risk with {ns[0]} labels: {ms[0]} unlabelled rows less {ms[-1]}",
            "above 0",
            strong.pretrained[0, 0] - few,
            unit,
        ),
        above(
            f"excess risk with {ns[-1]} labels: pretraining on {ms[0]} rows less ridge",
            edge,
            strong.pretrained[0, -1] - strong.ridge[-1],
            unit,
        ),
        above(
            f"ln (ridge / pretraining) with {ns[1]} labels: strong factors less weak",
            "kappa grows as factors weaken",
            gains[0] - gains[1],
            "(log ratio)",
        ),
        above(
            f"labels beyond the latents, {ns[-1]} of them: pretraining less ridge",
            "outside the theorem",
            found.outside["pretrained"][-1] - found.outside["ridge"][-1],
            unit,
        ),
        above(
            f"excess risk with {ns[0]} labels: ridge less contrastive on {ms[-1]} pairs",
            "above 0",
            strong.ridge[0] - found.contrastive[0],
            unit,
        ),
        above(
            f"digits with {LABELS[1]} labels: accuracy of the mixture less that of the pixels",
            "above 0",
            found.digits["mixture"][1] - found.digits["pixels"][1],
            "points",
        ),
    ]
    for j, n in enumerate(ns):
        rows += [shown(f"excess risk, m = {m}, n = {n}", "", strong.pretrained[i, j], unit) for i, m in enumerate(ms)]
        rows.append(shown(f"excess risk, ridge, n = {n}", "", strong.ridge[j], unit))
        rows.append(shown(f"excess risk, least squares, n = {n}", "", strong.least_squares[j], unit))
        rows.append(shown(f"excess risk, contrastive, n = {n}", "", found.contrastive[j], unit))
    rows.append(shown(f"weak factors: pretraining, n = {ns[1]}", "", weak.pretrained[-1, 1], unit))
    rows.append(shown(f"weak factors: ridge, n = {ns[1]}", "", weak.ridge[1], unit))
    rows += [
        shown(f"digits with {n} labels: {name}", "", values[place], "%")
        for place, n in enumerate(LABELS)
        for name, values in found.digits.items()
    ]
    return rows


def draw(found: Found) -> Figure:
    """Excess risk against labels, the same with labels beyond the latents, and accuracy on digits."""
    strong = found.strong
    ns = strong.ns
    title = (
        f"{ns[0]} labels after {strong.ms[-1]:,} unlabelled rows: excess risk {strong.pretrained[-1, 0].mean():.3f}; "
        f"{ns[-2]} labels alone: {strong.ridge[-2].mean():.3f}"
    )
    with figure(1, 3, title=title, width=20, height=6.4) as (fig, [left, middle, right]):
        for place, (m, color) in enumerate(zip(strong.ms, shades(len(strong.ms)), strict=True)):
            _line(left, ns, strong.pretrained[place], f"pretrained, m = {m:,}", color, MARKERS[place])
        _line(left, ns, found.contrastive, f"contrastive, {strong.ms[-1]:,} pairs", PURPLE, "D")
        _line(left, ns, strong.ridge, "ridge, best penalty", ORANGE, "s", "--")
        left.set(ylabel="excess risk (squared unit of y, ± one standard error)")
        _line(middle, ns, found.outside["pretrained"], f"pretrained, m = {strong.ms[-1]:,}", BLUE, "o")
        _line(middle, ns, found.outside["ridge"], "ridge, best penalty", ORANGE, "s", "--")
        middle.set(ylabel="excess risk, labels beyond the latents\n(squared unit of y, ± one standard error)")
        for axis in (left, middle):
            axis.set(xlabel="labelled rows (count)", xscale="log", yscale="log")
            axis.legend()
        _line(right, LABELS, found.digits["mixture"], f"mixture of {COMPONENTS}", GREEN, "^")
        _line(right, LABELS, found.digits["pixels"], "logistic regression on pixels", BLACK, "v", "--")
        right.set(xlabel="labelled digits (count)", ylabel="accuracy (%, ± one standard error)", xscale="log")
        right.legend()
    return fig


def _line(
    axis: Axes, places: Sequence[int], values: np.ndarray, label: str, color: Any, marker: str, style: str = "-"
) -> None:
    spans = [interval(row) for row in values]
    axis.errorbar(
        places, [s.mean for s in spans], [s.error for s in spans],
        label=label, color=color, marker=marker, linestyle=style,
    )  # fmt: skip
