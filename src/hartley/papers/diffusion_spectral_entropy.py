"""Diffusion spectral entropy: of hidden units while a network learns, of noisy manifolds, and with corrupted labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hartley.papers.digit_nets import Nets, batches, digits, generators, shuffled, top_k_accuracy
from hartley.papers.figures import BLACK, BLUE, GREEN, MARKERS, ORANGE, PURPLE, figure
from hartley.papers.intervals import above, interval, rank_correlation, shown, within
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.representation import (
    classic_shannon_entropy,
    diffusion_spectral_entropy,
    diffusion_spectral_mutual_information,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = Paper(
    slug="diffusion-spectral-entropy",
    title="Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion Spectral Entropy",
    authors="Danqi Liao, Chen Liu, Benjamin W. Christensen, Alexander Tong, Guillaume Huguet, Guy Wolf, "
    "Maximilian Nickel, Ian Adelstein, Smita Krishnaswamy",
    year=2023,
    arxiv="2312.04823",
    claim="During training the diffusion spectral entropy of a representation rises, its mutual information with the "
    "label rises when the network generalises and stays flat when it overfits, and under noise the entropy still tells "
    "manifolds of different dimension apart where a histogram's is saturated.",
    where=(
        "hartley.representation.DiffusionSpectralEntropy",
        "hartley.representation.DiffusionSpectralMutualInformation",
    ),
)

SIGMA, STEPS = 0.5, 2  # of the hidden units, whose length is 1
DIMENSIONS = (1, 2, 4, 8)  # of the spheres
AMBIENT = 50
NOISES = (0.25, 1.0)  # length of the noise added to a point of length 1
FIRST_SEED = 300


class Sizes(NamedTuple):
    """How much one scale runs."""

    seeds: int
    digits: int  # half of them train
    epochs: tuple[int, ...]  # after which the hidden units are measured
    points: int  # on a sphere
    corruptions: tuple[float, ...]


SIZES: dict[Scale, Sizes] = {
    "tiny": Sizes(2, 400, (0, 4), 60, (0.0, 0.5, 1.0)),
    "small": Sizes(8, 1797, (0, 1, 3, 9, 29, 59), 300, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
}


class Training(NamedTuple):
    """What was measured at each epoch of one way of training, each ``[E, S]``."""

    entropy: Tensor  # DSE of the held-out hidden units, bits
    classic: Tensor  # CSE of the same, bits
    label: Tensor  # DSMI with the true label, held-out rows, bits
    fitted: Tensor  # DSMI with the label that was trained on, training rows, bits
    accuracy: Tensor  # held-out, percent


Spheres = dict[tuple[str, float], Tensor]  # entropies [K, S], bits, by measure and noise


def reproduce(scale: Scale) -> Evidence:
    """Digits, spheres and blobs, one of each for every seed.

    Half of scikit-learn's digits train a 64-128-10 ReLU network (Adam 1e-2, batches of 64), once on their labels and
    once on the same labels shuffled; the hidden units of the other half, scaled to length 1, are measured at sigma 0.5,
    t 2. Points on spheres of 1 to 8 dimensions lie turned in 50, with Gaussian noise of length 0.25 or 1 (sigma 0.5,
    t 1). Of four Gaussian blobs in 20 dimensions (200 points, sigma 4) a share of the labels is drawn anew. CSE is the
    entropy of a histogram of two bins a feature. "Flat" is judged as within 0.1 bits. Judged rows hold if Student's 95%
    interval over the seeds does. The paper's networks and images, its initialisations and its ImageNet models are not
    tried.
    """
    sizes = SIZES[scale]
    seeds = [FIRST_SEED + i for i in range(sizes.seeds)]
    with one_thread():
        trainings = {name: train(seeds, sizes, shuffle=name == "shuffled") for name in ("true", "shuffled")}
        spheres = measure_spheres(seeds, sizes)
        blobs = measure_blobs(seeds, sizes)
    rows = judge(trainings, spheres, blobs, sizes)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(trainings, spheres, blobs, sizes),
        seeds=seeds,
        settings={
            "network": "64-128-10 ReLU",
            "digits": sizes.digits,
            "epochs": list(sizes.epochs),
            "sigma, t of the hidden units": [SIGMA, STEPS],
            "points on a sphere": sizes.points,
            "dimensions": list(DIMENSIONS),
            "noise": list(NOISES),
            "corrupted labels": list(sizes.corruptions),
        },
    )


def train(seeds: Sequence[int], sizes: Sizes, *, shuffle: bool) -> Training:
    """Train a network for each seed on the labels, or on them ``shuffle``d, and measure it at the epochs asked for."""
    x, y = digits()
    randoms = generators(seeds)
    kept, held = shuffled(len(x), randoms)[:, : sizes.digits].tensor_split(2, dim=1)
    labels = y[kept]
    if shuffle:
        labels = labels.gather(1, shuffled(labels.shape[1], randoms))
    nets = Nets([64, 128, 10], generators([seed + 1000 for seed in seeds]), torch.relu)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-2)
    steps = batches(kept.shape[1], 64, sizes.epochs[-1], randoms)
    per_epoch = math.ceil(kept.shape[1] / 64)
    found: list[list[Tensor]] = []
    for epoch in range(sizes.epochs[-1] + 1):
        if epoch in sizes.epochs:
            found.append(_look(nets, x, y, labels, kept, held, seeds))
        if epoch == sizes.epochs[-1]:
            break
        for _ in range(per_epoch):
            at = next(steps)
            logits = nets(x[kept.gather(1, at)])
            optimizer.zero_grad()
            F.cross_entropy(logits.transpose(1, 2), labels.gather(1, at), reduction="none").mean(1).sum().backward()
            optimizer.step()
    return Training(*(torch.stack(part) for part in zip(*found, strict=True)))


@torch.no_grad()
def _look(
    nets: Nets, x: Tensor, y: Tensor, labels: Tensor, kept: Tensor, held: Tensor, seeds: Sequence[int]
) -> list[Tensor]:
    rows: list[list[float]] = []
    for index, seed in enumerate(seeds):
        weight, bias = nets.weights[0][index], nets.biases[0][index]
        unseen, seen = (F.normalize(torch.relu(x[places[index]] @ weight + bias)) for places in (held, kept))
        rows.append(
            [
                diffusion_spectral_entropy(unseen, sigma=SIGMA, t=STEPS),
                classic_shannon_entropy(unseen),
                _information(unseen, y[held[index]], SIGMA, STEPS, seed),
                _information(seen, labels[index], SIGMA, STEPS, seed),
            ]
        )
    return [*torch.tensor(rows, dtype=torch.float64).T, top_k_accuracy(nets, x[held], y[held])]


def measure_spheres(seeds: Sequence[int], sizes: Sizes) -> Spheres:
    """DSE and CSE of noisy spheres."""
    found: Spheres = {}
    for noise in NOISES:
        clouds = [[_sphere(k, noise, sizes.points, seed) for seed in seeds] for k in DIMENSIONS]
        found["DSE", noise] = _each(clouds, lambda Z: diffusion_spectral_entropy(Z, sigma=SIGMA))
        found["CSE", noise] = _each(clouds, classic_shannon_entropy)
    return found


def measure_blobs(seeds: Sequence[int], sizes: Sizes) -> Tensor:
    """DSMI ``[C, S]``, bits, of blobs with a label that was drawn anew for a share of the points."""
    found: list[list[float]] = []
    for share in sizes.corruptions:
        row: list[float] = []
        for seed in seeds:
            random = np.random.default_rng(seed)
            y = np.arange(200) % 4
            Z = 4 * random.normal(size=(4, 20))[y] + random.normal(size=(200, 20))
            corrupted = np.where(random.random(200) < share, random.integers(0, 4, 200), y)
            row.append(_information(torch.from_numpy(Z), torch.from_numpy(corrupted), 4.0, 1, seed))
        found.append(row)
    return torch.tensor(found, dtype=torch.float64)


def judge(trainings: dict[str, Training], spheres: Spheres, blobs: Tensor, sizes: Sizes) -> list[Row]:
    """The table, from what was measured."""
    true, wrong = trainings["true"], trainings["shuffled"]
    quiet, loud = NOISES
    steps = spheres["DSE", quiet].diff(dim=0)
    spans = {name: spheres[name, quiet].amax(0) - spheres[name, quiet].amin(0) for name in ("DSE", "CSE")}
    most = math.log2(sizes.points)
    rows = [
        above("DSE of the hidden units: rise over training", "rises", _rise(true.entropy), "bits"),
        above("DSMI with the label: rise over training", "rises when it generalises", _rise(true.label), "bits"),
        within(
            "DSMI with the true label: rise over training on shuffled labels",
            "flat when it overfits",
            _rise(wrong.label),
            "bits",
            0.1,
        ),
        above(
            "rise of DSMI with the true label: true labels less shuffled ones",
            "larger when it generalises",
            (true.label[-1] - true.label[0] - wrong.label[-1] + wrong.label[0]).numpy(),
            "bits",
        ),
        above(
            f"DSE of spheres at noise {quiet:g}: least step from one dimension to the next",
            "tracks the dimension",
            steps.amin(0).numpy(),
            "bits",
        ),
        above(
            f"range over the dimensions at noise {quiet:g}: DSE less CSE",
            "CSE is saturated",
            (spans["DSE"] - spans["CSE"]).numpy(),
            "bits",
        ),
        above(
            "DSMI of blobs follows the share of labels left, rank correlation",
            "falls with corruption",
            [-rank_correlation(np.array(sizes.corruptions), column.numpy()) for column in blobs.T],
            "",
        ),
        above(
            "DSMI of blobs: least fall from one share of corrupted labels to the next",
            "falls with corruption",
            -blobs.diff(dim=0).amax(0).numpy(),
            "bits",
        ),
    ]
    for name, training in trainings.items():
        for what, values, unit in (
            ("DSE", training.entropy, "bits"),
            ("CSE", training.classic, "bits"),
            ("DSMI with the true label", training.label, "bits"),
            ("DSMI with the fitted label, training rows", training.fitted, "bits"),
            ("held-out accuracy", training.accuracy, "%"),
        ):
            for when, at in (("at the start", 0), ("at the end", -1)):
                rows.append(shown(f"{name} labels: {what}, {when}", "", values[at].numpy(), unit))
    for (name, noise), values in spheres.items():
        for k, found in zip(DIMENSIONS, values, strict=True):
            paper = f"CSE saturates at log2 N = {most:.2f}" if name == "CSE" else ""
            paper = "both saturate" if noise == loud else paper
            rows.append(shown(f"{name} of a {k}-sphere at noise {noise:g}", paper, found.numpy(), "bits"))
    for share, found in zip(sizes.corruptions, blobs, strict=True):
        rows.append(shown(f"DSMI of blobs, {share:.0%} of the labels drawn anew", "", found.numpy(), "bits"))
    return rows


def draw(trainings: dict[str, Training], spheres: Spheres, blobs: Tensor, sizes: Sizes) -> Figure:
    """Entropies and accuracy against epochs, spheres against their dimension, blobs against corruption."""
    true, wrong = trainings["true"], trainings["shuffled"]
    title = (
        f"Over training DSMI with the true label rises by {_rise(true.label).mean():.2f} bits, and by "
        f"{_rise(wrong.label).mean():.2f} if the labels are shuffled; DSE tells noisy spheres apart, CSE does not"
    )
    with figure(2, 2, title=title, width=15, height=11) as (fig, [left, accuracies, middle, right]):
        places = list(range(len(sizes.epochs)))
        for training, style, name in ((true, "-", "true labels"), (wrong, "--", "shuffled")):
            _line(left, places, training.entropy, BLUE, MARKERS[0], f"DSE, {name}", style)
            _line(left, places, training.label, ORANGE, MARKERS[1], f"DSMI, {name}", style)
            _line(accuracies, places, training.accuracy, GREEN, MARKERS[2], name, style)
        left.set(ylabel="DSE, DSMI with the true label (bits)")
        accuracies.set(ylabel="held-out accuracy (%)", ylim=(0, 100))
        for axis in (left, accuracies):
            axis.set(xlabel="training (epochs done)")
            axis.set_xticks(places, [str(epoch) for epoch in sizes.epochs])
            axis.legend()
        for (name, noise), values in spheres.items():
            color = BLUE if name == "DSE" else PURPLE
            style = "-" if noise == NOISES[0] else ":"
            _line(middle, DIMENSIONS, values, color, MARKERS[0], f"{name}, noise {noise:g}", style)
        middle.axhline(math.log2(sizes.points), color=BLACK, linewidth=1)
        middle.set(xlabel="dimension of the sphere (count)", ylabel="entropy (bits; line: log2 N)", xscale="log")
        middle.set_xticks(DIMENSIONS, [str(k) for k in DIMENSIONS], minor=False)
        middle.minorticks_off()
        middle.legend()
        _line(right, [100 * share for share in sizes.corruptions], blobs, ORANGE, MARKERS[1], "blobs", "-")
        right.axhline(0, color=BLACK, linewidth=1)
        right.set(xlabel="labels drawn anew (%)", ylabel="DSMI with the label (bits)")
    return fig


def _information(Z: Tensor, y: Tensor, sigma: float, t: float, seed: int) -> float:
    return diffusion_spectral_mutual_information(Z, y, sigma=sigma, t=t, random_state=seed).value


def _sphere(dimension: int, noise: float, count: int, seed: int) -> Tensor:
    """Points uniform on a sphere of radius 1, turned at random in the ambient space, with noise of that length."""
    random = np.random.default_rng([seed, dimension])
    points = random.normal(size=(count, dimension + 1))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    frame = np.linalg.qr(random.normal(size=(AMBIENT, dimension + 1)))[0]
    return torch.from_numpy(points @ frame.T + noise / math.sqrt(AMBIENT) * random.normal(size=(count, AMBIENT)))


def _each(clouds: list[list[Tensor]], measure: Callable[[Tensor], float]) -> Tensor:
    return torch.tensor([[measure(Z) for Z in row] for row in clouds], dtype=torch.float64)


def _rise(values: Tensor) -> np.ndarray:
    return (values[-1] - values[0]).numpy()


def _line(axis: Axes, places: Sequence[float], values: Tensor, color: str, marker: str, label: str, style: str) -> None:
    spans = [interval(row.numpy()) for row in values]
    axis.errorbar(
        places,
        [s.mean for s in spans],
        [s.error for s in spans],
        marker=marker,
        color=color,
        label=label,
        linestyle=style,
    )
