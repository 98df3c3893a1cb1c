"""KappaTune: fine-tune the weights of lowest condition number, and leave the others as they are."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from hartley.info.checks import check_count
from hartley.representation.condition_numbers import WeightCondition, condition_numbers

if TYPE_CHECKING:
    from peft import LoraConfig


def select_kappa(
    model: nn.Module | Mapping[str, Tensor] | list[WeightCondition],
    *,
    top_p: float | None = None,
    num_modules: int | None = None,
    threshold: float | None = None,
    within_kind: bool = False,
) -> list[str]:
    """Return the names of the weights with the lowest condition numbers, lowest first: those to fine-tune.

    Parameters
    ----------
    model
        Or what `condition_numbers` found, which for a large model takes minutes.
    top_p, num_modules, threshold
        One of: this share of the weights, rounded down but at least one; this many, or all; all with a kappa of at most
        this. None of them stands for ``top_p=0.2``. Fused experts are a list of their own, to which the same applies.
    within_kind
        True takes the share or number of each kind. Otherwise shapes decide much of the ranking: long narrow matrices
        have low condition numbers whatever was learnt.

    Equal condition numbers keep the model's order; singular weights come last. Raises ``ValueError`` for settings
    outside their range and for several at once.

    >>> import torch
    >>> weights = {f"layers.{i}.up.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0 + i]]) for i in range(5)}
    >>> select_kappa(weights, top_p=0.4)
    ['layers.0.up.weight', 'layers.1.up.weight']

    Source: Ludwig 2025, algorithm; the names are those of PEFT's selector.
    """
    given = [
        f"{name}="
        for name, v in (("top_p", top_p), ("num_modules", num_modules), ("threshold", threshold))
        if v is not None
    ]
    if len(given) > 1:
        raise ValueError(f"give at most one of top_p=, num_modules=, threshold=; got {' and '.join(given)}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1]; got {top_p}")
    if num_modules is not None:
        check_count("num_modules", num_modules)
    if threshold is not None and not threshold >= 1:
        raise ValueError(f"threshold must be at least 1, the least kappa there is; got {threshold}")
    conditions = model if isinstance(model, list) else condition_numbers(model)
    groups: dict[tuple[bool, str], list[WeightCondition]] = {}
    for each in conditions:
        groups.setdefault((each.fused, each.kind if within_kind else ""), []).append(each)
    chosen: list[WeightCondition] = []
    for group in groups.values():
        ranked = sorted(group, key=lambda each: each.kappa)
        if threshold is not None:
            chosen += [each for each in ranked if each.kappa <= threshold]
        elif num_modules is not None:
            chosen += ranked[:num_modules]
        else:
            chosen += ranked[: max(1, int(len(ranked) * (0.2 if top_p is None else top_p)))]
    return [each.name for each in sorted(chosen, key=lambda each: (each.fused, each.kappa))]


def freeze_except(model: nn.Module, names: Iterable[str]) -> list[nn.Parameter]:
    """Let gradients reach the parameters named and no others, and return those, for an optimiser.

    ``names`` are out of ``model.named_parameters()``, at least one. Raises ``ValueError`` for others, naming the
    nearest.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    >>> optimizer = torch.optim.AdamW(freeze_except(model, ["1.weight"]))
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['1.weight']
    """
    parameters, chosen = dict(model.named_parameters()), set(names)
    if not chosen:
        raise ValueError("names must hold at least one parameter; got none")
    for name in sorted(chosen - set(parameters)):
        near = difflib.get_close_matches(name, parameters, n=1, cutoff=0)
        raise ValueError(f"names: the model has no parameter {name!r}; the nearest name is {near[0]!r}")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)
    return [parameter for name, parameter in parameters.items() if name in chosen]


def kappa_lora_config(
    model: nn.Module,
    conditions: list[WeightCondition] | None = None,
    *,
    top_p: float | None = None,
    num_modules: int | None = None,
    threshold: float | None = None,
    within_kind: bool = False,
    plain_r: int = 8,
    **settings: Any,
) -> LoraConfig:
    """Return a configuration of PEFT's LoRA for the linear layers, and the fused experts, of lowest condition number.

    Parameters
    ----------
    model, conditions
        The model, and what `condition_numbers` found in it, if it is at hand.
    top_p, num_modules, threshold, within_kind
        As in `select_kappa`.
    plain_r
        The rank ``r`` is raised until as many numbers are trained as by LoRA of this rank on all those layers.
    settings
        Anything else that ``peft.LoraConfig`` takes. ``r`` is taken as it is; ``lora_alpha`` is r unless given, so that
        the update's scale stays PEFT's.

    Raises
    ------
    ImportError
        Without PEFT: ``pip install "hartley[peft]"``.
    ValueError
        For settings outside their range, no linear layer, and a threshold that none meets.

    >>> model = nn.ModuleDict({"up": nn.Linear(8, 8), "down": nn.Linear(8, 8)})
    >>> _ = nn.init.eye_(model["down"].weight)
    >>> config = kappa_lora_config(model, num_modules=1)
    >>> config.target_modules, config.r
    ({'down'}, 16)

    Source: Ludwig 2025, the LoRA variant.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('kappa_lora_config needs PEFT: pip install "hartley[peft]"') from error
    check_count("plain_r", plain_r)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = condition_numbers(model) if conditions is None else conditions
    able = {each.name: each for each in found if each.fused or each.name.removesuffix(".weight") in linear}
    if not able:
        raise ValueError("model must hold a linear layer or fused experts with a condition number; it has none")
    names = select_kappa(
        list(able.values()), top_p=top_p, num_modules=num_modules, threshold=threshold, within_kind=within_kind
    )
    if not names:
        least = min(each.kappa for each in able.values())
        raise ValueError(f"threshold must be at least {least:.6g}, the lowest condition number; got {threshold}")
    r = max(1, round(plain_r * sum(map(_sides, able.values())) / sum(_sides(able[name]) for name in names)))
    r = settings.pop("r", r)
    modules = [name.removesuffix(".weight") for name in names if not able[name].fused]
    experts = [name for name in names if able[name].fused]
    settings = {"lora_alpha": r, **settings}
    return LoraConfig(r=r, target_modules=modules or None, target_parameters=experts or None, **settings)


def _sides(condition: WeightCondition) -> int:
    """How many numbers LoRA of rank 1 trains."""
    rows, columns = condition.shape[-2:]
    return math.prod(condition.shape[:-2]) * (rows + columns)
