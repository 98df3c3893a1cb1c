import os
import resource
import subprocess
import sys

import pytest
import torch

from hartley.engines import logits_of, open_engine
from hartley.engines.onnx import CHUNK
from hartley.engines.transformers import TransformersEngine
from hartley.models import load
from tiny_models import tiny_model

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [20], [30, 31, 32]]
# F32 weights in llama.cpp: keys, values and their sums are float16, added in another order from the 257th token on
ROUNDING = {"float32": 2e-4, "int8": 0.5, "F32": 2e-3}


def test_prompts_in_a_batch_go_on_as_they_would_alone(engine):
    exact = engine.name == "onnx"
    session = engine.start(PROMPTS, [8] * 3)
    texts = [list(prompt) for prompt in PROMPTS]
    rows = [0, 1, 2]
    for turn in range(5):
        logits = session.logits()
        assert logits.shape == (len(rows), engine.vocab_size)
        assert logits.dtype == torch.float32
        for place, row in enumerate(rows):
            single = engine.start([texts[row]], [1])
            if turn == 0 and exact:
                assert torch.equal(single.logits()[0], logits[place])
            close = {"rtol": 0, "atol": ROUNDING[engine.dtype]}
            torch.testing.assert_close(single.logits()[0], logits[place], **close)
            torch.testing.assert_close(logits_of(engine, texts[row])[-1], logits[place], **close)
            single.close()
        if turn == 2:
            rows = [2, 0]  # fewer, and in another order
            session.keep(rows)
            logits = logits[rows]
        drawn = logits.argmax(-1).tolist()
        session.append(drawn)
        for row, token in zip(rows, drawn, strict=True):
            texts[row].append(token)
    session.close()


#: what happens before each step: rows that come, and those that leave
COMINGS = ([0], [1, 2], [], [3], [4], [5, 6], [], [], [7])
GOINGS = ([], [], [1], [], [0, 3], [], [6], [2], [])


def test_rows_join_and_leave_as_if_they_were_alone(engine):
    """In ONNX Runtime bit for bit, int8 and float32; elsewhere to rounding."""
    draw = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 260, (n,), generator=draw).tolist() for n in (7, 200, 1, 40, 230, 12, 30, 3)]
    alone = [engine.start([text], [len(COMINGS)]) for text in texts]
    session = engine.start([], [])
    going: list[int] = []
    for come, go in zip(COMINGS, GOINGS, strict=True):
        stay = [place for place, row in enumerate(going) if row not in go]
        session.keep(stay)
        going = [going[place] for place in stay]
        for row in come:
            for _ in session.add(texts[row], len(COMINGS)):
                pass
            going.append(row)
        logits = session.logits()
        assert logits.shape == (len(going), engine.vocab_size)
        for place, row in enumerate(going):
            expected = alone[row].logits()[0]
            torch.testing.assert_close(expected, logits[place], rtol=0, atol=ROUNDING[engine.dtype])
            if engine.name == "onnx":
                assert torch.equal(expected, logits[place])
        drawn = logits.argmax(-1).tolist()
        for row, token in zip(going, drawn, strict=True):
            alone[row].append([token])
        session.append(drawn)
    assert going == [4, 5, 7]
    session.keep([])
    for _ in session.add([5, 6], 2):
        pass
    assert torch.equal(session.logits(), engine.start([[5, 6]], [2]).logits())
    session.close()


def test_a_long_prompt_is_read_in_turns_while_others_go_on(engine):
    if engine.name == "transformers":
        pytest.skip("reads a prompt in one go")
    text = torch.randint(3, 260, (400,), generator=torch.Generator().manual_seed(3)).tolist()
    session, alone = engine.start([[5]], [9]), engine.start([[5]], [9])
    turns = session.add(text, 4)
    next(turns)
    for token in (9, 10, 11):
        session.append([token])
        alone.append([token])
        torch.testing.assert_close(session.logits(), alone.logits(), rtol=0, atol=ROUNDING[engine.dtype])
    assert list(turns) == []
    close = {"rtol": 0, "atol": ROUNDING[engine.dtype]}
    torch.testing.assert_close(session.logits()[1], logits_of(engine, text)[-1], **close)


def test_what_nobody_wrote_is_not_read(tiny):
    """Room for more tokens is memory as it was found: here full of NaN."""
    import numpy as np

    from hartley.engines.onnx import Cache

    graph = open_engine(tiny, "onnx", "float32").graph
    found = []
    for rubbish in (0.0, np.nan, 1e30):
        cache = Cache(graph, 3, 20)
        cache.values[:] = rubbish
        for place, length in enumerate((2, 7)):
            cache.read(place, np.full((1, length), 9), np.array([length]))
        found.append(cache.read(0, np.array([[5], [6]]), np.array([3, 8])).copy())
    assert np.isfinite(found[0]).all()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_a_prompt_longer_than_a_chunk_is_read_whole(engine):
    ids = torch.randint(3, 260, (CHUNK + 40,), generator=torch.Generator().manual_seed(0)).tolist()
    scores = logits_of(engine, ids)
    assert scores.shape == (len(ids), engine.vocab_size)
    session = engine.start([ids], [1])
    close = {"rtol": 0, "atol": ROUNDING[engine.dtype]}
    torch.testing.assert_close(session.logits()[0], scores[-1], **close)
    # Causal: what comes later changes nothing. CHUNK + 1 tokens end in a chunk of one.
    torch.testing.assert_close(logits_of(engine, ids[: CHUNK + 1]), scores[: CHUNK + 1], **close)


def test_the_packed_model_is_the_model(engine, tiny):
    ids = torch.randint(3, 260, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    reference = TransformersEngine(tiny_model(seed=1), engine.tokenizer)
    expected = logits_of(reference, ids)
    error = (logits_of(engine, ids) - expected).std() / expected.std()
    if engine.dtype == "int8":
        assert 1e-3 < error < 0.1  # it is what it says
    elif engine.dtype == "F32":
        assert 1e-4 < error < 1e-2
    else:
        assert error < 1e-5


@pytest.mark.parametrize(
    ("ids", "match"), [([], "ids is empty"), ([5] * 513, "513 tokens, more than the 512"), ([5, 268], "token 268")]
)
def test_bad_ids_are_refused(engine, ids, match):
    with pytest.raises(ValueError, match=match):
        logits_of(engine, ids)


def test_an_engine_says_what_it_is(engine, tiny):
    assert engine.model_name == tiny.name
    assert engine.vocab_size == 268
    assert engine.context_length == 512
    assert engine.tokenizer.stop_ids == {0, 2}


def test_hidden_states_lead_to_the_logits(tiny):
    engine = open_engine(tiny, "transformers", device="cpu")
    hidden = engine.hidden_states(PROMPTS[0])
    assert hidden.shape == (3, len(PROMPTS[0]), 64)
    torch.testing.assert_close(engine.model.lm_head(hidden[-1]), logits_of(engine, PROMPTS[0]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_still_gives_float32_logits(tiny, dtype):
    engine = open_engine(tiny, "transformers", dtype, device="cpu")
    assert engine.dtype == dtype
    assert engine.start(PROMPTS, [1] * 3).logits().dtype == torch.float32


def test_absolute_positions_survive_padding():
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2))
    engine = TransformersEngine(model, None)  # type: ignore[arg-type]
    logits = engine.start(PROMPTS, [1] * 3).logits()
    for row, prompt in enumerate(PROMPTS):
        torch.testing.assert_close(logits[row], engine.score(prompt)[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("gguf",), "engine must be one of auto, onnx, transformers, llama, vllm, got 'gguf'"),
        (("vllm", "int8"), "dtype must be one of float32, bfloat16, float16 for the vllm engine, got 'int8'"),
        (("onnx", "bfloat16"), "dtype must be one of int8, float32 for the onnx engine, got 'bfloat16'"),
        (("transformers", "int8"), "dtype must be one of float32, bfloat16, float16 .* got 'int8'"),
    ],
)
def test_unknown_engines_and_dtypes_are_named(tiny, arguments, match):
    with pytest.raises(ValueError, match=match):
        open_engine(tiny, *arguments)
    with pytest.raises(ValueError, match="device"):
        open_engine(tiny, "onnx", device="cuda")


def test_auto_is_transformers_for_a_model_nobody_measured(tiny):
    assert open_engine(tiny, device="cpu").name == "transformers"
    assert open_engine(tiny, dtype="int8").name == "onnx"


def test_an_architecture_that_cannot_be_packed_is_named(tmp_path, monkeypatch):
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    from tiny_models import tiny_tokenizer

    monkeypatch.setenv("HARTLEY_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=265, n_positions=32, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer()).save_pretrained(directory)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel.*use engine='transformers'"):
        open_engine(load(directory, progress=lambda message: None), "onnx")
    assert list((tmp_path / "cache").rglob("onnx-int8*")) == list((tmp_path / "cache").rglob("onnx-int8.lock"))


@pytest.mark.skipif(os.name == "nt", reason="no limits on file sizes there")
def test_a_disk_that_fills_up_while_packing_leaves_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HARTLEY_CACHE", str(tmp_path))
    model = load(tiny.directory, progress=lambda message: None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))  # the builder's process inherits it
    try:
        with pytest.raises(OSError, match=r"packing .* failed: .*File too large"):
            model.packed_directory("float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(model.cache.rglob("onnx-float32*")) == [model.cache / "onnx-float32.lock"]


def test_a_damaged_packed_model_says_what_to_remove(tiny, tmp_path, monkeypatch):
    import shutil
    from dataclasses import replace

    tiny.packed_directory("float32")
    shutil.copytree(tiny.cache, tmp_path / "cache")
    model = replace(tiny, cache=tmp_path / "cache")
    (model.cache / "onnx-float32" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(OSError, match=r"cannot open .*onnx-float32 .*remove that folder"):
        open_engine(model, "onnx", "float32")


def test_the_runtime_reports_nothing_to_its_maker(tiny, tmp_path):
    tiny.packed_directory("float32")
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from hartley.engines import open_engine\nfrom hartley.models import Model\n"
        "engine = open_engine(Model('tiny', Path(sys.argv[1]), Path(sys.argv[2])), 'onnx', 'float32')\n"
        "print(engine.score([5, 6]).shape[1])\nassert 'transformers' not in sys.modules\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "CI")}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tiny.directory), str(tiny.cache)],
        env=environment | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "268\n", run.stderr
    assert list(tmp_path.rglob("*deviceid*")) == []  # what its telemetry writes before it reports
