"""Choices, chunks and log-probabilities from steps."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hartley.engines import Step
from hartley.serve import schemas
from hartley.serve.answers import Form, choice, columns, tokens_of, usage
from serving import PIECES, draw, steps_of

forms = st.builds(Form, st.sampled_from(["text", "chat"]), st.none() | st.integers(0, 20), st.booleans(), st.booleans())
tokens = st.lists(st.sampled_from(sorted(PIECES)), min_size=1, max_size=12)


SHAPES = {
    ("text", True): TypeAdapter(schemas.CompletionChoice),
    ("text", False): TypeAdapter(schemas.CompletionChoice),
    ("chat", True): TypeAdapter(schemas.ChatChoice),
    ("chat", False): TypeAdapter(schemas.ChatPiece),
}


@given(forms, tokens, st.booleans())
def test_the_parts_of_a_choice_join_to_the_whole_and_both_are_what_the_schema_says(form, drawn, with_prompt):
    steps, prompt = steps_of(*drawn), [7, 8] if with_prompt else None
    whole = choice(form, 3, steps, PIECES, prompt=prompt)
    SHAPES[form.kind, True].validate_python(whole, strict=True)
    parts, offset = [], 0
    for step in steps:
        parts.append(choice(form, 3, [step], PIECES, prompt=prompt if step.position == 0 else None, offset=offset))
        SHAPES[form.kind, False].validate_python(parts[-1], strict=True)
        offset += len(step.text)
    assert {part["index"] for part in parts} == {3}
    assert [part["finish_reason"] for part in parts] == [None] * (len(steps) - 1) + [whole["finish_reason"]]
    if form.kind == "text":
        assert "".join(part["text"] for part in parts) == whole["text"]
    else:
        assert "".join(part["delta"]["content"] for part in parts) == whole["message"]["content"]
        assert [part["delta"].get("role") for part in parts] == ["assistant"] + [None] * (len(steps) - 1)
    if form.entropy:
        for name, values in whole["hartley"].items():
            assert [value for part in parts for value in part["hartley"][name]] == values
            assert len(values) == len(drawn)
    if form.token_ids:
        assert [token for part in parts for token in part["token_ids"]] == whole["token_ids"] == drawn
    if form.logprobs is not None:
        for name, values in whole["logprobs"].items():
            if values is not None:
                assert [value for part in parts for value in part["logprobs"][name]] == values
    assert ("prompt_token_ids" in whole) == with_prompt
    json.dumps(whole, allow_nan=False)


def test_log_probabilities_are_the_models_own_and_offsets_count_characters():
    found = choice(Form("text", 2, False, False), 0, steps_of(0, 1, 3), PIECES)["logprobs"]
    assert found["tokens"] == ["Hello", " wörld", "!"]
    assert found["token_logprobs"] == [-0.5, -1.5, -3.5]  # not log_prob, which is under what was drawn from
    assert found["text_offset"] == [0, 5, 11]
    assert found["top_logprobs"][0] == {"Hello": -0.5, " wörld": -1.5}
    assert found["top_logprobs"][2] == {"Hello": -0.5, " wörld": -1.5, "!": -3.5}, "the drawn token is always there"


def test_chats_have_bytes_where_a_token_is_whole_characters():
    found = choice(Form("chat", 5, False, False), 0, steps_of(1, 2), PIECES)["logprobs"]["content"]
    assert bytes(found[0]["bytes"]).decode() == " wörld"
    assert found[1]["bytes"] is None
    assert len(found[0]["top_logprobs"]) == 4, "one of the five has probability 0"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_not_finite_is_null(value):
    step = Step(0, 0, 0, "Hello", draw(0, surprisal=value, drawn_entropy=value), None)
    found = columns([step], PIECES)
    assert found["surprisal"] == found["drawn_entropy"] == [None]
    assert choice(Form("text", 0, False, False), 0, [step], PIECES)["logprobs"]["token_logprobs"] == [None]


def test_a_last_step_without_a_token_brings_its_text():
    steps = [*steps_of(0)[:1], Step(0, 1, None, "...", None, "stop")]
    whole = choice(Form("text", 1, True, True), 0, steps, PIECES)
    assert whole["text"] == "Hello..."
    assert whole["token_ids"] == whole["hartley"]["token_ids"] == [0]
    assert whole["finish_reason"] == "stop"


def test_only_the_tokens_that_are_shown_are_looked_up():
    steps = steps_of(4)
    assert tokens_of(steps, Form("text", None, False, True)) == set()
    assert tokens_of(steps, Form("text", 1, False, False)) == {4, 0}
    assert tokens_of(steps, Form("text", 0, True, False)) == {4, 0, 1, 2, 3}


def test_a_prompt_of_several_choices_is_counted_once():
    assert usage([[1, 2], [3]], 5) == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
