"""From what was seen of a network to the numbers of its report, each with a standard error; plain JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hartley.info.estimators import Estimate
from hartley.report.xray.seen import GROUPS, SHARES, Seen
from hartley.representation import WeightCondition, diffusion_spectral_entropy, effective_rank, select_kappa
from hartley.representation.anatomy import Anatomy
from hartley.representation.condition_numbers import measure_weights
from hartley.representation.diffusion_operator import bandwidth
from hartley.representation.experts import load_entropy
from hartley.representation.heads import verdicts
from hartley.representation.sketch import weight_sketch
from hartley.representation.tally import Tally, jackknife_error, jackknife_ratio

Json = dict[str, Any]
Progress = Callable[[str, int, int], None]  # what is being done, how much of how much
SCHEMA = "hartley.xray/1"
SAFE = 0.2  # the share of tensors that a fine-tuning may touch first, as KappaTune's authors take
ENOUGH = 2  # rows for each feature, from which an effective rank is not said to be low
DIGITS = 6  # of every number: what is behind them differs between machines


def layers_of(seen: Seen, layers: Sequence[tuple[int, str]], geometries: Sequence[Json]) -> list[Json]:
    """What each layer, given by its place and name, encodes, and what its feed-forward part and its cache do."""
    found: list[Json] = []
    for done, (index, name) in enumerate(layers):
        tally = seen.tally
        layer: Json = {"name": name, "index": index, **geometries[done]}
        for key, counted, place in (
            ("rms", f"size {name}", 0),
            ("zeros", f"zeros {name}", None),
            ("units_50", f"width {name}", 0),
            ("units_90", f"width {name}", 1),
            ("units_99", f"width {name}", 2),
        ):
            if counted in tally:
                layer[key] = _told(tally.mean(counted), place)
        if (counted := f"cache {name}") in tally:
            mean = tally.mean(counted)
            for place, share in enumerate(SHARES):  # over the heads that have a cache of their own
                layer[f"keys_{100 * share:.0f}"] = {
                    "value": number(mean.value[:, place].mean()),
                    "stderr": number(np.sqrt((mean.stderr[:, place] ** 2).mean())),
                }
        for key in ("lens entropy", "lens gap"):
            if key in tally:
                layer[key.replace(" ", "_")] = _told(tally.mean(key), done)
        found.append(layer | _experts(tally, name))
    return found


def _experts(tally: Tally, name: str) -> Json:
    """What the router of a layer chooses, and how its experts are loaded; nothing where it has none."""
    if (load := f"load {name}") not in tally:
        return {}
    shares = tally.mean(load)
    return {
        "experts": len(shares.value),
        "experts_chosen": number(tally.mean(f"chosen {name}").value),
        "choice_entropy": _told(tally.mean(f"choice {name}"), None),
        "load_entropy": _told(tally.mean(load, of=load_entropy), None),
        "effective_experts": _told(tally.mean(load, of=lambda mean: math.exp(load_entropy(mean))), None),
        "idle_experts": _told(tally.mean(load, of=lambda mean: (mean == 0).mean()), None),
        "expert_load": [_told(shares, expert) for expert in range(len(shares.value))],
    }


def heads_of(seen: Seen, parts: Anatomy) -> list[Json]:
    """The verdict on every attention head."""
    found: list[Json] = []
    for block in parts.blocks:
        if f"spread {block.name}" not in seen.tally:
            continue
        spread, first = seen.tally.mean(f"spread {block.name}"), seen.tally.mean(f"first {block.name}")
        (words,) = verdicts(spread.value[None], spread.stderr[None])
        found += [
            {
                "layer": block.number,
                "head": head,
                "entropy_share": _told(spread, head),
                "first_key": _told(first, head),
                "verdict": word,
            }
            for head, word in enumerate(words)
        ]
    return found


def weigh(weights: Mapping[str, Tensor]) -> list[tuple[WeightCondition, list[float | None]]]:
    """The condition and the sketch of every matrix among some weights, by name."""
    return [(one, [number(value) for value in weight_sketch(weights[one.name])]) for one in measure_weights(weights)]


def weights_of(weighed: Sequence[tuple[WeightCondition, list[float | None]]]) -> list[Json]:
    """The condition of every weight matrix, and whether it is among those that are safe to tune."""
    if not weighed:
        return []
    safe = set(select_kappa([one for one, _ in weighed], top_p=SAFE))
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "shape": list(one.shape),
            "parameters": one.n_params,
            "kappa": number(one.kappa),
            "effective_rank": number(one.effective_rank),
            "sketch": sketch,
            "safe_to_tune": one.name in safe,
        }
        for one, sketch in weighed
    ]


def tokens_of(seen: Seen, decode: Callable[[int, int], tuple[str, str]]) -> Json | None:
    """Where the next token is uncertain; ``decode(text, place)`` gives what came before a token, and the token."""
    if not seen.tokens:
        return None
    numbers = sorted(seen.tokens)
    groups = [[seen.tokens[n] for n in numbers if n % GROUPS == group] for group in range(GROUPS)]
    groups = [np.concatenate(group) for group in groups if group]
    mean = jackknife_ratio(
        np.stack([group.sum(0, dtype=np.float64) for group in groups]), np.array([len(g) for g in groups], float)
    )
    entropy = np.sort(np.concatenate(groups)[:, 1].astype(np.float64))[::-1]
    held = np.cumsum(entropy) / max(entropy.sum(), 1e-300)
    found: Json = {name: _told(mean, place) for place, name in enumerate(("surprisal", "entropy", "varentropy"))}
    found["count"] = len(entropy)
    found["share_holding_half"] = number((np.searchsorted(held, 0.5) + 1) / len(entropy))
    found["quantiles"] = {f"{100 * q:.0f}": number(np.quantile(entropy, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    edges = np.arange(0, math.floor(entropy[0]) + 1.5, 0.5)
    found["histogram"] = _histogram([group[:, 1] for group in groups], edges)
    found["by_place"] = _by_place(seen, numbers)
    found["most_uncertain"] = _most_uncertain(seen, numbers, decode)
    return found


def _histogram(groups: Sequence[np.ndarray], edges: np.ndarray) -> Json:
    """How many tokens lie between the edges, with the error of a sum over the groups."""
    counts = np.stack([np.histogram(group, edges)[0] for group in groups])
    error = math.sqrt(len(counts)) * counts.std(0, ddof=1) if len(counts) > 1 else np.full(counts.shape[1], np.nan)
    return {"edges": edges.tolist(), "counts": counts.sum(0).tolist(), "stderr": [number(value) for value in error]}


def number(value: Any) -> float | None:
    """A finite number rounded to what is known of it; None where there is none."""
    value = float(value)
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def geometry(groups: Sequence[np.ndarray]) -> Json:
    """Directions and spectral entropy of a sample of rows, group by group."""
    rows = np.concatenate(groups).astype(np.float64)
    spread = rows.std(0)
    if len(rows) < 2 or not spread.any():
        return {"rows": len(rows), "effective_rank": _zero(1.0), "top_direction": 1.0, "dse": _zero(0.0)}
    covariance = _covariance(groups)
    rank = float(effective_rank(covariance))
    error = math.nan
    if len(groups) > 1:
        without = [_covariance([*groups[:i], *groups[i + 1 :]]) for i in range(len(groups))]
        error = float(jackknife_error(np.array([float(effective_rank(one)) for one in without])))
    smallest = min(len(group) for group in groups)
    sigma = bandwidth(torch.from_numpy(rows), "median")
    entropies = np.array(
        [diffusion_spectral_entropy(group[:smallest], sigma=sigma, max_samples=smallest) for group in groups]
    )
    dse_error = entropies.std(ddof=1) / math.sqrt(len(entropies)) if len(entropies) > 1 else math.nan
    top = np.linalg.eigvalsh(covariance)[-1] / np.trace(covariance)
    return {
        "rows": len(rows),
        "effective_rank": {"value": number(rank), "stderr": number(error)},
        "top_direction": number(top),
        "dse": {"value": number(entropies.mean()), "stderr": number(dse_error)},
        "dse_rows": smallest,
        "dse_sigma": number(sigma),
    }


def low_ranks(seen: Seen, layers: Sequence[str]) -> str | None:
    """A note on the layer with the fewest rows for its features, if these are near its rows or above.

    Of N rows of D features that are alike and independent, where the covariance's spectrum is Marchenko & Pastur's, the
    effective rank is D exp(-D / 2N), or N exp(-N / 2D) where N is less; less even spectra lose less.
    """
    shapes = [(sum(map(len, groups)), groups[0].shape[1]) for groups in map(seen.groups, layers)]
    rows, width = max(shapes, key=lambda shape: shape[1] / shape[0])
    if rows < 2 or rows > ENOUGH * width:
        return None
    low, high = sorted((rows, width))
    lost = 1 - low * math.exp(-low / (2 * high)) / width
    return (
        f"effective ranks come of {rows:,} rows of {width:,} features and are too low, by {100 * lost:.0f} % where all "
        "directions are filled evenly and by less elsewhere: compare them within this report, not with other widths"
    )


def _covariance(groups: Sequence[np.ndarray]) -> np.ndarray:
    """The covariance of all rows, or where they are fewer than features the products of rows, of the same spectrum."""
    rows = np.concatenate(groups).astype(np.float64)
    rows -= rows.mean(0)
    return (rows.T @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.T) / len(rows)


def _zero(value: float) -> Json:
    return {"value": value, "stderr": 0.0}


def _told(mean: Estimate[np.ndarray], place: int | None) -> Json:
    value, error = (mean.value, mean.stderr) if place is None else (mean.value[place], mean.stderr[place])
    return {"value": number(value), "stderr": number(error)}


def _by_place(seen: Seen, numbers: Sequence[int]) -> list[Json]:
    """Mean entropy of the tokens of each eighth of the longest text."""
    longest = max(len(seen.tokens[n]) for n in numbers)
    edges = np.unique(np.linspace(0, longest, 9).astype(int))
    found: list[Json] = []
    for begin, end in pairwise(edges):
        texts = [seen.tokens[n][begin:end, 1].astype(np.float64) for n in numbers]
        sums = np.array([text.sum() for text in texts if len(text)])
        mean = jackknife_ratio(sums, np.array([len(text) for text in texts if len(text)], float))
        found.append({"from": int(begin), "to": int(end), **_told(mean, None)})
    return found


def _most_uncertain(seen: Seen, numbers: Sequence[int], decode: Callable[[int, int], tuple[str, str]]) -> list[Json]:
    """The ten places of highest entropy, at most one of each text."""
    tops = [(float(seen.tokens[n][:, 1].max()), n, int(seen.tokens[n][:, 1].argmax())) for n in numbers]
    found: list[Json] = []
    for entropy, text, place in sorted(tops, key=lambda top: (-top[0], top[1]))[:10]:
        before, token = decode(text, place)
        surprisal = number(seen.tokens[text][place, 0])
        found.append({"before": before, "token": token, "entropy": number(entropy), "surprisal": surprisal})
    return found
