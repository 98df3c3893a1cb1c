"""Path-level top-p: its special cases are other decoders, exactly."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import TopPLogitsWarper

from hartley.decoding.path_top_p import Path, from_transformers, path_top_p, vote
from strategies import fractions, rows

ONE = torch.zeros(1, dtype=torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def chosen(step):
    return list(zip(step.parents.tolist(), step.tokens.tolist(), strict=True))


def markov(seed, vocabulary=4, order=2):
    """A random model whose next token depends on the last ``order``; call it, or ask it for a sequence's log-prob."""
    table = 2 * torch.randn((vocabulary,) * (order + 1), generator=seeded(seed))

    def next_logits(tokens, parents):
        return table[tuple(tokens[:, -order + i] for i in range(order))]

    return next_logits


def log_prob_of(model, prompt, tokens, temperature=1.0):
    total = 0.0
    for i, token in enumerate(tokens):
        row = model(torch.tensor([[*prompt, *tokens[:i]]]), None)[0].double()
        total += float((row / temperature).log_softmax(-1)[token])
    return total


def reference_nucleus(logits, log_probs, finished, top_p):
    """Float64, a full sort: candidates of the joint nucleus in order, and every joint probability."""
    total = torch.cat([log_probs, finished]).logsumexp(0)
    joint = torch.cat([(log_probs[:, None] + logits.double().log_softmax(-1)).flatten(), finished]) - total
    order = joint.argsort(descending=True, stable=True)
    mass = joint.exp()[order]
    return order[(mass.cumsum(0) - mass < top_p) & (mass > 0)], joint.exp()


def test_joint_probabilities_of_the_worked_example():
    """Paths of .6 and .4, then (.5, .5) and (.95, .05): the joints are .30, .30, .38 and .02."""
    logits, paths = torch.tensor([[0.5, 0.5], [0.95, 0.05]]).log(), torch.tensor([0.6, 0.4]).log()

    def kept(top_p, k=9):
        return chosen(path_top_p(k, top_p, deterministic=True).step(logits, paths))

    assert kept(0.9) == [(1, 0), (0, 0), (0, 1)]
    assert kept(0.35) == [(1, 0)]
    assert kept(0.6) == [(1, 0), (0, 0)]  # the tie goes to the lower index
    assert kept(1.0) == [(1, 0), (0, 0), (0, 1), (1, 1)]
    assert kept(1.0, k=1) == [(1, 0)]  # though path 0 was the more probable one
    step = path_top_p(9, 1.0, deterministic=True).step(logits, paths)
    torch.testing.assert_close(step.log_probs.exp(), torch.tensor([0.38, 0.3, 0.3, 0.02]).double())


@given(rows(), fractions(), st.integers(0, 3), st.integers(0, 999), st.booleans())
@settings(max_examples=80)
def test_keeps_the_smallest_set_that_holds_the_mass(logits, top_p, ended, seed, deterministic):
    paths = -3 * torch.rand(len(logits), generator=seeded(seed)).double()
    finished = -3 * torch.rand(ended, generator=seeded(seed + 1)).double()
    step = path_top_p(10**6, top_p, deterministic=deterministic).step(logits, paths, finished, seeded(seed))
    vocabulary = logits.shape[1]
    got = set((step.parents * vocabulary + step.tokens).tolist()) | set((step.stay + logits.numel()).tolist())
    assert len(got) == len(step.tokens) + len(step.stay) > 0
    expected, joint = reference_nucleus(logits, paths, finished, top_p)
    assert float(joint.sum()) == pytest.approx(1)
    if top_p == 1:  # float32 tells apart what float64 rounds to nothing, and the other way round
        return
    mass = float(joint[list(got)].sum())
    assert mass > top_p - 2e-5
    assert mass - float(joint[list(got)].min()) < top_p + 2e-5  # without its least one it would not hold it
    # What the two disagree on ties, to rounding, with the last one kept
    last = float(joint[expected[-1]])
    for place in got ^ set(expected.tolist()):
        assert float(joint[place]) == pytest.approx(last, rel=1e-3, abs=2e-5)


@given(st.integers(1, 5), fractions(), st.integers(1, 60), st.booleans())
@settings(max_examples=40)
def test_ties_go_by_flat_index(paths, top_p, vocabulary, deterministic):
    """Flat rows of equal paths: the nucleus is the first ceil(top_p K V) candidates, however many that is."""
    size = paths * vocabulary * 20
    step = path_top_p(size, top_p, deterministic=True).step(torch.zeros(paths, vocabulary * 20), torch.zeros(paths))
    flat = (step.parents * vocabulary * 20 + step.tokens).tolist()
    assert flat == list(range(len(flat)))
    assert len(flat) == pytest.approx(math.ceil(top_p * size), abs=1 + 1e-5 * size)


@given(rows(batch=1, distinct=True), fractions())
@settings(max_examples=60)
def test_one_path_keeps_what_transformers_top_p_keeps(logits, top_p):
    warped = TopPLogitsWarper(top_p=top_p)(None, logits.clone()) if top_p < 1 else logits
    theirs = set(warped[0].isfinite().nonzero().flatten().tolist())
    step = path_top_p(10**6, top_p, deterministic=True).step(logits, ONE)
    ours = set(step.tokens.tolist())
    probs = logits.double().softmax(-1)[0]
    for token in ours ^ theirs:  # they sum from the other end, so a cut may fall one rounding apart
        assert abs(float(probs[list(ours - {token})].sum()) - top_p) < 1e-5 or float(probs[token]) < 1e-6


def test_one_path_draws_as_ordinary_top_p():
    logits = torch.tensor([[2.0, 1.0, 0.5, 0.0, -1.0, -torch.inf]])
    expected = TopPLogitsWarper(top_p=0.9)(None, logits.clone()).softmax(-1)[0].double()
    generator, n = seeded(0), 3000
    sampler = path_top_p(1, 0.9)
    counts = torch.zeros(6)
    for _ in range(n):
        counts[int(sampler.step(logits, ONE, generator=generator).tokens)] += 1
    kept = expected > 0
    assert counts[~kept].sum() == 0
    g = 2 * float((counts[kept].double() * (counts[kept] / n / expected[kept]).log()).sum())
    assert chi2.sf(g, int(kept.sum()) - 1) > 1e-6  # the false alarm rate


def test_draws_without_replacement_follow_plackett_luce():
    """Pairs drawn from .5, .3, .2: P({a, b}) = a b / (1 - a) + a b / (1 - b)."""
    probs = torch.tensor([0.5, 0.3, 0.2]).double()
    generator, n, counts = seeded(1), 2500, {}
    sampler = path_top_p(2, 1.0)
    for _ in range(n):
        pair = tuple(sorted(sampler.step(probs.log()[None], ONE, generator=generator).tokens.tolist()))
        counts[pair] = counts.get(pair, 0) + 1
    g = 0.0
    for a, b in itertools.combinations(range(3), 2):
        p = float(probs[a] * probs[b] * (1 / (1 - probs[a]) + 1 / (1 - probs[b])))
        g += 2 * counts[a, b] * math.log(counts[a, b] / n / p)
    assert chi2.sf(g, 2) > 1e-6


@given(st.integers(0, 999), st.integers(1, 6))
@settings(max_examples=20)
def test_a_tiny_top_p_is_greedy(seed, k):
    model = markov(seed)
    [path] = path_top_p(k, 1e-9).generate(model, [0, 1], 6, generator=seeded(seed))
    tokens = [0, 1]
    for _ in range(6):
        tokens.append(int(model(torch.tensor([tokens]), None).argmax()))
    assert list(path.tokens) == tokens[2:]
    assert path.weight == 1


@given(st.integers(0, 999), st.integers(1, 5))
@settings(max_examples=20)
def test_no_cut_and_no_chance_is_beam_search(seed, k):
    model, steps = markov(seed), 5
    beams = [((), 0.0)]
    for _ in range(steps):
        grown = [
            ((*tokens, v), score + float(row[v]))
            for tokens, score in beams
            for row in [model(torch.tensor([[0, 1, *tokens]]), None)[0].double().log_softmax(-1)]
            for v in range(4)
        ]
        beams = sorted(grown, key=lambda beam: -beam[1])[:k]
    paths = path_top_p(k, 1.0, deterministic=True).generate(model, [0, 1], steps)
    assert [path.tokens for path in paths] == [tokens for tokens, _ in beams]
    assert [path.log_prob for path in paths] == pytest.approx([score for _, score in beams], abs=1e-5)


@given(st.integers(0, 999), st.sampled_from([0.5, 1.0, 2.0]))
@settings(max_examples=10)
def test_as_many_paths_as_sequences_is_exhaustive_search(seed, temperature):
    """Every sequence that ends with token 3 or has four tokens, enumerated."""
    model = markov(seed)
    every = {}
    for length in range(1, 5):
        for tokens in itertools.product(range(4), repeat=length):
            if 3 not in tokens[:-1] and (tokens[-1] == 3 or length == 4):
                every[tokens] = log_prob_of(model, [0, 1], tokens, temperature)
    assert math.fsum(map(math.exp, every.values())) == pytest.approx(1)
    paths = path_top_p(len(every), 1.0, temperature, deterministic=True).generate(model, [0, 1], 4, eos=3)
    assert {path.tokens: path.log_prob for path in paths} == pytest.approx(every, abs=1e-4)
    assert paths[0].log_prob == pytest.approx(max(every.values()), abs=1e-4)
    assert all(path.finished == (path.tokens[-1] == 3) for path in paths)
    assert sum(path.weight for path in paths) == pytest.approx(1)
    for path in paths:
        assert path.weight == pytest.approx(math.exp(path.log_prob), abs=1e-5)


@given(st.integers(0, 999), st.integers(1, 6), fractions())
@settings(max_examples=25)
def test_paths_are_distinct_and_honest_about_their_probability(seed, k, top_p):
    model = markov(seed)
    paths = path_top_p(k, top_p, 0.8).generate(model, [2, 3], 5, eos={1}, generator=seeded(seed))
    assert 1 <= len(paths) <= k
    assert len({path.tokens for path in paths}) == len(paths)
    assert sum(path.weight for path in paths) == pytest.approx(1)
    assert [path.log_prob for path in paths] == sorted((path.log_prob for path in paths), reverse=True)
    for path in paths:
        assert path.log_prob == pytest.approx(log_prob_of(model, [2, 3], path.tokens, 0.8), abs=1e-4)
        assert path.finished == (path.tokens[-1] == 1)
        assert 1 not in path.tokens[:-1]


def test_removed_tokens_never_enter():
    logits = torch.full((2, 50), -torch.inf)
    logits[0, 7], logits[1, 9] = 0.0, 0.0
    for sampler in (path_top_p(10, 1.0), path_top_p(10, 1.0, deterministic=True)):
        step = sampler.step(logits, torch.zeros(2), generator=seeded(0))
        assert sorted(chosen(step)) == [(0, 7), (1, 9)]


def test_a_finished_path_competes_as_it_stands():
    """Finished at .5 against .5 spread over four: it is drawn first, and its probability does not change."""
    sampler = path_top_p(2, 0.45, deterministic=True)
    half = torch.tensor([0.5]).log()
    step = sampler.step(torch.zeros(1, 4), half, half)
    assert (step.stay.tolist(), step.tokens.tolist()) == ([0], [])
    step = path_top_p(5, 1.0, deterministic=True).step(torch.zeros(1, 4), half, half)
    assert (step.stay.tolist(), step.tokens.tolist()) == ([0], [0, 1, 2, 3])


def test_a_length_penalty_changes_the_order_alone():
    def model(tokens, parents):  # ends at once with .45, or goes on for two sure tokens
        first = torch.tensor([0.45, 0.4, 0.15]).log()
        later = torch.tensor([1e-6, 0.97, 0.03]).log()
        return torch.stack([first if tokens.shape[1] == 1 else later] * len(tokens))

    plain = path_top_p(2, 1.0, deterministic=True).generate(model, [1], 3, eos=0)
    long = path_top_p(2, 1.0, deterministic=True, length_penalty=1.0).generate(model, [1], 3, eos=0)
    assert [path.tokens for path in plain] == [(0,), (1, 1, 1)]
    assert [path.tokens for path in long] == [(1, 1, 1), (0,)]
    assert {path: path.weight for path in plain} == {path: path.weight for path in long}


def test_the_seed_decides_and_nothing_global_is_touched():
    model, sampler = markov(3), path_top_p(3, 0.95)
    state = torch.random.get_rng_state()
    once, again, other = (sampler.generate(model, [0, 1], 8, generator=seeded(s)) for s in (5, 5, 6))
    assert once == again != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_votes_add_up():
    paths = [Path((1, i % 3), -1.0, 0.1, True) for i in range(10)]
    assert vote(paths, lambda path: path.tokens[-1] or None) == pytest.approx({1: 0.3, 2: 0.3})


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("eos", [(), (3, 4, 5)])
def test_the_cache_of_transformers_follows_the_paths(llama, eos):
    @torch.inference_mode()
    def uncached(tokens, parents):
        return llama(input_ids=tokens).logits[:, -1]

    model = from_transformers(llama)
    for seed in range(3):  # the same callable, a new prompt each time
        sampler, prompt = path_top_p(5, 0.95, 1.5), [1, 2, seed + 6]
        ours = sampler.generate(model, prompt, 10, eos, seeded(seed))
        plain = sampler.generate(uncached, prompt, 10, eos, seeded(seed))
        assert [path.tokens for path in ours] == [path.tokens for path in plain]
        assert [path.log_prob for path in ours] == pytest.approx([path.log_prob for path in plain], abs=1e-4)


def test_no_cut_and_no_chance_is_the_beam_search_of_transformers(llama):
    theirs = llama.generate(
        torch.tensor([[1, 2, 6]]), attention_mask=torch.ones(1, 3), num_beams=4, num_return_sequences=4,
        do_sample=False, max_new_tokens=8, min_new_tokens=8, length_penalty=0.0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    ours = path_top_p(4, 1.0, deterministic=True).generate(from_transformers(llama), [1, 2, 6], 8)
    assert [list(path.tokens) for path in ours] == theirs[:, 3:].tolist()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"k": 0}, "k must"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.2}, "top_p"),
        ({"temperature": 0.0}, "temperature"),
        ({"length_penalty": -1.0}, "length_penalty"),
    ],
)
def test_bad_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        path_top_p(**settings)


def test_bad_input_is_named():
    sampler = path_top_p(deterministic=True)
    with pytest.raises(ValueError, match="row 1"):
        sampler.step(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.zeros(2))
    with pytest.raises(ValueError, match="ids"):
        sampler.generate(markov(0), [], 3)
    with pytest.raises(ValueError, match="max_tokens"):
        sampler.generate(markov(0), [1], 0)
    with pytest.raises(ValueError, match="generator"):
        path_top_p().step(torch.zeros(1, 3), ONE)
