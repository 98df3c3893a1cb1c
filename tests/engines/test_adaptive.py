"""Hidden states with and without padding, what samples show of a question, and plans for new prompts."""

import hashlib
import math
from threading import Event

import pytest
import torch

from hartley.decoding import STRATEGIES, DifficultyProbe
from hartley.decoding.difficulty import DIFFICULTIES
from hartley.engines import adaptive, open_engine
from hartley.engines.onnx import OnnxEngine
from hartley.engines.transformers import TransformersEngine
from scripted_engine import Script
from tiny_models import tiny_model

PROMPTS = ["2+2?", "the sum of the numbers from one to ten, and then", "a", "how many?"]


@pytest.fixture(scope="module")
def engine(tiny):
    return open_engine(tiny, "transformers", device="cpu")


@pytest.fixture
def probe(engine, tmp_path):
    """A probe that has learnt one class for each of four prompts."""
    hidden = adaptive.final_hidden(engine, PROMPTS).repeat(20, 1)
    who = adaptive.identity(engine)
    labels = ["easy", "normal", "hard", "normal"] * 20
    found = DifficultyProbe(hidden_size=32).fit(hidden, labels, model_id=who.model_id, template_hash=who.template_hash)
    found.save(tmp_path / "probe.safetensors")
    return tmp_path / "probe.safetensors"


def weights(engine):
    digest = hashlib.sha256()
    for tensor in engine.model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_the_final_hidden_state_is_the_last_layers_at_the_last_token_whatever_the_padding(engine):
    ids = [engine.tokenizer.encode(text) for text in PROMPTS]
    assert len(set(map(len, ids))) > 2
    together = engine.final_hidden(ids)
    assert together.dtype == torch.float32
    for row, one in zip(together, ids, strict=True):
        torch.testing.assert_close(row, engine.hidden_states(one)[-1, -1], rtol=0, atol=1e-4)
        torch.testing.assert_close(row, engine.final_hidden([one])[0], rtol=0, atol=1e-4)
        torch.testing.assert_close(engine.model.lm_head(row), engine.score(one)[-1], rtol=0, atol=1e-3)


def test_absolute_positions_survive_padding_here_too():
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2))
    engine = TransformersEngine(model, None)  # type: ignore[arg-type]
    ids = [[5, 6, 7, 8, 9], [20], [30, 31, 32]]
    for row, one in zip(engine.final_hidden(ids), ids, strict=True):
        torch.testing.assert_close(row, engine.hidden_states(one)[-1, -1], rtol=0, atol=1e-5)


def test_hidden_states_come_back_in_the_order_of_the_prompts(engine):
    texts = [PROMPTS[i % 4] + "x" * (7 * i % 11) for i in range(adaptive.BATCH + 5)]
    together = adaptive.final_hidden(engine, texts)
    for row, text in zip(together, texts, strict=True):
        torch.testing.assert_close(row, adaptive.final_hidden(engine, [text])[0], rtol=0, atol=1e-4)


def test_the_chat_template_is_part_of_what_is_read(engine):
    chat, plain = (adaptive.final_hidden(engine, PROMPTS[:1], chat) for chat in (True, False))
    assert torch.equal(adaptive.final_hidden(engine, PROMPTS[:1]), chat)
    assert not torch.allclose(chat, plain, atol=1e-2)
    ids = engine.tokenizer.chat(PROMPTS[0])
    torch.testing.assert_close(chat[0], engine.hidden_states(ids)[-1, -1], rtol=0, atol=1e-4)


def test_a_model_is_known_by_its_weights_and_dtype(engine, tiny, tmp_path):
    who = adaptive.identity(engine)
    assert who == adaptive.identity(open_engine(tiny, "transformers", device="cpu"))
    other = TransformersEngine(tiny_model(seed=2), engine.tokenizer, model_name=engine.model_name)
    assert adaptive.identity(other).model_id != who.model_id
    with torch.no_grad():
        other.model.load_state_dict(engine.model.state_dict())
        assert adaptive.identity(other).model_id == who.model_id
        other.model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
        assert adaptive.identity(other).model_id != who.model_id
    half = open_engine(tiny, "transformers", "bfloat16", device="cpu")
    assert adaptive.identity(half).model_id != who.model_id
    assert adaptive.identity(engine, False).template_hash == "plain" != who.template_hash


def test_a_plan_is_the_probes_choice_in_the_strategys_words(engine, probe):
    before = weights(engine)
    plans = adaptive.plan(engine, PROMPTS, probe, max_tokens=1000)
    assert [one.strategy for one in plans] == ["easy", "normal", "hard", "normal"]
    by_name = dict(zip(DIFFICULTIES, STRATEGIES, strict=True))
    for one, text in zip(plans, PROMPTS, strict=True):
        strategy = by_name[one.strategy]
        assert one.prompt == f"{text}\n\n{strategy.prompt}"
        assert (one.temperature, one.max_tokens) == (strategy.temperature, strategy.max_tokens(1000))
        assert 1 / 3 <= one.confidence <= 1
    assert weights(engine) == before
    assert adaptive.plan(engine, [], probe, max_tokens=1000) == []


def test_a_plan_does_not_depend_on_the_other_prompts(engine, probe):
    together = adaptive.plan(engine, PROMPTS, probe, max_tokens=300)
    for text, one in zip(PROMPTS, together, strict=True):
        [alone] = adaptive.plan(engine, [text], probe, max_tokens=300)
        assert alone[:4] == one[:4]
        assert alone.confidence == pytest.approx(one.confidence, abs=1e-3)


def test_without_confidence_everything_is_normal(engine, probe):
    plans = adaptive.plan(engine, PROMPTS, probe, max_tokens=1000, confidence=1.0)
    assert {one.strategy for one in plans if one.confidence < 1.0} == {"normal"}


def test_the_prefix_of_the_question_is_kept_for_the_cache(engine, probe):
    question = "the sum of the numbers from one to ten is"
    plain = engine.tokenizer.chat(question)
    [one] = adaptive.plan(engine, [question], probe, max_tokens=100)
    ids = engine.tokenizer.chat(one.prompt)
    shared = next(i for i, (a, b) in enumerate(zip(plain, ids, strict=False)) if a != b)
    assert question in engine.tokenizer.decode(plain[:shared])


def test_another_models_probe_is_refused(engine, probe, tiny, tmp_path):
    with pytest.raises(ValueError, match="cannot judge for 'tiny"):
        adaptive.plan(open_engine(tiny, "transformers", "bfloat16", device="cpu"), PROMPTS, probe, max_tokens=100)
    with pytest.raises(ValueError, match=r"made for the chat template .* and cannot judge for 'plain'"):
        adaptive.plan(engine, PROMPTS, probe, max_tokens=100, chat=False)


def test_an_engine_without_hidden_states_says_so(probe):
    script = Script([5, 2])
    for ask in (adaptive.identity, lambda engine: adaptive.final_hidden(engine, PROMPTS)):
        with pytest.raises(ValueError, match=r"engine 'script' gives no hidden states.*use engine='transformers'"):
            ask(script)


def test_the_onnx_engine_says_so(probe):
    unopened = object.__new__(OnnxEngine)
    with pytest.raises(ValueError, match="engine 'onnx' gives no hidden states"):
        adaptive.plan(unopened, PROMPTS, probe, max_tokens=100)


@pytest.mark.parametrize(
    ("prompts", "match"), [(["a", " "], "a prompt is empty"), (["a", "b " * 600], "prompt 1 has .* more than the 512")]
)
def test_prompts_that_cannot_be_read_are_named(engine, probe, prompts, match):
    with pytest.raises(ValueError, match=match):
        adaptive.plan(engine, prompts, probe, max_tokens=100)


def test_a_prompt_that_leaves_no_room_is_named(engine):
    room = engine.context_length - len(engine.tokenizer.chat("!")) + 1
    assert adaptive.final_hidden(engine, ["!" * (room - 1)]).shape == (1, 64)
    with pytest.raises(ValueError, match="prompt 1 fills the context of 512 tokens"):
        adaptive.final_hidden(engine, ["a", "!" * room])


def test_samples_are_judged_and_their_entropy_is_the_models(engine):
    found = adaptive.measure(engine, "a", "no such answer", samples=3, max_tokens=6, seed=5)
    assert found == adaptive.measure(engine, "a", "no such answer", samples=3, max_tokens=6, seed=5)
    assert found != adaptive.measure(engine, "a", "no such answer", samples=3, max_tokens=6, seed=50)
    assert found.accuracy == 0
    assert 0 < found.entropy < math.log(268)
    assert 3 <= found.tokens <= 18


def test_a_sure_model_has_no_entropy_and_its_right_answers_are_counted(engine):
    ids = Script().tokenizer.encode("it is 4")
    script = Script([*ids, 2], [*ids, 2], [5, 2], [*ids, 2])
    script.tokenizer.template = None
    found = adaptive.measure(script, "2 + 2?", "4.0", samples=4, max_tokens=20)
    assert found == (0.75, 0.0, 3 * (len(ids) + 1) + 2)


def test_cancelling_ends_it_without_a_result(engine):
    cancel = Event()
    cancel.set()
    assert adaptive.measure(engine, "a", "b", samples=2, max_tokens=5, cancel=cancel) is None
