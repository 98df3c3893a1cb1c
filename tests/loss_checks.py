"""Rows of logits, teachers and labels for the losses' tests, and what each loss must do whatever it measures."""

import torch
from hypothesis import strategies as st

KINDS = ("narrow", "wide", "huge", "tied")


@st.composite
def triples(draw, removed=True):
    """Student logits, teacher logits [N, C] and labels [N], float64; some classes removed on either side."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    n, c = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    scale = {"narrow": 1.0, "wide": 8.0, "huge": 1000.0, "tied": 1.0}[kind := draw(st.sampled_from(KINDS))]
    student = scale * torch.randn(n, c, generator=g, dtype=torch.float64)
    teacher = scale * torch.randn(n, c, generator=g, dtype=torch.float64)
    labels = torch.randint(c, (n,), generator=g)
    if kind == "tied":
        student, teacher = student.round(), teacher.round()
    if removed and draw(st.booleans()):
        for logits in (student, teacher):
            gone = torch.rand(n, c, generator=g) < 0.3
            logits.masked_fill_(gone.scatter(1, labels[:, None], False), -torch.inf)
    return student, teacher, labels


def grad_of(function, logits):
    """The gradient of the sum of what ``function`` makes of ``logits``."""
    leaf = logits.clone().requires_grad_()
    function(leaf).sum().backward()
    return leaf.grad


def assert_rows_that_do_not_count_do_nothing(loss):
    """``loss(logits, labels, mask, reduction)`` ignores what is masked, NaN too, and takes the mean of the rest."""
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 5, generator=g), torch.tensor([[0, 1, -100], [2, 3, 4]])
    mask = torch.tensor([[True, False, True], [True, True, True]])
    logits[0, 1], logits[0, 2] = float("nan"), -torch.inf
    each = loss(logits, labels, mask, "none")
    assert each.shape == labels.shape
    assert each[0, 1] == each[0, 2] == 0
    assert each.isfinite().all()
    alone = loss(logits[1], labels[1], None, "none")
    torch.testing.assert_close(each[1], alone)
    torch.testing.assert_close(loss(logits, labels, mask, "mean"), each.sum() / 4)
    torch.testing.assert_close(loss(logits, labels, mask, "sum"), each.sum())
    grad = grad_of(lambda x: loss(x, labels, mask, "mean"), logits)
    assert grad.isfinite().all()
    assert not grad[0, 1:].any()
    assert grad[1].any()
    nothing = grad_of(lambda x: loss(x, labels, mask & False, "mean"), logits)
    assert loss(logits, labels, mask & False, "mean") == 0
    assert torch.equal(nothing, torch.zeros_like(logits))


def assert_half_precision_is_accumulated_in_float32(loss, tolerance=2e-6):
    """``loss(logits)`` of half-precision logits is that of the same numbers in float32."""
    logits = 4 * torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    for dtype in (torch.bfloat16, torch.float16):
        found = loss(logits.to(dtype))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss(logits.to(dtype).float()), rtol=tolerance, atol=tolerance)
        assert grad_of(loss, logits.to(dtype)).dtype == dtype
