"""Hash encoders: how unique the codes of small ReLU networks on digits are, and how well they classify."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from hartley.papers.digit_nets import batches, digits
from hartley.papers.figures import BLUE, GREEN, MARKERS, ORANGE, figure
from hartley.papers.intervals import above, interval, shown, within
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.representation import (
    HammingNeighborsClassifier,
    NeuralCodeTransformer,
    clustering_purity,
    neural_code,
    phase_chart,
    redundancy_ratio,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

PAPER = Paper(
    slug="hash-encoders",
    title="Neural networks behave as hash encoders: An empirical study",
    authors="Fengxiang He, Shiye Lei, Jianmin Ji, Dacheng Tao",
    year=2021,
    arxiv="2101.05490",
    claim="The codes of a wide enough trained ReLU layer are unique to nearly every example, nearest neighbours in "
    "Hamming distance classify well by them, and width, training and examples improve both by more than label noise or "
    "weight decay undo.",
    where=(
        "hartley.representation.neural_code",
        "hartley.representation.HashCodes",
        "hartley.representation.HammingNeighborsClassifier",
    ),
)

BATCH, RATE = 128, 1e-2
TRAIN = 1347  # of 1,797 digits
FIRST_SEED = 300
NOISY, DECAY = 0.2, 1e-3  # labels redrawn; Adam's weight decay
REGIMES = {"under": ORANGE, "critical": "#F0E442", "sufficient": BLUE}


NARROW, MIDDLE, WIDE = 8, 16, 128  # the widths that are judged


class Sizes(NamedTuple):
    """How much one scale runs."""

    seeds: int
    widths: tuple[int, ...]
    epochs: tuple[int, ...]


SIZES: dict[Scale, Sizes] = {
    "tiny": Sizes(2, (NARROW, MIDDLE, WIDE), (0, 1)),
    "small": Sizes(10, (4, 8, 16, 32, 64, 128, 256), (0, 1, 3, 10, 30)),
}


class Found(NamedTuple):
    """What was measured; S seeds, E numbers of epochs, W widths; shares."""

    redundancy: NDArray[np.float64]  # [S, E, W] of training codes
    test_redundancy: NDArray[np.float64]  # [S, E, W]
    neighbors: NDArray[np.float64]  # [S, E, W] accuracy of 9-NN on test codes
    planes: NDArray[np.float64]  # [S, 2, W] random hyperplanes: redundancy of training codes, accuracy of 9-NN
    purity: NDArray[np.float64]  # [S, 2] of K-means on training codes, middle width: untrained, trained
    logistic: NDArray[np.float64]  # [S, 2] accuracy of logistic regression on test codes, middle width
    variants: dict[str, NDArray[np.float64]]  # [S] accuracy of 9-NN, middle width, by how it was trained
    random_inputs: NDArray[np.float64]  # [S] redundancy of codes of Gaussian inputs, middle width


def reproduce(scale: Scale) -> Evidence:
    """Networks 64-width-10 on scikit-learn's digits (1,347 to train, 450 to test), BatchNorm before ReLU.

    Adam at 1e-2, batches of 128; widths and epochs are crossed, seed by seed with another split. Codes are the signs of
    the hidden units. Redundancy is the share of examples whose code another one has too; 9-NN votes on test codes among
    training codes. Beside them: the same networks untrained, BatchNorm knowing the digits' means; random hyperplanes of
    as many bits through the mean of the digits; K-means (purity) and one-against-one logistic regression on codes; a
    network trained on an eighth of the digits for as many steps, one with 20% of its labels redrawn, one with weight
    decay 1e-3. Judged rows hold if Student's 95% interval over the seeds does. The paper's scale (MNIST, CIFAR-10,
    ImageNet) is not tried.
    """
    sizes = SIZES[scale]
    seeds = [FIRST_SEED + i for i in range(sizes.seeds)]
    with one_thread():
        found = measure(seeds, sizes)
    rows = judge(found, sizes)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(found, sizes),
        seeds=seeds,
        settings={
            "network": "64-width-10, BatchNorm, ReLU",
            "widths": list(sizes.widths),
            "epochs": list(sizes.epochs),
            "neighbours": 9,
            "labels redrawn": NOISY,
            "weight decay": DECAY,
        },
    )


def measure(seeds: list[int], sizes: Sizes) -> Found:
    """Train and encode for every seed, width and number of epochs."""
    each = [_one(seed, sizes) for seed in seeds]
    tables = np.array([one.table for one in each])
    variants = {name: np.array([one.variants[name] for one in each]) for name in each[0].variants}
    return Found(
        redundancy=tables[:, 0],
        test_redundancy=tables[:, 1],
        neighbors=tables[:, 2],
        planes=np.array([one.planes for one in each]),
        purity=np.array([one.purity for one in each]),
        logistic=np.array([one.logistic for one in each]),
        variants=variants,
        random_inputs=np.array([one.random_inputs for one in each]),
    )


def judge(found: Found, sizes: Sizes) -> list[Row]:
    """The table, from what was measured over the seeds."""
    at = {width: place for place, width in enumerate(sizes.widths)}
    redundancy, accuracy = found.redundancy[:, -1], 100 * found.neighbors[:, -1]
    untrained = 100 * found.neighbors[:, 0, at[MIDDLE]]
    here = accuracy[:, at[MIDDLE]]
    gain = here - accuracy[:, at[NARROW]]
    cost = {name: here - 100 * values for name, values in found.variants.items()}
    points = "points"
    rows = [
        within(f"redundancy of test codes, width {WIDE}", "near 0", found.test_redundancy[:, -1, at[WIDE]], "", 0.01),
        above(f"accuracy of 9-NN, width {WIDE}, beyond 90%", "does well", accuracy[:, at[WIDE]] - 90, points),
        above(
            f"redundancy of training codes: width {NARROW} less {MIDDLE}",
            "width lowers it",
            redundancy[:, at[NARROW]] - redundancy[:, at[MIDDLE]],
            "",
        ),
        above(f"accuracy of 9-NN: width {MIDDLE} less {NARROW}", "width raises it", gain, points),
        above(
            f"redundancy of training codes, width {MIDDLE}: untrained less trained",
            "training lowers it",
            found.redundancy[:, 0, at[MIDDLE]] - redundancy[:, at[MIDDLE]],
            "",
        ),
        above(
            f"accuracy of 9-NN, width {MIDDLE}: trained less untrained", "training raises it", here - untrained, points
        ),
        above(
            f"purity of K-means on codes, width {MIDDLE}: trained less untrained",
            "training raises it",
            100 * (found.purity[:, 1] - found.purity[:, 0]),
            points,
        ),
        above(
            f"accuracy of logistic regression on codes, width {MIDDLE}: trained less untrained",
            "training raises it",
            100 * (found.logistic[:, 1] - found.logistic[:, 0]),
            points,
        ),
        above(
            f"accuracy of 9-NN, width {MIDDLE}: trained on all less on an eighth",
            "examples raise it",
            cost["an eighth"],
            points,
        ),
        above(
            f"accuracy of 9-NN: what width {NARROW} to {MIDDLE} gains less what 20% wrong labels cost",
            "width matters more",
            gain - cost["wrong labels"],
            points,
        ),
        above(
            f"accuracy of 9-NN: what width {NARROW} to {MIDDLE} gains less what weight decay costs",
            "width matters more",
            gain - cost["weight decay"],
            points,
        ),
        above(
            f"accuracy of 9-NN, width {MIDDLE}: trained less random hyperplanes",
            "",
            here - 100 * found.planes[:, 1, at[MIDDLE]],
            points,
        ),
    ]
    for width, place in at.items():
        rows += [
            shown(f"redundancy of training codes, width {width}", "", redundancy[:, place], ""),
            shown(f"redundancy of training codes, width {width}, untrained", "", found.redundancy[:, 0, place], ""),
            shown(f"accuracy of 9-NN, width {width}", "", accuracy[:, place], "%"),
            shown(f"accuracy of 9-NN, width {width}, untrained", "", 100 * found.neighbors[:, 0, place], "%"),
            shown(f"accuracy of 9-NN, {width} random hyperplanes", "", 100 * found.planes[:, 1, place], "%"),
        ]
    kinds = "untrained", "trained"
    for place, kind in enumerate(kinds):
        rows += [
            shown(f"purity of K-means on codes, width {MIDDLE}, {kind}", "", 100 * found.purity[:, place], "%"),
            shown(f"accuracy of logistic regression, width {MIDDLE}, {kind}", "", 100 * found.logistic[:, place], "%"),
        ]
    rows += [shown(f"accuracy of 9-NN, width {MIDDLE}, {name}", "", 100 * v, "%") for name, v in found.variants.items()]
    return [*rows, shown(f"redundancy of codes of Gaussian inputs, width {MIDDLE}", "", found.random_inputs, "")]


def draw(found: Found, sizes: Sizes) -> Figure:
    """Redundancy and accuracy against width, trained, untrained and at random, and the phase chart of training time."""
    place = sizes.widths.index(MIDDLE)
    accuracy = 100 * found.neighbors.mean(0)
    title = (
        f"{found.test_redundancy[:, -1, -1].mean():.1%} of test digits share their code at width {WIDE}; at {MIDDLE}, "
        f"9-NN on codes is right for {accuracy[-1, place]:.0f}% trained, {accuracy[0, place]:.0f}% untrained"
    )
    lines = {
        "trained": (BLUE, found.redundancy[:, -1], found.neighbors[:, -1]),
        "untrained": (ORANGE, found.redundancy[:, 0], found.neighbors[:, 0]),
        "random hyperplanes": (GREEN, found.planes[:, 0], found.planes[:, 1]),
    }
    with figure(1, 3, title=title, width=19, height=6) as (fig, [left, center, right]):
        for (name, (color, redundancy, neighbors)), marker in zip(lines.items(), MARKERS, strict=False):
            _line(left, sizes.widths, redundancy, color, marker, name)
            _line(center, sizes.widths, 100 * neighbors, color, marker, name)
        for axis, label in ((left, "redundancy of training codes (share)"), (center, "accuracy of 9-NN on codes (%)")):
            axis.set(xlabel="width (units = bits)", ylabel=f"{label}\n± one standard error", xscale="log")
            axis.set_xticks(sizes.widths, [str(width) for width in sizes.widths], minor=False)
            axis.minorticks_off()
            axis.legend()
        _phases(right, found, sizes)
    return fig


def _line(axis: Axes, widths: tuple[int, ...], values: NDArray[np.float64], color: str, marker: str, name: str) -> None:
    spans = [interval(column) for column in values.T]
    axis.errorbar(widths, [s.mean for s in spans], [s.error for s in spans], color=color, marker=marker, label=name)


def _phases(axis: Axes, found: Found, sizes: Sizes) -> None:
    """One square for each number of epochs and width: its regime by colour, redundancy and accuracy as numbers."""
    redundancy, accuracy = found.redundancy.mean(0), found.neighbors.mean(0)
    chart = phase_chart(sizes.widths, redundancy, accuracy)
    for (y, x), regime in np.ndenumerate(chart.regime):
        axis.add_patch(_square(x, y, REGIMES[regime]))
        axis.text(x, y, f"{redundancy[y, x]:.2f}\n{accuracy[y, x]:.0%}", ha="center", va="center", fontsize=11)
    for regime, color in REGIMES.items():
        axis.plot([], [], "s", color=color, alpha=0.5, markersize=14, label=regime)
    axis.set(
        xlabel="width (units)",
        ylabel="training (epochs)",
        xlim=(-0.5, len(sizes.widths) - 0.5),
        ylim=(-0.5, len(sizes.epochs) - 0.5),
    )
    axis.set_xticks(range(len(sizes.widths)), [str(width) for width in sizes.widths])
    axis.set_yticks(range(len(sizes.epochs)), [str(epochs) for epochs in sizes.epochs])
    axis.grid(visible=False)
    axis.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, title="in a square: redundancy, accuracy; expressive:"
    )


def _square(x: int, y: int, color: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, color=color, alpha=0.5, linewidth=0)


class _One(NamedTuple):
    """`Found` of one seed."""

    table: NDArray[np.float64]  # [3, E, W]: redundancy, of test codes, accuracy of 9-NN
    planes: list[list[float]]
    purity: list[float]
    logistic: list[float]
    variants: dict[str, float]
    random_inputs: float


class _Split(NamedTuple):
    """The digits of one seed."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def _one(seed: int, sizes: Sizes) -> _One:
    x, y = digits()
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=g)
    train, test = order[:TRAIN], order[TRAIN:]
    split = _Split(x[train], y[train], x[test], y[test])
    table = np.zeros((3, len(sizes.epochs), len(sizes.widths)))
    purity, logistic, noise = [], [], 0.0
    for place, width in enumerate(sizes.widths):
        net = _network(width, seed)
        stages = _training(net, split.x, split.y, sizes.epochs, seed)
        for row, _ in enumerate(stages):
            codes, test_codes = _codes(net, split)
            accuracy = _accuracy(codes, test_codes, split)
            table[:, row, place] = redundancy_ratio(codes), redundancy_ratio(test_codes), accuracy
            if width == MIDDLE and row in (0, len(sizes.epochs) - 1):
                purity.append(_purity(codes, split.y))
                logistic.append(_logistic(codes, test_codes, split))
        if width == MIDDLE:
            drawn = split.x.mean(0) + split.x.std(0) * torch.randn(split.x.shape, generator=g)
            noise = redundancy_ratio(neural_code(net, drawn))
    last = sizes.epochs[-1]
    eighth = slice(0, TRAIN // 8)
    wrong = torch.where(torch.rand(TRAIN, generator=g) < NOISY, torch.randint(10, (TRAIN,), generator=g), split.y)
    variants = {
        "an eighth": _variant(MIDDLE, seed, split, split.x[eighth], split.y[eighth], 8 * last),
        "wrong labels": _variant(MIDDLE, seed, split, split.x, wrong, last),
        "weight decay": _variant(MIDDLE, seed, split, split.x, split.y, last, decay=DECAY),
    }
    return _One(table, _planes(sizes.widths, split, g), purity, logistic, variants, noise)


def _variant(width: int, seed: int, split: _Split, x: Tensor, y: Tensor, epochs: int, decay: float = 0.0) -> float:
    """The accuracy of 9-NN on the codes of a network trained otherwise."""
    net = _network(width, seed)
    for _ in _training(net, x, y, (epochs,), seed, decay):
        pass
    return _accuracy(*_codes(net, split), split)


def _planes(widths: tuple[int, ...], split: _Split, g: torch.Generator) -> list[list[float]]:
    """Redundancy and accuracy of codes by random hyperplanes through the mean of the training digits."""
    found: list[tuple[float, float]] = []
    for width in widths:
        normals = torch.randn(64, width, generator=g)
        codes, test_codes = (((x - split.x.mean(0)) @ normals) > 0 for x in (split.x, split.test_x))
        found.append((redundancy_ratio(codes), _accuracy(codes, test_codes, split)))
    return np.array(found).T.tolist()


def _network(width: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))


def _training(
    net: nn.Sequential, x: Tensor, y: Tensor, stops: tuple[int, ...], seed: int, decay: float = 0.0
) -> Iterator[int]:
    """Train, and yield after each of these numbers of epochs.

    BatchNorm knows the digits from the start, so that the units of the untrained network are centred.
    """
    with torch.no_grad():
        for _ in range(30):  # of its running means, a tenth each
            net(x)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE, weight_decay=decay)
    random = torch.Generator().manual_seed(seed)
    done = 0
    for stop in stops:
        for rows in batches(len(x), BATCH, stop - done, [random]):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows[0]]), y[rows[0]]).backward()
            optimizer.step()
        done = stop
        yield stop


def _codes(net: nn.Module, split: _Split) -> tuple[Tensor, Tensor]:
    return neural_code(net, split.x), neural_code(net, split.test_x)


def _accuracy(codes: Tensor, test_codes: Tensor, split: _Split) -> float:
    return float(HammingNeighborsClassifier(9).fit(codes, split.y).score(test_codes.numpy(), split.test_y.numpy()))


def _purity(codes: Tensor, y: Tensor) -> float:
    from sklearn.cluster import KMeans

    bits = NeuralCodeTransformer().fit_transform(codes.numpy())
    return clustering_purity(y, KMeans(10, random_state=9).fit_predict(bits))


def _logistic(codes: Tensor, test_codes: Tensor, split: _Split) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier

    encode = NeuralCodeTransformer().fit(codes)
    model = OneVsOneClassifier(LogisticRegression(random_state=9)).fit(encode.transform(codes), split.y.numpy())
    return float(model.score(encode.transform(test_codes), split.test_y.numpy()))
