"""KappaTune: what a small mixture of experts forgets when only its best- or worst-conditioned matrices learn anew."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from hartley import models
from hartley.papers.digit_nets import batches, digits, generators, shuffled
from hartley.papers.figures import BLACK, BLUE, GREEN, MARKERS, ORANGE, PALETTE, figure
from hartley.papers.intervals import above, interval, rank_correlation, shown, within
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.representation import WeightCondition, condition_numbers, gaussian_output_entropy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = Paper(
    slug="kappatune",
    title="The Condition Number as a Scale-Invariant Proxy for Information Encoding in Neural Units",
    authors="Oswaldo Ludwig",
    year=2025,
    arxiv="2506.16289",
    claim="A linear unit's output entropy falls with its condition number, and fine-tuning only the matrices of lowest "
    "condition number forgets less of the old task than fine-tuning others, at the same accuracy in the new one.",
    where=(
        "hartley.representation.condition_numbers",
        "hartley.representation.select_kappa",
        "hartley.representation.kappa_lora_config",
    ),
)

EXPERTS, WIDTH, HIDDEN = 8, 32, 32
QUARTER = EXPERTS // 2  # of twice as many expert matrices
TRAIN = 1297  # of 1,797 digits
BATCH, RATE = 64, 3e-3
GROUPS = ("lowest", "highest", "random", "all")
FIRST_SEED = 500
UNITS, DRAWS = 16, 20_000  # of a linear unit; samples of its output
KINDS = ("v_proj", "k_proj", "up_proj", "down_proj", "gate_proj", "o_proj", "q_proj")


class Sizes(NamedTuple):
    """How much one scale runs."""

    seeds: int
    pretraining: int  # epochs
    stops: tuple[int, ...]  # steps of adaptation after which both tasks are tried
    matrices: int  # random matrices for the entropy of each seed
    layers: int  # of the default model


SIZES: dict[Scale, Sizes] = {
    "tiny": Sizes(2, 2, (0, 5, 10), 20, 2),
    "small": Sizes(16, 20, (0, 10, 20, 40, 80, 150, 300, 600), 200, 30),
}


class Curves(NamedTuple):
    """Accuracy after each stop, by group of matrices that learn; [S, stops], shares."""

    new: dict[str, NDArray[np.float64]]
    old: dict[str, NDArray[np.float64]]


class Entropies(NamedTuple):
    """Random linear units of one Frobenius norm, each seed's own [S, matrices], and samples of one of them [S]."""

    kappa: NDArray[np.float64]
    entropy: NDArray[np.float64]  # nats
    sampled: NDArray[np.float64]  # nats, from the covariance of samples, less the formula's


def reproduce(scale: Scale) -> Evidence:
    """Random linear units; a small mixture of experts that changes its task; and the default model's weights.

    Units: 16 x 16 matrices of Frobenius norm 4 with log-normal singular values of several spreads, x Gaussian. Digits:
    a network 64-32-10 with eight experts 32-32-32 under a soft gate learns scikit-learn's digits (Adam 3e-3, batches of
    64, 1,297 to train), then transposed digits with labels shifted by one, in steps during which only 4 of its 16
    expert matrices learn: those of lowest or highest condition number, or 4 at random; or all 16. At the same accuracy
    means: where a seed's curve of old against new accuracy stands at the highest new accuracy that every group of its
    seed reaches, by interpolation. Pairs within a seed share network, batches and digits. Judged rows hold if Student's
    95% interval over the seeds does. The paper's scale (Mixtral, Llama, perplexities) is not tried.
    """
    sizes = SIZES[scale]
    seeds = [FIRST_SEED + i for i in range(sizes.seeds)]
    with one_thread():
        entropies, curves = units(seeds, sizes.matrices), adapt(seeds, sizes)
    weights = default_weights(sizes.layers)
    rows = judge(entropies, curves, weights)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(entropies, curves, weights, sizes),
        seeds=seeds,
        settings={
            "network": "64-32-10 ReLU, residual mixture of 8 experts 32-32-32",
            "epochs of pretraining": sizes.pretraining,
            "steps of adaptation": sizes.stops[-1],
            "matrices that learn": QUARTER,
            "layers of the default model": sizes.layers,
        },
    )


def units(seeds: Sequence[int], matrices: int) -> Entropies:
    """Condition numbers and entropies of random units of one norm, and the formula against samples."""
    kappa, entropy, sampled = [], [], []
    for seed in seeds:
        g = torch.Generator().manual_seed(seed)
        weights: dict[str, Tensor] = {}
        for place in range(matrices):
            q, p = (torch.linalg.qr(torch.randn(UNITS, UNITS, generator=g, dtype=torch.float64)).Q for _ in range(2))
            spread = float(torch.rand((), generator=g))
            s = (spread * torch.randn(UNITS, generator=g, dtype=torch.float64)).exp()
            weights[f"{place}"] = (q * (s * math.sqrt(UNITS) / s.norm())) @ p
        kappa.append([each.kappa for each in condition_numbers(weights)])
        entropy.append([gaussian_output_entropy(w) for w in weights.values()])
        z = torch.randn(DRAWS, UNITS, generator=g, dtype=torch.float64) @ weights["0"].T
        from_samples = UNITS / 2 * math.log(2 * math.pi * math.e) + 0.5 * float(torch.logdet(torch.cov(z.T)))
        sampled.append(from_samples - entropy[-1][0])
    return Entropies(np.array(kappa), np.array(entropy), np.array(sampled))


class Mixtures(nn.Module):
    """S networks, each with a residual mixture of experts under a soft gate: [S, B, 64] -> [S, B, 10]."""

    def __init__(self, randoms: Sequence[torch.Generator]) -> None:
        super().__init__()
        shapes = {
            "enter": (64, WIDTH),
            "gate": (WIDTH, EXPERTS),
            "up": (EXPERTS, WIDTH, HIDDEN),
            "down": (EXPERTS, HIDDEN, WIDTH),
            "leave": (WIDTH, 10),
        }
        self.weights = nn.ParameterDict()
        for name, shape in shapes.items():
            bound = shape[-2] ** -0.5
            drawn = [bound * (2 * torch.rand(shape, generator=g) - 1) for g in randoms]
            self.weights[name] = nn.Parameter(torch.stack(drawn))

    def forward(self, x: Tensor) -> Tensor:
        """The logits of each network on its own rows."""
        w = self.weights
        h = (x @ w["enter"]).relu()
        gates = (h @ w["gate"]).softmax(-1)
        each = (h[:, None] @ w["up"]).relu() @ w["down"]  # [S, experts, B, width]
        return (h + torch.einsum("sbe,sebd->sbd", gates, each)) @ w["leave"]


def adapt(seeds: Sequence[int], sizes: Sizes) -> Curves:
    """Pretrain, and adapt each group of matrices from the same start."""
    x, y = digits()
    turned = x.view(-1, 8, 8).mT.reshape(-1, 64), (y + 1) % 10
    randoms = generators(seeds)
    train, test = shuffled(len(x), randoms).split([TRAIN, len(x) - TRAIN], dim=1)
    nets = Mixtures(randoms)
    for _ in _fit(nets, x, y, train, seeds, math.ceil(TRAIN / BATCH) * sizes.pretraining, {}, ()):
        pass
    start = {name: value.clone() for name, value in nets.state_dict().items()}
    new, old = {}, {}
    for name in GROUPS:
        nets.load_state_dict(start)
        learning = chosen(nets, name, [seed + 1000 for seed in seeds])
        stages = _fit(nets, *turned, train, [seed + 2000 for seed in seeds], sizes.stops[-1], learning, sizes.stops)
        both = [(_accuracy(nets, *turned, test), _accuracy(nets, x, y, test)) for _ in stages]
        new[name], old[name] = (np.stack(stage, 1) for stage in zip(*both, strict=True))
    return Curves(new, old)


def chosen(nets: Mixtures, group: str, seeds: Sequence[int]) -> dict[str, Tensor]:
    """Which expert matrices of each network learn, bool [S, experts] for "up" and "down"; nothing else does."""
    learning = torch.zeros(len(seeds), 2 * EXPERTS, dtype=torch.bool)
    for place, seed in enumerate(seeds):
        matrices = torch.cat([nets.weights["up"][place], nets.weights["down"][place]]).detach()
        if group == "random":
            order = torch.randperm(2 * EXPERTS, generator=torch.Generator().manual_seed(seed))
        else:
            found = condition_numbers({f"{i}": matrix for i, matrix in enumerate(matrices)})
            order = torch.tensor([each.kappa for each in found]).argsort(stable=True, descending=group == "highest")
        learning[place, order if group == "all" else order[:QUARTER]] = True
    up, down = learning.chunk(2, 1)
    return {"up": up, "down": down}


def matched(curves: Curves) -> dict[str, NDArray[np.float64]]:
    """The old accuracy of each group and seed at the highest new accuracy that all its groups reach, shares [S]."""
    reach = np.min([curves.new[name].max(1) for name in GROUPS], axis=0)
    return {
        name: np.array(
            [_at(level, *pair) for level, *pair in zip(reach, curves.new[name], curves.old[name], strict=True)]
        )
        for name in GROUPS
    }


def _at(level: float, new: NDArray[np.float64], old: NDArray[np.float64]) -> float:
    """The old accuracy where the new one first reaches ``level``, between two stops."""
    place = int(np.argmax(new >= level))
    if place == 0:
        return float(old[0])
    return float(np.interp(level, new[place - 1 : place + 1], old[place - 1 : place + 1]))


def default_weights(layers: int) -> list[WeightCondition]:
    """The condition numbers of the default model's first layers."""
    with safe_open(models.load().directory / "model.safetensors", framework="pt") as file:
        names = [f"model.layers.{i}.{kind}" for i in range(layers) for kind in _MODULES]
        return condition_numbers({f"{name}.weight": file.get_tensor(f"{name}.weight") for name in names})


_MODULES = [f"self_attn.{kind}" for kind in ("q_proj", "k_proj", "v_proj", "o_proj")] + [
    f"mlp.{kind}" for kind in ("gate_proj", "up_proj", "down_proj")
]


def judge(entropies: Entropies, curves: Curves, weights: list[WeightCondition]) -> list[Row]:
    """The table, from what was measured over the seeds."""
    points = "points"
    same = {name: 100 * values for name, values in matched(curves).items()}
    old = {name: 100 * values[:, -1] for name, values in curves.old.items()}
    new = {name: 100 * values[:, -1] for name, values in curves.new.items()}
    falls = [-rank_correlation(k, h) for k, h in zip(entropies.kappa, entropies.entropy, strict=True)]
    rows = [
        within("entropy of a unit: samples less formula", "equal", entropies.sampled, "nats", 0.02),
        above("entropy of a unit falls with kappa at one norm", "falls", falls, "(rank correlation, negated)"),
        above("old accuracy left at the end: lowest less random", "higher", old["lowest"] - old["random"], points),
        above("old accuracy left at the end: lowest less highest", "higher", old["lowest"] - old["highest"], points),
        above(
            "old accuracy left at the same new accuracy: lowest less random",
            "higher",
            same["lowest"] - same["random"],
            points,
        ),
        above(
            "old accuracy left at the same new accuracy: lowest less highest",
            "higher",
            same["lowest"] - same["highest"],
            points,
        ),
        above(
            "old accuracy left at the same new accuracy: lowest less all",
            "higher (WikiText perplexity 13.78 against 26.68 by LoRA everywhere)",
            same["lowest"] - same["all"],
            points,
        ),
    ]
    start = 100 * curves.old["all"][:, 0]
    rows.append(shown("old accuracy before adaptation", "", start, "%"))
    for name in GROUPS:
        rows += [
            shown(f"new accuracy at the end, {name}", "", new[name], "%"),
            shown(f"old accuracy left at the end, {name}", "", old[name], "%"),
            shown(f"old accuracy left at the same new accuracy, {name}", "", same[name], "%"),
        ]
    for kind in KINDS:
        logs = [math.log(each.kappa) for each in weights if each.kind.endswith(kind)]
        rows.append(shown(f"ln kappa of the default model's {kind}, over layers", "", logs, ""))
    return rows


def draw(entropies: Entropies, curves: Curves, weights: list[WeightCondition], sizes: Sizes) -> Figure:
    """Entropy against kappa, old against new accuracy as adaptation goes, and the default model's weights by layer."""
    same = {name: 100 * values.mean() for name, values in matched(curves).items()}
    title = (
        f"At the same new accuracy {same['lowest']:.0f}% of the old is left by the lowest kappa, "
        f"{same['random']:.0f}% by random matrices, {same['highest']:.0f}% by the highest, {same['all']:.0f}% by all"
    )
    with figure(1, 3, title=title, width=19, height=6) as (fig, [left, middle, right]):
        some = slice(0, 4)  # of the seeds: all would be a figure of 600 KB
        left.plot(entropies.kappa[some].ravel(), entropies.entropy[some].ravel(), ".", color=BLUE, alpha=0.3)
        left.axhline(
            UNITS / 2 * math.log(2 * math.pi * math.e), color=BLACK, linestyle="--", label="kappa = 1: the most"
        )
        left.set(
            xlabel="condition number of a 16 x 16 unit (ratio)", ylabel="entropy of its output (nats)", xscale="log"
        )
        left.legend()
        for name, color, marker in zip(GROUPS, (BLUE, ORANGE, GREEN, BLACK), MARKERS, strict=False):
            _curve(middle, 100 * curves.new[name], 100 * curves.old[name], color, marker, name)
        middle.set(
            xlabel="accuracy in the new task (%)", ylabel="accuracy left in the old task (%)\n± one standard error"
        )
        middle.legend(title="matrices that learn, by kappa")
        for kind, color, marker in zip(KINDS, PALETTE, MARKERS, strict=True):
            kappas = [each.kappa for each in weights if each.kind.endswith(kind)]
            right.plot(range(sizes.layers), kappas, color=color, marker=marker, markersize=4, label=kind)
        right.set(xlabel="layer of the default model (number)", ylabel="condition number (ratio)", yscale="log")
        right.set_ylim(top=1e8)  # room for the legend
        right.legend(ncols=3, loc="upper center")
    return fig


def _curve(axis: Axes, new: NDArray[np.float64], old: NDArray[np.float64], color: str, marker: str, name: str) -> None:
    across, along = ([interval(column) for column in values.T] for values in (new, old))
    axis.errorbar(
        [s.mean for s in across],
        [s.mean for s in along],
        [s.error for s in along],
        [s.error for s in across],
        color=color,
        marker=marker,
        label=name,
    )


@torch.no_grad()
def _accuracy(nets: Mixtures, x: Tensor, y: Tensor, rows: Tensor) -> NDArray[np.float64]:
    return (nets(x[rows]).argmax(-1) == y[rows]).double().mean(-1).numpy()


def _fit(
    nets: Mixtures,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    seeds: Sequence[int],
    steps: int,
    learning: dict[str, Tensor],
    stops: Sequence[int],
) -> Iterator[int]:
    """Train, where there is ``learning`` those matrices alone; yield at each stop."""
    optimizer = torch.optim.Adam(nets.parameters(), lr=RATE)
    epochs = math.ceil(steps / math.ceil(rows.shape[1] / BATCH))
    places = batches(rows.shape[1], BATCH, epochs, generators(seeds))
    for step in range(steps + 1):
        if step in stops:
            yield step
        if step == steps:
            return
        at = rows.gather(1, next(places))
        optimizer.zero_grad()
        F.cross_entropy(nets(x[at]).transpose(1, 2), y[at], reduction="none").mean(1).sum().backward()
        if learning:
            _mask(nets, learning)
        optimizer.step()


def _mask(nets: Mixtures, learning: dict[str, Tensor]) -> None:
    """A gradient of 0 from the first step on leaves a weight as it is, under Adam too."""
    for name, weight in nets.weights.items():
        assert weight.grad is not None
        if name in learning:
            weight.grad *= learning[name][:, :, None, None]
        else:
            weight.grad.zero_()
