"""The inequalities of information theory as theorems on drawn distributions, then exactness, gradients and errors."""

import math
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hartley.info.divergences import cross_entropy, js_divergence, kl_divergence, mutual_information
from hartley.info.measures import entropy

PAIRS = {"cross_entropy": cross_entropy, "kl_divergence": kl_divergence, "js_divergence": js_divergence}
each_pair = pytest.mark.parametrize("divergence", PAIRS.values(), ids=PAIRS.keys())

weight = st.floats(1e-9, 1.0) | st.just(0.0)


@st.composite
def normal(draw, shape, elements=weight):
    """An array of non-negative numbers that sums to 1."""
    weights = draw(arrays(np.float64, shape, elements=elements))
    if weights.sum() == 0:
        weights.flat[0] = 1
    return weights / weights.sum()


@st.composite
def channels(draw, inputs, outputs):
    """Rows of conditional probabilities."""
    return np.stack([draw(normal(outputs)) for _ in range(inputs)])


def close(a, b, tolerance=1e-11):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)
    return True


def kl(p, q):
    return kl_divergence(probs=p, q_probs=q)


# Theorems

positive = st.floats(1e-9, 1.0)


@given(normal(5), normal(5))
def test_gibbs(p, q):
    """KL >= 0, so no model codes p shorter than p itself; and it is 0 for p alone."""
    assert kl(p, q) >= 0
    assert cross_entropy(probs=p, q_probs=q) >= entropy(probs=p) - 1e-12
    assert kl(p, p) == 0


@given(normal(5), normal(5, positive))
def test_cross_entropy_is_entropy_plus_divergence(p, q):
    support = p > 0
    assert close(kl(p, q), (p[support] * np.log(p[support] / q[support])).sum())
    assert close(cross_entropy(probs=p, q_probs=q), entropy(probs=p) + kl(p, q))


@given(normal(5), normal(5))
def test_infinite_exactly_where_the_model_excludes_what_happens(p, q):
    excluded = bool(((p > 0) & (q == 0)).any())
    assert (kl(p, q) == math.inf) == excluded
    assert (cross_entropy(probs=p, q_probs=q) == math.inf) == excluded


@given(normal(5), normal(5, positive))
def test_pinsker(p, q):
    assert kl(p, q) >= np.abs(p - q).sum() ** 2 / 2 - 1e-12


@given(arrays(np.float64, 4, elements=positive), arrays(np.float64, 4, elements=positive))
def test_log_sum_inequality(a, b):
    """sum a ln(a / b) >= (sum a) ln(sum a / sum b), the gap being (sum a) KL."""
    left = (a * np.log(a / b)).sum()
    right = a.sum() * math.log(a.sum() / b.sum())
    assert left >= right - 1e-11
    assert close(left, right + a.sum() * kl_divergence(counts=a, q_counts=b))


@settings(max_examples=40)
@given(normal(4), normal(4, positive), channels(4, 3))
def test_data_processing_of_divergences(p, q, channel):
    """No channel makes two distributions easier to tell apart."""
    assert kl(p @ channel, q @ channel) <= kl(p, q) + 1e-12
    before, after = (js_divergence(probs=a, q_probs=b) for a, b in ((p, q), (p @ channel, q @ channel)))
    assert after <= before + 1e-12


@settings(max_examples=40)
@given(normal((3, 4)), channels(4, 3))
def test_data_processing_of_information(joint, channel):
    """X - Y - Z: Z knows no more of X than Y does."""
    assert mutual_information(probs=joint @ channel) <= mutual_information(probs=joint) + 1e-12


@settings(max_examples=40)
@given(normal((3, 4)), normal((3, 4), positive))
def test_chain_rule_of_divergence(p, q):
    """KL of the pair = KL of the first + mean KL of the second given the first."""
    given_first = sum(p[i].sum() * kl_divergence(counts=p[i], q_counts=q[i]) for i in range(3) if p[i].sum() > 0)
    assert close(kl(p.ravel(), q.ravel()), kl(p.sum(1), q.sum(1)) + given_first)


@settings(max_examples=40)
@given(normal(5), normal(5), normal(5))
def test_jensen_shannon_is_the_square_of_a_bounded_metric(p, q, r):
    pq, qr, pr = (js_divergence(probs=a, q_probs=b) for a, b in ((p, q), (q, r), (p, r)))
    assert 0 <= pq <= math.log(2) * np.abs(p - q).sum() / 2 + 1e-12  # at most ln 2 times the total variation
    assert close(pq, js_divergence(probs=q, q_probs=p), 1e-14)
    assert close(pq, entropy(probs=(p + q) / 2) - (entropy(probs=p) + entropy(probs=q)) / 2)
    assert math.sqrt(pr) <= math.sqrt(pq) + math.sqrt(qr) + 1e-7


@given(normal((3, 4)))
def test_information_is_what_the_marginals_share(joint):
    i = mutual_information(probs=joint)
    x, y = entropy(probs=joint.sum(1)), entropy(probs=joint.sum(0))
    assert close(i, x + y - entropy(probs=joint.ravel()))
    assert 0 <= i <= min(x, y) + 1e-12
    assert close(i, mutual_information(probs=joint.T))


@given(normal(3), normal(4))
def test_independent_variables_share_nothing(p, q):
    assert mutual_information(probs=np.outer(p, q)) < 1e-15


def test_closed_forms():
    assert close(kl(np.array([0.5, 0.5]), np.array([0.25, 0.75])), 0.5 * math.log(4 / 3))
    assert close(mutual_information(counts=3 * np.eye(4), base=2), 2)
    flip = 0.11  # the binary symmetric channel
    joint = np.array([[1 - flip, flip], [flip, 1 - flip]]) / 2
    assert close(mutual_information(probs=joint, base=2), 1 - entropy(probs=[flip, 1 - flip], base=2))
    assert close(js_divergence(probs=np.array([0.0, 1.0]), q_probs=np.array([1.0, 0.0])), math.log(2))


# Exactness


@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 1e-2)])
def test_close_distributions_keep_their_digits(step, dtype, relative):
    """The naive sum p ln(p / q) in float32 cannot tell anything under 1e-7 from 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, dtype=torch.float64, generator=generator).to(dtype)
    y = (x.double() + step * torch.randn(1000, dtype=torch.float64, generator=generator)).to(dtype)
    with mpmath.workdps(50):
        p, q = ([mpmath.exp(mpmath.mpf(v)) for v in row.double().tolist()] for row in (x, y))
        total_p, total_q = mpmath.fsum(p), mpmath.fsum(q)
        exact = mpmath.fsum(a / total_p * mpmath.log(a * total_q / b / total_p) for a, b in zip(p, q, strict=True))
        middle = [(a / total_p + b / total_q) / 2 for a, b in zip(p, q, strict=True)]
        exact_js = mpmath.fsum(
            a / total_p * mpmath.log(a / total_p / m) + b / total_q * mpmath.log(b / total_q / m)
            for a, b, m in zip(p, q, middle, strict=True)
        )
        exact_js /= 2
    noise = 3e-13 if dtype == torch.float32 else 0  # the rounding of the log-probabilities themselves, squared
    assert abs(kl_divergence(logits=x, q_logits=y).item() - float(exact)) <= relative * float(exact) + noise
    assert abs(js_divergence(logits=x, q_logits=y).item() - float(exact_js)) <= relative * float(exact_js) + noise


def test_far_apart_distributions():
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([0.0, -80.0, -1e4], dtype=dtype)
        assert close(kl_divergence(logits=x, q_logits=x.flip(0)), 1e4, 1e-6)
        assert close(js_divergence(logits=x, q_logits=x.flip(0)), math.log(2), 1e-6)
        assert kl_divergence(logits=x, q_logits=x) == 0


# Gradients


@each_pair
@pytest.mark.parametrize("forms", [("logits", "q_logits"), ("counts", "q_logits"), ("logits", "q_counts")])
def test_gradients(divergence, forms):
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(3, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2))
    masks = (torch.tensor([1, 0, 1, 1]), torch.tensor([1, 0, 1, 1 if divergence is not js_divergence else 0]))

    def value(x, y):
        given_ = {}
        for form, z, mask in zip(forms, (x, y), masks, strict=True):
            given_[form] = z.exp() * mask if form.endswith("counts") else z.masked_fill(mask == 0, -torch.inf)
        return divergence(**given_)

    assert torch.autograd.gradcheck(value, (x, y))


@each_pair
def test_gradients_are_finite_at_zeros_infinities_and_equality(divergence):
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = divergence(probs=p, q_probs=q)
    (value[1] + value[0].clamp(max=1)).backward()
    assert p.grad.isfinite().all()
    assert q.grad.isfinite().all()
    if divergence is not cross_entropy:
        assert value[1] == 0
        assert close(p.grad[1, :2], 0)
        assert close(q.grad[1, :2], 0)


def test_gradient_of_the_student_is_q_minus_p():
    teacher, student = torch.randn(2, 6, 50, generator=torch.Generator().manual_seed(2))
    student.requires_grad_()
    for divergence in (kl_divergence, cross_entropy):
        (gradient,) = torch.autograd.grad(divergence(logits=teacher, q_logits=student).sum(), student)
        torch.testing.assert_close(gradient, student.softmax(-1) - teacher.softmax(-1))


def test_gradients_of_information():
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    gap = torch.zeros(3, 4, dtype=torch.float64)
    gap[1] = gap[0, 2] = -torch.inf  # a whole value of X, and one pair, never happen
    assert torch.autograd.gradcheck(lambda x: mutual_information(logits=x + gap), (x,))
    assert torch.autograd.gradcheck(lambda x: mutual_information(counts=x.exp()), (x,))


# Kinds, forms, shapes, dtypes


@each_pair
@settings(max_examples=20)
@given(p=normal(4), q=normal(4, positive))
def test_forms_and_kinds_agree(divergence, p, q):
    expected = divergence(probs=p, q_probs=q)
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(p), np.log(q)
    assert close(divergence(logits=log_p - 7, q_counts=3 * q), expected)
    assert close(divergence(log_probs=log_p, q_logits=log_q + 5), expected)
    mixed = divergence(counts=torch.from_numpy(9 * p), q_log_probs=torch.from_numpy(log_q))
    assert isinstance(mixed, torch.Tensor)
    assert close(mixed, expected)


@each_pair
def test_shapes_broadcast(divergence):
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(5, 3, 7)), rng.normal(size=7)
    expected = [[divergence(logits=row, q_logits=q) for row in rows] for rows in p]
    assert close(divergence(logits=p, q_logits=q), expected)
    assert divergence(logits=p, q_logits=q, keepdims=True).shape == (5, 3, 1)
    moved = divergence(logits=np.moveaxis(p, -1, 0), q_logits=q, axis=0, keepdims=True)
    assert close(moved, np.array(expected)[None])


@each_pair
def test_result_dtype_is_the_wider(divergence):
    p = torch.randn(4)
    assert divergence(logits=p.half(), q_logits=p.bfloat16()).dtype == torch.float32
    assert divergence(logits=p.half(), q_logits=p.double()).dtype == torch.float64
    assert divergence(counts=torch.tensor([1, 2, 3, 4]), q_logits=p).dtype == torch.float64


@each_pair
@settings(max_examples=20)
@given(p=normal(4), q=normal(4, positive), base=st.floats(1.5, 10))
def test_base_divides_by_its_logarithm(divergence, p, q, base):
    assert close(divergence(probs=p, q_probs=q, base=base), divergence(probs=p, q_probs=q) / math.log(base))


@pytest.mark.parametrize("form", ["logits", "log_probs", "probs", "counts"])
def test_information_of_every_form_axis_and_kind(form):
    joint = np.random.default_rng(3).dirichlet(np.ones(12), size=5).reshape(5, 3, 4)
    value = {"logits": np.log(joint) + 2, "log_probs": np.log(joint), "probs": joint, "counts": 7 * joint}[form]
    expected = [mutual_information(probs=each) for each in joint]
    assert close(mutual_information(**{form: value}), expected)
    assert close(mutual_information(**{form: np.moveaxis(value, 0, 1)}, axis=(0, 2)), expected)
    assert close(mutual_information(**{form: torch.from_numpy(value)}), expected)
    assert close(mutual_information(**{form: value}, base=2), np.array(expected) / math.log(2))
    kept = mutual_information(**{form: np.moveaxis(value, 0, 1)}, axis=(0, 2), keepdims=True)
    assert close(kept, np.array(expected).reshape(1, 5, 1))
    half = mutual_information(**{form: torch.from_numpy(value).half()})
    assert half.dtype == torch.float32


# Errors


@each_pair
def test_the_second_distribution_is_named(divergence):
    p = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"exactly one of q_logits=, q_log_probs=, q_probs=, q_counts=; got none"):
        divergence(probs=p)
    with pytest.raises(ValueError, match=r"exactly one of logits=, .* got none"):
        divergence(q_probs=p)
    with pytest.raises(ValueError, match=r"got q_logits= and q_probs="):
        divergence(probs=p, q_probs=p, q_logits=p)
    with pytest.raises(ValueError, match=r"q_probs must sum to 1 within .* in row 0"):
        divergence(probs=p, q_probs=np.array([[0.5, 0.4], [0.5, 0.5]]))
    with pytest.raises(ValueError, match=r"exp\(q_log_probs\) must sum to 1"):
        divergence(probs=p, q_log_probs=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="q_logits must be finite or -inf; got NaN at index 1 in row 1"):
        divergence(probs=p, q_logits=np.array([[0.0, 0.0], [0.0, np.nan]]))
    with pytest.raises(TypeError, match="both be NumPy arrays or both torch tensors; got p NumPy, q torch"):
        divergence(probs=p, q_probs=torch.tensor(p))


@each_pair
def test_shapes_that_do_not_match_are_named(divergence):
    with pytest.raises(ValueError, match="same number of outcomes along axis -1; got 2 and 3"):
        divergence(counts=np.ones((4, 2)), q_counts=np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"leading shapes of p and q must broadcast; got \(4,\) and \(5,\)"):
        divergence(counts=np.ones((4, 2)), q_counts=np.ones((5, 2)))


def test_bad_joints():
    joint = np.full((2, 2), 0.25)
    information = partial(mutual_information, probs=joint)
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        information(axis=(0, 2))
    with pytest.raises(ValueError, match="axis must name two different axes"):
        information(axis=(1, -1))
    with pytest.raises(ValueError, match="probs must sum to 1"):
        mutual_information(probs=2 * joint)
    with pytest.raises(ValueError, match="counts must not be all zero; got nothing but 0 in row 1"):
        mutual_information(counts=np.stack([joint, 0 * joint]))
    with pytest.raises(ValueError, match="exactly one of"):
        mutual_information()
    with pytest.raises(ValueError, match="axis -2 is out of range: probs has 1 dimension"):
        mutual_information(probs=joint[0])
    with pytest.raises(ValueError, match="must hold at least one value along axes"):
        mutual_information(counts=np.ones((2, 0)))
