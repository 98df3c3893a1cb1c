"""Every reader against a file of its format, and what is said of files that are not right."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.report.readers import read
from hartley.report.readers.reading import Listed, known_of

DATA = Path(__file__).parents[1] / "data" / "logprobs"
V = 49_152


def load(name):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


FILES = {
    "llama_cpp.json": ("llama.cpp server", 24, ", who is a seasoned sailor with a passion"),
    "llama_cpp_post_sampling.json": ("llama.cpp server", 24, ", who is a seasoned sailor with a passion"),
    "llama_cpp_stream.txt": ("llama.cpp server", 6, ", who is a seasoned sailor"),
    "llama_cpp_older.json": ("llama.cpp server", 3, " of a small"),
    "llama_cpp_chat.json": ("OpenAI chat", 24, "A colour, and an emoji, are both"),
    "llama_cpp_chat_stream.txt": ("OpenAI chat", 12, "A colour, and an emoji, are both"),
    "llama_cpp_completions.json": ("OpenAI completions", 12, ", I saw a young woman named Elena"),
    "vllm_chat.json": ("vLLM, OpenAI chat", 16, "there you have it , they're both"),
    "vllm_chat_stream.txt": ("vLLM, OpenAI chat", 8, "there you have it ,"),
    "vllm_completions.json": ("vLLM, OpenAI completions", 16, ", you'd come here to talk about the mysteries"),
    "openai_chat.json": ("OpenAI chat", 6, "The tide turned at dusk."),
    "openai_chat_stream.txt": ("OpenAI chat", 4, "A wave 👋"),
    "openai_completions.json": ("OpenAI completions", 7, " upon a time, café"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_are_recognised_and_read(name):
    form, count, begins = FILES[name]
    found = read(DATA / name, vocab_size=V)
    assert found.format == form
    (text,) = found.texts
    assert len(text.tokens) == count
    assert text.text.startswith(begins)
    assert "".join(token["text"] for token in text.tokens) == text.text
    for token in text.tokens:
        assert token["surprisal"] is None or token["surprisal"] >= 0
        assert 0 <= token["entropy_low"] <= token["entropy_high"] <= math.log(V) + 1e-9
        assert "entropy" not in token  # never one number where only some log-probabilities are known


def test_every_file_here_is_tried():
    others = {"openai_batch.jsonl", "vllm_prompt.json", "vllm_ids.json", "vllm_hartley.json", "SOURCES.md"}
    others |= {"vllm_hartley_logprobs.json", "vllm_hartley_stream.txt"}
    assert {path.name for path in DATA.iterdir()} == {*FILES, *others}


def test_vllms_plug_in_agrees_with_the_bounds_of_its_log_probabilities():
    """The same tokens from one engine, asked once for log-probabilities and once for entropies."""
    bounded = read(DATA / "vllm_completions.json", vocab_size=V).tokens
    exact = read(DATA / "vllm_hartley.json").tokens
    assert len(exact) == len(bounded) == 16
    for one, other in zip(exact, bounded, strict=True):
        assert one["surprisal"] == pytest.approx(other["surprisal"], abs=1e-4)  # recorded: up to 2.2e-5 apart
        assert other["entropy_low"] <= one["entropy"] <= other["entropy_high"]


@pytest.mark.parametrize("name", ["vllm_hartley_logprobs.json", "vllm_hartley_stream.txt"])
def test_vllms_answers_with_both_have_exact_entropies_and_alternatives(name):
    tokens = read(DATA / name).tokens
    assert len(tokens) == 8
    for token in tokens:
        assert token["entropy"] > 0
        assert token["top"]
        assert "entropy_low" not in token


def test_vllms_scored_prompt_and_ids():
    found = read(DATA / "vllm_prompt.json", vocab_size=V)
    prompt, text = found.texts
    assert prompt.is_prompt
    assert prompt.text == " old lighthouse keeper climbed the stairs."
    assert [token["position"] for token in prompt.tokens] == list(range(1, 8))
    assert all(token["rank"] >= 1 for token in prompt.tokens)
    assert text.text.startswith("  The entrance")
    ids = read(DATA / "vllm_ids.json", vocab_size=V)
    assert [token["token_id"] for token in ids.tokens[:2]] == [504, 1573]
    assert ids.tokens[0]["surprisal"] is None
    assert len(ids.texts) == 1  # the echo has the prompt already
    assert ids.texts[0].text == "The old lighthouse keeper climbed the stairs.  The entrance hanged"
    for one, other in zip(ids.tokens[1:8], prompt.tokens, strict=True):  # echoed or scored: one number
        assert one["surprisal"] == pytest.approx(other["surprisal"], abs=1e-4)


def test_the_numbers_are_those_of_the_file():
    given = load("llama_cpp.json")["completion_probabilities"]
    tokens = read(DATA / "llama_cpp.json").tokens
    for one, token in zip(given, tokens, strict=True):
        assert token["surprisal"] == -one["logprob"]
        assert token["token_id"] == one["id"]
        assert [other["log_prob"] for other in token["top"]] == [other["logprob"] for other in one["top_logprobs"]]
        assert token["entropy_high"] is None  # no vocabulary size, no upper bound
    older = read(DATA / "llama_cpp_older.json").tokens
    assert older[0]["surprisal"] == pytest.approx(-math.log(0.7061))
    assert older[2]["surprisal"] is None  # not among those listed


def test_settings_that_change_the_meaning_are_noted():
    assert any("post_sampling_probs" in note for note in read(DATA / "llama_cpp_post_sampling.json").notes)
    assert any("older llama.cpp" in note for note in read(DATA / "llama_cpp_older.json").notes)
    assert any("1 of 6 tokens have no log-probability" in note for note in read(DATA / "openai_chat.json").notes)


def test_a_stream_says_what_the_whole_answer_says(tmp_path):
    whole = load("openai_chat.json")
    content = whole["choices"][0]["logprobs"]["content"]
    pieces = [
        {"id": "x", "choices": [{"index": 0, "delta": {"content": one["token"]}, "logprobs": {"content": [one]}}]}
        for one in content
    ]
    for name, lines in (
        ("lines.jsonl", [json.dumps(piece) for piece in pieces]),
        ("events.txt", [": ping", *[f"data: {json.dumps(piece)}\n" for piece in pieces], "data: [DONE]"]),
    ):
        (tmp_path / name).write_text("\n".join(lines))
        assert read(tmp_path / name).tokens == read(DATA / "openai_chat.json").tokens


def test_a_batch_file_has_a_text_a_line():
    found = read(DATA / "openai_batch.jsonl")
    assert [text.name for text in found.texts] == ["question-1", "question-2"]
    assert found.texts[0].tokens == read(DATA / "openai_chat.json").tokens


def test_several_choices_are_several_texts(tmp_path):
    answer = load("openai_chat.json")
    answer["choices"].append(answer["choices"][0] | {"index": 1})
    (tmp_path / "a.json").write_text(json.dumps(answer))
    assert [text.name for text in read(tmp_path / "a.json").texts] == ["choice 0", "choice 1"]


HARTLEY = {
    "entropy": [1.0, 2.0],
    "varentropy": [0.5, 0.6],
    "surprisal": [0.7, 0.8],
    "rank": [1, 3],
    "kept": [10, 20],
    "mass": [0.9, 0.95],
}


def test_the_plug_ins_numbers_are_exact_and_need_no_log_probabilities(tmp_path):
    choice = {"index": 0, "text": " two words", "hartley": HARTLEY, "token_ids": [5, 6], "logprobs": None}
    (tmp_path / "a.json").write_text(json.dumps({"choices": [choice]}))
    found = read(tmp_path / "a.json")
    assert found.format == "vLLM, OpenAI completions"
    (text,) = found.texts
    assert text.text == " two words"
    assert [token["token_id"] for token in text.tokens] == [5, 6]
    for key, values in HARTLEY.items():
        assert [token[key] for token in text.tokens] == values
    assert all("entropy_low" not in token for token in text.tokens)


def test_the_plug_ins_numbers_stand_beside_log_probabilities_also_in_a_stream(tmp_path):
    steps = {"tokens": ["a"], "token_logprobs": [-0.7], "top_logprobs": [{"a": -0.7}]}
    pieces = [
        {"id": "x", "choices": [{"index": 0, "text": "a", "logprobs": steps,
                                 "hartley": {key: values[place : place + 1] for key, values in HARTLEY.items()}}]}
        for place in range(2)
    ]  # fmt: skip
    (tmp_path / "a.txt").write_text("".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces))
    tokens = read(tmp_path / "a.txt").tokens
    assert [token["entropy"] for token in tokens] == HARTLEY["entropy"]
    assert [token["top"][0]["text"] for token in tokens] == ["a", "a"]


def test_a_scored_prompt_is_a_text_of_its_own_that_totals_leave_out(tmp_path):
    prompt = [None, {"7": {"logprob": -1.0, "rank": 2, "decoded_token": " b"}, "8": {"logprob": -0.6, "rank": 1}}]
    answer = load("openai_completions.json")
    answer["choices"][0]["prompt_logprobs"] = prompt
    (tmp_path / "a.json").write_text(json.dumps(answer))
    found = read(tmp_path / "a.json", vocab_size=V)
    assert [(text.name, text.is_prompt, len(text.tokens)) for text in found.texts] == [
        ("prompt", True, 1),
        ("text", False, 7),
    ]
    assert found.texts[0].tokens[0]["rank"] == 2
    assert len(found.tokens) == 7
    answer["choices"][0]["logprobs"] = None
    (tmp_path / "a.json").write_text(json.dumps(answer))
    assert len(read(tmp_path / "a.json").tokens) == 1


def test_own_lines_come_back_as_they_were(tmp_path, run):
    lines = [json.dumps(token) for token in run] + [json.dumps({"tokens": 12, "mean_surprisal": 1.0, "model": "m"})]
    (tmp_path / "run.jsonl").write_text("\n".join(lines))
    found = read(tmp_path / "run.jsonl")
    assert (found.format, found.model) == ("hartley --json", "m")
    for token, given_token in zip(found.tokens, run, strict=True):
        assert {key: token[key] for key in given_token} == given_token


def write_run(folder, texts, tokens):
    for name, rows in (("texts", texts), ("tokens", tokens)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / name / "part-0.parquet")


def run_rows(ids=("a", "b"), count=3):
    texts = [
        {"id": id, "prompt": "p", "text": f"text {id}", "finish_reason": "length", "n_tokens": count, "extra": 1}
        for id in ids
    ]
    tokens = [
        {"id": id, "position": place, "token_id": 40 + place, "surprisal": 1.0, "entropy": 2.0, "varentropy": 0.1,
         "rank": 1, "kept": 5, "mass": 0.5}
        for id in ids
        for place in reversed(range(count))
    ]  # fmt: skip
    return texts, tokens


def test_a_batch_run_is_read_in_the_order_of_its_tokens(tmp_path):
    write_run(tmp_path, *run_rows())
    found = read(tmp_path)
    assert [(text.name, text.text, len(text.tokens)) for text in found.texts] == [
        ("a", "text a", 3),
        ("b", "text b", 3),
    ]
    assert [token["text"] for token in found.texts[0].tokens] == ["⟨40⟩", "⟨41⟩", "⟨42⟩"]

    class Stream:
        def push(self, id):
            return f" {id}"

        def flush(self):
            return "."

    assert read(tmp_path, stream=Stream).texts[0].text == " 40 41 42."


def test_a_batch_run_of_another_version_is_refused(tmp_path):
    write_run(tmp_path, *run_rows())
    (tmp_path / "run.json").write_text('{"format": 999}')
    with pytest.raises(ValueError, match="format 999; this version"):
        read(tmp_path)


def test_a_batch_run_that_has_the_text_of_its_tokens_needs_no_model(tmp_path):
    texts, tokens = run_rows()
    texts.append(texts[0] | {"id": "c", "text": None, "finish_reason": "error", "n_tokens": None})
    write_run(tmp_path, texts, [token | {"text": f" {token['position']}", "entropy": -1e-8} for token in tokens])
    found = read(tmp_path)
    assert [text.text for text in found.texts] == [" 0 1 2", " 0 1 2", ""]
    assert found.tokens[0]["entropy"] == 0.0  # single precision
    assert any("1 of 3 prompts failed" in note for note in found.notes)


def test_a_batch_run_that_is_not_whole_says_so(tmp_path):
    texts, tokens = run_rows()
    write_run(tmp_path, texts[:1], tokens[1:])
    notes = read(tmp_path).notes
    assert any("tokens of texts that are not finished" in note for note in notes)


def test_tokens_without_any_name_are_shown_as_such():
    (text,) = read(DATA / "vllm_hartley.json").texts
    assert {token["text"] for token in text.tokens} == {"▯"}
    assert text.text.startswith(", you'd come here")


BAD_RUNS = {
    "no column": (lambda texts, tokens: (texts, [{"id": "a", "position": 0}]), "has no column token_id"),
    "twice": (lambda texts, tokens: (texts * 2, tokens), "holds id 'a' twice"),
    "no tokens": (lambda texts, tokens: (texts, [tokens[0] | {"id": "elsewhere"}]), "texts but no tokens"),
    "negative": (lambda texts, tokens: (texts, [tokens[0] | {"surprisal": -1.0}]), "surprisal must be at least 0"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_runs_are_refused(tmp_path, name):
    change, message = BAD_RUNS[name]
    write_run(tmp_path, *change(*run_rows()))
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_a_damaged_parquet_file_is_named(tmp_path):
    write_run(tmp_path, *run_rows())
    (tmp_path / "tokens" / "part-1.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"part-1.parquet is not a Parquet file"):
        read(tmp_path)
    with pytest.raises(ValueError, match="folder without texts/ and tokens/"):
        read(tmp_path / "tokens")


def changed(name, change):
    """A file with one thing made wrong, as text."""
    answer = load(name)
    change(answer)
    return json.dumps(answer)


def content(answer):
    return answer["choices"][0]["logprobs"]["content"]


def put(entry, key, value):
    entry[key] = value


BAD = {
    "empty": ("", "is empty"),
    "blank": (" \n\n", "is empty"),
    "no json": ("hello", r"is not JSON: line 1, column 1"),
    "no json, line 3": ('{\n"a": 1,\noops}', r"is not JSON: line 3, column 1"),
    "bad line": ('{"choices": []}\n{"choices": [}\n', r"is not JSON: line 2"),
    "cut short": ((DATA / "openai_chat.json").read_text()[:700], "is cut short: the JSON breaks off at line"),
    "cut in a string": ('{"choices": [{"text": "abc', "is cut short"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "long number": ('{"choices": ' + "1" * 5000 + "}", "not JSON that can be read"),
    "other json": ('{"weights": [1, 2]}', "of no known format; known are: OpenAI chat"),
    "a number": ("3", "of no known format"),
    "an error": ('{"error": {"message": "invalid key"}}', "it says: 'invalid key'"),
    "mixed": ('{"choices": []}\n{"content": "", "stop": true}', "object 2 of 2 is not of the format of the others"),
    "stream of nothing": ("data: [DONE]\n", "without a single event"),
    "stream": ("data: {}\nnonsense\n", "line 2: an event stream"),
    "not asked": (changed("openai_chat.json", lambda a: a["choices"][0].update(logprobs=None)), '"top_logprobs": 20'),
    "not asked, llama": ('{"content": "a", "stop": true}', '"n_probs": 20'),
    "nan": (changed("openai_chat.json", lambda a: put(content(a)[1], "logprob", math.nan)),
            r"token 2 \(' tide'\): log-probability must be finite; got NaN"),
    "positive": (changed("openai_chat.json", lambda a: put(content(a)[2], "logprob", 0.5)),
                 r"token 3 \(' turned'\): a log-probability must be at most 0; got 0.5"),
    "positive beside": (changed("openai_chat.json", lambda a: put(content(a)[3]["top_logprobs"][0], "logprob", 2.5)),
                        r"token 4 \(' at'\).*at most 0; got 2.5"),
    "infinite": (changed("openai_chat.json", lambda a: put(content(a)[0], "logprob", math.inf)), "must be finite"),
    "huge": (changed("openai_chat.json", lambda a: put(content(a)[0], "logprob", 10**400)), "must be finite"),
    "a word": (changed("openai_chat.json", lambda a: put(content(a)[0], "logprob", "high")),
               "token 1 .* log-probability must be a number; got 'high'"),
    "true": (changed("openai_chat.json", lambda a: put(content(a)[0], "logprob", True)), "must be a number; got True"),
    "no text": (changed("openai_chat.json", lambda a: put(content(a)[0], "token", 5)), "token must be a string; got 5"),
    "bytes": (changed("openai_chat.json", lambda a: put(content(a)[0], "bytes", [300])), "numbers from 0 to 255"),
    "not sorted": (changed("openai_chat.json", lambda a: content(a)[2]["top_logprobs"].reverse()),
                   r"token 3 \(' turned'\): top log-probabilities must fall .* got -2.56275 before -1.31275"),
    "twice": (changed("openai_chat.json",
                      lambda a: content(a)[1]["top_logprobs"].insert(0, content(a)[1]["top_logprobs"][0])),
              r"token 2 \(' tide'\): ' sea' is listed twice"),
    "too much": (changed("openai_chat.json", lambda a: put(content(a)[2], "logprob", -0.7)),
                 "token 3: the probabilities that are told must sum to at most 1; they sum to 1.3"),
    "unequal lists": (changed("openai_completions.json", lambda a: a["choices"][0]["logprobs"]["tokens"].pop()),
                      "must be equally long; got 6, 7 and 7"),
    "nan, older": (changed("openai_completions.json",
                           lambda a: put(a["choices"][0]["logprobs"]["token_logprobs"], 4, math.nan)),
                   r"token 5 \(' caf'\): log-probability must be finite; got NaN"),
    "prob": (changed("llama_cpp_older.json",
                     lambda a: put(a["completion_probabilities"][1]["probs"][0], "prob", 1.5)),
             r"token 2 \(' a'\): a probability must be in \[0, 1\]; got 1.5"),
    "nan, llama": (changed("llama_cpp.json", lambda a: put(a["completion_probabilities"][6], "logprob", math.nan)),
                   r"token 7 .* got NaN"),
    "hartley, short": (json.dumps({"choices": [{"text": "", "hartley": {"entropy": [1.0], "surprisal": [1.0, 2.0]}}]}),
                       "hartley.surprisal must have a number for each of 1 tokens; got 2"),
    "hartley, nan": (json.dumps({"choices": [{"text": "", "hartley": {"entropy": [math.nan], "surprisal": [1.0]}}]}),
                     "token 1: entropy must be finite; got NaN"),
    "own, negative": ('{"text": "a", "surprisal": -2.0}', "line 1: surprisal must be at least 0; got -2"),
    "own, only totals": ('{"tokens": 0, "mean_surprisal": null}', "has no tokens, only totals"),
    "prompt ids": (json.dumps({"choices": [{"text": "", "prompt_logprobs": [{"x": {"logprob": -1.0}}]}]}),
                   "must have token ids as names; got 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(tmp_path, name):
    text, message = BAD[name]
    file = tmp_path / "answer.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read(file, vocab_size=V)
    assert "answer.json" in str(error.value)


def test_what_is_not_utf_8_is_named(tmp_path):
    file = tmp_path / "answer.json"
    file.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="is not UTF-8: byte 0xff at 7"):
        read(file)
    file.write_bytes(b"\xef\xbb\xbf" + (DATA / "openai_chat.json").read_bytes())  # a byte order mark is no fault
    assert len(read(file).tokens) == 6


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file at"):
        read(tmp_path / "none.json")


NAMES = (
    "logprobs", "content", "token", "logprob", "top_logprobs", "hartley", "entropy", "tokens", "token_logprobs",
    "probs", "message", "delta", "text", "surprisal", "index", "prompt_logprobs", "id", "bytes", "prob",
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


def places(found, path=()):
    """The paths to everything in a JSON value."""
    if isinstance(found, dict | list):
        for key, inner in found.items() if isinstance(found, dict) else enumerate(found):
            yield (*path, key)
            yield from places(inner, (*path, key))


SMALL = {name: load(name) for name in ("openai_chat.json", "openai_completions.json", "llama_cpp_older.json")}
SMALL["hartley"] = {"choices": [{"index": 0, "text": "", "hartley": {"entropy": [1.0], "surprisal": [1.0]}}]}
SMALL["prompt"] = {"choices": [{"text": "", "prompt_logprobs": [None, {"5": {"logprob": -1.0, "rank": 1}}]}]}


@st.composite
def spoiled(draw):
    """An answer in which one thing is anything else."""
    found = json.loads(json.dumps(SMALL[draw(st.sampled_from(sorted(SMALL)))]))
    *path, last = draw(st.sampled_from(list(places(found))))
    inner = found
    for key in path:
        inner = inner[key]
    inner[last] = draw(ANYTHING)
    return found


@given(ANYTHING | spoiled())
def test_no_json_breaks_a_reader_with_anything_but_a_clear_error(tmp_path_factory, found):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_text(json.dumps(found))
    message = "any.json"
    try:
        read(file, vocab_size=V)
    except ValueError as error:
        message = str(error)
    assert "any.json" in message


def test_what_is_known_of_a_list():
    top = [Listed("a", -0.5), Listed("b", -1.5)]
    assert known_of(top, Listed("a", -0.5), exact=False) == ([-1.5, -0.5], True, None)
    assert known_of(top, Listed("b", -1.5), exact=True) == ([-0.5, -1.5], True, None)
    assert known_of(top, Listed("b", -1.5), exact=False) == ([-0.5], True, -1.5)  # it may have been added
    assert known_of(top, Listed("c", -4.0), exact=True) == ([-0.5, -1.5], True, -4.0)
    assert known_of(top, Listed("c", -math.inf), exact=True) == ([-0.5, -1.5], True, None)
    assert known_of([Listed("a", -0.5)], Listed("a", -0.5), exact=False) == ([-0.5], False, None)
    assert known_of([], Listed("a", -0.5), exact=False) == ([-0.5], False, None)
