"""Selecting weights by condition number: the rule, its sizes, what stays frozen, and PEFT's own selector."""

import pytest
import torch
from torch import nn

from hartley.representation import WeightCondition, condition_numbers, freeze_except, kappa_lora_config, select_kappa


def planted(*kappas: float, kinds: str = "") -> list[WeightCondition]:
    pairs = enumerate(zip(kappas, kinds or "a" * len(kappas), strict=True))
    return [WeightCondition(f"{i}.weight", (4, 4), kappa, 0.0, 4.0, 16, kind) for i, (kappa, kind) in pairs]


def names(*places: int) -> list[str]:
    return [f"{i}.weight" for i in places]


def test_the_lowest_come_first_and_ties_in_order():
    found = planted(5, 1, 3, 3, float("inf"), 2, 9)
    assert select_kappa(found) == names(1)
    assert select_kappa(found, top_p=0.5) == names(1, 5, 2)
    assert select_kappa(found, top_p=0.01) == names(1)
    assert select_kappa(found, top_p=1) == names(1, 5, 2, 3, 0, 6, 4)
    assert select_kappa(found, num_modules=2) == names(1, 5)
    assert select_kappa(found, num_modules=99) == select_kappa(found, top_p=1)
    assert select_kappa(found, threshold=3) == names(1, 5, 2, 3)
    assert select_kappa(found[:1], threshold=3) == []


def test_within_kinds():
    found = planted(1, 2, 3, 10, 30, 20, kinds="aaabbb")
    assert select_kappa(found, top_p=0.4, within_kind=True) == names(0, 3)
    assert select_kappa(found, num_modules=2, within_kind=True) == names(0, 1, 3, 5)
    assert select_kappa(found, threshold=10, within_kind=True) == names(0, 1, 2, 3)


def test_fused_experts_are_a_list_of_their_own():
    fused = [WeightCondition(f"{i}.experts.down_proj", (2, 4, 4), float(i + 1), 0.0, 4.0, 32, "x") for i in range(5)]
    assert select_kappa([*fused, *planted(7, 8, 9, 10, 6)]) == ["4.weight", "0.experts.down_proj"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_p": 0.2, "threshold": 3}, r"give at most one of .*; got top_p= and threshold="),
        ({"top_p": 0}, r"top_p must be in \(0, 1\]; got 0"),
        ({"top_p": 20}, r"top_p must be in \(0, 1\]; got 20"),
        ({"num_modules": 0}, r"num_modules must be a whole number of at least 1; got 0"),
        ({"threshold": 0.5}, r"threshold must be at least 1, the least kappa there is; got 0.5"),
        ({"threshold": float("nan")}, r"threshold must be at least 1"),
    ],
)  # fmt: skip
def test_bad_settings(given, message):
    with pytest.raises(ValueError, match=message):
        select_kappa(planted(1, 2), **given)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*[layer for _ in range(7) for layer in (nn.Linear(6, 6), nn.Tanh())])


def test_what_is_frozen_stays_as_it_is():
    model = network()
    chosen = select_kappa(model, top_p=0.5)
    assert len(chosen) == 3
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(freeze_except(model, chosen), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == set(chosen)


def test_unknown_names_are_not_frozen():
    with pytest.raises(ValueError, match=r"the model has no parameter '0.weigth'; the nearest name is '0.weight'"):
        freeze_except(network(), ["0.weigth"])
    with pytest.raises(ValueError, match=r"names must hold at least one parameter; got none"):
        freeze_except(network(), [])


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_lora_trains_as_much_as_everywhere():
    peft = pytest.importorskip("peft")
    plain = peft.get_peft_model(network(), peft.LoraConfig(r=2, target_modules=[f"{2 * i}" for i in range(7)]))
    config = kappa_lora_config(network(), top_p=0.2, plain_r=2)
    assert (config.r, config.lora_alpha) == (14, 14)
    assert trained(peft.get_peft_model(network(), config)) == trained(plain)
    model = network()
    conditions = condition_numbers(model)
    config = kappa_lora_config(model, conditions, num_modules=3, r=4, lora_dropout=0.1)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (4, 4, 0.1)
    assert config.target_modules == {name.removesuffix(".weight") for name in select_kappa(conditions, num_modules=3)}


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 5)
        self.gate_up_proj = nn.Parameter(torch.randn(5, 6, 8))
        self.down_proj = nn.Parameter(torch.randn(5, 4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        up, gate = torch.einsum("bi,eij->bej", x, self.gate_up_proj).chunk(2, -1)
        return torch.einsum("bej,eji,be->bi", up * gate.sigmoid(), self.down_proj, self.router(x).softmax(-1))


def test_the_choice_is_pefts():
    helpers = pytest.importorskip("peft.helpers")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.ModuleDict({"dense": network(), "experts": nn.ModuleList([Experts() for _ in range(3)])})
    for top_p in (0.2, 0.5):
        theirs = helpers.find_kappa_target_modules(model, top_p=top_p, show_progress=False)
        config = kappa_lora_config(model, top_p=top_p)
        assert config.target_modules == set(theirs["target_modules"])
        assert config.target_parameters == theirs["target_parameters"]


def test_lora_on_fused_experts_alone():
    peft = pytest.importorskip("peft")
    model = nn.Sequential(Experts())
    config = kappa_lora_config(model, [each for each in condition_numbers(model) if each.fused], top_p=1, plain_r=1)
    assert (config.target_modules, config.r) == (None, 1)
    assert set(config.target_parameters or ()) == {"0.down_proj", "0.gate_up_proj"}
    assert trained(peft.get_peft_model(model, config)) == 5 * (6 + 8) + 5 * (4 + 6)


def test_nothing_to_adapt():
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"model must hold a linear layer or fused experts"):
        kappa_lora_config(nn.Sequential(nn.Conv2d(2, 3, 3)))
    with pytest.raises(ValueError, match=r"threshold must be at least \d"):
        kappa_lora_config(network(), threshold=1.0)


def test_a_missing_peft_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "hartley\[peft\]"'):
        kappa_lora_config(network())
