"""The regulariser: its closed forms, its gradient, and a model whose heads it brings back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.info import causal_mask, head_entropy
from hartley.training.losses import EntropyRegularizer, regularized
from hartley.training.small_gpt import Shape, SmallGPT, fuse_ffn


def uniform_causal(size: int) -> torch.Tensor:
    return (torch.ones(size, size).tril() / torch.arange(1, size + 1)[:, None])[None, None]


def test_closed_forms():
    heads = EntropyRegularizer(1, 1, coeff=1.0, reduction="sum").requires_grad_(False)
    assert float(heads([uniform_causal(4)])) == pytest.approx(1.125308, abs=1e-6)
    assert float(heads([torch.full((1, 1, 1, 4), 0.25)])) == pytest.approx(0.480453, abs=1e-6)
    assert float(heads([torch.eye(4)[None, None]])) == pytest.approx(1.921812, abs=1e-6)
    assert float(EntropyRegularizer(1, 1, gamma=0.51, coeff=1.0)([uniform_causal(4)]).detach()) == 0
    assert (
        float(EntropyRegularizer(1, 1)([torch.ones(1, 1, 1, 1)]).detach()) == 0
    )  # one key: nothing to be low or high in


@given(st.integers(0, 2**31), st.sampled_from(["context", "row"]))
@settings(max_examples=30)
def test_sum_grows_with_the_batch_and_mean_does_not(seed, normalize):
    scores = 3 * torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
    mask = causal_mask(torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    twice, mask2 = torch.cat([weights, weights]), torch.cat([mask, mask])
    for reduction, factor in (("sum", 2), ("mean", 1)):
        heads = EntropyRegularizer(2, 2, 0.05, 1.0, reduction=reduction, normalize=normalize)
        once = heads([weights, weights.flip(1)], mask)
        torch.testing.assert_close(heads([twice, twice.flip(1)], mask2), factor * once)


def test_gradients_are_right_and_stop_inside_the_band():
    scores = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    scores.requires_grad_()
    heads = EntropyRegularizer(1, 2, gamma=0.05, coeff=1.0).double()

    def loss(scores, thresholds):
        heads.thresholds.data = thresholds.detach()
        return torch.func.functional_call(heads, {"thresholds": thresholds}, ([scores.softmax(-1)],))

    thresholds = torch.tensor([[0.3, 0.6]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (scores, thresholds))
    wide = EntropyRegularizer(1, 2, gamma=1.0, coeff=1.0).double()
    wide([scores.softmax(-1)]).backward()
    assert bool((scores.grad == 0).all())
    assert bool((wide.thresholds.grad == 0).all())


def test_a_mask_that_selects_nothing_is_zero_with_a_gradient_of_zero():
    scores = torch.zeros(1, 1, 3, 3, requires_grad=True)
    heads = EntropyRegularizer(1, 1, coeff=1.0)
    loss = heads([scores.softmax(-1)], torch.zeros(1, 1, 3, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0
    assert bool((scores.grad == 0).all())


@pytest.mark.parametrize("start", [8.0, 0.1])
def test_it_brings_heads_back_from_a_bad_start(start):
    ids = torch.randint(9, (8, 24), generator=torch.Generator().manual_seed(0))
    mask = causal_mask(torch.ones_like(ids))
    entropy = {}
    for coeff in (0.0, 1.0):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = SmallGPT(Shape(9, context=24, layers=2, width=32), temperature=start)
        heads = EntropyRegularizer(2, 4, gamma=0.05, coeff=coeff, normalize="row")
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(25):
            logits, attentions = model(ids)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
            (loss + heads(attentions, mask)).backward()
            optimizer.step()
        entropy[coeff] = head_entropy(model(ids)[1], mask).shares
    apart = {coeff: float((shares - 0.5).abs().mean()) for coeff, shares in entropy.items()}
    assert apart[1.0] < 0.7 * apart[0.0], apart


def test_a_fused_feed_forward_says_the_same():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = SmallGPT(Shape(9, width=16), norm=False, activation=None)
    ids = torch.arange(12)[None] % 9
    before = model(ids)[0]
    parameters = sum(p.numel() for p in model.blocks[0].ffn.parameters())
    for block in model.blocks:
        fuse_ffn(block)
    torch.testing.assert_close(model(ids)[0], before, rtol=1e-4, atol=1e-6)
    assert parameters - 16 - 64 == 8 * (sum(p.numel() for p in model.blocks[0].ffn.parameters()) - 16)
    with pytest.raises(ValueError, match="block must have a feed-forward without an activation; got GELU"):
        fuse_ffn(SmallGPT(Shape(9, width=16)).blocks[0])


def test_a_temperature_of_one_is_no_temperature():
    ids = torch.arange(12)[None] % 9
    found = []
    for temperature in (None, 1.0):
        with torch.random.fork_rng():
            torch.manual_seed(2)
            model = SmallGPT(Shape(9, width=16), temperature=temperature)
        found.append(model(ids)[0])
    torch.testing.assert_close(*found)


def test_a_transformers_model_is_regularised_while_it_trains_only():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, output_attentions=True, attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    heads = EntropyRegularizer(2, 2, gamma=0.0, coeff=1.0)
    compute = regularized(heads)
    ids = torch.randint(32, (2, 6), generator=torch.Generator().manual_seed(0))
    outputs = model(input_ids=ids)
    plain = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    trained = compute(outputs, ids)
    torch.testing.assert_close(trained, plain + heads(outputs.attentions, causal_mask(torch.ones_like(ids))))
    assert float((trained - plain).detach()) > 0
    trained.backward()
    assert heads.thresholds.grad is not None
    with torch.no_grad():
        torch.testing.assert_close(compute(outputs, ids), plain)
    torch.testing.assert_close(
        compute(outputs, ids, 20) - compute(outputs, ids, 10), plain * 10 * (1 / 20 - 1 / 10), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="outputs must hold attentions: load the model with attn_implementation"):
        compute({"logits": outputs.logits}, ids)


def test_bad_input_is_named():
    heads = EntropyRegularizer(2, 4)
    with pytest.raises(ValueError, match=r"attentions must hold 2 layers of shape \[B, 4, Q, K\]; got \[\(1, 1, 4, 4"):
        heads([uniform_causal(4)])
    with pytest.raises(ValueError, match="gamma must be finite and at least 0; got -1"):
        EntropyRegularizer(1, 1, gamma=-1)
    with pytest.raises(ValueError, match=r"init must be in \(0, 1\]; got 0"):
        EntropyRegularizer(1, 1, init=0.0)
    with pytest.raises(ValueError, match=r"weights must sum to 1"):  # attention dropout
        EntropyRegularizer(1, 1)([uniform_causal(4) * 1.1])
    assert math.isfinite(EntropyRegularizer(1, 1)([uniform_causal(4).to(torch.bfloat16)]).item())
