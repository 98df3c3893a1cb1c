"""Information-theoretic bounds of the gap: a solved Gaussian case, the funnel of small digit networks, dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional as F

from hartley.papers.digit_nets import Nets, batches, digits, generators, shuffled
from hartley.papers.figures import BLACK, BLUE, MARKERS, ORANGE, figure, shades
from hartley.papers.intervals import above, interval, rank_correlation, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.representation import (
    Funnel,
    gaussian_classification_bound,
    generalization_funnel,
    gibbs_generalization,
    sdpi_dropout,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = Paper(
    slug="it-generalization-bounds",
    title="Information-Theoretic Generalization Bounds for Deep Neural Networks",
    authors="Haiyun He, Ziv Goldfeld",
    year=2025,
    arxiv="2404.03176",
    claim="Bounds from a layer's representations cover the gap between training and test loss, are smaller at a deeper "
    "layer than at the input, and follow the gap as the training set grows and as a dropout layer narrows.",
    where=("hartley.representation.generalization_funnel", "hartley.representation.kl_bound"),
)

ARCHITECTURES = ((64,), (64, 16), (64, 16, 4), (64, 16, 4, 1))  # of the Gaussian case, input first
EXAMPLES = 20
DIGIT_NET = [64, 64, 32, 16, 8, 10]
WIDTHS = (1, 2, 4, 8, 16)  # of the layer that dropout halves
DROPOUT = 0.5
HELD_OUT = 837  # digits
FIRST_SEED = 300


class Sizes(NamedTuple):
    """How much one scale runs."""

    repeats: int  # of the Gaussian case
    seeds: int
    examples: tuple[int, ...]  # training digits
    steps: int


SIZES: dict[Scale, Sizes] = {
    "tiny": Sizes(50, 3, (60, 240), 20),
    "small": Sizes(3000, 12, (60, 120, 240, 480, 960), 600),
}


class Found(NamedTuple):
    """What was measured."""

    gaussian: dict[tuple[int, ...], np.ndarray]  # gap of the 0-1 loss, a repeat each
    funnels: dict[int, list[Funnel]]  # by training digits, a seed each
    fresh: dict[int, np.ndarray]  # the smallest bound where as many held-out digits stand in for the training ones
    gaps: dict[int, np.ndarray]  # of cross-entropy, nats
    dropout: dict[int, np.ndarray]  # gap by width, nats, a seed each
    plain: dict[int, np.ndarray]  # the same without dropout


def reproduce(scale: Scale) -> Evidence:
    """Three experiments, each gap measured beside the bound that is about it.

    1. Two Gaussian classes in 64 dimensions at distance 1 from the origin, 20 training examples, random orthonormal
    layers down to the widths given, the last weight the mean of Y times the representation: the gap of the 0-1 loss
    (test error in closed form) beside the exact KL bound at the last width. 2. Digit networks 64-64-32-16-8-10 with
    tanh, trained (Adam 2e-3, batches of 32) on 60 to 960 digits, one subset a seed: at each layer the sliced
    1-Wasserstein distance of training from held-out digits within classes, times the spectral norms of what follows,
    times sqrt(2), beside the gap of cross-entropy; and the same with as many held-out digits (at most half of them)
    for the training ones, which shows what the size of a sample does alone. From single runs this is the proxy of the
    theorem that `hartley.representation.generalization` speaks of. 3. 64-16-w-10 networks with dropout 1/2 on the w
    units, in training and in evaluation, 120 training digits: sqrt(eta), eta = 1 - 2^-w, beside the gap and its ratio
    to the gap without dropout, which narrow layers lower as well. Judged rows hold if Student's 95% interval over
    repeats or seeds does. The Gibbs row is exact.
    """
    sizes = SIZES[scale]
    seeds = [FIRST_SEED + i for i in range(sizes.seeds)]
    with one_thread():
        found = measure(seeds, sizes)
    rows = judge(found)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(found),
        seeds=seeds,
        settings={
            "repeats of the Gaussian case": sizes.repeats,
            "network": "-".join(map(str, DIGIT_NET)) + " tanh",
            "training digits": list(sizes.examples),
            "steps": sizes.steps,
            "projections": 128,
            "dropout": DROPOUT,
            "widths under dropout": list(WIDTHS),
        },
    )


def measure(seeds: Sequence[int], sizes: Sizes) -> Found:
    """All three experiments."""
    gaussian = {widths: gaussian_gaps(widths, EXAMPLES, sizes.repeats, FIRST_SEED) for widths in ARCHITECTURES}
    funnels: dict[int, list[Funnel]] = {}
    fresh: dict[int, np.ndarray] = {}
    gaps: dict[int, np.ndarray] = {}
    for n in sizes.examples:
        funnels[n], fresh[n], gaps[n] = digit_funnels(n, seeds, sizes.steps)
    dropout, plain = (
        {width: dropout_gaps(width, rate, seeds, sizes.steps) for width in WIDTHS} for rate in (DROPOUT, 0.0)
    )
    return Found(gaussian, funnels, fresh, gaps, dropout, plain)


def gaussian_gaps(widths: Sequence[int], n: int, repeats: int, seed: int) -> np.ndarray:
    """The gap [repeats] of the 0-1 loss: Y X ~ N(mu, I), |mu| = 1, projected at random to ``widths`` one by one."""
    random = np.random.default_rng(seed)
    gaps = np.empty(repeats)
    for at in range(repeats):
        mean = np.eye(widths[0])[0]
        for wide, narrow in pairwise(widths):
            rows = np.linalg.qr(random.standard_normal((wide, narrow)))[0].T
            mean = rows @ mean
        x = mean + random.standard_normal((n, len(mean)))  # a white Gaussian stays one under orthonormal rows
        weight = x.mean(0)
        gaps[at] = norm.sf(weight @ mean / np.linalg.norm(weight)) - np.mean(x @ weight < 0)
    return gaps


def digit_funnels(n: int, seeds: Sequence[int], steps: int) -> tuple[list[Funnel], np.ndarray, np.ndarray]:
    """The funnel of each seed's network, the smallest bound of fresh digits, and the gap of cross-entropy (nats)."""
    x, y = digits()
    order = shuffled(len(x), generators(seeds))
    train, test = order[:, :n], order[:, -HELD_OUT:]  # the held-out digits are the same for every n
    nets = Nets(DIGIT_NET, generators([seed + 1000 for seed in seeds]), torch.tanh)
    optimizer = torch.optim.Adam(nets.parameters(), lr=2e-3)
    for places in _steps(n, steps, seeds):
        at = train.gather(1, places)
        optimizer.zero_grad()
        _losses(nets(x[at]), y[at]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        gaps = _losses(nets(x[test]), y[test]) - _losses(nets(x[train]), y[train])
    funnels: list[Funnel] = []
    fresh: list[float] = []
    for s, seed in enumerate(seeds):
        net, held = as_sequential(nets, s), (x[test[s]], y[test[s]])
        funnels.append(generalization_funnel(net, (x[train[s]], y[train[s]]), held, random_state=seed))
        m = min(n, HELD_OUT // 2)
        parts = [tuple(v[:m] for v in held), tuple(v[m:] for v in held)]
        fresh.append(min(generalization_funnel(net, *parts, random_state=seed).bounds))
    return funnels, np.array(fresh), gaps.numpy()


def as_sequential(nets: Nets, s: int) -> nn.Sequential:
    """One of the networks, by itself."""
    layers: list[nn.Module] = []
    for weight, bias in zip(nets.weights, nets.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        with torch.no_grad():
            layer.weight.copy_(weight[s].T)
            layer.bias.copy_(bias[s, 0])
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


def dropout_gaps(width: int, rate: float, seeds: Sequence[int], steps: int) -> np.ndarray:
    """The gap of cross-entropy (nats) [S] of 64-16-width-10 networks that drop units of the narrow layer, always."""
    x, y = digits()
    order = shuffled(len(x), generators(seeds))
    train, test = order[:, :120], order[:, -HELD_OUT:]
    body = Nets([64, 16, width], generators([seed + 2000 for seed in seeds]), torch.tanh)
    head = Nets([width, 10], generators([seed + 3000 for seed in seeds]), torch.tanh)
    randoms = generators([seed + 4000 for seed in seeds])

    def logits(at: Tensor) -> Tensor:
        hidden = torch.tanh(body(x[at]))
        if rate:
            kept = torch.stack([torch.rand(hidden.shape[1:], generator=g) >= rate for g in randoms])
            hidden = hidden * kept / (1 - rate)
        return head(hidden)

    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=2e-3)
    for places in _steps(120, steps, seeds):
        at = train.gather(1, places)
        optimizer.zero_grad()
        _losses(logits(at), y[at]).sum().backward()
        optimizer.step()
    with torch.no_grad():
        masks = 20 if rate else 1
        gaps = [_losses(logits(test), y[test]) - _losses(logits(train), y[train]) for _ in range(masks)]
    return torch.stack(gaps).mean(0).numpy()


def _steps(n: int, steps: int, seeds: Sequence[int]) -> list[Tensor]:
    """Places [S, B] of so many batches of at most 32."""
    epochs = math.ceil(steps / math.ceil(n / 32))
    return list(batches(n, 32, epochs, generators(seeds)))[:steps]


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy [S] of each network, nats."""
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


def judge(found: Found) -> list[Row]:
    """The table, from what was measured."""
    bounds = gaussian_classification_bound([widths[-1] for widths in ARCHITECTURES], EXAMPLES, 0.5)
    rows = [
        above(
            f"Gaussian classes, layers {'-'.join(map(str, widths))}: bound less gap",
            f"gap at most the bound, {bound:.3f}",
            bound - found.gaussian[widths],
            "(0-1 loss)",
        )
        for widths, bound in zip(ARCHITECTURES, bounds, strict=True)
    ]
    by_seed = list(zip(*(zip(found.funnels[n], found.gaps[n], strict=True) for n in found.funnels), strict=True))
    follows = [rank_correlation([min(f.bounds) for f, _ in seed], [float(g) for _, g in seed]) for seed in by_seed]
    covers = [min(math.log(min(f.bounds) / max(float(g), 1e-6)) for f, g in seed) for seed in by_seed]
    deeper = [float(np.mean([math.log(f.bounds[0] / f.bounds[-2]) for f, _ in seed])) for seed in by_seed]
    sizes = list(found.funnels)
    widths = list(found.dropout)
    shrink = [
        rank_correlation([sdpi_dropout(DROPOUT, w) for w in widths], [found.dropout[w][s] for w in widths])
        for s in range(len(by_seed))
    ]
    beyond = [
        float(np.mean([math.log(min(found.funnels[n][s].bounds) / found.fresh[n][s]) for n in sizes]))
        for s in range(len(by_seed))
    ]
    relative = [
        rank_correlation(
            [sdpi_dropout(DROPOUT, w) for w in widths], [found.dropout[w][s] / found.plain[w][s] for w in widths]
        )
        for s in range(len(by_seed))
    ]
    rows += [
        above("digits: ln(funnel's bound / gap), the least over n", "gap at most the bound", covers, "(ratio, ln)"),
        above("digits: ln(bound at the input / at the last hidden layer)", "above 0", deeper, "(ratio, ln)"),
        above(
            f"digits: funnel's bound follows the gap, {sizes[0]} to {sizes[-1]} examples",
            "both fall with n",
            follows,
            "(rank correlation)",
        ),
        above(
            "digits: ln(funnel's bound / that of fresh digits)",
            "above 0: the bound sees training, not only the size of a sample",
            beyond,
            "(ratio, ln)",
        ),
        above(
            "dropout 1/2: the gap follows sqrt(eta) of the width",
            "narrow layers contract",
            shrink,
            "(rank correlation)",
        ),
        above(
            "dropout 1/2: the gap over that without dropout follows sqrt(eta)",
            "narrow layers contract",
            relative,
            "(rank correlation)",
        ),
        _gibbs_row(),
    ]
    rows += [
        shown(f"Gaussian classes, layers {'-'.join(map(str, w))}: gap", "", gap, "(0-1 loss)")
        for w, gap in found.gaussian.items()
    ]
    for n in sizes:
        rows.append(shown(f"digits, {n} examples: gap", "", found.gaps[n], "nats"))
        rows.append(
            shown(f"digits, {n} examples: funnel's bound", "", [min(f.bounds) for f in found.funnels[n]], "nats")
        )
        rows.append(shown(f"digits, {n} examples: funnel's bound of fresh digits", "", found.fresh[n], "nats"))
        depth = [f.layers.index(f.layer) for f in found.funnels[n]]
        rows.append(shown(f"digits, {n} examples: depth of the funnel", "", depth, "of 5 layers"))
    for w in widths:
        rows.append(shown(f"width {w}: gap with dropout 1/2", "", found.dropout[w], "nats"))
        rows.append(shown(f"width {w}: gap without dropout", "", found.plain[w], "nats"))
    return rows


def _gibbs_row() -> Row:
    """The exact gap of the Gibbs algorithm on two weights, beside its bound; nothing is sampled."""
    gibbs = gibbs_generalization([[0, 1], [1, 0]], [0.5, 0.5], 5.0, data=[0.7, 0.3], n=10)
    return Row(
        "Gibbs algorithm, two weights, n = 10: gap",
        f"at most 2 sigma^2 gamma / n = {gibbs.bound:g}",
        gibbs.gap,
        "(loss)",
        0 <= gibbs.gap <= gibbs.bound,
        0.0,
    )


def draw(found: Found) -> Figure:
    """The three experiments, gap beside bound."""
    sizes = list(found.funnels)
    first, last = [np.mean([f.bounds[at] for f in found.funnels[sizes[-1]]]) for at in (0, -2)]
    title = (
        f"With {sizes[-1]} digits the bound is {first:.3g} nats at the input, {last:.3g} at the last hidden layer; "
        f"the gap is {found.gaps[sizes[-1]].mean():.2g}"
    )
    with figure(1, 3, title=title, width=20, height=6) as (fig, [left, middle, right]):
        names = ["-".join(map(str, widths)) for widths in ARCHITECTURES]
        bounds = gaussian_classification_bound([widths[-1] for widths in ARCHITECTURES], EXAMPLES, 0.5)
        spans = [interval(found.gaussian[widths]) for widths in ARCHITECTURES]
        left.errorbar(names, [s.mean for s in spans], [s.error for s in spans], color=ORANGE, marker="s", label="gap")
        left.plot(names, bounds, color=BLUE, marker="o", label="KL bound at the last width")
        left.set(xlabel="layers of the Gaussian case (units)", ylabel="0-1 loss (share), 20 examples", ylim=(0, None))
        left.legend()
        layers = ["input", *(f"hidden {i}" for i in range(1, len(DIGIT_NET) - 1)), "output"]
        for n, color, marker in zip(sizes, shades(len(sizes)), MARKERS, strict=False):
            spans = [interval([f.bounds[at] for f in found.funnels[n]]) for at in range(len(layers))]
            middle.errorbar(
                layers, [s.mean for s in spans], [s.error for s in spans], color=color, marker=marker, label=f"{n}"
            )
            middle.axhline(found.gaps[n].mean(), color=color, linestyle=":")
        middle.set(xlabel="layer (digit network)", ylabel="bound; dotted: gap (nats)", yscale="log")
        middle.tick_params(axis="x", rotation=30)
        middle.legend(title="training digits", ncols=2)
        places = np.arange(len(found.dropout))
        for gaps, color, marker, label in (
            (found.dropout, ORANGE, "s", "gap with dropout 1/2"),
            (found.plain, BLACK, "^", "gap without dropout"),
        ):
            spans = [interval(gap) for gap in gaps.values()]
            right.errorbar(
                places, [s.mean for s in spans], [s.error for s in spans], color=color, marker=marker, label=label
            )
        eta = [math.sqrt(sdpi_dropout(DROPOUT, w)) for w in found.dropout]
        right.plot(places, eta, color=BLUE, marker="o", linestyle="--", label="sqrt(eta) of dropout (ratio)")
        right.set_xticks(places, [str(w) for w in found.dropout])
        right.set(xlabel="width of the dropped layer (units)", ylabel="gap (nats), sqrt(eta) (ratio)", ylim=(0, None))
        right.legend()
    return fig
