"""``hartley generate`` on a tiny model: what it prints, in which form, and what it refuses."""

import io
import json
import math
import os
import signal
import sys

import pytest

from hartley.cli.generate import sampler_text
from hartley.decoding import parse
from hartley.decoding.text import ORDER

LINE = {"position", "token_id", "text", "surprisal", "entropy", "varentropy", "rank", "kept", "mass", "top"}
TOTALS = {"tokens", "tokens_per_second", "mean_entropy", "mean_surprisal", "bits_per_byte", "engine", "dtype", "seed"}


def lines(text):
    *tokens, last = [json.loads(line) for line in text.splitlines()]
    return tokens, last


def test_json_is_one_object_a_token_and_then_the_totals(hartley, tiny):
    found = hartley("generate", "hello", "--model", tiny, "--json", "--max-tokens", 12, "--seed", 3, "--top-k", 5)
    assert found.status == 0
    tokens, last = lines(found.out)
    assert all(set(token) >= LINE for token in tokens)
    assert set(last) >= TOTALS
    assert last["tokens"] == len(tokens)
    assert last["mean_entropy"] == pytest.approx(math.fsum(token["entropy"] for token in tokens) / len(tokens))
    assert (last["engine"], last["dtype"], last["seed"], last["sampler"]) == ("transformers", "float32", 3, "top_k=5")
    for token in tokens:
        assert token["kept"] <= 5
        assert token["surprisal"] > 0
        drawn = [other for other in token["top"] if other["token_id"] == token["token_id"]]
        if token["rank"] <= len(token["top"]):
            assert -drawn[0]["log_prob"] == pytest.approx(token["surprisal"], abs=1e-5)
        assert [other["log_prob"] for other in token["top"]] == sorted(
            (o["log_prob"] for o in token["top"]), reverse=True
        )


def test_text_goes_to_the_pipe_and_totals_to_the_screen(hartley, tiny):
    arguments = ("generate", "hello", "--model", tiny, "--max-tokens", 12, "--seed", 3)
    tokens, last = lines(hartley(*arguments, "--json").out)
    found = hartley(*arguments)
    text = "".join(token["text"] for token in tokens)
    assert found.out.rstrip("\n") == text.rstrip("\n")
    assert f"{last['mean_entropy']:.3f} nats a token" in found.err
    assert f"{last['bits_per_byte']:.3f} bits per byte" in found.err
    assert "tokens/s" in found.err


def test_the_same_seed_gives_the_same_text_and_a_drawn_one_is_told(hartley, tiny):
    arguments = ("generate", "hello", "--model", tiny, "--json", "--max-tokens", 8)
    first = lines(hartley(*arguments).out)
    again = lines(hartley(*arguments, "--seed", first[1]["seed"]).out)
    assert again[0] == first[0]
    assert lines(hartley(*arguments).out)[1]["seed"] != first[1]["seed"]  # fails once in 2**32


def test_the_prompt_comes_from_standard_input_too(hartley, tiny, monkeypatch):
    arguments = ("--model", tiny, "--json", "--max-tokens", 5, "--seed", 1)
    given = lines(hartley("generate", "hello\nthere", *arguments).out)[0]
    for argument in ([], ["-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("hello\nthere\n"))
        assert lines(hartley("generate", *argument, *arguments).out)[0] == given


def test_the_chat_template_is_used_unless_it_is_declined(hartley, tiny):
    arguments = ("generate", "hello", "--model", tiny, "--json", "--max-tokens", 5, "--seed", 1)
    default, chat, plain = (lines(hartley(*arguments, *more).out)[0] for more in ([], ["--chat"], ["--no-chat"]))
    assert default == chat
    assert default != plain


def test_a_stop_text_ends_the_run(hartley, tiny):
    arguments = ("generate", "hello", "--model", tiny, "--json", "--max-tokens", 40, "--seed", 1)
    text = "".join(token["text"] for token in lines(hartley(*arguments).out)[0])
    stop = text[4:7]
    tokens, last = lines(hartley(*arguments, "--stop", stop).out)
    assert "".join(token["text"] for token in tokens) == text[: text.index(stop)]
    assert last["finish"] == "stop"


def test_the_page_holds_the_run(hartley, tiny, tmp_path):
    page = tmp_path / "run.html"
    found = hartley("generate", "a <b> prompt", "--model", tiny, "--max-tokens", 6, "--seed", 1, "--html", page)
    assert f"saved to {page}" in found.err
    text = page.read_text()
    assert text.count('class="t s') == 6
    assert "a &lt;b&gt; prompt" in text
    assert list(tmp_path.iterdir()) == [page]


def interrupt(monkeypatch, module, after):
    """Press Ctrl-C when the command has taken in so many tokens."""
    from hartley.cli import running

    taken = []

    def token_of(step, piece):
        taken.append(step)
        if len(taken) == after:
            os.kill(os.getpid(), signal.SIGINT)
        return running.token_of(step, piece)

    monkeypatch.setattr(module, "token_of", token_of)


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_saves_what_there_is_and_says_where(hartley, tiny, tmp_path, monkeypatch, as_json):
    import hartley.cli.generate as module

    interrupt(monkeypatch, module, 7)
    page = tmp_path / "run.html"
    before = signal.getsignal(signal.SIGINT)
    found = hartley(
        "generate", "hello", "--model", tiny, "--max-tokens", 400, "--seed", 2, "--html", page, *["--json"] * as_json
    )
    assert found.status == 130
    assert "Stopped by Ctrl-C after 7 of up to 400 tokens" in found.err
    assert f"saved to {page}" in found.err
    assert page.read_text().count('class="t s') == 7
    assert "Stopped by Ctrl-C" in page.read_text()
    if as_json:
        tokens, last = lines(found.out)
        assert len(tokens) == 7
        assert last["finish"] == "cancelled"
    assert signal.getsignal(signal.SIGINT) is before


FLAGS = {
    "temperature": 1.5, "top_h": 0.4, "top_k": 50, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.95,
    "epsilon_cutoff": 1e-5, "eta_cutoff": 0.002, "top_n_sigma": 1.5, "entropy_top_k": 100,
}  # fmt: skip


def test_single_flags_are_chained_in_the_order_of_transformers(hartley, tiny):
    text = sampler_text(None, FLAGS)
    assert [str(part).split("=")[0] for part in parse(text).samplers] == [key for key in ORDER if key in FLAGS]
    backwards = [word for key, value in reversed(FLAGS.items()) for word in (f"--{key.replace('_', '-')}", value)]
    found = hartley("generate", "hello", "--model", tiny, "--json", "--max-tokens", 2, *backwards)
    assert lines(found.out)[1]["sampler"] == str(parse(text))


def test_transformers_still_has_that_order():
    import inspect

    from transformers.generation.utils import GenerationMixin

    source = inspect.getsource(GenerationMixin._get_logits_processor)
    theirs = {
        "temperature": "TemperatureLogitsWarper", "top_h": "TopHLogitsWarper", "top_k": "TopKLogitsWarper",
        "top_p": "TopPLogitsWarper", "min_p": "MinPLogitsWarper", "typical_p": "TypicalLogitsWarper",
        "epsilon_cutoff": "EpsilonLogitsWarper", "eta_cutoff": "EtaLogitsWarper",
    }  # fmt: skip
    places = [source.index(f"{theirs[key]}(") for key in ORDER if key in theirs]
    assert len(places) == 8
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("flags", "sampler"),
    [
        ({"mirostat": 2, "mirostat_tau": 3.0, "mirostat_eta": 1.0}, "mirostat=2,mirostat_tau=3,mirostat_eta=1"),
        ({"mirostat_tau": 3.0}, "mirostat=2,mirostat_tau=3"),
        ({}, ""),
    ],
)
def test_mirostat_flags_make_one_sampler(flags, sampler):
    assert str(parse(sampler_text(None, flags))) == sampler


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hello", "--sampler", "top_p=0.9", "--top-k", "5"], "--sampler and --top-k are both given"),
        (["hello", "--temperature", "-1"], "temperature"),
        (["hello", "--top-p", "1.5"], "top_p must"),
        (["hello", "--sampler", "top_hh=0.4"], "did you mean 'top_h'"),
        (["hello", "--top-p", "0.9", "--mirostat", "2"], "cannot be chained"),
        (["hello", "--sampler", "top_p=[0.9 0.8]"], "a value for each row"),
        (["  "], "the prompt is empty"),
        (["hello", "--max-tokens", "0"], "max_tokens must be at least 1"),
        (["hello", "--stop", ""], "stop"),
        (["hello", "--engine", "onyx"], "engine must be one of"),
        (["hello", "--dtype", "int3"], "dtype must be one of"),
        (["hello " * 2000], "more than the 512 of the context"),
    ],
)
def test_bad_input_is_one_clear_line(hartley, tiny, arguments, message):
    found = hartley("generate", *arguments, "--model", tiny)
    assert found.status == 2
    assert found.out == ""
    assert message in found.err
    assert found.err.startswith("hartley: ")
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--seed", "-1"], ["--seed", str(2**64)], ["--temperature", "warm"], ["--colour"]]
)
def test_a_bad_option_is_a_usage_error(hartley, arguments):
    assert hartley("generate", "hello", *arguments).status == 2


def test_a_missing_folder_is_told_before_the_model_runs(hartley, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("the model was opened")

    monkeypatch.setattr("hartley.cli.generate.open_model", never)
    found = hartley("generate", "hello", "--html", tmp_path / "missing" / "run.html")
    assert found.status == 2
    assert "does not exist" in found.err


def test_damaged_weights_are_named(hartley, tiny, tmp_path):
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    found = hartley("generate", "hello", "--model", folder)
    assert found.status == 2
    assert "model.safetensors" in found.err
