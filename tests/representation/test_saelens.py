"""Folders of SAELens: what each architecture computes, written out, and what is refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hartley.representation import load_saelens

N, K = 3, 5
CONFIG = {  # as SAELens 6.54 writes it
    "d_in": N,
    "d_sae": K,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.0.hook_resid_pre"},
    "architecture": "standard",
}


def weights(**more):
    g = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (N, K), "b_enc": (K,), "W_dec": (K, N), "b_dec": (N,)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()} | more


def folder(path, found=None, **changed):
    """A folder in the format, with settings changed."""
    (path / "cfg.json").write_text(json.dumps(CONFIG | changed))
    save_file(weights() if found is None else found, str(path / "sae_weights.safetensors"))
    return path


@pytest.fixture
def rows():
    return torch.randn(40, N, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("subtract", [True, False])
def test_standard(tmp_path, rows, subtract):
    w = weights()
    sae = load_saelens(folder(tmp_path, apply_b_dec_to_input=subtract))
    before = (rows - w["b_dec"] if subtract else rows) @ w["W_enc"] + w["b_enc"]
    torch.testing.assert_close(sae.encode(rows), before.clamp(min=0))
    torch.testing.assert_close(sae(rows), before.clamp(min=0) @ w["W_dec"] + w["b_dec"])
    assert sae.config["metadata"]["hook_name"] == "blocks.0.hook_resid_pre"
    assert sae.encode(rows[None]).shape == (1, 40, K)


def test_jumprelu_compares_what_comes_before_the_relu(tmp_path, rows):
    w = weights(threshold=torch.tensor([0.0, 0.5, 1.0, -0.5, 2.0]))
    sae = load_saelens(folder(tmp_path, w, architecture="jumprelu"))
    before = (rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    expected = torch.where((before > w["threshold"]) & (before > 0), before, 0)
    assert (expected != before.clamp(min=0)).any()
    torch.testing.assert_close(sae.encode(rows), expected)


@pytest.mark.parametrize("rescale", [False, True])
def test_topk(tmp_path, rows, rescale):
    w = weights()
    sae = load_saelens(folder(tmp_path, architecture="topk", k=2, rescale_acts_by_decoder_norm=rescale))
    before = (rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    norm = w["W_dec"].norm(dim=1) if rescale else torch.ones(K)
    codes = (before * norm).clamp(min=0)
    codes = codes * (codes >= codes.topk(2).values[:, -1:])
    torch.testing.assert_close(sae.encode(rows), codes)
    torch.testing.assert_close(sae(rows), (codes / norm) @ w["W_dec"] + w["b_dec"])


def test_half_precision_weights_are_read_as_float32(tmp_path, rows):
    half = {name: value.bfloat16() for name, value in weights().items()}
    sae = load_saelens(folder(tmp_path, half, dtype="bfloat16"))
    assert sae.encode(rows).dtype == torch.float32


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"architecture": "gated"}, "architecture must be one of 'standard', 'topk', 'jumprelu'; got 'gated'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations must be 'none' .* has 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations must be 'none'"),
        ({"activation_fn_str": "tanh-relu"}, "activation_fn_str must be 'relu' .* has 'tanh-relu'"),
        ({"finetuning_scaling_factor": True}, "finetuning_scaling_factor must be False"),
        ({"architecture": "topk"}, "k must be given for the architecture 'topk'"),
        ({"architecture": "topk", "k": 9}, "k must be at most the 5 features; got 9"),
        ({"architecture": "jumprelu"}, "must hold W_enc, b_enc, W_dec, b_dec, threshold; it has W_dec"),
        ({"d_sae": 6}, r"W_enc must hold finite numbers of shape \(3, 6\); it has \(3, 5\)"),
        ({"d_in": "3"}, "d_in must be of type int"),
    ],
)
def test_refuses_what_it_would_not_compute(tmp_path, changed, match):
    with pytest.raises(ValueError, match=match):
        load_saelens(folder(tmp_path, **changed))


def test_refuses_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no cfg\.json in"):
        load_saelens(tmp_path)
    folder(tmp_path)
    (tmp_path / "sae_weights.safetensors").write_bytes(b"\x80\x04pickle?")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_saelens(tmp_path)
    for text in ("{", "[]", "{}"):
        (tmp_path / "cfg.json").write_text(text)
        with pytest.raises(ValueError, match="is not a configuration of SAELens"):
            load_saelens(tmp_path)
