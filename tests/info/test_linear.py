"""`linear_statistics` and `logits_statistics`: the definition written out, its slopes by autograd, then the laws."""

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hartley.info as info
from hartley.info import LinearTeacher, TopKTeacher, linear_statistics, logits_statistics
from hartley.info.kernels import tiles_reference
from hartley.info.kernels.tiling import kernels_for
from hartley.info.token_numbers import merged
from strategies import rows

NAMES = ("log_prob", "logsumexp", "entropy", "varentropy", "top_k_mass", "top_k_entropy", "kl")


def defined(z: Tensor, labels: Tensor, teacher: Tensor, top_k: int, smoothing: float) -> dict[str, Tensor]:
    """Every number, from all logits at once."""
    found = {
        "logsumexp": z.logsumexp(-1),
        "entropy": info.entropy(logits=z),
        "varentropy": info.varentropy(logits=z),
        "kl": info.kl_divergence(logits=teacher, q_logits=z),
        "log_prob": -torch.nn.functional.cross_entropy(z, labels, reduction="none", label_smoothing=smoothing),
    }
    if top_k:
        found |= {"top_k_mass": info.top_k_mass(top_k, logits=z), "top_k_entropy": info.top_k_entropy(top_k, logits=z)}
    return found


def inputs(seed: int, count: int, width: int, size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    shapes = (count, width), (size, width), (size,)
    hidden, weight, bias = (torch.randn(shape, generator=g, dtype=dtype) for shape in shapes)
    labels = torch.randint(size, (count,), generator=g)
    labels[torch.rand(count, generator=g) < 0.2] = -100
    return hidden, weight, bias, labels, torch.randn(count, size, generator=g, dtype=dtype)


@given(
    st.integers(0, 2**31),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(1, 50),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([None, 3.0]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([0, 1, 3, 100]),
)
@settings(max_examples=40)
def test_numbers_and_slopes_are_those_of_the_definition(
    seed, count, size, chunk, temperature, softcap, smoothing, top_k
):
    hidden, weight, bias, labels, teacher = inputs(seed, count, 4, size)
    variables = [x.requires_grad_() for x in (hidden, weight, bias)]
    options = {"temperature": temperature, "softcap": softcap, "label_smoothing": smoothing, "top_k": top_k}

    def shaped(z: Tensor) -> Tensor:
        return (z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature

    z = shaped(hidden @ weight.T + bias)
    wanted = defined(z, labels, shaped(teacher), top_k, smoothing)
    found = linear_statistics(hidden, weight, labels, bias=bias, teacher=teacher, chunk_size=chunk, **options)
    ready = (hidden @ weight.T + bias).detach().requires_grad_()
    twin = logits_statistics(ready, labels, teacher=teacher, **options)
    plain = ready.detach().requires_grad_()
    again = defined(shaped(plain), labels, shaped(teacher), top_k, smoothing)
    for name in NAMES:
        if name not in wanted:
            assert getattr(found, name) is None
            continue
        torch.testing.assert_close(getattr(found, name), wanted[name], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(getattr(twin, name), wanted[name], rtol=1e-10, atol=1e-12)
        upstream = torch.linspace(-1, 2, count, dtype=torch.float64)
        slopes = torch.autograd.grad(getattr(found, name), variables, upstream, retain_graph=True)
        right = torch.autograd.grad(wanted[name], variables, upstream, retain_graph=True)
        torch.testing.assert_close(slopes, right, rtol=1e-9, atol=1e-11)
        (slope,) = torch.autograd.grad(getattr(twin, name), ready, upstream, retain_graph=True)
        (right,) = torch.autograd.grad(again[name], plain, upstream, retain_graph=True)
        torch.testing.assert_close(slope, right, rtol=1e-9, atol=1e-11)


def test_gradcheck_of_everything_at_once():
    hidden, weight, bias, labels, teacher = inputs(1, 3, 4, 11)
    variables = [x.requires_grad_() for x in (hidden, weight, bias)]

    def every(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"top_k": 3, "label_smoothing": 0.1, "softcap": 5.0, "temperature": 0.7}
        found = linear_statistics(hidden, weight, labels, bias=bias, teacher=teacher, chunk_size=4, **options)
        return tuple(x for x in found if x is not None)

    assert torch.autograd.gradcheck(every, variables)


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 8))
@settings(max_examples=30)
def test_a_teacher_may_come_as_logits_as_a_layer_or_as_its_likeliest_tokens(seed, size, k):
    hidden, weight, bias, _, _ = inputs(seed, 3, 4, size)
    own, layer, offset, _, _ = inputs(seed + 1, 3, 2, size)
    logits = own @ layer.T + offset
    hidden.requires_grad_()

    def taught(teacher, chunk_size):
        return linear_statistics(hidden, weight, bias=bias, teacher=teacher, temperature=2.0, chunk_size=chunk_size)

    whole, linear = taught(logits, None), taught(LinearTeacher(own, layer, offset), 3)
    torch.testing.assert_close(linear.kl, whole.kl, rtol=1e-10, atol=1e-12)
    log_probs, tokens = (logits / 2).log_softmax(-1).topk(min(k, size))
    found = taught(TopKTeacher(tokens, log_probs), 7)
    p, q = log_probs.exp(), ((hidden @ weight.T + bias) / 2).softmax(-1)
    ours = q.gather(-1, tokens)
    p, q = (torch.cat([x, (1 - x.sum(-1, keepdim=True)).clamp(min=1e-14)], -1) for x in (p, ours))
    wanted = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(found.kl, wanted, rtol=1e-8, atol=1e-10)
    assert bool((found.kl <= whole.kl + 1e-10).all())  # lumping outcomes never raises a divergence
    if k < size:
        slope, right = (torch.autograd.grad(x.sum(), hidden, retain_graph=True)[0] for x in (found.kl, wanted))
        torch.testing.assert_close(slope, right, rtol=1e-7, atol=1e-9)


@given(rows(batch=3), st.integers(0, 2**31), st.integers(1, 200))
@settings(max_examples=60)
def test_float32_rows_are_right_to_a_millionth(logits, seed, k):
    g = torch.Generator().manual_seed(seed)
    labels = torch.stack([(row > -torch.inf).nonzero().squeeze(-1)[0] for row in logits])
    teacher = logits + torch.randn(logits.shape, generator=g)
    found = logits_statistics(logits, labels, teacher=teacher, top_k=k)
    wanted = defined(logits.double(), labels, teacher.double(), k, 0.0)
    for name in NAMES:
        value = getattr(found, name)
        assert value.dtype == torch.float32
        # A divergence and a variance are differences of sums as large as this
        sums = wanted["logsumexp"].abs() + wanted["entropy"] ** 2
        scale = 1 + (sums if name in ("kl", "varentropy") else wanted[name].abs())
        assert bool(((value - wanted[name]).abs() <= 1e-6 * scale).all()), name


@pytest.mark.parametrize("gap", [5.0, 12.0, 20.0, 60.0])
def test_a_small_entropy_keeps_its_digits(gap):
    """One token in a thousand carries all but e^-gap: an entropy taken as a difference of two logarithms is lost."""
    logits = torch.full((1, 1000), -gap)
    logits[0, 7] = 0.0
    found, wanted = logits_statistics(logits).entropy, info.entropy(logits=logits.double())
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)


@given(st.integers(0, 2**31), st.sampled_from([1, 7, 64, 300, 2048]))
@settings(max_examples=20)
def test_the_chunk_changes_no_number_beyond_rounding(seed, chunk):
    hidden, weight, bias, labels, teacher = inputs(seed, 5, 16, 300, torch.float32)
    one, other = (
        linear_statistics(hidden, weight, labels, bias=bias, teacher=teacher, top_k=5, chunk_size=size)
        for size in (300, chunk)
    )
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_multiplied_and_summed_in_float32(dtype):
    given = (x.to(dtype) if x.is_floating_point() else x for x in inputs(3, 40, 64, 3000))
    hidden, weight, bias, labels, teacher = given
    grads = []
    for kind in (dtype, torch.float64):
        x, w = (y.detach().to(kind).requires_grad_() for y in (hidden, weight))
        found = linear_statistics(x, w, labels, bias=bias.to(kind), teacher=teacher.to(kind), top_k=10)
        sum(part.sum() for part in found).backward()
        grads.append((found, x.grad, w.grad))
    (half, *by_half), (exact, *by_exact) = grads
    for left, right in zip(half, exact, strict=True):
        assert left.dtype == torch.float32
        torch.testing.assert_close(left.double(), right, rtol=2e-5, atol=2e-5)
    for left, right in zip(by_half, by_exact, strict=True):
        assert left.dtype == dtype
        torch.testing.assert_close(left.double(), right, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@given(rows(batch=4), st.integers(0, 2**31))
@settings(max_examples=60)
def test_removed_tokens_have_no_part_and_no_slope(logits, seed):
    logits = logits.double().requires_grad_()
    found = logits_statistics(logits, teacher=logits.detach() * 0.5, top_k=3)
    sum(part.sum() for part in found if part is not None).backward()
    assert bool(logits.grad.isfinite().all())
    assert bool((logits.grad[logits == -torch.inf] == 0).all())
    short = [row[row > -torch.inf].detach().unsqueeze(0) for row in logits]
    for place, row in enumerate(short):
        alone = logits_statistics(row, teacher=row * 0.5, top_k=3)
        for left, right in zip(found, alone, strict=True):
            if left is not None:
                torch.testing.assert_close(left[place], right[0], rtol=1e-9, atol=1e-9)


def test_a_token_that_the_student_alone_removed_makes_the_divergence_infinite_and_its_slope_is_finite():
    hidden, weight, bias, _, teacher = inputs(5, 2, 4, 6)
    bias[3] = -torch.inf
    hidden.requires_grad_()
    found = linear_statistics(hidden, weight, bias=bias, teacher=teacher)
    assert bool(found.kl.isposinf().all())
    found.kl.sum().backward()
    assert bool(hidden.grad.isfinite().all())


def test_masked_places_are_zero_and_are_not_looked_at():
    hidden, weight, bias, labels, teacher = inputs(2, 6, 4, 20)
    mask = torch.tensor([True, False, True, True, False, False])
    hidden[1], teacher[4] = torch.nan, torch.nan
    x = hidden.clone().requires_grad_()
    found = linear_statistics(x, weight, labels, bias=bias, teacher=teacher, top_k=2, mask=mask)
    alone = linear_statistics(hidden[mask], weight, labels[mask], bias=bias, teacher=teacher[mask], top_k=2)
    sum(part.sum() for part in found).backward()
    for left, right in zip(found, alone, strict=True):
        assert bool((left[~mask] == 0).all())
        torch.testing.assert_close(left[mask], right)
    assert bool((x.grad[~mask] == 0).all())
    assert bool((x.grad[mask] != 0).any())


@pytest.mark.parametrize("places", [(0,), (2, 0), (3,)])
def test_nothing_selected_is_zero_with_a_slope_of_zero(places):
    hidden, weight = torch.randn(*places, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    mask = torch.zeros(places, dtype=torch.bool)
    found = linear_statistics(hidden, weight, torch.zeros(places, dtype=torch.int64), mask=mask, top_k=2)
    total = sum(part.sum() for part in found if part is not None)
    total.backward()
    assert float(total.detach()) == 0
    assert bool((hidden.grad == 0).all())
    assert bool((weight.grad == 0).all())


def test_leading_shapes_stay_and_a_frozen_layer_gets_no_gradient():
    hidden, weight = torch.randn(2, 3, 4, requires_grad=True), torch.randn(9, 4)
    labels = torch.randint(9, (2, 3))
    found = linear_statistics(hidden, weight, labels, top_k=2)
    assert {tuple(part.shape) for part in found if part is not None} == {(2, 3)}
    found.entropy.mean().backward()
    assert weight.grad is None
    log_probs = (hidden @ weight.T).log_softmax(-1)
    torch.testing.assert_close(found.log_prob, log_probs.gather(-1, labels[..., None])[..., 0])


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor holds that comes to be while it watches, but for given sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.shapes |= {tuple(x.shape) for x in torch.utils._pytree.tree_leaves(found) if isinstance(x, Tensor)}
        return found


@pytest.mark.parametrize("teacher", ["none", "layer"])
def test_the_logits_are_never_there_at_once(teacher):
    count, width, size, chunk = 600, 8, 6000, 256
    hidden, weight, bias, labels, _ = (x.float() if x.is_floating_point() else x for x in inputs(4, count, width, size))
    hidden.requires_grad_()
    weight.requires_grad_()
    with Largest() as seen:
        kind = None if teacher == "none" else LinearTeacher(hidden.detach(), weight.detach())
        found = linear_statistics(hidden, weight, labels, bias=bias, top_k=4, teacher=kind, chunk_size=chunk)
        sum(part.sum() for part in found if part is not None).backward()
    assert max(math.prod(shape) for shape in seen.shapes) <= count * chunk
    assert (count, chunk) in seen.shapes


TWICE = TopKTeacher(torch.tensor([[1, 2], [4, 4]]), torch.full((2, 2), -2.0))
MORE_THAN_ALL = TopKTeacher(torch.tensor([[1, 2], [4, 5]]), torch.zeros(2, 2))
HALF_NAN = torch.tensor([[0.0] * 9, [0.0] * 8 + [torch.nan]])

BAD: list[tuple[str, dict[str, Any]]] = [
    (r"hidden must have shape \[..., 4\], as wide as weight \(9, 4\); got \(2, 5\)", {"hidden": torch.zeros(2, 5)}),
    (r"weight must have shape \[V, D\] with at least one token; got \(0, 4\)", {"weight": torch.zeros(0, 4)}),
    (r"bias must have shape \(9,\), one a token; got \(4,\)", {"bias": torch.zeros(4)}),
    (r"labels must have shape \(2,\); got \(3,\)", {"labels": torch.zeros(3, dtype=torch.int64)}),
    (r"labels must be in 0 .. 8; got 9 in row 1", {"labels": torch.tensor([0, 9])}),
    (r"labels must be in 0 .. 8; got -1", {"labels": torch.tensor([0, -1])}),
    (r"chunk_size must be a whole number of at least 1; got 0", {"chunk_size": 0}),
    (r"top_k must be a whole number of at least 1; got -1", {"top_k": -1}),
    (r"temperature must be finite and above 0; got 0", {"temperature": 0.0}),
    (r"softcap must be finite and above 0; got -1", {"softcap": -1.0}),
    (r"label_smoothing must be in \[0, 1\); got 1", {"label_smoothing": 1.0}),
    (r"mask must have shape \(2,\); got \(2, 1\)", {"mask": torch.ones(2, 1, dtype=torch.bool)}),
    (r"teacher must have the student's vocabulary of 9 tokens; got 8.*cut the longer", {"teacher": torch.zeros(2, 8)}),
    (r"teacher must have shape \(2, 9\); got \(3, 9\)", {"teacher": torch.zeros(3, 9)}),
    (r"teacher's tokens must differ; got 4 twice in row 1", {"teacher": TWICE}),
    (r"teacher's probabilities must sum to at most 1; got 2 in row 0", {"teacher": MORE_THAN_ALL}),
    (r"the logits of hidden, weight and bias must be finite .* in row 1", {"hidden": HALF_NAN[:, 5:]}),
    (r"the logits of hidden, weight and bias must be finite .* in row 0", {"bias": torch.full((9,), -torch.inf)}),
    (r"teacher must be finite .* in row 1", {"teacher": HALF_NAN}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "changed"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_input_is_named(message, changed):
    with pytest.raises(ValueError, match=message):
        linear_statistics(**({"hidden": torch.zeros(2, 4), "weight": torch.zeros(9, 4)} | changed))


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("hidden must be floating point", {"hidden": torch.zeros(2, 4, dtype=torch.int64)}),
        ("labels must be integers", {"labels": torch.zeros(2)}),
        ("mask must be bool", {"mask": torch.ones(2)}),
    ],
)
def test_other_kinds_are_type_errors(message, changed):
    with pytest.raises(TypeError, match=message):
        linear_statistics(**({"hidden": torch.zeros(2, 4), "weight": torch.zeros(9, 4)} | changed))


def kernel_modules() -> list[Any]:
    found = [pytest.param(kernels_for(torch.float32, torch.device("cpu")), id="this machine's")]
    if os.environ.get("TRITON_INTERPRET") == "1":
        triton = pytest.importorskip("hartley.info.kernels.tiles_triton", reason="triton is not installed")
        found.append(pytest.param(triton, id="triton"))
    return found


@pytest.mark.parametrize("kernels", kernel_modules())
@given(rows(batch=3), st.integers(0, 2**31))
@settings(max_examples=60)
def test_kernels_restate_the_reference(kernels, logits, seed):
    logits = torch.cat([logits, torch.full_like(logits[:1], -torch.inf)])
    found, wanted = kernels.sums(logits), tiles_reference.sums(logits.double())
    assert bool((found[0] == wanted[0]).all())
    # e^d of a d that is rounded to float32 is off by a share of |d| 2^-24, and most of a sum has an e^d of its own size
    depth = wanted[1:].abs().clamp(min=1e-38).log().abs()
    assert bool(((found[1:] - wanted[1:]).abs() <= 1e-7 * (5 + depth) * wanted[1:].abs()).all())
    g = torch.Generator().manual_seed(seed)
    live = logits[:-1]
    weights = torch.randn(3, len(live), generator=g)
    sums = merged(wanted[None, :, :-1])
    lse, entropy = sums.logsumexp, sums.entropy
    out, right = torch.empty_like(live), torch.empty_like(live, dtype=torch.float64)
    kernels.slope(live, lse.float(), entropy.float(), weights, out)
    tiles_reference.slope(live.double(), lse, entropy, weights.double(), right)
    torch.testing.assert_close(out.double(), right, rtol=1e-5, atol=2e-6 * (1 + float(lse.abs().max())) ** 2)


@pytest.mark.parametrize("kernels", kernel_modules())
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_kernels_show_what_is_no_logit(kernels, bad):
    tile = torch.zeros(2, 5)
    tile[1, 3] = bad
    found = kernels.sums(tile)
    assert float(found[0, 0]) == 0
    assert not math.isfinite(float(merged(found[None]).logsumexp[1]))


SHARDS = '''
import torch, torch.distributed as dist
from hartley.info import LinearTeacher, TopKTeacher, linear_statistics, logits_statistics
dist.init_process_group("gloo")
rank, group = dist.get_rank(), dist.group.WORLD
g = torch.Generator().manual_seed(0)
hidden, weight, bias = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((5, 4), (230, 4), (230,)))
labels = torch.tensor([0, 229, 50, -100, 130])  # 130 - 230 is -100 in the second part
teacher = torch.randn(5, 230, generator=g, dtype=torch.float64)
log_probs, tokens = teacher.log_softmax(-1).topk(6)
mine = slice(0, 100) if rank == 0 else slice(100, 230)
def run(weight, bias, teacher, **more):
    x, w, b = (y.clone().requires_grad_() for y in (hidden, weight, bias))
    options = {"top_k": 3, "label_smoothing": 0.1, "chunk_size": 33}
    found = linear_statistics(x, w, labels, bias=b, teacher=teacher, **options, **more)
    sum((i + 1) * part.sum() for i, part in enumerate(found)).backward()
    return found, x.grad, w.grad, b.grad
named, layer = TopKTeacher(tokens, log_probs), LinearTeacher(hidden * 2, weight)
for whole, part in ((teacher, teacher[:, mine]), (layer, layer._replace(weight=weight[mine])), (named, named)):
    alone, shared = run(weight, bias, whole), run(weight[mine], bias[mine], part, group=group)
    for a, b in zip(alone[0], shared[0]):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shared[1], alone[1], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(shared[2], alone[2][mine], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(shared[3], alone[3][mine], rtol=1e-9, atol=1e-11)
logits = hidden @ weight.T
torch.testing.assert_close(logits_statistics(logits[:, mine], group=group).entropy, logits_statistics(logits).entropy)
print("same", flush=True)
'''  # fmt: skip


@pytest.mark.slow
def test_a_vocabulary_split_over_processes_gives_the_same_numbers_and_slopes(tmp_path):
    script = tmp_path / "shards.py"
    script.write_text(SHARDS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HARTLEY_KERNELS": "reference"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same") == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rare", [-1.0, -300.0, -2000.0])
def test_a_token_that_is_excluded_costs_everything_however_rare_the_teacher_has_it(dtype, rare):
    student = torch.tensor([[0.0, -torch.inf, 1.0]], dtype=dtype)
    teacher = torch.tensor([[0.0, rare, 0.5]], dtype=dtype)
    assert logits_statistics(student, teacher=teacher).kl.tolist() == [torch.inf]
    hidden, weight = torch.zeros(1, 2, dtype=dtype), torch.zeros(3, 2, dtype=dtype)
    found = linear_statistics(hidden, weight, bias=student[0], teacher=teacher, chunk_size=1)
    assert found.kl.tolist() == [torch.inf]


def test_no_rows_have_no_divergence():
    none = torch.zeros(0, 5, requires_grad=True)
    found = logits_statistics(none, teacher=torch.zeros(0, 5))
    found.kl.sum().backward()
    assert found.kl.shape == found.entropy.shape == (0,)
    assert none.grad.shape == (0, 5)
