"""A conformance check that anyone can run on a sampler of their own: a list of laws, each a small function."""

# torch gives tolist and manual_seed no types
# pyright: reportUnknownMemberType=false

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hartley.decoding.sampler import Sampler

Law = Callable[[Sampler], None]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
STEPS = 4  # of a sequence, so that a state has something to carry
TOLERANCE = 1e-4  # nats, for float32 on any device


def check_sampler(sampler: Sampler, *, permutation_equivariant: bool = True, false_alarm: float = 1e-6) -> None:
    """Check that a sampler keeps what every sampler here promises; ``AssertionError`` names the first broken law.

    Settings must be scalars, since batches of several sizes are tried. ``permutation_equivariant=False`` skips the law
    that the ids of tokens do not matter. ``false_alarm`` is the probability at which a right sampler would fail the
    tests of its drawn frequencies, taken together. Seeds are fixed, so a second run says the same.

    >>> from hartley.decoding import top_p
    >>> check_sampler(top_p(0.9))
    """
    for law in LAWS:
        if permutation_equivariant or law is not permutes_with_the_ids:
            _check(sampler, law)
    _check(sampler, draws_as_the_mask_says, false_alarm)


def keeps_shape_and_dtype(sampler: Sampler) -> None:
    """A mask has the shape and the dtype of its logits, and neither NaN nor +inf."""
    for dtype in DTYPES:
        for logits in example_rows(dtype):
            masked = sampler.mask(logits)
            _require(masked.shape == logits.shape, f"{tuple(logits.shape)} became {tuple(masked.shape)}")
            _require(masked.dtype == dtype, f"{dtype} became {masked.dtype}")
            _no_row(masked.isnan() | masked.isposinf(), f"NaN or +inf in {dtype}")


def keeps_at_least_one_token(sampler: Sampler) -> None:
    """At least one token of every row is kept."""
    for dtype in DTYPES:
        for logits in example_rows(dtype):
            _no_row((sampler.mask(logits) == -torch.inf).all(-1, keepdim=True), f"nothing is left in {dtype}")


def never_restores_a_token(sampler: Sampler) -> None:
    """A token that came in at -inf stays removed."""
    for logits in example_rows():
        _no_row((logits == -torch.inf) & (sampler.mask(logits) > -torch.inf), "tokens came back")


def draws_the_only_token(sampler: Sampler) -> None:
    """The only token with any probability is drawn, with certainty."""
    for size, only in ((1, 0), (2, 1), (200, 150)):
        logits = torch.full((2, size), -torch.inf)
        logits[:, only] = -3.0
        draw, _ = sampler.step(logits, None, _generator(0))
        _require(draw.token.tolist() == [only] * 2, f"of {size} tokens {draw.token.tolist()} were drawn, not {only}")
        _require(draw.kept.tolist() == [1, 1], f"kept says {draw.kept.tolist()}")
        for value in (draw.log_prob, draw.surprisal, draw.entropy, draw.drawn_entropy, draw.mass - 1):
            _no_row(value.abs()[:, None] > TOLERANCE, "log_prob, surprisal, an entropy or the mass is off")


def refuses_bad_logits(sampler: Sampler) -> None:
    """NaN, +inf and rows of nothing but -inf are a ValueError that names the row."""
    for bad in (torch.nan, torch.inf, -torch.inf):
        logits = torch.zeros(3, 5)
        logits[1] = bad
        for ask in (sampler.mask, partial(sampler.step, state=None, generator=_generator(0))):
            try:
                ask(logits)
            except ValueError as error:
                _require("row 1" in str(error), f"a row of {bad} is refused without its name: {error}")
            else:
                _require(False, f"a row of {bad} was taken")


def settles_ties_the_same_way(sampler: Sampler) -> None:
    """Equal rows are masked equally, in every call and at every place in the batch."""
    for logits in example_rows():
        first = sampler.mask(logits)
        _no_row(first != sampler.mask(logits.clone()), "two calls differ")
        twice = sampler.mask(logits.repeat(2, 1))
        _no_row(twice != first.repeat(2, 1), "equal rows of one batch differ")


def reads_half_precision_as_float32(sampler: Sampler) -> None:
    """Logits of half precision leave the tokens that the same numbers leave in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        for logits in example_rows(dtype):
            kept, wanted = sampler.mask(logits) > -torch.inf, sampler.mask(logits.float()) > -torch.inf
            _no_row(kept & ~wanted, f"{dtype} keeps tokens that float32 removes")
            lost = wanted & ~kept & (logits.float().softmax(-1) > TOLERANCE)  # less may sink below the smallest number
            _no_row(lost, f"{dtype} removes tokens that float32 keeps")


def ignores_a_shift(sampler: Sampler) -> None:
    """Adding a constant to all logits of a row changes no probability."""
    logits = (_gaussian(4, 50) * 64).round() / 64  # so that the shifted logits are exact
    for shift in (-16.0, 8.0):
        moved = sampler.mask(logits + shift).softmax(-1) - sampler.mask(logits).softmax(-1)
        _no_row(moved.abs() > TOLERANCE, f"a shift of {shift} changes probabilities")


def permutes_with_the_ids(sampler: Sampler) -> None:
    """Renaming the tokens renames what is kept, and changes nothing else."""
    for size in (3, 50, 300):
        logits = _gaussian(4, size)
        order = torch.randperm(size, generator=_generator(size))
        moved = sampler.mask(logits[:, order]).softmax(-1) - sampler.mask(logits).softmax(-1)[:, order]
        _no_row(moved.abs() > TOLERANCE, f"another order of {size} tokens gives other probabilities")


def ignores_the_rest_of_the_batch(sampler: Sampler) -> None:
    """A row is masked the same alone and in a batch, and drawn the same with a generator of its own."""
    for logits in example_rows():
        alone = torch.cat([sampler.mask(row[None]) for row in logits])
        moved = alone.softmax(-1) - sampler.mask(logits).softmax(-1)
        _no_row(moved.abs() > TOLERANCE, "the rest of the batch changes probabilities")
    rows, size = 3, 40
    together = _tokens(sampler, _sequence(rows, size), list(range(rows)))
    for row in range(rows):
        alone = _tokens(sampler, _sequence(rows, size)[:, row : row + 1], [row])
        _require(torch.equal(alone[:, 0], together[:, row]), f"row {row} draws {alone[:, 0].tolist()} alone")


def repeats_itself(sampler: Sampler) -> None:
    """The same seed gives the same tokens."""
    first, second = (_tokens(sampler, _sequence(3, 40), [7, 8, 9]) for _ in range(2))
    _require(torch.equal(first, second), f"{first.tolist()}, then {second.tolist()}")


def keeps_its_state_outside(sampler: Sampler) -> None:
    """Two interleaved runs do not disturb each other."""
    logits = _sequence(2, 40), -_sequence(2, 40)
    apart = [_tokens(sampler, steps, [1, 2]) for steps in logits]
    runs = [_steps(sampler, steps, [1, 2]) for steps in logits]
    interleaved = [torch.stack(list(pair)) for pair in zip(*zip(*runs, strict=True), strict=True)]
    for alone, mixed in zip(apart, interleaved, strict=True):
        _require(torch.equal(alone, mixed), f"alone {alone.tolist()}, interleaved {mixed.tolist()}")


def leaves_its_input_alone(sampler: Sampler) -> None:
    """Neither the logits nor the state are changed in place."""
    logits = _gaussian(3, 40)
    _, state = sampler.step(logits, None, _generator(0))
    before, was = logits.clone(), _copy(state)
    sampler.mask(logits, state)
    sampler.step(logits, state, _generator(1))
    _require(torch.equal(logits, before), "the logits changed")
    _require(_equal(state, was), f"the state changed from {was} to {state}")


def leaves_global_seeds_alone(sampler: Sampler) -> None:
    """The random state of torch, NumPy and Python is neither read nor moved."""
    logits, kept = _sequence(2, 40), (torch.get_rng_state(), np.random.get_state(), random.getstate())  # noqa: NPY002
    try:
        torch.manual_seed(1)
        first = _tokens(sampler, logits, [0, 1])
        torch.manual_seed(2)
        before = torch.get_rng_state(), _numpy_state(), random.getstate()
        second = _tokens(sampler, logits, [0, 1])
        after = torch.get_rng_state(), _numpy_state(), random.getstate()
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
    _require(torch.equal(first, second), "the draws follow torch's global seed")
    for name, old, new in zip(("torch", "NumPy", "Python"), before, after, strict=True):
        same = _equal(old, new)
        _require(same, f"the random state of {name} moved")


def describes_its_draws(sampler: Sampler) -> None:
    """Every field of a Draw is what the logits and the mask say."""
    for logits in example_rows():
        state = sampler.init(logits.shape[0])
        generator = _generator(3)
        for _ in range(STEPS):
            masked = sampler.mask(logits, state).double()
            draw, state = sampler.step(logits, state, generator)
            model, drawn = logits.double().log_softmax(-1), masked.log_softmax(-1)
            kept, token = masked > -torch.inf, draw.token[:, None]
            own, ids = logits.gather(-1, token), torch.arange(logits.shape[1], device=logits.device)
            before = (logits > own) | ((logits == own) & (ids < token))
            _no_row(~kept.gather(-1, token), "a removed token was drawn")
            _no_row((draw.kept != kept.sum(-1))[:, None], "kept is not how many tokens the mask leaves")
            _no_row((draw.rank != before.sum(-1) + 1)[:, None], "rank is not the place in the model's order")
            for field, wanted in {
                "log_prob": drawn.gather(-1, token),
                "surprisal": -model.gather(-1, token),
                "entropy": _entropy(model),
                "varentropy": _varentropy(model),
                "drawn_entropy": _entropy(drawn),
                "drawn_varentropy": _varentropy(drawn),
                "mass": (model.exp() * kept).sum(-1, keepdim=True),
                "top_log_probs": model.sort(-1, descending=True).values[:, : draw.top_log_probs.shape[1]],
            }.items():
                got = getattr(draw, field).double().reshape(wanted.shape)
                off = ~torch.isclose(got, wanted, atol=TOLERANCE, rtol=TOLERANCE)
                _no_row(off, f"{field} is not what logits and mask give")


def draws_as_the_mask_says(sampler: Sampler, false_alarm: float = 1e-6) -> None:
    """Tokens are drawn with the probabilities of the mask: every one enumerated, a G-test on each row."""
    rows = [row for logits in example_rows(sizes=(2, 12)) for row in logits]
    draws = 4000
    for place, row in enumerate(rows):
        probs = sampler.mask(row[None])[0].double().softmax(-1)
        draw, _ = sampler.step(row.expand(draws, -1).contiguous(), None, _generator(place))
        seen = torch.bincount(draw.token, minlength=len(row))
        _require(not bool((seen[probs == 0] > 0).any()), f"a token without probability was drawn from {row.tolist()}")
        p_value = g_test(seen, probs)
        _require(
            p_value > false_alarm / len(rows),
            f"{seen.tolist()} of {draws} draws at probabilities {probs.tolist()}: p = {p_value:.2g}",
        )


LAWS: list[Law] = [
    keeps_shape_and_dtype,
    keeps_at_least_one_token,
    never_restores_a_token,
    draws_the_only_token,
    refuses_bad_logits,
    settles_ties_the_same_way,
    reads_half_precision_as_float32,
    ignores_a_shift,
    permutes_with_the_ids,
    ignores_the_rest_of_the_batch,
    repeats_itself,
    keeps_its_state_outside,
    leaves_its_input_alone,
    leaves_global_seeds_alone,
    describes_its_draws,
]


def g_test(seen: Tensor, probs: Tensor, at_least: float = 20.0) -> float:
    """P-value of the counts ``seen [V]`` under ``probs [V]``: likelihood ratio against chi-square.

    Tokens expected fewer than ``at_least`` times are counted as one, so that the asymptotic distribution holds far into
    its tail; where that leaves a single cell there is nothing to test and the p-value is 1.

    >>> round(g_test(torch.tensor([480, 520]), torch.tensor([0.5, 0.5])), 4)
    0.2058
    """
    counts, wanted = seen.double().numpy(), (probs.double() * seen.sum()).numpy()
    order = np.argsort(-wanted, kind="stable")
    counts, wanted = counts[order], wanted[order]
    cells = int((wanted >= at_least).sum())
    if wanted[cells:].sum() < at_least:  # the rare ones together are still rare: with the last that is not
        cells = max(cells - 1, 0)
    counts = np.append(counts[:cells], counts[cells:].sum())
    wanted = np.append(wanted[:cells], wanted[cells:].sum())
    filled = counts > 0
    statistic = 2.0 * float((counts[filled] * np.log(counts[filled] / wanted[filled])).sum())
    half = torch.tensor([cells, max(statistic, 0.0)], dtype=torch.float64) / 2.0
    return float(half[0].igammac(half[1])) if cells else 1.0  # the tail of chi-square


def example_rows(dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = (1, 2, 12, 300)) -> Iterator[Tensor]:
    """For each vocabulary, logits ``[B, V]`` whose rows, :data:`ROWS`, have broken samplers before."""
    for size in sizes:
        ids = torch.arange(size)
        plain, rounded, holes, peaked = _gaussian(4, size)
        only = torch.full((size,), -torch.inf).index_fill_(0, ids[-1:], 0.0)
        zeros = torch.where(ids % 2 == 0, 0.0, -0.0)
        holes = holes.masked_fill(ids % 3 == 1, -torch.inf)
        yield torch.stack([plain, rounded.round(), holes, peaked + 25.0 * (ids == size // 2), only, zeros]).to(dtype)


ROWS = ("Gaussian", "tied", "with removed tokens", "peaked", "one token", "signed zeros")


def _check(sampler: Sampler, law: Callable[..., None], *settings: float) -> None:
    promise = (law.__doc__ or law.__name__).strip().split("\n")[0].rstrip(".")
    try:
        law(sampler, *settings)
    except AssertionError as error:
        raise AssertionError(f"{sampler!r} breaks the law {promise!r}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{sampler!r} fails at the law {promise!r}: {type(error).__name__}: {error}") from error


def _no_row(bad: Tensor, what: str) -> None:
    """Refuse ``bad [B, V]`` if it marks anything, naming the row and the first places."""
    if bool(bad.any()):
        row = int(bad.any(-1).nonzero()[0])
        name = f" ({ROWS[row]})" if bad.shape[0] == len(ROWS) else ""
        raise AssertionError(f"{what}, in row {row}{name} at {bad[row].nonzero().flatten().tolist()[:8]}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gaussian(rows: int, size: int, seed: int = 0) -> Tensor:
    return 2.0 * torch.randn(rows, size, generator=_generator(1000 * size + seed))


def _sequence(rows: int, size: int) -> Tensor:
    """Logits of a few steps, ``[T, B, V]``."""
    return torch.stack([_gaussian(rows, size, seed) for seed in range(STEPS)])


def _steps(sampler: Sampler, logits: Tensor, seeds: list[int]) -> Iterator[Tensor]:
    generators = [_generator(seed) for seed in seeds]
    state = None
    for step in logits:
        draw, state = sampler.step(step, state, generators)
        yield draw.token


def _tokens(sampler: Sampler, logits: Tensor, seeds: list[int]) -> Tensor:
    return torch.stack(list(_steps(sampler, logits, seeds)))


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(-1, keepdim=True)


def _varentropy(log_probs: Tensor) -> Tensor:
    surprisal = -log_probs.masked_fill(log_probs == -torch.inf, 0.0)
    return (log_probs.exp() * (surprisal - _entropy(log_probs)) ** 2).sum(-1, keepdim=True)


def _numpy_state() -> str:
    return repr(np.random.get_state())  # noqa: NPY002


def _copy(state: Any) -> Any:
    if isinstance(state, tuple):
        return tuple(_copy(part) for part in state)  # pyright: ignore[reportUnknownVariableType]
    return state.clone() if isinstance(state, Tensor) else state


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple):
        return all(_equal(a, b) for a, b in zip(one, other, strict=True))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
