from threading import Event

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.decoding import Sampler, chain, mirostat, temperature, top_k
from hartley.engines import Request, generate
from hartley.engines.loop import _overlap
from scripted_engine import Script

PLAIN = chain()


def run(engine, requests, **kwargs):
    steps = list(generate(engine, requests, **kwargs))
    return [[step for step in steps if step.index == i] for i in range(len(requests))]


def text(steps) -> str:
    return "".join(step.text for step in steps)


def say(*answers: str) -> Script:
    encode = Script().tokenizer.encode
    return Script(*([*encode(answer), 2] for answer in answers))


def test_streams_whole_characters_and_ends_where_the_model_does():
    (steps,) = run(say("né 🙂."), [Request("x", PLAIN)])
    assert [step.text for step in steps] == ["n", "", "é", " ", "", "", "", "🙂", ".", ""]
    assert [step.finish for step in steps] == [None] * 9 + ["stop"]
    assert [step.position for step in steps] == list(range(10))
    assert steps[-1].token == 2
    assert steps[0].draw["token"] == steps[0].token
    assert steps[0].draw["entropy"] == 0.0


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("END",), "one two "),
        (("END", "two"), "one "),
        (("two END three",), "one "),
        (("nothing", "o END t"), "one tw"),
        (("one",), ""),
        (("ENDS",), "one two END three"),
    ],
)
def test_a_stop_string_ends_the_text_before_it_though_it_spans_tokens(stop, expected):
    (steps,) = run(say("one two END three"), [Request("x", PLAIN, stop=stop)])
    assert text(steps) == expected
    assert steps[-1].finish == "stop"
    assert all(step.finish is None for step in steps[:-1])


@settings(max_examples=40)
@given(answer=st.text("ab🙂", max_size=12), stop=st.lists(st.text("ab🙂", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_is_the_first_one_in_the_whole_text(answer, stop):
    (steps,) = run(say(answer), [Request("x", PLAIN, stop=tuple(stop))])
    shown = answer
    for length in range(len(answer) + 1):  # a reader who watches it grow cuts when the first stop string is complete
        found = [at for string in stop if (at := answer[:length].find(string)) >= 0]
        if found:
            shown = answer[: min(found)]
            break
    assert text(steps) == shown
    assert steps[-1].finish == "stop"


@given(st.text("ab", max_size=8), st.text("ab", min_size=1, max_size=5))
def test_what_is_held_back_is_the_longest_possible_beginning(text, stop):
    expected = max((n for n in range(len(stop)) if n <= len(text) and text.endswith(stop[:n])), default=0)
    assert _overlap(text, stop) == expected


def test_held_text_comes_out_when_it_was_no_stop_string_and_at_the_end():
    (steps,) = run(say("abXab"), [Request("x", PLAIN, stop=("abc",))])
    assert [step.text for step in steps] == ["", "", "abX", "", "", "ab"]
    (steps,) = run(say("abab"), [Request("x", PLAIN, max_tokens=2, stop=("abc",))])
    assert (text(steps), steps[-1].finish) == ("ab", "length")


def test_max_tokens_and_half_a_character():
    (steps,) = run(say("a🙂"), [Request("x", PLAIN, max_tokens=3)])
    assert [step.text for step in steps] == ["a", "", "\ufffd"]
    assert [step.finish for step in steps] == [None, None, "length"]


def test_rows_that_end_early_leave_the_batch():
    engine = say("a", "abc", "ab")
    rows = run(engine, [Request("x", PLAIN), Request("x", top_k(3)), Request("x", PLAIN)])
    assert [text(row) for row in rows] == ["a", "abc", "ab"]
    assert [len(row) for row in rows] == [2, 4, 3]
    assert engine.batches == [3, 3, 2, 1]
    assert engine.open == 0


def test_the_context_ends_the_text():
    (steps,) = run(say("a" * 60), [Request([5] * 60, PLAIN, max_tokens=50)])
    assert len(steps) == 4
    assert steps[-1].finish == "length"


def test_closing_the_iterator_frees_the_session():
    engine = say("abcdef")
    steps = generate(engine, [Request("x", PLAIN)])
    assert engine.open == 0
    next(steps)
    assert engine.open == 1
    steps.close()
    assert engine.open == 0


def test_cancelling_gives_what_was_held_back_and_frees_the_session():
    engine, cancel, seen = say("ab", "zabc"), Event(), []
    for step in generate(engine, [Request("x", PLAIN), Request("x", PLAIN, stop=("abX",))], cancel=cancel):
        seen.append(step)
        if (step.index, step.position) == (1, 2):
            cancel.set()
    assert text(step for step in seen if step.index == 1) == "zab"
    assert (seen[-1].finish, seen[-1].token, seen[-1].draw) == ("cancelled", None, None)
    assert [step.finish for step in seen if step.index == 0][-1] == "stop"
    assert engine.open == 0


def test_a_sampler_that_fails_frees_the_session():
    class Broken(Sampler):
        def step(self, logits, state, generator):
            raise RuntimeError("broken")

    engine = say("ab")
    with pytest.raises(RuntimeError, match="broken"):
        list(generate(engine, [Request("x", Broken("broken", {}))]))
    assert engine.open == 0


def test_a_finished_row_does_not_touch_the_state_of_the_others():
    class Counting(Sampler):
        """Plain sampling whose state is how many draws each row has had, and a constant that names the row."""

        seen: list

        def init(self, batch):
            return (torch.zeros(batch), None, torch.arange(batch))

        def step(self, logits, state, generator):
            self.seen.append((state[0].tolist(), state[2].tolist()))
            draw, _ = PLAIN.step(logits, (), generator)
            return draw, (state[0] + 1, None, state[2])

    counting = Counting("counting", {})
    counting.seen = []
    run(say("a", "abc", "ab"), [Request("x", counting)] * 3)
    assert counting.seen == [([0, 0, 0], [0, 1, 2]), ([1, 1, 1], [0, 1, 2]), ([2, 2], [1, 2]), ([3], [1])]


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (Request("", PLAIN), "the prompt of request 1 is empty"),
        (Request([], PLAIN), "the prompt of request 1 is empty"),
        (Request([5] * 65, PLAIN), r"request 1 has 65 tokens, more than the 64"),
        (Request([5] * 64, PLAIN), "request 1 fills the context of 64 tokens"),
        (Request([5, 268], PLAIN), "token 268; this model's tokens are 0 to 267"),
        (Request([-1], PLAIN), "token -1"),
        (Request("x", PLAIN, max_tokens=0), "max_tokens must be at least 1, got 0 in request 1"),
        (Request("x", PLAIN, stop=("",)), "stop must be a tuple of strings"),
        (Request("x", PLAIN, stop="END"), "stop must be a tuple of strings"),  # type: ignore[arg-type]
    ],
)
def test_bad_requests_are_refused_before_anything_runs(request_, match):
    engine = say("a", "b")
    with pytest.raises(ValueError, match=match):
        generate(engine, [Request("x", PLAIN), request_])
    assert engine.open == 0


def test_no_requests_give_no_steps():
    assert list(generate(say(), [])) == []


SAMPLERS = [temperature(0.8), mirostat(2, tau=3.0), chain(temperature(1.5), top_k(20)), temperature(0.8)]


def test_the_same_seed_gives_the_same_text_in_any_batch(engine):
    prompts = ["the cat and", "a", "<|im_start|>user\n1 + 1 = ?<|im_end|>\n", "é🙂 the end of the story and"]
    requests = [
        Request(prompt, sampler, max_tokens=5 + 2 * i, seed=10 + i)
        for i, (prompt, sampler) in enumerate(zip(prompts, SAMPLERS, strict=True))
    ]
    together = run(engine, requests)
    alone = [run(engine, [request])[0] for request in requests]
    other = run(engine, requests[::-1])[::-1]
    for rows in (alone, other):
        assert [[step.token for step in row] for row in rows] == [[step.token for step in row] for row in together]
        assert [text(row) for row in rows] == [text(row) for row in together]
    if engine.name == "onnx":  # a generator for each row: the very same numbers
        assert [[step.draw for step in row] for row in alone] == [[step.draw for step in row] for row in together]


def test_another_seed_gives_another_text(engine):
    request = [Request("the", PLAIN, max_tokens=6, seed=seed) for seed in (0, 1)]
    first, second = run(engine, request)
    assert [step.token for step in first] != [step.token for step in second]


def test_nothing_touches_the_global_seed(engine):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(engine, [Request("the", PLAIN, max_tokens=4)])
    assert torch.equal(torch.get_rng_state(), before)
