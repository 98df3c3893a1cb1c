import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.models import TextStream, Tokenizer
from tiny_models import SPECIAL, TEMPLATE, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"eos_token_id": 2}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[2], "bos_token": SPECIAL[1]}))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(folder)


@given(
    ids=st.lists(st.integers(0, 264), max_size=80), before=st.lists(st.integers(0, 264), max_size=TextStream.CONTEXT)
)
def test_pieces_joined_are_the_text_whatever_the_bytes(tokenizer, ids, before):
    stream = TextStream(tokenizer, before)
    pieces = [stream.push(id) for id in ids] + [stream.flush()]
    shown = len(tokenizer.decode(before).rstrip("\ufffd"))
    assert "".join(pieces) == tokenizer.decode(before + ids)[shown:]


@given(st.text(max_size=60))
def test_no_piece_holds_half_a_character(tokenizer, text):
    text = text.replace("\ufffd", "")
    stream = TextStream(tokenizer)
    pieces = [stream.push(id) for id in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert stream.flush() == ""


def test_a_character_comes_with_its_last_byte(tokenizer):
    stream = TextStream(tokenizer)
    assert [stream.push(id) for id in tokenizer.encode("é🙂!")] == ["", "é", "", "", "", "🙂", "!"]


def test_bytes_that_never_become_a_character_come_out_at_the_end(tokenizer):
    stream = TextStream(tokenizer)
    half = tokenizer.encode("🙂")[:2]
    assert [stream.push(id) for id in half] == ["", ""]
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""


def test_special_tokens_are_single_ids_and_are_written_out(tokenizer):
    assert tokenizer.encode("<|im_start|>a") == [1, *tokenizer.encode("a")]
    assert tokenizer.decode([1, 2]) == "<|im_start|><|im_end|>"


def test_every_token_that_ends_a_text_is_known(tokenizer):
    assert tokenizer.stop_ids == {0, 2}


def test_chat_follows_the_template(tokenizer):
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenizer.chat("hi")) == expected
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    assert tokenizer.render(messages) == "<|im_start|>system\nS<|im_end|>\n" + expected


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{{ raise_exception('only users') }}", "only users"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% for", "refuses"),
    ],
)
def test_a_template_that_refuses_or_reaches_out_is_an_error(folder, template, match):
    tokenizer = Tokenizer(folder)
    tokenizer.template = template
    with pytest.raises(ValueError, match=match):
        tokenizer.chat("hi")


def test_no_template_is_said(folder):
    tokenizer = Tokenizer(folder)
    tokenizer.template = None
    with pytest.raises(ValueError, match="no chat template"):
        tokenizer.chat("hi")


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a readable tokenizer"):
        Tokenizer(tmp_path)
