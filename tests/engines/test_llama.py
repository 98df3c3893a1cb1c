"""llama.cpp as an engine: what it shares with the others is in test_engines.py and test_loop.py."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from hartley.decoding import chain, mirostat, parse, temperature, top_h, top_p
from hartley.engines import Request, generate, llama, logits_of, open_engine
from hartley.engines.llama import LlamaEngine
from hartley.models import Model, load

needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [30, 31, 32], [40] * 12]


@pytest.fixture(scope="module")
def tiny_engine(tiny_gguf: Model) -> LlamaEngine:
    return LlamaEngine(tiny_gguf)


@pytest.fixture(scope="module")
def default() -> Any:
    return open_engine("smollm2", "llama")


def test_a_missing_package_names_the_extra(tiny_gguf, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    llama.binding.cache_clear()
    with pytest.raises(ImportError, match=r'engine \'llama\' needs .* pip install "hartley\[llama\]"'):
        open_engine(tiny_gguf, "llama")


def test_a_folder_is_no_gguf_file(tiny):
    with pytest.raises(ValueError, match=r"engine 'llama' runs GGUF files.* use engine='transformers'"):
        open_engine(tiny, "llama")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model"):
        open_engine(tmp_path / "none.gguf", "llama")


@needs_llama
def test_a_file_that_llama_cpp_cannot_read_is_named_with_its_reason(tiny_gguf, tmp_path, capfd):
    whole = tiny_gguf.gguf.read_bytes()
    path = tmp_path / "bad.gguf"
    path.write_bytes(whole[: len(whole) // 2])  # load() refuses it before: here it is cut after that
    with pytest.raises(ValueError, match=r"llama.cpp cannot read .*bad.gguf: .*tensor"):
        open_engine(replace(tiny_gguf, gguf=path), "llama")
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"llama.cpp cannot read .*bad.gguf: .*magic"):
        open_engine(replace(tiny_gguf, gguf=path), "llama")
    assert capfd.readouterr() == ("", "")


@needs_llama
def test_a_gguf_file_is_opened_as_it_is(tiny_gguf, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HARTLEY_CACHE", str(tmp_path))
    engine = open_engine(load(tiny_gguf.gguf, progress=lambda message: None), "llama")
    assert (engine.name, engine.model_name, engine.dtype) == ("llama", "tiny", "F32")
    assert engine.score([5, 6]).shape == (2, 268)
    assert capfd.readouterr().err == ""  # llama.cpp is silent


@needs_llama
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dtype": "Q8_0"}, "dtype must be None or 'F32', which tiny.gguf holds, got 'Q8_0'"),
        ({"device": "cuda"}, "device"),
    ],
)
def test_other_weights_and_devices_are_refused(tiny_gguf, options, match):
    with pytest.raises(ValueError, match=match):
        open_engine(tiny_gguf, "llama", **options)


@needs_llama
def test_logits_outlive_the_session_and_the_engine(tiny_gguf):
    engine = LlamaEngine(tiny_gguf)
    session = engine.start(PROMPTS, [4] * 4)
    logits = session.logits()
    copy = logits.clone()
    session.close()
    del engine, session
    for _ in range(3):  # memory given back too early would be written over
        LlamaEngine(tiny_gguf).start(PROMPTS, [4] * 4).logits()
    assert torch.equal(logits, copy)


@needs_llama
def test_logits_are_not_copied_and_change_with_the_next_token(tiny_engine):
    session = tiny_engine.start([[5, 6]], [4])
    before = session.logits()
    copy = before.clone()
    session.append([7])
    assert session.logits().data_ptr() == before.data_ptr()
    assert not torch.equal(before, copy)


@needs_llama
def test_rows_go_on_undisturbed_when_others_leave(tiny_engine):
    """Every row that is left, in whatever order, gives what it gives alone."""
    session = tiny_engine.start(PROMPTS, [8] * 4)
    texts = [list(prompt) for prompt in PROMPTS]
    for rows in ([0, 1, 2, 3], [3, 0, 2], [2, 0], [1]):
        session.keep(rows)
        texts = [texts[row] for row in rows]
        for text, logits in zip(texts, session.logits(), strict=True):
            torch.testing.assert_close(logits, tiny_engine.score(text)[-1], rtol=0, atol=1e-4)
        drawn = session.logits().argmax(-1).tolist()
        session.append(drawn)
        for text, token in zip(texts, drawn, strict=True):
            text.append(token)


@needs_llama
def test_the_context_can_be_filled_to_the_end(tiny_engine):
    ids = torch.randint(3, 260, (tiny_engine.context_length,), generator=torch.Generator().manual_seed(0)).tolist()
    scores = logits_of(tiny_engine, ids)
    session = tiny_engine.start([ids[:-2], ids[:3]], [2, 500])
    session.append([ids[-2], 5])
    torch.testing.assert_close(session.logits()[0], scores[-2], rtol=0, atol=1e-4)
    session.append([ids[-1], 5])
    torch.testing.assert_close(session.logits()[0], scores[-1], rtol=0, atol=1e-4)


@needs_llama
def test_more_sequences_than_llama_cpp_holds_are_refused(tiny_engine):
    with pytest.raises(ValueError, match="at most 256 sequences at once, got 257"):
        tiny_engine.start([[5]] * 257, [1] * 257)
    assert tiny_engine.start([[5, 6]] * 256, [1] * 256).logits().unique(dim=0).shape == (1, 268)


@needs_llama
@pytest.mark.model
def test_tokens_are_those_of_llama_cpp(default, moby_dick):
    import ctypes

    vocabulary = default.library.llama_model_get_vocab(default.handle)
    texts = [
        moby_dick[:2000],
        "né 🙂  a  12345 + 3,141.59\n\n\tdef f(x):\r\n    return x**2  # 日本語 Ελληνικά",
        default.tokenizer.render([{"role": "user", "content": "What is 12 * 12?"}]),
        "<|im_start|>assistant\n<|im_end|><|endoftext|> ... ",
        " leading, trailing ",
    ]
    for text in texts:
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        n = default.library.llama_tokenize(vocabulary, data, len(data), room, len(room), True, True)
        assert default.tokenizer.encode(text) == list(room[:n])
    for id in default.tokenizer.stop_ids:  # llama.cpp counts a separator of source files among its own too
        assert default.library.llama_vocab_is_eog(vocabulary, id)


SAMPLERS = [top_p(0.9), chain(temperature(1.5), top_h(0.4)), mirostat(2, tau=4.0), parse("top_k=40,min_p=0.05")]


@needs_llama
@pytest.mark.model
def test_the_same_seed_gives_the_same_text_in_any_batch(default):
    prompts = [default.tokenizer.chat("What is entropy?"), "Call me", "Once upon a time there was a", "1, 2, 3,"]
    requests = [
        Request(prompt, sampler, max_tokens=8 + 2 * i, seed=i)
        for i, (prompt, sampler) in enumerate(zip(prompts, SAMPLERS, strict=True))
    ]
    together = list(generate(default, requests))  # rows leave it one by one
    for i, request in enumerate(requests):
        alone = list(generate(default, [request]))
        assert [s.draw for s in alone] == [s.draw for s in together if s.index == i]  # the very same numbers
        assert "".join(s.text for s in alone) == "".join(s.text for s in together if s.index == i)


@needs_llama
@pytest.mark.model
def test_a_text_scores_as_it_was_drawn(default):
    ids = default.tokenizer.encode("The capital of France is")
    steps = list(generate(default, [Request(ids, temperature(0.7), max_tokens=24, seed=3)]))
    log_probs = logits_of(default, [*ids, *(step.token for step in steps)])[len(ids) - 1 : -1].double().log_softmax(-1)
    for step, row in zip(steps, log_probs, strict=True):
        assert step.draw["surprisal"] == pytest.approx(-row[step.token].item(), abs=1e-5)
        assert step.draw["entropy"] == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-5)


@needs_llama
@pytest.mark.model
def test_how_exact_a_long_row_is(default, moby_dick):
    """Past 256 tokens a row that is alone differs from itself in a batch, by less than the 4-bit weights are off."""
    ids = default.tokenizer.encode(moby_dick)
    short, long = ids[:60], ids[:258]
    for text, exact in ((short, True), (long, False)):
        alone, pair = default.start([text], [2]), default.start([ids[300:310], text], [2, 2])
        assert torch.equal(alone.logits()[0], pair.logits()[1])  # prompts are read alike, however long
        alone.append([ids[300]])
        pair.append([ids[5], ids[300]])
        one, other = alone.logits()[0].double().log_softmax(-1), pair.logits()[1].double().log_softmax(-1)
        assert torch.equal(one, other) or not exact
        assert (one.exp() * (one - other)).sum() < 0.05
