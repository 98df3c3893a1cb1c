"""An x-ray of networks that are built in other ways: each part that can be seen is, and what cannot is said."""

import io
import json
import logging
import math
from importlib.resources import files

import jsonschema
import pytest
import torch
import transformers
from rich.console import Console
from transformers import PreTrainedTokenizerFast

from hartley.report.xray.compare import compare
from hartley.report.xray.examine import examine
from hartley.report.xray.page import comparison_page, xray_page
from hartley.report.xray.sections import sections
from hartley.report.xray.terminal import xray_view
from page_checks import check_safe
from tiny_models import tiny_tokenizer, write_folder

SCHEMA = json.loads(files("hartley.report.xray").joinpath("schema.json").read_text())
SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "max_position_embeddings": 64}
FULL = {"units_90", "keys_90", "lens_gap"}
NETWORKS = {
    "GPT2": (
        {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64},
        FULL,
        "",
    ),  # linear layers the other way round
    "OPT": ({**SMALL, "ffn_dim": 32, "word_embed_proj_dim": 16}, FULL, ""),  # rows of all texts in one
    "Bloom": ({"n_layer": 2, "n_head": 2, "hidden_size": 16}, FULL, ""),  # reads texts of any length
    "Falcon": (SMALL, FULL, ""),
    "Mixtral": (
        {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "num_local_experts": 2},
        {"keys_90", "lens_gap"},
        "nothing on its sparsity",
    ),
    "GptOss": (  # a learned place to rest beside the keys
        {
            **SMALL,
            "intermediate_size": 32,
            "num_key_value_heads": 1,
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "head_dim": 8,
        },
        {"keys_90", "lens_gap"},
        ("nothing on its sparsity", "rest beside its keys"),
    ),
    "Mamba": (
        {"num_hidden_layers": 2, "hidden_size": 16, "state_size": 4},
        {"units_90", "lens_gap"},
        "nothing on heads",
    ),
    "Cohere": (
        {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1},
        {"units_90", "keys_90"},
        "the output layer does more than a product",
    ),
}


def built(name, settings):
    """A random network of transformers."""
    vocabulary = tiny_tokenizer().get_vocab_size()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, pad_token_id=2, **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)


def examined(model, folder):
    """Its report on text of some words."""
    model.save_pretrained(folder / "model")
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer()).save_pretrained(folder / "model")
    (folder / "text.txt").write_text("the sea and the whale and then the end of it all " * 10)
    return examine(str(folder / "model"), data=folder / "text.txt")


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.ERROR, logger="transformers")


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_seen_is(name, tmp_path):
    settings, parts, said = NETWORKS[name]
    report = examined(built(name, settings), tmp_path)
    assert len(report["layers"]) == 2
    assert {part for part in FULL if part in report["layers"][0]} == parts
    words = (said,) if isinstance(said, str) else said
    assert len(report["notes"]) == len([word for word in words if word])
    assert all(any(word in note for note in report["notes"]) for word in words if word)
    assert len(report["heads"]) == (4 if "keys_90" in parts else 0)
    assert ("Load of the experts" in [one.title for one in sections(report)]) == (name in ("Mixtral", "GptOss"))
    if parts != FULL:  # the others' page has the sections of every page
        check_safe(xray_page(report))


def experts(**settings):
    """The settings of a mixture of four experts."""
    return {**SMALL, "intermediate_size": 32, "num_key_value_heads": 1, "num_local_experts": 4, **settings}


def test_a_router_of_zeros_chooses_evenly(tmp_path):
    model = built("Mixtral", experts(num_experts_per_tok=2))
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.gate.weight)
    report = examined(model, tmp_path)
    jsonschema.validate(report, SCHEMA)
    for layer in report["layers"]:
        assert (layer["experts"], layer["experts_chosen"]) == (4, 2)
        assert layer["choice_entropy"]["value"] == pytest.approx(math.log(4), abs=1e-5)
        assert layer["choice_entropy"]["stderr"] < 1e-6
        assert layer["effective_experts"]["value"] == 2  # a tie always goes to the same two
        assert layer["idle_experts"] == {"value": 0.5, "stderr": 0}
        assert sorted(one["value"] for one in layer["expert_load"]) == [0, 0, 0.5, 0.5]


def test_a_router_forced_to_one_expert_loads_it_alone(tmp_path):
    model = built("Mixtral", experts(num_experts_per_tok=1))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 10.0  # a feature that every state has, in every layer
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.weight[2, 0] = 100.0
    report = examined(model, tmp_path)
    for layer in report["layers"]:
        assert layer["choice_entropy"]["value"] == pytest.approx(0, abs=1e-5)
        assert layer["load_entropy"] == {"value": 0, "stderr": 0}
        assert layer["effective_experts"]["value"] == 1
        assert [one["value"] for one in layer["expert_load"]] == [0, 0, 1, 0]
    changed = compare(report, report)
    assert changed["layers"][0]["load_entropy"]["difference"] == 0
    check_safe(comparison_page(changed))


def test_layers_of_several_kinds_have_each_their_parts(tmp_path):
    """A dense layer with a convolution, then a mixture with attention."""
    report = examined(
        built(
            "Lfm2Moe",
            {
                **experts(num_experts=4, num_experts_per_tok=1, moe_intermediate_size=32, num_dense_layers=1),
                "layer_types": ["conv", "full_attention"],
            },
        ),
        tmp_path,
    )
    assert ["experts" in layer for layer in report["layers"]] == [False, True]
    assert ["units_90" in layer for layer in report["layers"]] == [True, False]
    assert ["keys_90" in layer for layer in report["layers"]] == [False, True]
    check_safe(xray_page(report))
    shown = io.StringIO()
    console = Console(width=100, file=shown)
    console.print(xray_view(report, console))
    assert "Load of the experts" in shown.getvalue()


def test_a_mixture_whose_routers_cannot_be_seen_says_so(tmp_path):
    """A configuration that promises experts, on a network that has none."""
    folder = tmp_path / "model"
    write_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_local_experts": 7}))
    (tmp_path / "text.txt").write_text("the sea and the whale and then the end of it all " * 10)
    report = examine(str(folder), data=tmp_path / "text.txt")
    assert report["notes"] == ["the routers of its 7 experts cannot be seen: there is nothing on their load"]
    assert "experts" not in report["layers"][0]
