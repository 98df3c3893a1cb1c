"""In-context navigation and the geometry of output keys: what must be true, then small models."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from hartley.decoding.in_context_navigation import (
    NOTHING,
    CausalTextModel,
    InContextNavigator,
    list_prompt,
    map_at_k,
    navigated_self_consistency,
    ranked,
    ways_prompt,
)
from hartley.decoding.vocabulary_keys import cluster_vocabulary, spurious_key_report

hits = st.lists(st.booleans(), min_size=1, max_size=30)
items = st.lists(st.text(st.characters(exclude_characters='"\n', codec="utf-8"), min_size=1, max_size=8), max_size=12)


class Scripted:
    """A model that knows the logits of each prompt, the text of each token, and what follows a token in a context."""

    def __init__(self, texts, logits, follow=lambda text, token: '"'):
        self.texts, self.logits, self.follow = texts, logits, follow
        self.completed = []

    def next_logits(self, text):
        return self.logits(text)

    def token_text(self, token):
        return self.texts[token]

    def complete(self, text, tokens, max_new_tokens, stop):
        self.completed += [(text, token) for token in tokens]
        return [self.texts[token] + self.follow(text, token) for token in tokens]


def falling(texts):
    """Every prompt ranks the tokens in the order they are written."""
    return Scripted(texts, lambda _: -torch.arange(len(texts)).double())


# Mean average precision of the first k


def test_map_at_k_closed_forms():
    assert map_at_k([1, 1, 0, 0], 4) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)
    assert map_at_k([0, 1], 2) == 0.25
    assert map_at_k([True] * 7, 7) == 1.0


@given(hits, st.data())
def test_map_at_k_is_the_weighted_sum_of_hits(found, data):
    k = data.draw(st.integers(1, len(found)))
    weights = [sum(1 / i for i in range(place, k + 1)) / k for place in range(1, k + 1)]
    assert map_at_k(found, k) == pytest.approx(sum(w for w, hit in zip(weights, found, strict=False) if hit))


@given(hits, st.data())
def test_a_hit_moved_earlier_never_lowers_map(found, data):
    late = data.draw(st.integers(0, len(found) - 1))
    early = data.draw(st.integers(0, late))
    if found[late] and not found[early]:
        moved = list(found)
        moved[early], moved[late] = True, False
        assert map_at_k(moved, len(found)) >= map_at_k(found, len(found))


@pytest.mark.parametrize("k", [0, 3])
def test_map_beyond_the_answers_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and the number of hits, 2; got {k}"):
        map_at_k([True, False], k)


# Templates


@given(items)
def test_the_list_closes_one_pair_of_quotes_per_item_and_opens_one_slot(explored):
    text = list_prompt("Name some.", explored)
    body = text.removeprefix("Name some.\n\nAnswer:\n").split("\n")
    assert body[-1] == f'{len(explored) + 1}. "'
    assert text.count('"') == 2 * len(explored) + 1
    assert body[:-1] == [f'{n}. "{item}"' for n, item in enumerate(explored, 1)]


def test_nothing_explored():
    assert list_prompt("Name some.").endswith('\n1. "')
    assert ways_prompt("Why?").endswith("\n\n### Way 1:\n* **Step 1:**\n")


@given(items)
def test_ways_stand_in_order_and_the_next_is_open(explored):
    text = ways_prompt("Why?", explored)
    assert text.endswith(f"\n### Way {len(explored) + 1}:\n* **Step 1:**\n")
    place = 0
    for number, way in enumerate(explored, 1):
        place = text.index(f"### Way {number}:\n* **Step 1:**\n{way}\n", place) + 1


# Exploring


@settings(max_examples=50)
@given(
    st.lists(st.text("ab ", max_size=3), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_no_first_token_is_probed_twice_and_every_round_is_full_until_none_is_left(
    texts, rounds, per_round, regularise, seed
):
    def logits(prompt):  # another ranking for every prompt
        generator = torch.Generator().manual_seed(seed + len(prompt))
        return torch.randn(len(texts), generator=generator)

    model = Scripted(texts, logits)
    navigator = InContextNavigator(model, rounds=rounds, per_round=per_round, regularise=regularise)
    found = navigator.explore("Name some.")
    probed = [texts[probe.token].strip() for probe in found.probes]
    assert len(set(probed)) == len(probed)
    assert "" not in probed
    distinct = {text.strip() for text in texts} - {""}
    assert len(probed) == min(rounds * per_round, len(distinct))
    assert navigator.explore("Name some.") == found
    start = list_prompt("Name some.")
    assert all((text == start) or not regularise for text, _ in model.completed)


def test_one_round_is_plain_probing_of_the_top():
    model = falling(["a", " a", "", "b", "c", "d"])
    found = InContextNavigator(model, rounds=1, per_round=3).explore("Name some.")
    assert found.answers == ["a", "b", "c"]
    assert [probe.token for probe in found.probes] == [0, 3, 4]


def test_later_rounds_read_what_was_explored_and_listing_none_is_plain_probing():
    model = falling(list("abcdef"))
    found = InContextNavigator(model, rounds=3, per_round=2).explore("Name some.")
    assert found.prompts == [list_prompt("Name some.", list("abcdef")[:n]) for n in (0, 2, 4)]
    latest = InContextNavigator(model, rounds=3, per_round=2, max_explored=1).explore("Name some.")
    assert latest.prompts == [list_prompt("Name some.", some) for some in ([], ["b"], ["d"])]
    plain = InContextNavigator(model, rounds=3, per_round=2, max_explored=0).explore("Name some.")
    assert plain.prompts == [list_prompt("Name some.")] * 3
    assert plain.answers == InContextNavigator(model, rounds=1, per_round=6).explore("Name some.").answers


def test_answers_are_listed_once_whatever_their_case_and_unfinished_ones_never():
    follow = {0: "ed red", 1: 'ED"', 2: 'ed" and', 3: '"'}
    model = Scripted(["r", "R", " r ", "b"], lambda _: torch.tensor([4.0, 3.0, 2.0, 1.0]), lambda _, t: follow[t])
    found = InContextNavigator(
        model, rounds=2, per_round=2, regularise=False, judge=lambda answer: answer == "RED"
    ).explore("Name some.")
    assert found.answers == [NOTHING, "RED", "b"]  # " r " and "r" are the same first token
    assert found.hits == [False, True, False]
    assert found.prompts[1] == list_prompt("Name some.", ["RED"])


def test_without_a_judge_nothing_is_judged():
    assert InContextNavigator(falling(["a"]), rounds=1, per_round=1).explore("Name some.").hits == []


def test_distinct_by_answer_replaces_repeats_and_lets_a_token_lead_elsewhere():
    def follow(text, token):
        return {0: ' Zealand"' if "New York" in text else ' York"', 1: '"', 2: '"'}[token]

    texts = ["New", "new york", "Maine"]
    model = Scripted(texts, lambda _: torch.tensor([3.0, 2.0, 1.0]), follow)

    def explore(**chosen):
        return InContextNavigator(model, rounds=2, per_round=2, **chosen).explore("Name some.").answers

    assert explore(regularise=False) == ["New York", "new york", "Maine"]
    assert explore(regularise=False, distinct_by="answer") == ["New York", "Maine", "New Zealand"]
    assert explore(distinct_by="answer") == ["New York", "Maine"]  # from the empty list a token always leads there


def test_impossible_tokens_are_never_probed():
    model = Scripted(list("abc"), lambda _: torch.tensor([1.0, -torch.inf, 0.0]))
    assert InContextNavigator(model, rounds=5, per_round=5).explore("Name some.").answers == ["a", "c"]


def test_ranked_walks_a_whole_vocabulary():
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert list(ranked(logits)) == logits.argsort(descending=True).tolist()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"template": "tree"}, "template must be one of 'list', 'cot'; got 'tree'"),
        ({"distinct_by": "token"}, "distinct_by must be one of 'first_token', 'answer'; got 'token'"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1; got 0"),
        ({"per_round": 0}, "per_round must be a whole number of at least 1; got 0"),
        ({"max_explored": -1}, r"max_explored must be None \(all\) or at least 0; got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1; got 0"),
    ],
)
def test_bad_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        InContextNavigator(falling(["a"]), **wrong)


def test_a_model_it_cannot_use_is_refused():
    with pytest.raises(TypeError, match="model must be a causal language model of transformers together with its"):
        InContextNavigator(object())


# Self-consistency


def test_the_majority_of_navigated_paths_wins_and_the_first_among_equals():
    finals = {"a": " 5.", "b": " 7\nBecause", "c": " 7"}

    def vote(texts):
        def logits(text):
            open_slot = text.endswith("* **Step 1:**\n")
            return torch.tensor([3.0, 2.0, 1.0, 0.0 if open_slot else 9.0])

        def follow(text, token):
            return finals[text.split("Step 1:**\n")[1][0]] if texts[token] == "" else " so it is # Way"

        return navigated_self_consistency(Scripted(texts, logits, follow), "How many?", n_paths=3)

    found = vote(["a", "b", "c", ""])
    assert found.paths == ["a so it is", "b so it is", "c so it is"]
    assert (found.answer, found.answers) == ("7", ["5", "7", "7"])
    finals["c"] = " 9"
    assert vote(["a", "b", "c", ""]).answer == "5"


# Keys


@given(st.integers(0, 2**16), st.floats(1e-6, 2.0))
def test_near_keys_have_near_logits(seed, spread):
    """|z_a - z_b| <= |w_a - w_b| |h|, and r |h| sqrt(2 (1 - c)) for keys of one norm r at cosine c."""
    generator = torch.Generator().manual_seed(seed)
    key, step, query = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    gap = abs(spread * (step @ query))
    assert abs((key + spread * step) @ query - key @ query) == pytest.approx(float(gap), abs=1e-9)
    assert gap <= (spread * step).norm() * query.norm() + 1e-12
    other = (key + spread * step) / (key + spread * step).norm() * key.norm()
    cosine = torch.cosine_similarity(key, other, dim=0).clamp(max=1.0)
    bound = key.norm() * query.norm() * (2 * (1 - cosine)).sqrt()
    assert abs(other @ query - key @ query) <= bound + 1e-6


def planted(spread, seed, clusters=12, size=5, dimensions=8):
    """Keys in tight clusters; the query points at one token. Only that one is a right answer."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, dimensions, generator=generator, dtype=torch.float64)
    centres = centres / centres.norm(dim=1, keepdim=True)
    owner = torch.arange(clusters).repeat_interleave(size)[torch.randperm(clusters * size, generator=generator)]
    keys = centres[owner] + spread * torch.randn(clusters * size, dimensions, generator=generator, dtype=torch.float64)
    model = Scripted([f"t{i}" for i in range(len(keys))], lambda _: keys @ keys[7])
    model.keys = keys
    return model, owner


@given(st.integers(0, 1000))
def test_as_clusters_tighten_the_whole_top_cluster_outranks_everything_else(seed):
    model, owner = planted(1e-7, seed)
    report = spurious_key_report(model, list_prompt("Name one."), lambda answer: answer == "t7", 30, 1, owner)
    assert report.in_main == [True] * 5 + [False] * 25  # the look-alikes fill the next places, right or not
    assert sum(report.correct) == 1
    assert report.inside.accuracy in (0.0, 0.25)  # the token itself may be any of the five
    assert report.inside.mean_rank == 3.5
    assert report.outside.mean_rank == 18.0


def odd(answer):
    return int(answer[1:]) % 2 == 1


@given(st.integers(0, 1000), st.integers(1, 10), st.integers(11, 60))
def test_both_sides_share_ranks_k_plus_1_to_n(seed, k, n):
    model, owner = planted(0.5, seed)
    report = spurious_key_report(model, list_prompt("Name some."), odd, n, k, owner)
    sides = [side for side in (report.inside, report.outside) if side.proportion > 0]
    assert report.inside.proportion + report.outside.proportion == pytest.approx(1)
    assert sum(side.proportion * side.mean_rank for side in sides) == pytest.approx((k + 1 + n) / 2)
    assert sum(side.proportion * side.accuracy for side in sides) == pytest.approx(sum(report.correct[k:]) / (n - k))
    assert all(k + 1 <= side.mean_rank <= n for side in sides)
    assert report.in_main[:k] == [True] * k


def test_a_report_clusters_the_models_own_keys_unless_clusters_are_given():
    model, _ = planted(0.3, 1)
    own = cluster_vocabulary(model.keys, n_clusters=60)
    reports = [spurious_key_report(model, list_prompt("Name some."), odd, 40, 10, given) for given in (None, own)]
    assert reports[0] == reports[1]
    del model.keys
    with pytest.raises(TypeError, match="give clusters=, or a model that has keys; got Scripted"):
        spurious_key_report(model, list_prompt("Name some."), odd, 40, 10)


def test_a_side_without_tokens_has_no_accuracy():
    model, _ = planted(0.3, 1)
    report = spurious_key_report(model, list_prompt("Name some."), odd, 40, 10, torch.arange(60))
    assert report.inside.proportion == 0
    assert math.isnan(report.inside.accuracy)
    assert report.outside.proportion == 1


def test_a_report_refuses_what_it_cannot_count():
    model, owner = planted(0.3, 1)
    with pytest.raises(ValueError, match="n must be above k=3 and at most 60 tokens; got 61"):
        spurious_key_report(model, "1.", bool, 61, 3, owner)
    with pytest.raises(ValueError, match="n must be above k=3"):
        spurious_key_report(model, "1.", bool, 3, 3, owner)
    with pytest.raises(ValueError, match=r"clusters must have shape \(60,\), one a token; got \(3,\)"):
        spurious_key_report(model, "1.", bool, 9, 3, owner[:3])


def test_clusters_are_found_and_repeat():
    model, owner = planted(0.01, 5, clusters=6, size=40)
    found = cluster_vocabulary(model.keys, n_clusters=6, random_state=2)
    assert found.dtype == torch.int64
    assert found.shape == owner.shape
    same = owner[:, None] == owner
    assert torch.equal(found[:, None] == found, same)
    assert torch.equal(found, cluster_vocabulary(model.keys, n_clusters=6, random_state=2))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(2, 20))
def test_every_key_lies_nearest_to_the_mean_of_its_own_cluster(seed, n_clusters):
    keys = torch.randn(200, 6, generator=torch.Generator().manual_seed(seed))
    found = cluster_vocabulary(keys, n_clusters, random_state=seed)
    means = torch.stack([keys[found == cluster].mean(0) for cluster in range(n_clusters)])
    distance = torch.cdist(keys, means)
    assert (distance[range(200), found] <= distance.amin(1) + 1e-3).all()


@pytest.mark.parametrize("n_clusters", [0, 61])
def test_more_clusters_than_keys_are_refused(n_clusters):
    with pytest.raises(ValueError, match=f"n_clusters must be between 1 and the 60 keys; got {n_clusters}"):
        cluster_vocabulary(planted(0.3, 1)[0].keys, n_clusters)
    with pytest.raises(ValueError, match=r"lm_head_weight must have shape \[V, D\]; got \(4,\)"):
        cluster_vocabulary(torch.zeros(4), 1)


# The adapter of transformers


LETTERS = '\0abcdefghijklmnopqrstuvwxyz ".:#\n0123456789NA*SW'


class Letters:
    """A tokenizer of single characters; token 0 ends a text."""

    eos_token_id = 0

    def __call__(self, text, return_tensors):
        return {"input_ids": torch.tensor([[LETTERS.index(letter) for letter in text]], dtype=torch.int64)}

    def decode(self, ids, skip_special_tokens):
        return "".join(LETTERS[i] for i in ids if i)


@pytest.fixture(scope="module")
def llama():
    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def greedy(model, ids, new, stop):
    """One token at a time, each from the whole text: no batch, no cache."""
    text, start = Letters(), len(ids) - 1
    for _ in range(new):
        if ids[-1] == 0 or stop in text.decode(ids[start:], True):
            break
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return text.decode(ids[start:], True)


def test_completions_side_by_side_are_those_of_each_token_alone(llama):
    prompt = list_prompt("Name some.", ["ab"]).replace(" ", "")
    ids = Letters()(prompt, "pt")["input_ids"][0].tolist()
    model = CausalTextModel(llama, Letters())
    tokens = list(range(40))  # more than one chunk
    found = model.complete(prompt, tokens, 6, "e")
    assert found == [greedy(llama, [*ids, token], 6, "e") for token in tokens]
    assert len({len(text) for text in found}) > 2  # some stopped early
    assert found[0] == ""  # the end of the text is the end
    assert model.complete(prompt, [], 6, "e") == []


def test_the_adapter_reads_logits_and_keys(llama):
    model = CausalTextModel(llama, Letters())
    expected = llama(Letters()("abc", "pt")["input_ids"]).logits[0, -1]
    torch.testing.assert_close(model.next_logits("abc"), expected.detach())
    assert model.keys.shape == (len(LETTERS), 32)
    assert (model.token_text(0), model.token_text(1)) == ("", "a")


def test_the_adapter_refuses_what_does_not_fit(llama):
    model = CausalTextModel(llama, Letters())
    with pytest.raises(ValueError, match="text must hold at least one token; got ''"):
        model.next_logits("")
    with pytest.raises(ValueError, match="text of 120 tokens and 9 more do not fit the context of 128"):
        model.complete("a" * 120, [1], 8, "#")
    assert len(model.complete("a" * 119, [1], 8, "#")) == 1


def test_a_transformers_model_explores(llama):
    found = InContextNavigator(llama, Letters(), rounds=2, per_round=3, max_new_tokens=4).explore("Name a.")
    assert len({probe.token for probe in found.probes}) == 6
    with pytest.raises(TypeError, match="got LlamaForCausalLM and tokenizer NoneType"):
        InContextNavigator(llama)
