"""``hartley xray``: what it finds in networks whose insides are known, shows, keeps and refuses."""

import gc
import json
import math
import os
import signal
import threading
from contextlib import nullcontext
from importlib.resources import files
from importlib.util import find_spec

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hartley.info import entropy, varentropy
from hartley.report.xray.compare import compare
from hartley.report.xray.examine import examine
from hartley.report.xray.figures import NEAR, _heads
from hartley.report.xray.findings import geometry, low_ranks
from hartley.report.xray.page import comparison_page, xray_page
from hartley.report.xray.sections import _lens, sections
from hartley.report.xray.seen import Seen
from hartley.report.xray.subject import check_context, check_memory, read_texts
from hartley.report.xray.workers import workers
from hartley.representation.heads import verdicts
from page_checks import check_safe
from tiny_models import tiny_model, write_folder

SCHEMA = json.loads(files("hartley.report.xray").joinpath("schema.json").read_text())
LOADER = """
import torch
from torch import nn

def mlp():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, list(torch.randn(10, 32, 8))

def nothing():
    return mlp()[0], []

def broken():
    model, batches = mlp()
    with torch.no_grad():
        model[0].weight[0] = float("nan")
    return model, batches

def scripted():
    return torch.jit.trace(mlp()[0], torch.ones(1, 8)), [torch.ones(1, 8)]

def constant():
    model, batches = mlp()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    return model, batches

def one_row():
    return mlp()[0], [torch.ones(1, 8)]

def weightless():
    return nn.Sequential(nn.ReLU()), list(torch.randn(10, 32, 8))

def convolution():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU()), list(torch.randn(4, 2, 3, 8, 8))

def wrong():
    return 3
"""


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Twelve texts to read, a row each, of unequal length."""
    path = tmp_path_factory.mktemp("data") / "words.jsonl"
    rng = np.random.default_rng(0)
    rows = [" ".join(rng.choice(["the", "sea", "and", "a", "whale", "then"], 12 + n)) for n in range(12)]
    path.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def found(tiny, words):
    """The report of the tiny model."""
    return examine(tiny, data=words)


@pytest.fixture
def loader(tmp_path):
    (tmp_path / "nets.py").write_text(LOADER)
    return f"{tmp_path / 'nets.py'}:"


def test_the_report_keeps_to_its_schema(found):
    jsonschema.validate(found, SCHEMA)
    assert [layer["index"] for layer in found["layers"]] == [0, 1]
    assert len(found["heads"]) == 2 * 4
    assert found["data"]["texts"] == 12
    assert found["data"]["groups"] == 8
    assert found["notes"] == []
    assert found["model"]["parameters"] == sum(one.numel() for one in tiny_model().parameters())


def test_a_second_run_gives_the_same_bytes(found, tiny, words):
    assert json.dumps(examine(tiny, data=words)) == json.dumps(found)


def test_entropies_are_those_of_the_model(found, tiny, words):
    """Against the definition on each text alone."""
    from hartley.models import Tokenizer, load

    model, tokenizer = tiny_model(), Tokenizer(load(tiny).directory)
    texts = read_texts(tokenizer, words, 512).ids
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0, :-1] for ids in texts]
    exact = torch.cat([entropy(logits=rows) for rows in logits]).double().numpy()
    assert found["tokens"]["count"] == len(exact)
    assert found["tokens"]["entropy"]["value"] == pytest.approx(exact.mean(), rel=1e-5)
    spread = torch.cat([varentropy(logits=rows) for rows in logits]).double().numpy()
    assert found["tokens"]["varentropy"]["value"] == pytest.approx(spread.mean(), rel=1e-5)
    held = np.cumsum(np.sort(exact)[::-1]) / exact.sum()
    half = (np.searchsorted(held, 0.5) + 1) / len(exact)
    assert found["tokens"]["share_holding_half"] == pytest.approx(half, rel=1e-5)
    histogram = found["tokens"]["histogram"]
    assert histogram["counts"] == np.histogram(exact, histogram["edges"])[0].tolist()
    assert len(histogram["stderr"]) == len(histogram["counts"])
    assert max(histogram["stderr"]) > 0
    top = found["tokens"]["most_uncertain"][0]
    assert top["entropy"] == pytest.approx(exact.max(), rel=1e-5)


def test_the_last_layer_says_what_the_model_says(found):
    first, last = found["layers"]
    assert last["lens_gap"]["value"] == pytest.approx(0, abs=1e-5)
    assert first["lens_gap"]["value"] > 0.1


def test_half_precision_is_near(found, tiny, words):
    """Its attention weights add up to 1 within their rounding only."""
    half = examine(tiny, data=words, dtype="bfloat16", layers="0")
    assert half["notes"] == []
    for key in ("keys_90", "units_90", "effective_rank"):
        assert half["layers"][0][key]["value"] == pytest.approx(found["layers"][0][key]["value"], rel=0.05)


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        (
            (12.0, 5.0, 0.5),
            "to within 1 nat after layer 2 of 2; half of the widest gap is closed after layer 1.",
        ),
        ((12.0, 7.0, 4.0), "not settled to within 1 nat after any layer seen, up to 2; half of the widest gap is"),
        ((10.0, 11.0, 12.0), "after any layer seen, up to 2; less than half of the widest gap is closed."),
    ],
)
def test_a_gap_that_stays_open_is_not_called_closed(gaps, words):
    layers = [{"index": place, "lens_gap": {"value": gap}} for place, gap in enumerate(gaps)]
    assert words in _lens(layers).finding


def test_directions_are_those_of_the_states(found, tiny, words):
    """All rows fit into the sample here, so the effective rank is that of the whole covariance."""
    from hartley.models import Tokenizer, load
    from hartley.representation import record

    model, rows = tiny_model(), []
    texts = read_texts(Tokenizer(load(tiny).directory), words, 512).ids
    for ids in texts:
        with torch.no_grad(), record(model, ["model.layers.1"]) as taken:
            model(torch.tensor([ids]))
        rows.append(taken["model.layers.1"][0, 1:].double())
    states = torch.cat(rows)
    states = states / states.square().mean(-1, keepdim=True).sqrt()
    values = torch.linalg.eigvalsh(states.T.cov(correction=0)).clamp(min=0)
    exact = float(entropy(probs=values / values.sum()).exp())
    layer = found["layers"][1]
    assert layer["rows"] == len(states)
    assert layer["effective_rank"]["value"] == pytest.approx(exact, rel=1e-3)
    assert 0 < layer["effective_rank"]["stderr"] < exact
    assert 0 < layer["dse"]["value"] < math.log2(layer["dse_rows"])


def test_a_change_is_found_where_it_was_made(found, tiny, words, tmp_path):
    """A short fine-tune of one layer's feed-forward part, on text of one word."""
    write_folder(tmp_path / "after")
    model = tiny_model()
    trained = [*model.model.layers[1].mlp.parameters()]
    optimizer = torch.optim.Adam(trained, lr=3e-3)
    ids = torch.tensor([[5, 6, 7, 8] * 8])
    with torch.random.fork_rng():
        for _ in range(10):
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
    model.save_pretrained(tmp_path / "after")
    after = examine(str(tmp_path / "after"), data=words)
    changed = compare(found, after)
    moved = {one["name"] for one in changed["weights"] if one["change"]["value"] > 0}
    assert moved == {f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert changed["layers"][0]["weight_change"] == 0 < changed["layers"][1]["weight_change"]
    assert changed["layers"][0]["effective_rank"]["errors"] == 0
    assert changed["layers"][1]["effective_rank"]["errors"] != 0
    before, weights = tiny_model().state_dict(), model.state_dict()
    for one in changed["weights"][:3]:
        true = float((weights[one["name"]] - before[one["name"]]).norm() / before[one["name"]].norm())
        assert one["change"]["value"] == pytest.approx(true, abs=4.5 * one["change"]["stderr"])
    page = comparison_page(changed)
    check_safe(page)
    assert "3 of" in page


def test_the_same_model_twice_shows_no_difference(found):
    same = compare(found, found)
    assert all(one["change"]["value"] == 0 for one in same["weights"])
    assert same["heads"] == []
    assert "None of the" in comparison_page(same)
    assert "No layer&#39;s measure moved" in comparison_page(same)


def test_heads_too_near_a_threshold_are_counted_and_ringed(found):
    """Against the definition; none of them has a verdict, and without errors none is named."""
    heads = [json.loads(json.dumps(head)) for head in found["heads"][:4]]
    parts = [(0.05, 0.01, "collapsed"), (0.11, 0.01, "within"), (0.5, 0.01, "within"), (0.89, 0.03, "within")]
    for head, (value, error, verdict) in zip(heads, parts, strict=True):
        head |= {"entropy_share": {"value": value, "stderr": error}, "verdict": verdict}
        head["first_key"] = {"value": 0.52 if verdict == "collapsed" else 0.1, "stderr": 0.02}
    report = found | {"heads": heads}
    (section,) = [one for one in sections(report) if one.key == "heads"]
    assert section.finding.endswith("Too near to tell: 2 by their entropy, 1 by that half.")
    shares = np.array([[value for value, _, _ in parts]])
    assert verdicts(shares, np.array([[error for _, error, _ in parts]])) == [[verdict for _, _, verdict in parts]]
    rings = [[line for line in axis.lines if line.get_label() == NEAR] for axis in _heads(report, "").axes[:2]]
    assert [[line.get_xydata().tolist() for line in lines] for lines in rings] == [[[[1, 0], [3, 0]]], [[[0, 0]]]]
    for head in heads:
        head["entropy_share"]["stderr"] = head["first_key"]["stderr"] = None
    (section,) = [one for one in sections(report) if one.key == "heads"]
    assert "0 by their entropy, 0 by that half" in section.finding
    assert NEAR not in [line.get_label() for line in _heads(report, "").axes[0].lines]


def test_the_command_writes_both_files(tiny, words, tmp_path, hartley):
    done = hartley("xray", tiny, "--data", words, "--out", tmp_path / "x", "--layers", "0")
    assert done.status == 0
    report = json.loads((tmp_path / "x" / "xray.json").read_text())
    assert [layer["index"] for layer in report["layers"]] == [0]
    assert report["layers"][0]["lens_gap"]["value"] > 0.1
    assert {head["layer"] for head in report["heads"]} == {0}
    page = (tmp_path / "x" / "xray.html").read_text()
    check_safe(page)
    for words_there in ("Directions and spectral entropy", "Attention heads", "What to do with it", "nats"):
        assert words_there in page
    assert "Where it is unsure" in done.out
    assert "xray.html" in done.err
    again = hartley("xray", "--compare", tmp_path / "x", tmp_path / "x" / "xray.json", "--json")
    assert json.loads(again.out)["schema"] == "hartley.xray-comparison/1"


def test_any_torch_module(loader, tmp_path, hartley):
    done = hartley("xray", "--loader", f"{loader}mlp", "--out", tmp_path, "--json")
    report = json.loads(done.out)
    jsonschema.validate(report, SCHEMA)
    (layer,) = report["layers"]
    assert layer["name"] == "1"
    assert 0.2 < layer["zeros"]["value"] < 0.8
    assert layer["rows"] == 320
    assert {one["name"] for one in report["weights"]} == {"0.weight", "2.weight"}
    check_safe((tmp_path / "xray.html").read_text())


@pytest.mark.parametrize(("rows", "lost"), [(1024, None), (256, 22), (128, 39), (64, 61)])
def test_a_rank_of_few_rows_is_said_to_be_low(rows, lost):
    """By as much as it is, of 128 features that are alike."""
    seen = Seen(rows)
    seen.sample("x", 0, torch.randn(rows, 128, generator=torch.Generator().manual_seed(0)))
    note = low_ranks(seen, ["x"])
    if lost is None:
        assert note is None
        return
    assert note is not None
    assert f"{rows} rows of 128 features and are too low, by {lost} % where" in note
    assert geometry(seen.groups("x"))["effective_rank"]["value"] == pytest.approx(128 * (1 - lost / 100), rel=0.03)


@pytest.mark.parametrize("name", ["constant", "one_row"])
def test_a_layer_that_says_nothing_has_one_direction(loader, tmp_path, hartley, name):
    report = json.loads(hartley("xray", "--loader", f"{loader}{name}", "--out", tmp_path, "--json").out)
    jsonschema.validate(report, SCHEMA)
    (layer,) = report["layers"]
    assert (layer["effective_rank"]["value"], layer["dse"]["value"]) == (1.0, 0.0)
    check_safe((tmp_path / "xray.html").read_text())


def test_places_of_a_convolution_are_rows_and_no_weights_are_no_part(loader, tmp_path, hartley):
    report = json.loads(hartley("xray", "--loader", f"{loader}convolution", "--json").out)
    assert report["layers"][0]["rows"] == 4 * 2 * 6 * 6
    assert report["model"]["width"] == 5
    report = json.loads(hartley("xray", "--loader", f"{loader}weightless", "--out", tmp_path, "--json").out)
    assert report["weights"] == []
    assert "Which tensors to tune" not in (tmp_path / "xray.html").read_text()


def test_ctrl_c_keeps_what_was_read(tiny, words, tmp_path, hartley, monkeypatch):
    from hartley.report.xray import examine as module

    def see(*given):
        for seen in module_sees(*given):
            yield seen
            if seen.texts == 3:
                os.kill(os.getpid(), signal.SIGINT)

    module_sees = module.see_texts
    monkeypatch.setattr(module, "see_texts", see)
    done = hartley("xray", tiny, "--data", words, "--out", tmp_path)
    assert done.status == 0
    report = json.loads((tmp_path / "xray.json").read_text())
    assert report["data"]["texts"] in (3, 4)  # the signal may come one text late
    assert any("reading was interrupted" in note for note in report["notes"])


def test_a_reading_that_is_stopped_is_reported(tiny, words):
    stop = threading.Event()
    seen = []

    def progress(what, done, of):
        seen.append(what)
        if (what, done) == ("reading", 3):
            stop.set()

    report = examine(tiny, data=words, stop=stop, progress=progress)
    assert report["data"]["texts"] == 3
    assert "reading was interrupted: 3 of 12 texts were read" in report["notes"]
    assert {"reading", "layers", "weights"} == set(seen)
    jsonschema.validate(report, SCHEMA)
    check_safe(xray_page(report))


def test_a_budget_ends_the_reading(tiny, words):
    report = examine(tiny, data=words, budget=1e-9)
    low, reading = report["notes"]
    assert reading == "reading took its share of the budget: 1 of 12 texts were read"
    assert low.startswith(f"effective ranks come of {report['layers'][0]['rows']} rows of 64 features and are too low")
    assert report["layers"][0]["effective_rank"]["stderr"] is None  # one group


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_gives_the_same_report(found, tiny, words, monkeypatch):
    """Whose spectra are its workers': those of this process are broken. Nor does a reading left early keep it busy."""
    from hartley.report.xray import findings

    monkeypatch.setattr(findings, "effective_rank", None)
    monkeypatch.setattr(findings, "measure_weights", None)
    with workers("local") as run:
        monkeypatch.setattr("hartley.report.xray.examine.workers", lambda address: nullcontext(run))  # one for both
        assert examine(tiny, data=words, ray="local") == found
        early = examine(tiny, data=words, ray="local", budget=1e-9)
    assert early["weights"] == found["weights"]
    assert any("reading took its share of the budget" in note for note in early["notes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layers", "0,7"), "--layers must be in 0-1, which the model has; got '0,7'"),
        (("--layers", "all"), "--layers must be numbers and ranges such as 0,4-7; got 'all'"),
        (("--context", "15"), "--context must be in 16-512 tokens, which the model reads; got 15"),
        (("--context", "513"), "--context must be in 16-512 tokens, which the model reads; got 513"),
        (("--loader", "nets.py:mlp", "--context", "64"), "--loader gives its own batches: leave out --context"),
        (("--budget", "0"), "--budget must be above 0 minutes; got 0"),
        (("--data", "gone.txt"), "--data gone.txt is not there"),
        (("--dtype", "int8"), "dtype must be one of 'float32', 'bfloat16', 'float16'; got 'int8'"),
    ],
)
def test_bad_options_are_named(tiny, hartley, arguments, message):
    done = hartley("xray", tiny, *arguments)
    assert done.status == 2
    assert message in done.err


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "the loader's batches were empty"),
        ("broken", "layer '0' gave NaN"),
        ("scripted", "scripted module, which calls no hooks"),
        ("wrong", "wrong must return (module, batches); got int"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_bad_loaders_are_named(loader, hartley, name, message):
    done = hartley("xray", "--loader", f"{loader}{name}", "--layers", "0")
    assert done.status == 2
    assert message in done.err


def test_bad_data_is_named(tiny, tmp_path, hartley):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (("empty.txt", "has no text of 16 tokens or more"), ("bytes.txt", "is not UTF-8 text")):
        done = hartley("xray", tiny, "--data", tmp_path / name)
        assert (done.status, message in done.err) == (2, True)
    done = hartley("xray", "--loader", "nets.txt:mlp")
    assert "--loader must be FILE.py:FUNCTION" in done.err


def test_a_long_text_file_is_cut_between_letters(tiny, tmp_path):
    from hartley.models import Tokenizer, load

    (tmp_path / "long.txt").write_text("a" + "é" * 200_000, encoding="utf-8")
    texts = read_texts(Tokenizer(load(tiny).directory), tmp_path / "long.txt", 512)
    assert [len(ids) for ids in texts.ids] == [256] * 40


def test_a_text_is_as_long_as_asked_for(tiny, tmp_path):
    """Also longer than by default; what a model cannot read is refused, what no text has is said."""
    (tmp_path / "long.txt").write_text("the sea and the whale " * 60, encoding="utf-8")
    report = examine(tiny, data=tmp_path / "long.txt", context=400, layers="0")
    jsonschema.validate(report, SCHEMA)
    assert report["data"]["context"] == 400
    assert report["tokens"]["by_place"][-1]["to"] == 399
    assert report["notes"] == []
    short = examine(tiny, data=tmp_path / "long.txt", context=16, layers="0")
    assert short["data"] == {"texts": 40, "groups": 8, "context": 16}
    (tmp_path / "short.txt").write_text("the sea and the whale " * 3, encoding="utf-8")
    report = examine(tiny, data=tmp_path / "short.txt", context=400, layers="0")
    longest = report["data"]["context"]
    assert f"no text has 400 tokens, as --context asks for: the longest has {longest}" in report["notes"]


def test_attention_is_dropped_layer_by_layer(tiny, words, monkeypatch):
    """As many maps are there in the second layer as in the first."""
    from hartley.report.xray import seen

    counts, take = {}, seen._Reader.attention

    def attention(self, name, values):
        like = [one for one in gc.get_objects() if type(one) is torch.Tensor and one.shape == values.shape]
        counts.setdefault(name, []).append(len({one.data_ptr() for one in like}))
        take(self, name, values)

    monkeypatch.setattr(seen._Reader, "attention", attention)
    examine(tiny, data=words, budget=1e-9)
    assert counts["model.layers.0.self_attn"] == counts["model.layers.1.self_attn"]


def test_attention_larger_than_memory_says_what_would_fit():
    check_context(8, 1024, 2**30)
    with pytest.raises(ValueError, match=r"--context 4096 takes 3.0 GiB .* 8 heads, and 1.0 GiB .*: 2115 tokens"):
        check_context(8, 4096, 2**30)
    check_context(8, 2115, 2**30)


def test_a_model_larger_than_memory_says_what_would_fit(tiny, tmp_path):
    from pathlib import Path

    size = sum(one.numel() for one in load_file(Path(tiny) / "model.safetensors").values())
    check_memory(Path(tiny), "float32", 5 * size)
    with pytest.raises(ValueError, match=r"in float32, and .* GiB of memory are free: --dtype bfloat16 would fit"):
        check_memory(Path(tiny), "float32", 3 * size)
    with pytest.raises(ValueError, match="no dtype would fit"):
        check_memory(Path(tiny), "float32", size)


def test_weights_that_are_no_numbers_are_named(tiny, words, tmp_path, hartley):
    write_folder(tmp_path / "nan")
    weights = load_file(tmp_path / "nan" / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "nan" / "model.safetensors", {"format": "pt"})
    done = hartley("xray", tmp_path / "nan", "--data", words)
    assert done.status == 2
    assert "layer 'model.layers.0' gave NaN" in done.err


def test_reports_that_do_not_match_are_refused(found):
    with pytest.raises(ValueError, match=r"a must be a report of hartley\.xray/1"):
        compare({"schema": "else"}, found)
    with pytest.raises(ValueError, match="a and b must have the same layers; got 2 and 1"):
        compare(found, found | {"layers": found["layers"][:1]})
