import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import chain, temperature, top_k
from strategies import entropy64, generators, law, log_softmax64, rows, seeds

pytestmark = pytest.mark.usefixtures("backend")


@law(rows(), st.floats(1e-3, 1e3))
def test_divides_the_logits(logits, t):
    expected = (logits.double() / t).float()
    masked = temperature(t).mask(logits)
    assert torch.equal(masked == -torch.inf, logits == -torch.inf)
    torch.testing.assert_close(masked, expected, rtol=1e-6, atol=0)


@law(rows(), st.floats(1e-2, 1e2), seeds())
def test_the_draw_is_described_under_the_tempered_distribution(logits, t, seed):
    draw, _ = temperature(t).step(logits, None, generators(seed, len(logits)))
    tempered, plain = (logits.double() / t).log_softmax(-1), log_softmax64(logits)
    token = draw.token[:, None]
    scale = 1 + 1 / t
    torch.testing.assert_close(draw.log_prob.double(), tempered.gather(-1, token)[:, 0], atol=3e-6 * scale, rtol=1e-5)
    torch.testing.assert_close(draw.surprisal.double(), -plain.gather(-1, token)[:, 0], atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(draw.drawn_entropy.double(), entropy64(tempered), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(draw.entropy.double(), entropy64(plain), atol=1e-5, rtol=1e-5)


@law(rows(), st.floats(0.1, 10), st.floats(0.1, 10))
def test_two_temperatures_multiply(logits, a, b):
    both = chain(temperature(a), temperature(b)).mask(logits)
    torch.testing.assert_close(both, temperature(a * b).mask(logits), rtol=1e-5, atol=0)


@law(rows(), seeds())
def test_zero_takes_the_lowest_of_the_most_probable(logits, seed):
    first = logits.argmax(-1)
    draw, _ = temperature(0).step(logits, None, generators(seed, len(logits)))
    assert torch.equal(draw.token, torch.stack([(row == row.max()).nonzero()[0, 0] for row in logits]))
    assert torch.equal(logits.gather(-1, draw.token[:, None]), logits.gather(-1, first[:, None]))
    assert draw.kept.tolist() == [1] * len(logits)
    assert draw.drawn_entropy.tolist() == [0.0] * len(logits)


@law(rows(), st.integers(1, 50), st.floats(0.1, 10))
def test_after_a_truncation_the_rest_is_tempered(logits, k, t):
    expected = top_k(k).mask(logits).double() / t
    torch.testing.assert_close(chain(top_k(k), temperature(t)).mask(logits), expected.float(), rtol=1e-6, atol=0)


def test_one_value_a_row_zero_among_them():
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    masked = temperature(torch.tensor([0.0, 1.0, 2.0])).mask(logits)
    assert masked.isfinite().sum(-1).tolist() == [1, 300, 300]
    assert torch.equal(masked[1], logits[1])
    torch.testing.assert_close(masked[2], logits[2] / 2)


def test_a_cold_row_of_half_precision_does_not_overflow():
    logits = torch.tensor([[100.0, 90.0, 1.0], [1.0, 0.5, 0.0]]).half()
    masked = temperature(1e-3).mask(logits)
    assert not masked.isnan().any()
    assert not masked.isposinf().any()
    assert masked.softmax(-1)[0].tolist() == [1.0, 0.0, 0.0]
    assert masked[1].tolist() == [1000.0, 500.0, 0.0]


@pytest.mark.parametrize("t", [-1.0, float("inf"), float("nan")])
def test_refuses(t):
    with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
        temperature(t)
