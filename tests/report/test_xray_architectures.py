"""An x-ray of networks that are built in other ways: each part that can be seen is, and what cannot is said."""

import logging

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from hartley.report.xray.examine import examine
from hartley.report.xray.page import xray_page
from page_checks import check_safe
from tiny_models import tiny_tokenizer

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


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_seen_is(name, tmp_path, caplog):
    caplog.set_level(logging.ERROR, logger="transformers")
    settings, parts, said = NETWORKS[name]
    vocabulary = tiny_tokenizer().get_vocab_size()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary, bos_token_id=1, eos_token_id=2, pad_token_id=2, **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer()).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("the sea and the whale and then the end of it all " * 10)
    report = examine(str(tmp_path / "model"), data=tmp_path / "text.txt")
    assert len(report["layers"]) == 2
    assert {part for part in FULL if part in report["layers"][0]} == parts
    assert [said in note for note in report["notes"]] == [True] * bool(said)
    assert len(report["heads"]) == (4 if "keys_90" in parts else 0)
    check_safe(xray_page(report))
