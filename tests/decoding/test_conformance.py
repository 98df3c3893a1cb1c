"""Every sampler passes the public check, and samplers broken in one way each do not."""

import random

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import (
    Draw,
    Sampler,
    chain,
    entropy_top_k,
    epsilon_cutoff,
    eta_cutoff,
    min_p,
    mirostat,
    temperature,
    top_h,
    top_k,
    top_n_sigma,
    top_p,
    typical_p,
)
from hartley.decoding.conformance import check_sampler, g_test
from hartley.info import Head
from strategies import law

SAMPLERS = [
    chain(),
    temperature(0.0),
    temperature(0.5),
    temperature(1.7),
    top_k(5),
    top_p(0.8),
    min_p(0.1),
    typical_p(0.3),
    typical_p(0.9),
    top_h(0.4),
    top_h(0.7, rule="partial"),
    top_n_sigma(1.0),
    eta_cutoff(0.02),
    epsilon_cutoff(0.02),
    entropy_top_k(8, 2, center=1.0),
    mirostat(tau=1.5, eta=0.5),
    mirostat(mode=1, tau=1.5, eta=0.5),
    mirostat(tau=1.5, surprise="truncated"),
    chain(temperature(1.5), top_h(0.4)),
    chain(top_k(8), temperature(0.6), top_p(0.9)),
    chain(temperature(0.8), mirostat(tau=2.0, eta=1.0)),
]

# Of the suite as a whole, on both kernels, at most one in a million right ones would fail
FALSE_ALARM = 1e-6 / (2 * len(SAMPLERS))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_every_sampler_conforms(sampler):
    check_sampler(sampler, false_alarm=FALSE_ALARM)


class Broken(Sampler):
    """Plain sampling, to be broken in one place."""

    def __init__(self):
        super().__init__("broken", {})

    def apply(self, head, state):
        return head


class KeepsNothing(Broken):
    def apply(self, head, state):
        return head.restrict(torch.zeros_like(head.filled))


class ChangesTheDtype(Broken):
    def mask(self, logits, state=None):
        return logits.double()


class RestoresTokens(Broken):
    def mask(self, logits, state=None):
        return super().mask(logits, state).clamp(min=-50.0)


class FavoursAnId(Broken):
    def apply(self, head, state):
        return head.restrict((head.tokens % 3 == 1) & head.filled | (head.log_probs == head.max_log_prob))


class CutsAtALogit(Broken):
    def apply(self, head, state):
        kept = head.logits.gather(-1, head.tokens) > 0.5
        return head.restrict(kept | (torch.arange(kept.shape[1]) == 0))


class CutsAtTheMeanOfTheBatch(Broken):
    def apply(self, head, state):
        kept = head.log_probs >= -head.entropy.mean()
        return head.restrict((kept | (torch.arange(kept.shape[1]) == 0)) & head.filled)


class WritesIntoTheLogits(Broken):
    def step(self, logits, state, generator):
        out = super().step(logits, state, generator)
        logits += 1.0
        return out


class HidesItsState(Broken):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def apply(self, head, state):
        self.seen += 1
        return head.temper(1.0 + self.seen % 7)


class ChangesItsStateInPlace(Broken):
    def init(self, batch):
        return torch.ones(batch)

    def update(self, state, draw):
        return state.add_(draw.surprisal)


class DrawsFromTheGlobalSeed(Broken):
    def step(self, logits, state, generator):
        return super().step(logits, state, [torch.Generator().manual_seed(int(torch.randint(99, ())))] * len(logits))


class MovesTheSeedOfNumpy(Broken):
    def mask(self, logits, state=None):
        return super().mask(logits, state)

    def step(self, logits, state, generator):
        np.random.random()  # noqa: NPY002
        return super().step(logits, state, generator)


class MovesTheSeedOfPython(Broken):
    def step(self, logits, state, generator):
        random.random()
        return super().step(logits, state, generator)


class IgnoresTheSeed(Broken):
    count = 0

    def step(self, logits, state, generator):
        IgnoresTheSeed.count += 1
        own = [torch.Generator().manual_seed(IgnoresTheSeed.count)] * len(logits)
        return super().step(logits, state, own)


class TakesBadLogits(Broken):
    def mask(self, logits, state=None):
        return super().mask(logits.nan_to_num(nan=0.0, neginf=-torch.inf, posinf=9.0), state)


class DrawsFlatter(Broken):
    def step(self, logits, state, generator):
        head = Head.of(logits)
        one = [generator] * len(logits) if isinstance(generator, torch.Generator) else generator
        seeds = torch.cat([torch.randint(2**62, (1,), generator=own) for own in one])
        return Draw.of(head, head.temper(1.2).draw(seeds)), state


class MisreportsARank(Broken):
    def step(self, logits, state, generator):
        draw, state = super().step(logits, state, generator)
        return draw._replace(rank=draw.rank + 1), state


class MisreportsTheSurprisal(Broken):
    def step(self, logits, state, generator):
        draw, state = super().step(logits, state, generator)
        return draw._replace(surprisal=draw.surprisal / 0.693), state


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (KeepsNothing, "at least one token"),
        (ChangesTheDtype, "became torch.float64"),
        (RestoresTokens, "came back"),
        (FavoursAnId, "another order"),
        (CutsAtALogit, "a shift"),
        (CutsAtTheMeanOfTheBatch, "the rest of the batch"),
        (WritesIntoTheLogits, "the logits changed"),
        (HidesItsState, "two calls differ"),
        (ChangesItsStateInPlace, "the state changed"),
        (DrawsFromTheGlobalSeed, "batch|seed"),
        (MovesTheSeedOfNumpy, "NumPy moved"),
        (MovesTheSeedOfPython, "Python moved"),
        (IgnoresTheSeed, "batch|same seed"),
        (TakesBadLogits, "was taken"),
        (DrawsFlatter, "G-test"),
        (MisreportsARank, "rank"),
        (MisreportsTheSurprisal, "surprisal"),
    ],
)
def test_a_broken_sampler_is_caught(broken, what):
    with pytest.raises(AssertionError, match=what):
        check_sampler(broken())


def test_a_sampler_that_reads_ids_can_say_so():
    check_sampler(Broken())
    with pytest.raises(AssertionError, match="Renaming"):
        check_sampler(BansTheLastId())
    check_sampler(BansTheLastId(), permutation_equivariant=False)


class BansTheLastId(Broken):
    def apply(self, head, state):
        last = head.logits.shape[1] - 1

        def others(head):
            return ((head.tokens != last) & head.filled) | (head.known == 1)[:, None]

        return head.keep(others)


@law(st.integers(0, 2**32), examples=20)
def test_the_g_test_sees_one_percent_of_a_temperature_in_enough_draws(seed):
    """Right draws give p-values above the alarm, and a tenth of a nat is seen in 4,000 draws."""
    generator = torch.Generator().manual_seed(seed)
    probs = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    right = torch.bincount(torch.multinomial(probs, 4000, True, generator=generator), minlength=4)
    wrong = torch.bincount(torch.multinomial((probs**0.8), 4000, True, generator=generator), minlength=4)
    assert g_test(right, probs) > 1e-6
    assert g_test(wrong, probs) < 1e-6


def test_g_test_cells():
    assert g_test(torch.tensor([10, 0]), torch.tensor([1.0, 0.0])) == 1.0
    rare = torch.tensor([0.98] + [0.002] * 10)
    assert 0 < g_test(torch.tensor([980] + [2] * 10), rare / rare.sum()) <= 1
