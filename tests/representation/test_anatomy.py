import pytest
from torch import nn

from hartley.representation.anatomy import anatomy
from tiny_models import tiny_model


def test_a_llama():
    model = tiny_model()
    parts = anatomy(model)
    assert [block.name for block in parts.blocks] == ["model.layers.0", "model.layers.1"]
    assert parts.blocks[1].attention == "model.layers.1.self_attn"
    assert parts.blocks[1].feed_forward == "model.layers.1.mlp.down_proj"
    assert parts.norm == "model.norm"
    assert parts.head is model.lm_head.weight


def test_a_gpt2_whose_layers_are_stored_the_other_way_round():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=16, n_positions=8))
    parts = anatomy(model)
    assert parts.blocks[0] == (0, "transformer.h.0", "transformer.h.0.attn", "transformer.h.0.mlp.c_proj")
    assert parts.norm == "transformer.ln_f"


def test_the_longest_list_wins_and_lists_of_many_kinds_do_not_count():
    model = nn.Module()
    model.mixed = nn.ModuleList([nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.ReLU()])
    model.short = nn.ModuleList([nn.Linear(2, 2)])
    model.long = nn.ModuleList([nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)) for _ in range(3)])
    parts = anatomy(model)
    assert [block.name for block in parts.blocks] == ["long.0", "long.1", "long.2"]
    assert parts.blocks[0].feed_forward == "long.0.1"
    assert parts.blocks[0].attention is None
    assert parts.head is None


def test_a_network_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"no list of blocks of one kind \(Sequential\)"):
        anatomy(nn.Sequential(nn.Linear(2, 2)))
