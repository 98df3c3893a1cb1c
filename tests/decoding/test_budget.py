"""Strategies and the router: caps in closed form, what each provider is sent, and when the probe is not followed."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from hartley.decoding import STRATEGIES, DiffAdaptRouter, DifficultyProbe, Strategy
from hartley.decoding.budget import MIN_TOKENS
from hartley.decoding.difficulty import DIFFICULTIES

EASY, NORMAL, HARD = STRATEGIES
BUDGETS = st.integers(1, 10**6)
SHARES = st.floats(0.001, 1.0)


class Says:
    """A probe that says what it is told: a probability for each class, in the order of ``DIFFICULTIES``."""

    def __init__(self, *rows):
        self.rows = np.array(rows)

    def predict_proba(self, hidden):
        return self.rows[: len(hidden)]

    def predict(self, hidden):
        return np.array(DIFFICULTIES)[self.rows[: len(hidden)].argmax(-1)]


def test_the_papers_caps():
    assert [one.max_tokens(1000) for one in STRATEGIES] == [400, 1000, 500]
    assert [one.temperature for one in STRATEGIES] == [0.5, 0.8, 0.4]
    assert [one.name for one in STRATEGIES] == list(DIFFICULTIES)


@given(st.lists(st.sampled_from(STRATEGIES), min_size=1, max_size=50), st.integers(160, 10**5).map(lambda n: n * 10))
def test_when_every_answer_uses_its_cap_the_saving_follows_from_the_shares(routed, budget):
    shares = [sum(one is strategy for one in routed) / len(routed) for strategy in STRATEGIES]
    spent = sum(one.max_tokens(budget) for one in routed) / (len(routed) * NORMAL.max_tokens(budget))
    assert spent == pytest.approx(0.4 * shares[0] + shares[1] + 0.5 * shares[2])


def test_the_share_of_the_sheet():
    routed = [EASY] * 5 + [NORMAL] * 3 + [HARD] * 2
    assert sum(one.max_tokens(1000) for one in routed) / 10_000 == 0.60


@given(BUDGETS, SHARES, SHARES)
def test_a_cap_lies_between_the_floor_and_the_budget_and_grows_with_the_share(budget, a, b):
    small, large = (Strategy("easy", "", 1.0, share).max_tokens(budget) for share in sorted((a, b)))
    assert min(MIN_TOKENS, budget) <= small <= large <= budget
    if a * budget > MIN_TOKENS + 1:
        assert abs(Strategy("easy", "", 1.0, a).max_tokens(budget) - a * budget) <= 0.5


@given(BUDGETS)
def test_no_question_gets_more_than_the_normal_cap(budget):
    assert max(EASY.max_tokens(budget), HARD.max_tokens(budget)) <= NORMAL.max_tokens(budget) == budget


def test_the_prompt_comes_after_the_question_and_leaves_it_whole():
    for one in STRATEGIES:
        assert one.question("2 + 2?").startswith("2 + 2?")
        assert one.question("2 + 2?").endswith(one.prompt)
    assert Strategy("easy", "", 1.0, 1.0).question("2 + 2?") == "2 + 2?"
    assert len({one.prompt for one in STRATEGIES}) == 3


@pytest.mark.parametrize("temperature", [0, 0.0, 0.4, 1.5])
def test_transformers_takes_the_settings(temperature):
    from transformers import GenerationConfig

    one = Strategy("hard", "Be brief.", temperature, 0.5)
    config = GenerationConfig(**one.transformers(1000))
    config.validate(strict=True)
    assert config.max_new_tokens == 500
    assert bool(config.do_sample) == (temperature > 0)
    if temperature:
        assert config.temperature == temperature


def test_greedy_in_transformers_takes_the_likeliest_token():
    from tiny_models import tiny_model

    model, prompt = tiny_model(), torch.tensor([[5, 6, 7]])
    settings = Strategy("easy", "", 0, 1.0).transformers(4)
    ids = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    for end in range(3, ids.shape[1]):
        assert model(ids[:, :end]).logits[0, -1].argmax() == ids[0, end]


def test_vllm_and_openai_settings():
    assert Strategy("easy", "", 0, 0.4).vllm(1000) == {"temperature": 0, "max_tokens": 400}
    assert HARD.vllm(1000) == {"temperature": 0.4, "max_tokens": 500}
    asked = HARD.openai("2 + 2?", 1000)
    assert asked == {
        "messages": [{"role": "user", "content": HARD.question("2 + 2?")}],
        "temperature": 0.4,
        "max_tokens": 500,
    }


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.floats(0, 1))
def test_an_unsure_probe_is_not_followed(weights, confidence):
    probabilities = np.array(weights) / sum(weights)
    assume(np.sort(probabilities)[-1] > np.sort(probabilities)[-2])
    routed = DiffAdaptRouter(Says(probabilities), confidence=confidence).route(np.zeros(4))
    first = DIFFICULTIES[int(probabilities.argmax())]
    assert routed.name == (first if probabilities.max() >= confidence else "normal")


def test_a_row_a_tensor_and_a_batch_are_routed_alike():
    hidden = np.repeat(np.eye(3), 30, axis=0).astype(np.float32)
    probe = DifficultyProbe(hidden_size=16).fit(hidden, np.repeat(DIFFICULTIES, 30))
    router = DiffAdaptRouter(probe)
    assert [one.name for one in router.route_all(torch.eye(3))] == list(DIFFICULTIES)
    for row, name in zip(np.eye(3), DIFFICULTIES, strict=True):
        assert (
            router.route(row).name
            == router.route(torch.from_numpy(row)).name
            == router.route(row.tolist()).name
            == name
        )


def test_own_strategies_replace_the_defaults():
    own = [Strategy("hard", "a", 1.0, 1.0), Strategy("easy", "b", 1.0, 1.0), Strategy("normal", "c", 1.0, 1.0)]
    router = DiffAdaptRouter(Says([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]), own)
    assert [one.prompt for one in router.route_all(np.zeros((3, 2)))] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Strategy("easy", "", -0.1, 1.0), "temperature must be .* at least 0; got -0.1"),
        (lambda: Strategy("easy", "", float("nan"), 1.0), "temperature"),
        (lambda: Strategy("easy", "", 1.0, 0.0), r"max_tokens_fraction must be in \(0, 1\]; got 0.0"),
        (lambda: Strategy("easy", "", 1.0, 1.1), "max_tokens_fraction"),
        (lambda: EASY.max_tokens(0), "budget must be a whole number of at least 1; got 0"),
        (lambda: DiffAdaptRouter(Says(), [EASY, HARD]), "strategies must be named easy, normal, hard, one each"),
        (lambda: DiffAdaptRouter(Says(), [EASY, EASY, HARD]), "got easy, easy, hard"),
        (lambda: DiffAdaptRouter(Says(), confidence=1.5), r"confidence must be in \[0, 1\]; got 1.5"),
    ],
)
def test_what_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
