import pytest
import torch
from hypothesis import strategies as st

from hartley.training.losses.rows import kept_rows, pair_rows, reduce_rows, take_rows
from strategies import law, seeds

NAN = float("nan")


@law(seeds(), st.sampled_from([(), (4,), (2, 3)]), st.sampled_from(["mean", "sum", "none"]))
def test_reducing_is_what_a_loop_would_do(seed, shape, reduction):
    g = torch.Generator().manual_seed(seed % 2**62)
    kept = torch.rand(shape, generator=g) < 0.6
    values = torch.randn(shape, generator=g)
    found = reduce_rows(take_rows(values, kept), kept, reduction)
    chosen = [float(v) for v, k in zip(values.flatten(), kept.flatten(), strict=True) if k]
    if reduction == "none":
        assert torch.equal(found, torch.where(kept, values, 0))
    else:
        expected = sum(chosen) / (max(1, len(chosen)) if reduction == "mean" else 1)
        assert found.item() == pytest.approx(expected, abs=1e-5)


def test_rows_that_all_count_are_not_copied():
    logits = torch.randn(2, 3, 5)
    assert take_rows(logits, torch.ones(2, 3, dtype=torch.bool)).data_ptr() == logits.data_ptr()


def test_half_precision_becomes_float32_and_the_teacher_has_no_gradient():
    teacher = torch.randn(3, 5, requires_grad=True)
    rows = pair_rows(torch.randn(3, 5).half(), teacher)
    assert (rows.student.dtype, rows.teacher.requires_grad) == (torch.float32, False)
    assert pair_rows(torch.randn(3, 5).double(), teacher).student.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 50), torch.zeros(2, 64)), r"same vocabulary; got 50 and 64.*logits\[\.\.\., :50\]"),
        ((torch.zeros(2, 5), torch.zeros(3, 5)), r"same leading shape; got \(2,\) and \(3,\)"),
        (
            (torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(3).long()),
            r"labels must have .*; got shape \(3,\)",
        ),
        ((torch.zeros(2, 5), torch.zeros(2, 5), torch.tensor([0, 5])), r"labels must be in 0\.\.4.*got 5 in row 1"),
        (
            (torch.zeros(2, 0), torch.zeros(2, 0)),
            r"student_logits must hold at least one value a row",
        ),
        ((torch.zeros(2, 5), torch.tensor([[0.0] * 5, [NAN] * 5])), r"teacher_logits must be finite.*NaN.*row 1"),
        ((torch.full((2, 5), -torch.inf), torch.zeros(2, 5)), r"student_logits must leave at least one token"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        pair_rows(*arguments)


def test_a_bad_row_is_named_by_its_place_among_all():
    student = torch.zeros(2, 2, 5)
    student[1, 1, 3] = NAN
    mask = torch.tensor([[False, True], [False, True]])
    with pytest.raises(ValueError, match=r"got NaN at index 3 in row \(1, 1\)"):
        pair_rows(student, torch.zeros(2, 2, 5), mask=mask)
    assert len(pair_rows(student, torch.zeros(2, 2, 5), mask=torch.tensor([[True, True], [True, False]])).student) == 3


def test_masks_and_labels_of_the_wrong_kind():
    with pytest.raises(ValueError, match=r"mask must be bool.*\(3,\); got torch.int64 of shape \(3,\)"):
        kept_rows(torch.zeros(3, 5), mask=torch.ones(3).long())
    with pytest.raises(TypeError, match=r"labels must be integers; got torch.float32"):
        kept_rows(torch.zeros(3, 5), torch.zeros(3))
    with pytest.raises(TypeError, match=r"student_logits must be floating point; got torch.int64"):
        pair_rows(torch.zeros(3, 5).long(), torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"reduction must be one of 'mean', 'sum', 'none'; got 'average'"):
        reduce_rows(torch.zeros(3), torch.ones(3, dtype=torch.bool), "average")
