"""Theorems and closed forms of the entropies, their exactness by dtype, gradients, forms and kinds, errors."""

import math
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.info.measures import (
    entropy,
    perplexity,
    renyi_entropy,
    surprisal,
    top_k_entropy,
    top_k_mass,
    varentropy,
)

MEASURES = {
    "entropy": entropy,
    "varentropy": varentropy,
    "surprisal": surprisal,
    "surprisal of one": partial(surprisal, 0),
    "renyi 0": partial(renyi_entropy, 0),
    "renyi 0.5": partial(renyi_entropy, 0.5),
    "renyi 0.97": partial(renyi_entropy, 0.97),
    "renyi 1": partial(renyi_entropy, 1),
    "renyi 2": partial(renyi_entropy, 2),
    "renyi inf": partial(renyi_entropy, math.inf),
    "perplexity": perplexity,
    "top_k_mass": partial(top_k_mass, 3),
    "top_k_entropy": partial(top_k_entropy, 3),
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
few = settings(max_examples=40)  # where one example is many calls


@st.composite
def distributions(draw, least=1, most=12, zeros=True):
    """Probabilities in float64, some of them 0 and some tiny."""
    weight = st.floats(1e-12, 1.0) | st.floats(0.1, 1.0)
    weights = draw(st.lists(weight | st.just(0.0) if zeros else weight, min_size=least, max_size=most))
    total = sum(weights)
    if total == 0:
        weights[draw(st.integers(0, len(weights) - 1))] = total = 1.0
    return np.array(weights) / total


@st.composite
def joints(draw, zeros=True):
    rows = draw(st.integers(1, 4))
    columns = draw(st.integers(1, 4))
    return draw(distributions(rows * columns, rows * columns, zeros=zeros)).reshape(rows, columns)


def plain_entropy(p):
    """The definition, written out."""
    return -math.fsum(x * math.log(x) for x in np.asarray(p).ravel() if x > 0)


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)
    return True


# Theorems


@given(distributions())
def test_entropy_is_its_definition_and_lies_between_0_and_log_of_the_support(p):
    h = entropy(probs=p)
    assert close(h, plain_entropy(p))
    assert 0 <= h <= math.log((p > 0).sum()) + 1e-12


@few
@given(distributions(), st.randoms())
def test_the_order_of_outcomes_does_not_matter(p, random):
    shuffled = np.array(random.sample(list(p), len(p)))
    for name, measure in MEASURES.items():
        if not name.startswith("surprisal"):
            assert close(measure(probs=p), measure(probs=shuffled), 1e-9), name


@given(distributions(2), st.data())
def test_grouping(p, data):
    """Shannon's third axiom: H(p) = H(groups) + sum P(group) H(within the group)."""
    cut = data.draw(st.integers(1, len(p) - 1))
    groups = [g for g in (p[:cut], p[cut:]) if g.sum() > 0]
    between = entropy(counts=np.array([g.sum() for g in groups]))
    within = sum(g.sum() * entropy(counts=g) for g in groups)
    assert close(entropy(probs=p), between + within)


@given(joints())
def test_chain_rule(joint):
    """H(X, Y) = H(X) + H(Y | X)."""
    conditional = sum(row.sum() * entropy(counts=row) for row in joint if row.sum() > 0)
    assert close(entropy(probs=joint.ravel()), entropy(probs=joint.sum(1)) + conditional)


@given(distributions(5, 5), distributions(5, 5), st.floats(0, 1))
def test_entropy_is_concave(p, q, t):
    mixed = entropy(probs=t * p + (1 - t) * q)
    assert mixed >= t * entropy(probs=p) + (1 - t) * entropy(probs=q) - 1e-12


@given(distributions(), distributions())
def test_entropy_and_varentropy_of_independent_pairs_add(p, q):
    product = np.outer(p, q).ravel()
    assert close(entropy(probs=product), entropy(probs=p) + entropy(probs=q), 1e-11)
    assert close(varentropy(probs=product), varentropy(probs=p) + varentropy(probs=q), 1e-10)


@given(distributions())
def test_varentropy_is_the_variance_of_the_surprisal_and_entropy_its_mean(p):
    s = surprisal(probs=p)[p > 0]
    p = p[p > 0]
    assert close(entropy(probs=p), (p * s).sum())
    assert close(varentropy(probs=p), (p * (s - (p * s).sum()) ** 2).sum())


@given(st.integers(1, 40), st.integers(0, 5))
def test_uniform(n, removed):
    logits = np.append(np.full(n, 2.5), np.full(removed, -np.inf))
    assert close(entropy(logits=logits), math.log(n))
    assert varentropy(logits=logits) < 1e-28
    assert close(perplexity(logits=logits), n)
    for order in (0, 0.3, 1, 1.05, 7, math.inf):
        assert close(renyi_entropy(order, logits=logits), math.log(n))


@given(st.floats(1e-6, 1 - 1e-6))
def test_two_outcomes(a):
    """Binary entropy, and its varentropy a (1 - a) ln^2(a / (1 - a))."""
    p = np.array([a, 1 - a])
    assert close(entropy(probs=p), -a * math.log(a) - (1 - a) * math.log(1 - a))
    assert close(varentropy(probs=p), a * (1 - a) * math.log(a / (1 - a)) ** 2)


ORDERS = (0, 0.1, 0.5, 0.9, 0.95, 1 - 1e-9, 1, 1 + 1e-9, 1.05, 1.1, 1.5, 2, 5, 50, math.inf)


@few
@given(distributions())
def test_renyi_falls_with_its_order_and_is_bounded_by_the_min_entropy(p):
    values = [renyi_entropy(order, probs=p) for order in ORDERS]
    assert all(b <= a + 1e-11 for a, b in pairwise(values))
    for order, value in zip(ORDERS, values, strict=True):
        if order > 1:
            assert value <= values[-1] * (order / (order - 1) if order < math.inf else 1) + 1e-11


@few
@given(distributions(zeros=False))
def test_renyi_is_its_definition_at_50_digits(p):
    p = p / math.fsum(p)
    for order in ORDERS[1:-1]:
        if order != 1:
            with mpmath.workdps(50):
                total = mpmath.fsum(mpmath.mpf(float(x)) for x in p)
                terms = (mpmath.power(mpmath.mpf(float(x)) / total, mpmath.mpf(order)) for x in p)
                exact = mpmath.log(mpmath.fsum(terms)) / (1 - mpmath.mpf(order))
            assert close(renyi_entropy(order, probs=p), float(exact), 1e-11)


@few
@given(distributions(), distributions(), st.floats(0, 10))
def test_renyi_of_independent_pairs_adds(p, q, order):
    both = renyi_entropy(order, probs=np.outer(p, q).ravel())
    assert close(both, renyi_entropy(order, probs=p) + renyi_entropy(order, probs=q), 1e-9)


def test_hartley_counts_the_support():
    assert renyi_entropy(0, probs=np.array([0.7, 0.3, 0.0]), base=2) == 1
    assert close(renyi_entropy(0, counts=np.ones(10), base=10), 1)  # one hartley


@few
@given(distributions(), st.integers(1, 15))
def test_the_top_and_the_rest_make_the_whole(p, k):
    """H = h(mass) + mass H(top) + (1 - mass) H(rest): grouping at the k-th outcome."""
    rest = np.sort(p)[::-1][k:]
    mass = top_k_mass(k, probs=p)
    inside = top_k_entropy(k, probs=p)
    assert close(mass, np.sort(p)[::-1][:k].sum())
    assert inside <= math.log(min(k, len(p))) + 1e-12
    outside = rest.sum() * entropy(counts=rest) if rest.sum() > 0 else 0
    assert close(entropy(probs=p), plain_entropy([mass, rest.sum()]) + mass * inside + outside, 1e-11)


@given(distributions())
def test_perplexity_is_exp_of_the_nats_and_2_to_the_bits(p):
    assert close(perplexity(probs=p), math.exp(entropy(probs=p)))
    assert close(perplexity(probs=p, base=2), 2 ** entropy(probs=p, base=2))


def test_closed_forms_in_bits():
    p = np.array([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    assert close(entropy(probs=p, base=2), 1.75)
    assert close(varentropy(probs=p, base=2), 0.6875)
    assert close(surprisal(probs=p, base=2), [1, 2, 3, 3])
    assert close(renyi_entropy(2, probs=p, base=2), -math.log2(11 / 32))
    assert close(renyi_entropy(math.inf, probs=p, base=2), 1)
    assert close(top_k_entropy(2, probs=p, base=2), math.log2(3) - 2 / 3)
    assert top_k_mass(2, probs=p) == 0.75


# Exactness

TOLERANCE = {"float64": 1e-14, "float32": 1e-6, "float16": 1e-6, "bfloat16": 1e-6}  # nats; measured: 1e-15 and 6e-7


def test_errors_against_50_digits(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.exactness import DTYPES, SIZES, error_table

    table = error_table(rows=1)
    assert {(row["dtype"], row["V"]) for row in table} == {(str(d)[6:], v) for d in DTYPES for v in SIZES}
    for row in table:
        assert row["entropy_error_nats"] < TOLERANCE[row["dtype"]], row
        assert row["varentropy_error_nats2"] < 3 * TOLERANCE[row["dtype"]], row
    sys.modules.pop("benchmarks.exactness")


@pytest.mark.parametrize("form", ["log_probs", "probs"])
def test_other_forms_are_as_exact(form):
    x = 3 * torch.randn(4, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    exact = entropy(logits=x)
    value = {"log_probs": x.log_softmax(-1), "probs": x.softmax(-1)}[form]
    assert (entropy(**{form: value}) - exact).abs().max() < 1e-13
    assert (entropy(**{form: value.float()}) - exact).abs().max() < 2e-6
    assert (entropy(**{form: value.bfloat16()}) - exact).abs().max() < 0.02  # the input's own rounding


def test_extreme_logits():
    for dtype in (torch.float32, torch.float64):
        big = torch.finfo(dtype).max
        for row in ([big, -big, -torch.inf], [0.0, -1e30, -big], [-big, -torch.inf, -torch.inf]):
            logits = torch.tensor(row, dtype=dtype, requires_grad=True)
            for name, measure in MEASURES.items():
                value = measure(logits=logits)
                assert not value.isnan().any(), name
                if name in ("entropy", "varentropy"):
                    assert value == 0
                if name != "surprisal":
                    (gradient,) = torch.autograd.grad(value, logits)
                    assert gradient.isfinite().all(), name


# Gradients


@each_measure
def test_gradients_of_logits_with_removed_tokens(measure):
    x = torch.tensor([[0.3, -1.2, 2.0, 0.7], [1.5, 0.2, -0.4, -3.0]], dtype=torch.float64, requires_grad=True)
    removed = torch.full((2, 2), -torch.inf, dtype=torch.float64)

    def value(x):
        result = measure(logits=torch.cat((removed, x), -1)[:, [2, 0, 3, 4, 1, 5]])
        return torch.where(result.isinf(), 0, result)  # the surprisal of what is removed

    assert torch.autograd.gradcheck(value, (x,))
    assert torch.autograd.gradcheck(lambda x: measure(counts=x.exp()), (x,))
    assert torch.autograd.gradcheck(lambda x: measure(probs=x.softmax(-1)), (x,))
    assert torch.autograd.gradcheck(lambda x: measure(log_probs=x.log_softmax(-1)), (x,))


@each_measure
def test_gradients_of_zero_probabilities_are_zero(measure):
    p = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64, requires_grad=True)
    kept = torch.tensor([0, 2, 3])
    value = measure(probs=p)
    value[value.isfinite()].sum().backward() if value.ndim else value.backward()
    short = p.detach()[kept].requires_grad_()
    measure(probs=short).sum().backward()
    assert p.grad.isfinite().all()
    assert close(p.grad[kept], short.grad)


# Kinds, forms, shapes, dtypes


@each_measure
@settings(max_examples=12)
@given(p=distributions(3, 9))
def test_forms_and_kinds_agree(measure, p):
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    forms = {"probs": p, "log_probs": log_p, "logits": log_p + 3.25, "counts": 40 * p}
    expected = measure(probs=p)
    for form, value in forms.items():
        assert close(measure(**{form: value}), expected, 1e-9)
        as_torch = measure(**{form: torch.from_numpy(value)})
        assert isinstance(as_torch, torch.Tensor)
        assert close(as_torch, measure(**{form: value}), 1e-15)
    assert close(measure(probs=list(p)), expected, 0)


@each_measure
@pytest.mark.parametrize(
    ("given_dtype", "result_dtype"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int32, torch.float64),
        (torch.bool, torch.float64),
    ],
)
def test_result_dtypes(measure, given_dtype, result_dtype):
    counts = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]).to(given_dtype)
    assert measure(counts=counts).dtype == result_dtype
    if given_dtype.is_floating_point and given_dtype != torch.bfloat16:
        assert measure(counts=counts.numpy()).dtype == {4: np.float32, 8: np.float64}[result_dtype.itemsize]


@each_measure
@pytest.mark.parametrize("axis", [-1, 0, 1, -2])
def test_axis_and_keepdims(measure, axis):
    logits = np.random.default_rng(0).normal(size=(4, 5, 6))
    expected = measure(logits=np.ascontiguousarray(np.moveaxis(logits, axis, -1)))
    kept = measure(logits=logits, axis=axis, keepdims=True)
    if measure is surprisal:
        expected = np.moveaxis(expected, -1, axis)
    else:
        assert close(measure(logits=logits, axis=axis), expected)
        expected = np.expand_dims(expected, axis)
    assert kept.shape == expected.shape
    assert close(kept, expected)


def test_a_single_row_gives_a_numpy_scalar():
    assert isinstance(entropy(probs=np.array([0.5, 0.5])), np.float64)
    assert isinstance(entropy(probs=[0.5, 0.5]), float)


def test_views_of_every_kind_are_read_and_left_alone():
    x = np.random.default_rng(1).normal(size=(6, 8))
    assert entropy(counts=(x**2)[:1, 0][::-1]) == 0  # one element is contiguous however it is strided
    x.flags.writeable = False
    assert close(entropy(logits=x[::-1, ::-2]), entropy(logits=np.array(x[::-1, ::-2])))
    t = torch.randn(6, 8)
    before = t.clone()
    assert close(entropy(logits=t.T), entropy(logits=t.T.contiguous()))
    assert torch.equal(t, before)


@given(distributions(2), st.floats(1.5, 20))
def test_base_divides_by_its_logarithm(p, base):
    assert close(entropy(probs=p, base=base), entropy(probs=p) / math.log(base))
    assert close(varentropy(probs=p, base=base), varentropy(probs=p) / math.log(base) ** 2)


def test_surprisal_of_tokens():
    logits = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none")
    torch.testing.assert_close(surprisal(tokens, logits=logits), expected)
    torch.testing.assert_close(surprisal(tokens, logits=logits.movedim(-1, 1), axis=1), expected)
    assert surprisal(tokens, logits=logits, keepdims=True).shape == (3, 4, 1)
    assert surprisal(tokens.int().numpy(), logits=logits.numpy()).shape == (3, 4)
    assert surprisal(2, probs=np.array([0.5, 0.5, 0.0])) == math.inf


# Errors


@each_measure
@pytest.mark.parametrize(
    ("form", "rows", "message"),
    [
        ("logits", [[0.0, 1.0], [math.nan, 1.0]], "^logits .* NaN at index 0 in row 1$"),
        ("logits", [[0.0, math.inf], [0.0, 1.0]], r"^logits .* \+inf at index 1 in row 0$"),
        ("logits", [[0.0, 1.0], [-math.inf, -math.inf]], "^logits .* nothing but -inf in row 1$"),
        ("log_probs", [[-0.5, -0.5]], r"^exp\(log_probs\) must sum to 1 within 1e-06; got 1\.213061 in row 0"),
        ("log_probs", [[math.nan, 0.0]], "^log_probs .* NaN at index 0 in row 0$"),
        ("probs", [[0.5, 0.5], [0.5, 0.4]], r"^probs must sum to 1 within 1e-06; got 0\.9 in row 1"),
        ("probs", [[1.5, -0.5]], r"^probs must not be negative; got -0\.5 in row 0$"),
        ("probs", [[math.nan, 0.5]], "^probs must be finite; got NaN or inf in row 0$"),
        ("counts", [[3, 2], [0, 0]], "^counts must not be all zero; got nothing but 0 in row 1$"),
        ("counts", [[3, -2]], r"^counts must not be negative; got -2\.0 in row 0$"),
        ("counts", [[math.inf, 1.0]], "^counts must be finite; got NaN or inf in row 0$"),
        ("counts", [[], []], "^counts must hold at least one value along axis -1"),
    ],
)
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_bad_rows_are_named(measure, form, rows, message, kind):
    value = torch.tensor(rows, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        measure(**{form: value if kind is torch.tensor else value.numpy()})


@pytest.mark.parametrize(
    ("dtype", "off"), [(torch.float64, 1e-6), (torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 5e-2)]
)
def test_the_tolerance_of_the_sum(dtype, off):
    entropy(probs=torch.tensor([0.5, 0.5 - 0.6 * off]).double().to(dtype))
    with pytest.raises(ValueError, match="probs must sum to 1"):
        entropy(probs=torch.tensor([0.5, 0.5 - 2 * off]).double().to(dtype))


@each_measure
def test_one_form_at_a_time(measure):
    p = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match=r"exactly one of logits=, log_probs=, probs=, counts=; got none"):
        measure()
    with pytest.raises(ValueError, match=r"got logits= and probs="):
        measure(logits=p, probs=p)


@each_measure
def test_bad_settings(measure):
    p = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match=r"axis 1 is out of range: probs has 1 dimension$"):
        measure(probs=p, axis=1)
    with pytest.raises(ValueError, match="base must be None"):
        measure(probs=p, base=1)
    with pytest.raises(TypeError, match="probs must be an array of real numbers"):
        measure(probs=p + 1j)
    with pytest.raises(TypeError, match="probs must be an array of real numbers"):
        measure(probs=torch.tensor(p + 1j))
    with pytest.raises(TypeError, match="probs must be an array of real numbers"):
        measure(probs=["a", "b"])
    with pytest.raises(ValueError, match="axis -1 is out of range: probs has 0 dimensions"):
        measure(probs=1.0)


def test_bad_orders_counts_and_tokens():
    p = np.full((2, 2), 0.5)
    for order in (-1, math.nan):
        with pytest.raises(ValueError, match="order must be finite and at least 0"):
            renyi_entropy(order, probs=p)
    with pytest.raises(ValueError, match="k must be a whole number of at least 1; got 0"):
        top_k_mass(0, probs=p)
    with pytest.raises(TypeError, match="k must be a whole number"):
        top_k_entropy(1.5, probs=p)
    with pytest.raises(ValueError, match=r"tokens must be in 0 \.\. 1; got 2"):
        surprisal(np.array([0, 2]), probs=p)
    with pytest.raises(ValueError, match=r"tokens must be in 0 \.\. 1; got -100"):
        surprisal(np.array([0, -100]), probs=p)
    with pytest.raises(ValueError, match=r"tokens must have shape \(2,\)"):
        surprisal(np.array([0, 1, 1]), probs=p)
    with pytest.raises(TypeError, match="tokens must be integers"):
        surprisal(np.array([0.0, 1.0]), probs=p)
