"""What a report says in words: for each part a finding, what the figure means, and what to do with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from hartley.report.xray.findings import Json
from hartley.representation.heads import COLLAPSED, ERRORS, OVERLOADED

RESTING = 0.5  # of a head's attention on the first token


class Section(NamedTuple):
    """The words of one part of a report."""

    key: str
    title: str
    finding: str
    means: str
    advice: str


def sections(report: Json) -> list[Section]:
    """The parts that a report has something to say about, in their order."""
    layers, tokens = report["layers"], report["tokens"]
    found = [_directions(report)]
    if "lens_entropy" in layers[0]:
        found.append(_lens(layers))
    if report["heads"]:
        found.append(_heads(report["heads"]))
    if any("units_90" in layer for layer in layers):
        found.append(_units(layers))
    if any("experts" in layer for layer in layers):
        found.append(_experts([layer for layer in layers if "experts" in layer]))
    if any("keys_90" in layer for layer in layers):
        found.append(_cache(layers))
    if report["weights"]:
        found.append(_weights(report["weights"]))
    if tokens is not None:
        found.append(_tokens(tokens))
    return found


def amount(part: Json, scale: float = 1) -> str:
    """A number, times ``scale``, with its standard error, both to the error's second figure.

    >>> amount({"value": 12.345, "stderr": 0.21}), amount({"value": 93.87, "stderr": 1.96})
    ('12.35 ± 0.21', '93.9 ± 2.0')
    >>> amount({"value": 1.0, "stderr": None}), amount({"value": 0.2858, "stderr": 0.0007}, 100)
    ('1', '28.580 ± 0.070')
    """
    value, error = part["value"], part["stderr"]
    if value is None:
        return "unknown"
    if not error:
        return f"{scale * value:.3g}"
    places = max(0, 1 - math.floor(math.log10(scale * error)))
    return f"{scale * value:,.{places}f} ± {scale * error:,.{places}f}"


def undecided(part: Json, *thresholds: float) -> bool:
    """Whether a number lies within two standard errors of a threshold; not where its error is unknown.

    >>> undecided({"value": 0.12, "stderr": 0.015}, 0.1, 0.9), undecided({"value": 0.12, "stderr": None}, 0.1)
    (True, False)
    """
    value, error = part["value"], part["stderr"]
    return bool(error) and any(abs(value - one) <= ERRORS * error for one in thresholds)


def _extremes(layers: Sequence[Json], key: str) -> tuple[Json, Json]:
    known = [layer for layer in layers if key in layer and layer[key]["value"] is not None]
    return min(known, key=lambda one: one[key]["value"]), max(known, key=lambda one: one[key]["value"])


def _directions(report: Json) -> Section:
    layers, width = report["layers"], report["model"]["width"]
    low, high = _extremes(layers, "effective_rank")
    of = f" of {width:,}" if width else ""
    finding = (
        f"Layer {low['index']} spreads its states over {amount(low['effective_rank'])} directions{of}, the fewest; "
        f"layer {high['index']} over {amount(high['effective_rank'])}, the most."
    )
    means = (
        "The effective rank is the exponential of the von Neumann entropy of the states' covariance: how many "
        "directions "
        "they would fill evenly. The diffusion spectral entropy says in how many parts they lie, whatever the "
        "directions "
        f"(bits; at most log2 of the {layers[0].get('dse_rows', '?')} rows it is taken of). "
        + (
            "States are scaled to one length, as the next normalisation does, and the first token is left out. "
            if report["model"]["kind"] == "language model"
            else ""
        )
        + "Bars are one standard error over groups of texts."
    )
    advice = (
        "A layer of few directions is where a small adapter goes a long way and where pruning is worth a try; a sudden "
        "fall between two layers is a bottleneck, and the place to look when a fine-tuned model has lost something."
    )
    return Section("directions", "Directions and spectral entropy", finding, means, advice)


def _lens(layers: Sequence[Json]) -> Section:
    gaps = [one["lens_gap"]["value"] for one in layers]
    settled = next((one["index"] for one in layers if one["lens_gap"]["value"] < 1.0), None)
    last = layers[-1]["index"]
    wide = [place for place, gap in enumerate(gaps) if gap > max(gaps) / 2]
    closed = wide[-1] + 1 if wide else 0
    finding = (
        f"The next token is not settled to within 1 nat after any layer seen, up to {last}; "
        if settled is None
        else f"The next token is settled to within 1 nat after layer {settled} of {last}; "
    ) + (
        f"half of the widest gap is closed after layer {layers[closed]['index']}."
        if closed < len(layers)
        else "less than half of the widest gap is closed."
    )
    means = (
        "Every layer is asked for the next token by the model's own last normalisation and output layer. The gap "
        "is the "
        "KL divergence from what the last layer says to what this one would (nats); the entropy is of this one's "
        "answer."
    )
    advice = (
        "Layers after the gap has closed can be left early or dropped at little loss; layers before it moves work on "
        "something else than the next word. A low entropy with a wide gap is a layer that is sure of something else."
    )
    return Section("lens", "Where the next token is decided", finding, means, advice)


def _heads(heads: Sequence[Json]) -> Section:
    count = Counter(head["verdict"] for head in heads)
    resting = sum((head["first_key"]["value"] or 0) > RESTING for head in heads)
    near = (
        sum(undecided(head["entropy_share"], COLLAPSED, OVERLOADED) for head in heads),
        sum(undecided(head["first_key"], RESTING) for head in heads),
    )
    finding = (
        f"Of {len(heads)} heads {count['collapsed']} have collapsed, {count['overloaded']} are overloaded, and "
        f"{resting} "
        "put more than half of their attention on the first token. "
        f"Too near to tell: {near[0]} by their entropy, {near[1]} by that half."
    )
    means = (
        "A head's entropy as a share of what its query could have: below 0.1 it looks at one key only (collapsed), "
        "above "
        "0.9 at all keys alike (overloaded), each by two standard errors. The right map is the attention on the first "
        "token, where a head rests that finds nothing to do. A ring marks a head within two standard errors of a "
        "threshold, on the left of 0.1 or 0.9, on the right of a half: more text may turn its verdict. The errors "
        "themselves are among the numbers below."
    )
    advice = (
        "Overloaded and resting heads are the first to try without; a collapsed head that does not rest does one "
        "thing, "
        "often a needed one, such as looking at the token before. Many collapsed heads in training announce a "
        "divergence: lower the learning rate or regularise their entropy (hartley.training.losses.EntropyRegularizer)."
    )
    return Section("heads", "Attention heads", finding, means, advice)


def _units(layers: Sequence[Json]) -> Section:
    low, high = _extremes(layers, "units_90")
    zeros = [layer["zeros"]["value"] for layer in layers if "zeros" in layer]
    exact = 100 * sum(zeros) / max(1, len(zeros))
    words = f"{exact:.2g} % are exactly 0" if exact >= 0.01 else "hardly one is exactly 0"
    finding = (
        f"90 % of the activations' energy is in {amount(low['units_90'], 100)} % of the units in layer "
        f"{low['index']} and "
        f"{amount(high['units_90'], 100)} % in layer {high['index']}; {words}."
    )
    means = (
        "For every token, the fewest units whose squared activations add up to half, 90 % and 99 % of all; the "
        "mean over "
        "tokens, as a share of the layer's units."
    )
    advice = (
        "Where few units do the work, a top-k over them skips the rest of the next product; where nearly all do, leave "
        "the layer dense."
    )
    return Section("units", "Sparsity of the layers", finding, means, advice)


def _experts(layers: Sequence[Json]) -> Section:
    low, high = _extremes(layers, "effective_experts")
    idle = max(layers, key=lambda one: one["idle_experts"]["value"])
    nothing = f"{100 * idle['idle_experts']['value']:.3g} % of the experts of layer {idle['index']} got no token"
    finding = (
        f"Layer {low['index']} loads {amount(low['effective_experts'])} of {low['experts']} experts, the fewest; "
        f"layer {high['index']} {amount(high['effective_experts'])}, the most; "
        f"{nothing if idle['idle_experts']['value'] else 'every expert got some'}."
    )
    means = (
        "How many experts would carry the load if all were used alike: the exponential of the entropy of their shares "
        f"of all choices, {low['experts_chosen']:g} of a token, which are on the right (1 is an even share). A token's "
        "choice is the softmax of its router logits, whatever the network makes of them. Both entropies are at most "
        "the logarithm of the number of experts. Bars are one standard error over groups of texts; an expert without a "
        "token may get one in more text, or other text."
    )
    advice = (
        "An even choice is a router that tells nothing apart; a sure choice with an even load is what a mixture is "
        "for. Where few experts carry the load, balance it in training, or try without the idle ones on text like "
        "yours: the model is smaller then, and the loss says what it costs."
    )
    return Section("experts", "Load of the experts", finding, means, advice)


def _cache(layers: Sequence[Json]) -> Section:
    low, high = _extremes(layers, "keys_90")
    finding = (
        f"90 % of the attention falls on {amount(low['keys_90'], 100)} % of the cache in layer {low['index']} and on "
        f"{amount(high['keys_90'], 100)} % in layer {high['index']}."
    )
    means = (
        "For the last quarter of the queries of each text, the fewest keys that hold half, 90 % and 99 % of the "
        "attention, "
        "as a share of the keys in the cache; heads that share a cache count together. It is seen at this length only: "
        "in longer texts the shares fall."
    )
    advice = "Give the layers of a low curve a small cache and the others the rest; one for all is set by the worst."
    return Section("cache", "Keys that carry the attention", finding, means, advice)


def _weights(weights: Sequence[Json]) -> Section:
    known = [one for one in weights if one["kappa"] is not None]
    safe, singular = [one for one in weights if one["safe_to_tune"]], len(weights) - len(known)
    if not known:
        finding = f"All {len(weights)} weight matrices are singular."
    else:
        low, high = min(known, key=lambda one: one["kappa"]), max(known, key=lambda one: one["kappa"])
        finding = (
            f"Condition numbers go from {low['kappa']:.3g} ({low['name']}) to {high['kappa']:.3g} ({high['name']}); "
            f"{singular} of {len(weights)} matrices are singular."
        )
    means = (
        "The largest singular value over the smallest, of each weight matrix. A matrix with a low one treats all "
        "directions alike and holds the most entropy for its size."
    )
    advice = (
        f"By KappaTune's rule the {len(safe)} matrices of lowest condition, marked, are tuned first, so that least is "
        "forgotten. On small networks here they forgot no less than others, so compare at equal loss on the new task. "
        "hartley.representation.kappa_lora_config hands them to PEFT."
    )
    return Section("weights", "Which tensors to tune", finding, means, advice)


def _tokens(tokens: Json) -> Section:
    finding = (
        f"The next token's entropy is {amount(tokens['entropy'])} nats on average, and "
        f"{100 * tokens['share_holding_half']:.3g} % of the tokens hold half of it."
    )
    means = (
        "The Shannon entropy of the model's distribution at temperature 1, at every token that was read. The "
        "tokens that "
        f"came have a surprisal (minus log-probability) of {amount(tokens['surprisal'])} nats on average: as much "
        "as the "
        "entropy if the model knows how unsure it is, and more if it is too sure of itself."
    )
    advice = (
        "Entropy sits in a few places, the forks of a text: sample, verify or ask a larger model there, and let "
        "the rest "
        "run greedily."
    )
    return Section("tokens", "Where it is unsure", finding, means, advice)


def facts(report: Json) -> list[tuple[str, str, str]]:
    """The figures at the head of a report: name, value, what stands under it."""
    model, data, tokens = report["model"], report["data"], report["tokens"]
    found: list[tuple[str, str, str]] = [
        ("parameters", _large(model["parameters"]), f"{len(report['layers'])} layers seen, {model['dtype']}"),
    ]
    if tokens is not None:
        found.append(("read", f"{tokens['count']:,}", f"tokens of {data['texts']} texts"))
        found.append(("entropy", f"{tokens['entropy']['value']:.3g}", "nats a token, mean"))
    else:
        found.append(("read", f"{data['texts']:,}", "batches"))
    low, _ = _extremes(report["layers"], "effective_rank")
    found.append(("fewest directions", f"{low['effective_rank']['value']:.3g}", f"in layer {low['index']}"))
    if report["heads"]:
        count = Counter(head["verdict"] for head in report["heads"])
        found.append(
            (
                "heads",
                f"{count['collapsed']} + {count['overloaded']}",
                f"collapsed and overloaded of {len(report['heads'])}",
            )
        )
    mixed = [layer for layer in report["layers"] if "experts" in layer]
    if mixed:
        least, _ = _extremes(mixed, "effective_experts")
        used = f"{least['effective_experts']['value']:.3g} of {least['experts']}"
        found.append(("experts", used, f"carry the load of layer {least['index']}, the fewest"))
    if report["weights"]:
        safe = sum(one["safe_to_tune"] for one in report["weights"])
        found.append(("tune first", str(safe), f"of {len(report['weights'])} weight matrices"))
    return found


def settings(report: Json) -> list[tuple[str, Any]]:
    """What the report was made of."""
    model = report["model"]
    named = {"model": model["name"], "kind": model["kind"], "architecture": model.get("architecture")}
    named |= {"data": model["source"], "sha256 of its tokens": model.get("sha256"), "dtype": model["dtype"]}
    named["tokens of the longest text"] = report["data"].get("context")
    return [(name, value) for name, value in named.items() if value is not None]


def _large(count: int) -> str:
    """A count in the words of the field.

    >>> _large(134_515_008), _large(7), _large(6_700_000_000)
    ('135M', '7', '6.7B')
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            value = count / size
            return f"{value:.3g}{letter}"
    return str(count)
