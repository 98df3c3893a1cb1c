"""Bit-level scaling and TopKLD: character models at 2 to 8 bits, five losses to train them, and codes under noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from hartley.models.texts import speeches
from hartley.papers.figures import BLACK, MARKERS, PALETTE, figure, shades
from hartley.papers.intervals import above, interval, shown
from hartley.papers.paper import Evidence, Paper, Row, Scale, verdict_from
from hartley.papers.threads import one_thread
from hartley.training import BitScalingLaw, fake_quantize, quantize_model_, total_bits
from hartley.training.losses import forward_kl_loss, jensen_shannon_loss, reverse_kl_loss, topkld_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTEXT, EMBEDDING, BATCH = 12, 16, 256
PRECISIONS = (8, 4, 3, 2)
TRAINED_BITS = (3, 2)
K = 8  # characters in the head, and those that the sampler keeps
NOISE_STEPS, LATENTS = 10, 16
STILL = 0.49  # of the least distance between codes: the noise of one step that cannot change a code

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "forward KL": forward_kl_loss,
    "reverse KL": reverse_kl_loss,
    "JS": jensen_shannon_loss,
    "TopKLD": lambda s, t: topkld_loss(s, t, k=K),
    "TopKLD, generalized": lambda s, t: topkld_loss(s, t, k=K, form="generalized"),
}
OURS, RIVALS = "TopKLD", ("forward KL", "reverse KL")


class Size(NamedTuple):
    """How much is run."""

    seeds: int
    widths: tuple[int, ...]  # of the character models
    teacher: int  # the width of the model that is trained at low bits
    steps: int  # of each model's training
    low_bit_steps: int
    heads: tuple[int, ...]  # k of the ablation, beside 8
    images: int
    codes: int


SCALES = {
    "tiny": Size(2, (8, 16), 16, 4, 2, (1,), 300, 32),
    "small": Size(4, (16, 32, 64, 128, 256), 128, 400, 300, (1, 4, 16, 32), 1797, 256),
}

PAPER = Paper(
    slug="topkld",
    title="Dissecting Bit-Level Scaling Laws in Quantizing Vision Generative Models",
    authors="Xin Ding, Shijie Cao, Ting Cao, Zhibo Chen",
    year=2025,
    arxiv="2501.06218",
    claim="For models of discrete tokens fewer than 8 bits a weight buy more from each stored bit, since a discrete "
    "code forgets a perturbation that a continuous latent keeps; and at 2 and 3 bits training with TopKLD beats the "
    "forward and the reverse KL and reaches what one more bit reaches without it.",
    where=(
        "hartley.training.losses.TopKLDLoss",
        "hartley.training.quantize_model_",
        "hartley.training.BitScalingLaw",
    ),
)


class Run(NamedTuple):
    """One model at one precision."""

    bits: float
    parameters: int
    precision: int
    metric: float  # bits a character, held out


class Trained(NamedTuple):
    """A model trained at low bits, on the held-out text."""

    metric: float  # bits a character
    truncated: float  # total variation of the two distributions a top-k sampler draws from
    head: float  # probability of the teacher's top k
    forward: float  # KL(teacher || student), nats


class Noise(NamedTuple):
    """Reconstruction errors (root mean square of a pixel, 0..16), of codes and of latents that are not codes."""

    radii: np.ndarray  # [R] of one step's noise, in least distances between codes
    snapped: np.ndarray  # [R] after all steps
    loose: np.ndarray  # [R]
    same: dict[int, float]  # bits of the encoder -> share of images whose code it left
    by_weights: dict[int, tuple[float, float]]  # bits of the encoder -> errors with codes and without


class Seed(NamedTuple):
    """Everything measured with one seed."""

    runs: list[Run]
    trained: dict[int, dict[str, Trained]]  # bits -> loss
    rounded: dict[int, Trained]  # bits -> the same model without training
    heads: dict[int, Trained]  # k -> trained at the lowest width
    teacher_head: float
    noise: Noise


def reproduce(scale: Scale) -> Evidence:
    """Round character models, train them at low bits by five losses, and shake codes and latents.

    The paper's equations were not available to us: TopKLD's plain form is a reconstruction (forward KL on the teacher's
    top k, reverse KL on the rest). Nothing of its size is run: no images are generated, no FID is taken, and no
    diffusion model stands beside a discrete one. What is here are its three arguments, each on something small.

    Scaling: character models (12 characters of context, two hidden layers) of five widths on 40 State of the Union
    addresses, of which every eighth is held out; rounded to nearest, one symmetric scale an output channel, all linear
    layers; the embedding, biases and scales count at 16 bits. Precisions are compared at equal total bits, inside the
    sizes measured.

    Low bits: one of these models (the teacher) and its rounded copy, trained for 300 steps with each loss against the
    teacher's logits (AdamW, 1e-3, the same batches), k = 8. "Truncated" is the total variation between the teacher and
    the student after each is cut to its own top 8, which is what a top-k sampler draws from. "A level" compares 2 bits
    trained with 3 bits rounded, and forward KL says what of that any training gives.

    Codes: digit images as 16 principal components and 256 k-means codes, decoded by 4-bit weights. Ten steps of noise,
    snapped to the nearest code after each or not; then an encoder whose weights are rounded, where images do not lie on
    codes to begin with. Intervals are over seeds (text batches, starts, k-means and noise).
    """
    size = SCALES[scale]
    seeds = range(size.seeds)
    with one_thread():
        found = [measure(size, seed) for seed in seeds]
    rows = judge(found)
    return Evidence(
        rows=rows,
        verdict=verdict_from(rows),
        figure=draw(found),
        seeds=list(seeds),
        settings={**size._asdict(), "k": K, "precisions": list(PRECISIONS)},
    )


# Character models


class Characters(nn.Module):
    """The next character from the last twelve."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.layers = nn.Sequential(
            nn.Linear(CONTEXT * EMBEDDING, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
            nn.Linear(width, vocabulary),
        )  # fmt: skip

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [B, V] of contexts ``ids`` [B, 12]."""
        return self.layers(self.embedding(ids).flatten(1))


class Corpus(NamedTuple):
    """Contexts [N, 12] and the character after each [N]."""

    vocabulary: int
    training: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]


def corpus() -> Corpus:
    """The addresses, every eighth held out."""
    texts = speeches()
    alphabet = sorted(set("".join(texts)))
    code = {character: place for place, character in enumerate(alphabet)}

    def windows(chosen: list[str]) -> tuple[Tensor, Tensor]:
        all_windows = torch.cat(
            [torch.tensor([code[c] for c in text]).unfold(0, CONTEXT + 1, 1) for text in chosen if len(text) > CONTEXT]
        )
        return all_windows[:, :-1], all_windows[:, -1]

    return Corpus(
        len(alphabet),
        windows([text for place, text in enumerate(texts) if place % 8]),
        windows([text for place, text in enumerate(texts) if place % 8 == 0]),
    )


def train(model: nn.Module, data: tuple[Tensor, Tensor], loss: Loss, steps: int, rate: float, seed: int) -> None:
    """AdamW with one cycle of its rate; ``loss`` takes the logits of a batch and what belongs to each row."""
    contexts, targets = data
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        places = torch.randint(len(contexts), (BATCH,), generator=generator)
        optimiser.zero_grad()
        loss(model(contexts[places]), targets[places]).backward()
        optimiser.step()
        schedule.step()


def new_model(vocabulary: int, width: int, seed: int) -> Characters:
    """A model whose start depends on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Characters(vocabulary, width)


@torch.no_grad()
def bits_a_character(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The mean surprisal of the held-out text."""
    return F.cross_entropy(model(data[0]), data[1]).item() / np.log(2)


@torch.no_grad()
def compare(student: nn.Module, teacher: nn.Module, data: tuple[Tensor, Tensor]) -> Trained:
    """A student on the held-out text."""
    logits, known = student(data[0]), teacher(data[0])

    def cut(x: Tensor) -> Tensor:
        top = x.topk(K)
        return torch.zeros_like(x).scatter(-1, top.indices, top.values.softmax(-1))

    return Trained(
        F.cross_entropy(logits, data[1]).item() / np.log(2),
        ((cut(logits) - cut(known)).abs().sum(-1) / 2).mean().item(),
        logits.softmax(-1).gather(-1, known.topk(K).indices).sum(-1).mean().item(),
        forward_kl_loss(logits, known).item(),
    )


def measure(size: Size, seed: int) -> Seed:
    """All three parts, with one seed."""
    data = corpus()
    runs: list[Run] = []
    teacher = None
    for width in size.widths:
        model = new_model(data.vocabulary, width, seed)
        train(model, data.training, F.cross_entropy, size.steps, 4e-3, seed)
        if width == size.teacher:
            teacher = model
        for bits in PRECISIONS:
            rounded = quantize_model_(copy.deepcopy(model), bits)
            parameters = sum(own.numel() for own in model.parameters())
            count = total_bits(rounded, other_bits=16)
            runs.append(Run(count, parameters, bits, bits_a_character(rounded, data.held_out)))
    assert teacher is not None
    with torch.no_grad():
        known = data.training[0], teacher(data.training[0])

    def at_low_bits(bits: int, loss: Loss | None) -> Trained:
        student = quantize_model_(copy.deepcopy(teacher), bits)
        if loss is not None:
            train(student, known, loss, size.low_bit_steps, 1e-3, seed + 1)
        return compare(student, teacher, data.held_out)

    def with_head(k: int) -> Loss:
        return lambda s, t: topkld_loss(s, t, k=k)

    trained = {bits: {name: at_low_bits(bits, loss) for name, loss in LOSSES.items()} for bits in TRAINED_BITS}
    low = TRAINED_BITS[-1]
    heads = {k: at_low_bits(low, with_head(k)) for k in size.heads} | {K: trained[low][OURS]}
    return Seed(
        runs,
        trained,
        {bits: at_low_bits(bits, None) for bits in TRAINED_BITS},
        dict(sorted(heads.items())),
        compare(teacher, teacher, data.held_out).head,
        shake(size.images, size.codes, seed),
    )


# Codes and latents


def shake(images: int, count: int, seed: int) -> Noise:
    """Digits as codes and as latents, under noise and under an encoder of few bits."""
    bunch: Any = load_digits()
    pixels = bunch["data"][:images] - bunch["data"][:images].mean(0)
    _, _, directions = np.linalg.svd(pixels, full_matrices=False)
    encoder = directions[:LATENTS]
    latents = pixels @ encoder.T
    codes = KMeans(count, random_state=seed).fit(latents).cluster_centers_

    def nearest(z: np.ndarray) -> np.ndarray:
        return ((z**2).sum(1)[:, None] - 2 * z @ codes.T + (codes**2).sum(1)).argmin(1)

    def rounded(weights: np.ndarray, bits: int) -> np.ndarray:
        return fake_quantize(torch.from_numpy(np.ascontiguousarray(weights)), bits).numpy()

    decoder = rounded(encoder.T, 4)

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt((((a - b) @ decoder.T) ** 2).mean()))

    apart = np.sqrt(((codes[:, None] - codes[None]) ** 2).sum(-1))
    least = apart[~np.eye(count, dtype=bool)].min()
    start = codes[nearest(latents)]
    rng = np.random.default_rng(seed)
    radii = np.array([0.1, 0.25, STILL, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    snapped, loose = [], []
    for radius in radii:
        on_codes, free = start, start
        for _ in range(NOISE_STEPS):
            step = rng.normal(size=start.shape)
            step *= radius * least / np.linalg.norm(step, axis=1, keepdims=True)
            on_codes, free = codes[nearest(on_codes + step)], free + step
        snapped.append(error(on_codes, start))
        loose.append(error(free, start))
    same, by_weights = {}, {}
    for bits in PRECISIONS:
        moved = pixels @ rounded(encoder, bits).T
        same[bits] = float((nearest(moved) == nearest(latents)).mean())
        by_weights[bits] = error(codes[nearest(moved)], start), error(moved, latents)
    return Noise(radii, np.array(snapped), np.array(loose), same, by_weights)


# The table


def fit(runs: list[Run]) -> BitScalingLaw:
    """The law of each precision."""
    return BitScalingLaw().fit([r.bits for r in runs], [r.metric for r in runs], [r.precision for r in runs])


def equal_bits(found: Seed, one: int, other: int) -> float:
    """How many more bits a character ``one`` needs than ``other`` at equal total bits, mean over the common range."""
    law = fit(found.runs)
    low = max(law.laws_[bits].low for bits in (one, other))
    high = min(law.laws_[bits].high for bits in (one, other))
    both = [law.at(budget) for budget in np.geomspace(low * 1.0001, high / 1.0001, 9)]
    return float(np.mean([each[one] - each[other] for each in both]))


def judge(found: list[Seed]) -> list[Row]:
    """The three arguments, then what stands beside them."""
    unit = "bits a character"
    rows = [
        above("equal total bits: 8 bits less 4", "4 bits better", [equal_bits(f, 8, 4) for f in found], unit),
        above("equal total bits: 4 bits less 3", "3 bits better still", [equal_bits(f, 4, 3) for f in found], unit),
    ]
    for bits in TRAINED_BITS:
        for rival in RIVALS:
            pairs = [(f.trained[bits][rival], f.trained[bits][OURS]) for f in found]
            for name, what in (("metric", unit), ("truncated", "total variation")):
                values = [getattr(a, name) - getattr(b, name) for a, b in pairs]
                label = {"metric": "loss on text", "truncated": "truncated"}[name]
                rows.append(above(f"{bits} bits, {label}: {rival} less TopKLD", "TopKLD better", values, what))
    low, high = TRAINED_BITS[-1], TRAINED_BITS[-1] + 1
    rows.append(
        above(
            f"a level: {high} bits rounded less {low} bits trained with TopKLD",
            "one level",
            [f.rounded[high].metric - f.trained[low][OURS].metric for f in found],
            unit,
        )
    )
    at = int(np.argmin(np.abs(found[0].noise.radii - STILL)))
    rows += [
        above(
            f"noise of {STILL} least distances, {NOISE_STEPS} steps: error of latents less codes",
            "codes forget it, latents keep it",
            [f.noise.loose[at] - f.noise.snapped[at] for f in found],
            "grey levels",
        ),
        above(
            "encoder of 4-bit weights: error of latents less codes",
            "codes tolerate rounded weights",
            [f.noise.by_weights[4][1] - f.noise.by_weights[4][0] for f in found],
            "grey levels",
        ),
        shown(
            f"noise of {STILL} least distances: error of codes",
            "exactly 0",
            [f.noise.snapped[at] for f in found],
            "grey levels",
        ),
        shown(
            f"a level: {high} bits rounded less {low} bits trained with forward KL",
            "",
            [f.rounded[high].metric - f.trained[low]["forward KL"].metric for f in found],
            unit,
        ),
    ]
    for bits in TRAINED_BITS:
        for name in LOSSES:
            each = [f.trained[bits][name] for f in found]
            rows.append(shown(f"{bits} bits, {name}: loss on text", "", [e.metric for e in each], unit))
            rows.append(shown(f"{bits} bits, {name}: truncated", "", [e.truncated for e in each], "total variation"))
            rows.append(shown(f"{bits} bits, {name}: forward KL", "", [e.forward for e in each], "nats"))
            rows.append(shown(f"{bits} bits, {name}: mass in the teacher's top {K}", "", [e.head for e in each], ""))
    rows.append(shown(f"teacher: mass in its top {K}", "", [f.teacher_head for f in found], ""))
    for bits in PRECISIONS:
        rows.append(shown(f"encoder of {bits}-bit weights: same code", "", [f.noise.same[bits] for f in found], ""))
    for k in found[0].heads:
        rows.append(shown(f"{low} bits, TopKLD with k = {k}: truncated", "", [f.heads[k].truncated for f in found], ""))
    return rows


def draw(found: list[Seed]) -> Figure:
    """The scaling at each precision, the losses at low bits, the choice of k, and codes under noise."""
    gain = interval([equal_bits(f, 8, 4) for f in found])
    low = TRAINED_BITS[-1]
    lead = interval([f.trained[low]["forward KL"].truncated - f.trained[low][OURS].truncated for f in found])
    where = "nearer to" if lead.mean > 0 else "farther from"
    title = (
        f"At equal bits 4-bit weights save {gain.mean:.3f} bits a character over 8-bit ones; trained at {low} bits,\n"
        f"TopKLD ends {abs(lead.mean):.3f} ± {lead.error:.3f} {where} the teacher's top {K} than forward KL"
    )
    with figure(2, 2, title=title, width=15, height=11.5) as (fig, [scaling, losses, heads, noise]):
        count = len(found[0].runs) // len(PRECISIONS)
        for place, (bits, color) in enumerate(zip(PRECISIONS, shades(len(PRECISIONS))[::-1], strict=True)):
            table = np.array([[(r.bits, r.metric) for r in f.runs if r.precision == bits] for f in found])
            spans = [interval(table[:, i, 1]) for i in range(count)]
            scaling.errorbar(
                table[0, :, 0], [s.mean for s in spans], [s.error for s in spans], color=color, marker=MARKERS[place],
                label=f"{bits} bits",
            )  # fmt: skip
        best = fit([run for f in found for run in f.runs]).frontier()
        scaling.plot(
            [point.bits for point in best], [point.metric for point in best], "o", color=BLACK, fillstyle="none",
            markersize=14, label="frontier",
        )  # fmt: skip
        scaling.set(
            xscale="log", xlabel="total bits of the model (bits)", ylabel="loss on held-out text (bits/character)"
        )
        scaling.set_ylim(top=max(best[-1].metric + 2, 5.0))
        scaling.set_title("rounded to nearest")
        scaling.legend()
        for name, color, marker in zip(LOSSES, PALETTE, MARKERS, strict=False):
            for bits in TRAINED_BITS:
                each = [f.trained[bits][name] for f in found]
                x, y = interval([e.metric for e in each]), interval([e.truncated for e in each])
                losses.errorbar(
                    x.mean, y.mean, y.error, x.error, fmt=marker, color=color,
                    fillstyle="full" if bits == 3 else "none", label=name if bits == 3 else None,
                )  # fmt: skip
        losses.set(xlabel="loss on held-out text (bits/character)", ylabel=f"top {K}: distance from teacher (TV)")
        losses.set_title("trained at 3 bits (filled) and 2 bits (open); lower left is better")
        losses.legend()
        spans = [interval([f.heads[k].truncated for f in found]) for k in found[0].heads]
        heads.errorbar(list(found[0].heads), [s.mean for s in spans], [s.error for s in spans], label="TopKLD, plain")
        for name, color in zip(RIVALS, PALETTE[1:], strict=False):
            level = float(np.mean([f.trained[low][name].truncated for f in found]))
            heads.axhline(level, color=color, linestyle="--", label=name)
        heads.set(xscale="log", xlabel="k of the loss (characters)", ylabel=f"top {K}: distance from teacher (TV)")
        heads.set_title(f"trained at {low} bits")
        heads.legend()
        for name, values, color in (
            ("latents", [f.noise.loose for f in found], PALETTE[1]),
            ("codes, snapped at each step", [f.noise.snapped for f in found], PALETTE[0]),
        ):
            noise.plot(found[0].noise.radii, np.mean(values, 0), color=color, label=name)
        noise.axvline(0.5, color="grey", linestyle=":")
        noise.set(xlabel="noise of a step (least distances between codes)", ylabel="error of a pixel (grey levels)")
        noise.set_title(f"digits after {NOISE_STEPS} steps of noise (dotted: half the least distance)")
        noise.legend()
    return fig
