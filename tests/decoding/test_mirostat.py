import math

import pytest
import torch
from hypothesis import strategies as st

from hartley.decoding import chain, mirostat, temperature, top_p
from hartley.decoding.mirostat import zipf_cut, zipf_exponent
from strategies import assert_kept, generators, in_order, law, log_softmax64, rows, seeds, subset, unsorted

pytestmark = pytest.mark.usefixtures("backend")

LN2 = math.log(2.0)


def zipf(s, size=50_000):
    """Logits of a Zipf law, most probable first, float64 ``[1, V]``."""
    return -s * torch.arange(1, size + 1, dtype=torch.float64).log()[None]


def bits(logits):
    return -log_softmax64(logits) / LN2


@law(rows(), st.floats(0.05, 20.0))
def test_mode_2_cuts_at_a_surprisal_of_mu(logits, mu):
    room = mu - bits(logits)
    first = unsorted((torch.arange(logits.shape[1]) == 0).expand_as(logits).clone(), in_order(logits)[1])
    masked = mirostat(mu=mu).mask(logits)
    assert_kept(masked, logits, (room > 1e-5) | first, (room < -1e-5) & ~first)


@law(rows(), st.floats(0.05, 20.0), st.floats(0.05, 20.0))
def test_a_larger_mu_never_keeps_fewer(logits, a, b):
    for mode in (1, 2):
        assert subset(mirostat(mode, mu=min(a, b)).mask(logits), mirostat(mode, mu=max(a, b)).mask(logits))


@law(rows(), st.floats(-50.0, 200.0), st.sampled_from([1, 2]))
def test_what_is_kept_is_a_prefix_of_the_sorted_order(logits, mu, mode):
    kept = (mirostat(mode, mu=mu).mask(logits) > -torch.inf).gather(-1, in_order(logits)[1])
    assert kept[:, 0].all()
    assert (kept[:, 1:] <= kept[:, :-1]).all()


@law(
    st.sampled_from([1, 2]),
    st.floats(0.5, 6.0),
    st.floats(0.05, 1.5),
    st.sampled_from(["model", "truncated"]),
    seeds(),
    examples=20,
)
def test_the_telescoping_identity_holds_in_every_run(mode, tau, eta, surprise, seed):
    sampler = mirostat(mode, tau=tau, eta=eta, surprise=surprise)
    generator = torch.Generator().manual_seed(seed)
    state, start, steps = sampler.init(2), sampler.init(2), 20
    surprises = []
    for _ in range(steps):
        draw, state = sampler.step(2 * torch.randn(2, 60, generator=generator), state, generator)
        surprises.append((draw.surprisal if surprise == "model" else -draw.log_prob).double() / LN2)
    mean = torch.stack(surprises).mean(0)
    torch.testing.assert_close(mean - tau, (start - state) / (steps * eta), atol=1e-9, rtol=0)


def test_mu_stays_where_the_target_is_met():
    _, state = mirostat(tau=3.0).step(torch.zeros(1, 8), None, torch.Generator())
    assert state.tolist() == pytest.approx([6.0], abs=1e-6)


@pytest.mark.parametrize("mode", [1, 2])
def test_a_certain_token_raises_mu_by_eta_tau(mode):
    for logits in (torch.zeros(1, 1), torch.tensor([[0.0, -torch.inf, -torch.inf]])):
        draw, state = mirostat(mode, tau=4.0, eta=0.5).step(logits, None, torch.Generator())
        assert draw.token.tolist() == [0]
        assert state.tolist() == [10.0]


@law(st.floats(0.05, 5.0), st.integers(2, 200))
def test_the_exponent_of_a_zipf_law_is_found(s, m):
    assert zipf_exponent(log_softmax64(zipf(s, 1000))[:, :m]).item() == pytest.approx(s, rel=1e-9)


def test_the_exponent_is_a_least_squares_fit_through_the_origin():
    log_probs = in_order(torch.randn(1, 100, generator=torch.Generator().manual_seed(5)))[0]
    t = (torch.arange(2, 101).double() / torch.arange(1, 100)).log()
    b = log_probs[0, :-1] - log_probs[0, 1:]
    assert zipf_exponent(log_probs).item() == pytest.approx(((t * b).sum() / (t * t).sum()).item(), rel=1e-12)


TABLE = {
    (1.1, 4): (2.233, 2), (1.1, 6): (7.876, 7), (1.1, 8): (27.773, 25), (1.1, 10): (97.939, 90),
    (1.5, 4): (4.012, 3), (1.5, 6): (10.11, 8), (1.5, 8): (25.474, 21), (1.5, 10): (64.192, 53),
    (0.9, 6): (3.744, 3), (0.9, 8): (17.471, 16), (0.9, 10): (81.523, 78),
}  # fmt: skip


@pytest.mark.parametrize(("s", "mu"), TABLE)
def test_k_of_zipf_laws(s, mu):
    real, exact = TABLE[s, mu]
    eps = s - 1
    assert (eps * 2**mu / (1 - 50_000**-eps)) ** (1 / s) == pytest.approx(real, abs=1e-3)
    cut = [int(zipf_cut(torch.tensor([s]).double(), torch.tensor([mu]), 50_000, compat)) for compat in
           ("paper", "official", "llama.cpp")]  # fmt: skip
    assert cut == [round(real), round(real) + 1, math.floor(real)]
    logits = zipf(s)
    assert int((mirostat(mu=float(mu)).mask(logits) > -torch.inf).sum()) == exact
    assert int((mirostat(1, mu=float(mu)).mask(logits) > -torch.inf).sum()) == round(real)


@pytest.mark.parametrize(
    ("compat", "ratios", "size"), [("paper", 99, 300), ("official", 100, 50_000), ("llama.cpp", 99, 300)]
)
def test_mode_1_cuts_where_the_fitted_law_reaches_mu(compat, ratios, size):
    """The steps of the method written out, with what each variant counts and rounds."""
    logits = 2 * torch.randn(20, 300, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits[:, 100:] -= 30.0  # the 100th ratio is one of its own
    got = (mirostat(1, mu=7.0, compat=compat).mask(logits) > -torch.inf).sum(-1).tolist()
    ranks = torch.arange(1, ratios + 2, dtype=torch.float64)
    for row, k in zip(in_order(logits)[0], got, strict=True):
        t, b = (ranks[1:] / ranks[:-1]).log(), row[:ratios] - row[1 : ratios + 1]
        s = ((t * b).sum() / (t * t).sum()).item()
        real = ((s - 1) * 2**7.0 / (1 - size ** (1 - s))) ** (1 / s)
        expected = {"paper": round(real), "official": round(real) + 1, "llama.cpp": math.floor(real)}[compat]
        assert k == min(max(expected, 1), 300)


def test_an_exponent_of_one_is_the_limit_of_its_neighbours():
    mu = torch.tensor([9.0, 9.0, 9.0]).double()
    k = zipf_cut(torch.tensor([1 - 2e-6, 1.0, 1 + 2e-6]).double(), mu, 50_000)
    assert k.tolist() == [round(2**9 / math.log(50_000))] * 3


@pytest.mark.parametrize("size", [1, 2, 50, 5000])
def test_a_flat_row_keeps_everything_in_mode_1(size):
    assert mirostat(1, mu=1.0).mask(torch.zeros(1, size)).isfinite().all()


@pytest.mark.parametrize("mu", [-1e6, 1e6])
@pytest.mark.parametrize("mode", [1, 2])
def test_a_runaway_mu_keeps_one_or_all(mode, mu):
    logits = zipf(1.3, 700).float()
    assert int((mirostat(mode, mu=mu).mask(logits) > -torch.inf).sum()) == (1 if mu < 0 else 700)


def test_cross_entropy_of_truncated_zipf_laws():
    """Bits, at s = 1.1 over 50,000 tokens: what fixed cuts settle at, which is why a target is wanted."""
    log_probs = log_softmax64(zipf(1.1))[0]
    probs, surprisal = log_probs.exp(), -log_probs / LN2

    def cross_entropy(kept):
        return ((probs * surprisal)[kept].sum() / probs[kept].sum()).item()

    ranks = torch.arange(50_000)
    assert cross_entropy(ranks < 50_000) == pytest.approx(9.3237, abs=1e-4)
    for k, expected in [(10, 4.2064), (40, 5.1342), (1000, 7.1728)]:
        assert cross_entropy(ranks < k) == pytest.approx(expected, abs=1e-4)
    for p, expected, size in [
        (0.2, 3.197, 2),
        (0.4, 4.4314, 14),
        (0.6, 5.7808, 107),
        (0.8, 7.3936, 1452),
        (0.9, 8.3107, 7293),
    ]:
        kept = top_p(p).mask(zipf(1.1))[0].isfinite()
        assert int(kept.sum()) == size
        assert cross_entropy(kept) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("mode", "eta", "within"), [(1, 1.0, 0.04), (2, 1.0, 0.04), (2, 0.1, 0.15)])
@pytest.mark.parametrize("tau", [3.0, 4.0, 5.0])
def test_simulated_streams_settle_at_the_target(mode, eta, within, tau):
    """Zipf exponents drawn from a normal, mean 1.2, sd 0.2, 300 steps; the published runs lie as near as this."""
    generator = torch.Generator().manual_seed(0)
    sampler, state, spent = mirostat(mode, tau=tau, eta=eta), None, torch.zeros(4, dtype=torch.float64)
    for _ in range(300):
        s = (1.2 + 0.2 * torch.randn(4, 1, generator=generator)).clamp(min=0.2)
        draw, state = sampler.step(s * zipf(1.0, 5000).float(), state, generator)
        spent += draw.surprisal / LN2
    assert (spent / 300).tolist() == pytest.approx([tau] * 4, abs=within)


def test_an_unreachable_target_winds_up_unless_it_is_stopped():
    logits = zipf(1.2, 5000).float()
    ends = []
    for stop in (-math.inf, 0.5):
        sampler, state = mirostat(tau=2.0, eta=1.0, mu_min=stop), None
        for _ in range(100):
            _, state = sampler.step(logits, state, torch.Generator())
        ends.append(state.item())
    assert ends[0] < -10
    assert ends[1] == 0.5


@law(seeds(), examples=10)
def test_a_row_keeps_its_own_mu(seed):
    sampler = mirostat(tau=torch.tensor([1.0, 5.0]), eta=torch.tensor([1.0, 0.1]))
    logits = torch.randn(2, 200, generator=torch.Generator().manual_seed(seed))
    own, state = generators(seed, 2), None
    for _ in range(5):
        _, state = sampler.step(logits, state, own)
    for row, alone in enumerate([mirostat(tau=1.0, eta=1.0), mirostat(tau=5.0, eta=0.1)]):
        own, single = generators(seed, 2)[row : row + 1], None
        for _ in range(5):
            _, single = alone.step(logits[row : row + 1], single, own)
        assert single.item() == pytest.approx(state[row].item(), abs=1e-5)


@law(st.floats(0.3, 3.0), seeds(), examples=20)
def test_after_a_temperature_the_cut_is_tempered_and_the_target_is_the_models(t, seed):
    logits = 2 * torch.randn(3, 200, generator=torch.Generator().manual_seed(seed))
    sampler = chain(temperature(t), mirostat(mu=5.0))
    kept = sampler.mask(logits) > -torch.inf
    room = 5.0 - bits(logits.double() / t)
    first = torch.zeros_like(kept).scatter_(-1, logits.argmax(-1, keepdim=True), True)
    assert not ((room > 1e-4) & ~kept).any()
    assert not ((room < -1e-4) & kept & ~first).any()
    draw, (_, mu) = sampler.step(logits, None, generators(seed, 3))
    torch.testing.assert_close(mu, 5.0 - 0.1 * (draw.surprisal.double() / LN2 - 5.0), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"mode": 3}, "mirostat must be one of 1, 2; got 3"),
        ({"tau": 0.0}, "mirostat_tau"),
        ({"eta": -1.0}, "mirostat_eta"),
        ({"m": 0}, "mirostat_m"),
        ({"surprise": "full"}, "mirostat_surprise"),
        ({"compat": "ollama"}, "mirostat_compat"),
        ({"mu_min": 3.0, "mu_max": 2.0}, "mirostat_mu_min"),
    ],
)
def test_refuses(settings, named):
    with pytest.raises(ValueError, match=named):
        mirostat(**settings)
