"""Texts of one length from every sampler, repeatable, and read as they were written."""

import numpy as np
import pytest
import torch

from hartley.decoding import chain, mirostat, temperature, top_k
from hartley.engines import open_engine
from hartley.models.texts import passages
from hartley.papers.texts import STORIES, Endless, Text, distinct, read, repetition, seeds, write


def text(tokens: list[int]) -> Text:
    return Text(np.array(tokens), *(np.zeros(len(tokens)),) * 3)


def test_repetition_counts_what_stood_earlier() -> None:
    texts = [text([1, 2, 3, 1, 2, 3, 1]), text([1, 2, 3, 4, 5])]
    np.testing.assert_allclose(repetition(texts), [0.4, 0.0])
    np.testing.assert_allclose(distinct(texts), [0.6, 1.0])


def test_an_endless_sampler_never_draws_an_end_and_otherwise_draws_as_the_inner_one() -> None:
    logits = torch.tensor([[5.0, 0.0, 1.0, 2.0]]).expand(64, 4)
    endless = Endless(top_k(2), frozenset({0}))
    draw, _ = endless.step(logits, None, torch.Generator().manual_seed(0))
    alone, _ = top_k(2).step(logits[:, 1:], None, torch.Generator().manual_seed(0))
    assert set(draw.token.tolist()) == {2, 3}
    torch.testing.assert_close(draw.entropy, alone.entropy)
    assert endless != Endless(top_k(3), frozenset({0}))
    assert endless != Endless(top_k(2), frozenset({1}))


def test_an_endless_sampler_carries_the_inner_state() -> None:
    endless = Endless(mirostat(tau=3.0, eta=1.0), frozenset({0}))
    draw, state = endless.step(torch.zeros(1, 9), endless.init(1), torch.Generator().manual_seed(0))
    assert float(draw.surprisal) == pytest.approx(3 * np.log(2), abs=1e-6)  # 8 equal tokens are left
    assert float(state) == pytest.approx(6.0, abs=1e-6)


def test_every_text_has_a_prompt_and_a_seed_of_its_own() -> None:
    assert len(set(STORIES)) == len(STORIES) == len(set(seeds(len(STORIES))))
    assert len(set(passages())) == 8


@pytest.mark.model
def test_the_same_seed_writes_the_same_text_beside_whatever_else() -> None:
    engine = open_engine()
    both = write(engine, {"plain": chain(), "mirostat": mirostat(tau=3.0)}, STORIES[:2], 4)
    alone = write(engine, {"mirostat": mirostat(tau=3.0)}, STORIES[:1], 4)
    for one, again in zip(both["mirostat"][0], alone["mirostat"][0], strict=True):
        np.testing.assert_array_equal(one, again)


@pytest.mark.model
def test_a_text_is_read_as_it_was_written() -> None:
    engine = open_engine(dtype="float32")
    prompt = engine.tokenizer.encode(STORIES[0])
    written = write(engine, {"greedy": temperature(0)}, [prompt], 6)["greedy"][0]
    found = read(engine, prompt, written.tokens.tolist())
    np.testing.assert_allclose(found.surprisal, written.surprisal, atol=1e-3)
    np.testing.assert_allclose(found.entropy, written.entropy, atol=1e-3)
