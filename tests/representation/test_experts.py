"""Routers of experts: where they are found, what they are said to choose, and the entropy of the load."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hartley.representation.anatomy import Block
from hartley.representation.experts import expert_count, expert_shares, find_router, load_entropy, watch_routers

EXPERTS, CHOSEN = 4, 2


class Telling(nn.Module):
    """A router that chooses the experts of the smallest scores, and says so."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(EXPERTS, 8, generator=torch.Generator().manual_seed(0)))
        self.bias = nn.Parameter(torch.arange(EXPERTS).float())

    def forward(self, states):
        scores = states.flatten(0, -2) @ self.weight.T + self.bias
        return scores.sigmoid(), (-scores).topk(CHOSEN).indices


class Net(nn.Module):
    """One block of an attention that is as wide as there are experts, and a router."""

    def __init__(self, router, config):
        super().__init__()
        self.attn, self.mlp = nn.Linear(8, EXPERTS), nn.Sequential(router)
        self.layers = nn.ModuleList([nn.ModuleDict({"attn": self.attn, "mlp": self.mlp})])
        self.config = config

    def attended(self, states):
        return self.attn(states).repeat(1, 1, 2)

    def forward(self, states):
        return self.mlp(self.attended(states))


BLOCK = Block(0, "layers.0", "layers.0.attn", None)


def watched(router, **config):
    """The logits and choices of ``router`` in a network, and what it was given."""
    model, found = Net(router, SimpleNamespace(**config)), []
    name = find_router(model, BLOCK, EXPERTS)
    assert name == "layers.0.mlp.0"
    states = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), watch_routers(model, {"block": name}, lambda *given: found.append(given)):
        model(states)
        inputs = model.attended(states)[0]
    assert not any(module._forward_hooks for module in model.modules())
    ((told, logits, chosen),) = found
    assert told == "block"
    return logits, chosen, inputs


def test_what_the_router_says_it_chose_counts():
    router = Telling()
    logits, chosen, inputs = watched(router)
    expected = inputs @ router.weight.T + router.bias
    torch.testing.assert_close(logits, expected.detach())
    assert chosen.equal((-expected).topk(CHOSEN).indices)


def test_a_plain_layer_chooses_the_largest_logits():
    router = nn.Linear(8, EXPERTS, bias=False)
    logits, chosen, inputs = watched(router, num_experts_per_tok=CHOSEN)
    torch.testing.assert_close(logits, (inputs @ router.weight.T).detach())
    assert chosen.equal(logits.topk(CHOSEN).indices)


def test_a_choice_that_nobody_names_is_refused():
    with pytest.raises(ValueError, match="the router of 'block' does not say which experts it chose"):
        watched(nn.Linear(8, EXPERTS))


def test_blocks_without_a_router_have_none():
    assert find_router(Net(nn.Linear(8, 5), None), BLOCK, EXPERTS) is None


@pytest.mark.parametrize(
    ("facts", "count"),
    [
        ({"num_local_experts": 8}, 8),
        ({"n_routed_experts": 64, "n_shared_experts": 2}, 64),
        ({"ffn_config": SimpleNamespace(moe_num_experts=16)}, 16),
        ({"num_experts": 1}, None),
        ({"num_experts": None}, None),
        ({}, None),
    ],
)
def test_the_configuration_says_how_many(facts, count):
    assert expert_count(SimpleNamespace(**facts)) == count


@given(st.integers(0, 2**16), st.integers(2, 9))
def test_a_load_adds_up_and_its_entropy_lies_between_one_expert_and_all(seed, experts):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, experts + 1))
    chosen = torch.tensor(np.array([rng.permutation(experts)[:count] for _ in range(20)]))
    shares = expert_shares(chosen, experts)
    assert torch.equal((shares > 0).sum(-1), torch.full((20,), count))
    load = shares.double().mean(0).numpy()
    assert load.sum() == pytest.approx(1)
    assert math.log(count) - 1e-6 <= load_entropy(load) <= math.log(experts) + 1e-6
