"""``hartley watch``: what it shows of real logs, saves and refuses."""

import json
import re
from importlib.util import find_spec

import pytest

import training_runs
from page_checks import check_safe

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")


@pytest.fixture
def verl(tmp_path):
    """A run of verl, by its recorded schema."""
    (tmp_path / "grpo.jsonl").write_text(training_runs.verl_lines())
    return tmp_path


@pytest.fixture(scope="module")
def trained():
    """The folder of a run of transformers' Trainer."""
    return training_runs.trainer_run()


@pytest.fixture(scope="module")
def preferred():
    """The folder of a run of TRL's DPOTrainer."""
    return training_runs.dpo_run()


def records(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@needs_tensorboard
def test_a_run_of_transformers(trained, hartley):
    found = hartley("watch", trained, "--once")
    assert (found.status, found.err) == (0, "")
    assert "step 6" in found.out
    assert re.search(r"loss +\S+ +[\d.]+ → [\d.]+", found.out)
    assert "training loss, mean since the last log (transformers" in found.out
    assert "No forecast: no Shannon entropy of the policy's own text is logged." in found.out


@needs_trl
def test_a_run_of_trl_names_its_entropy(preferred, hartley):
    found = hartley("watch", preferred, "--once")
    assert found.status == 0
    assert "Shannon entropy of the plain distribution; mean over the tokens of the chosen and rejected" in found.out
    assert "TRL 1.16.0 DPOTrainer" in found.out


def test_a_run_of_verl_with_alarms_and_forecast(hartley, verl):
    found = hartley("watch", verl, "--once", "--target", 0.4)
    for part in ("actor/entropy", "1.388 → 0.1499", "verl 0.9.1", "loss_agg_mode", "response_length/mean"):
        assert part in found.out
    assert "! actor/entropy: fell under the target of 0.4 nats/token at step" in found.out
    assert "! actor/entropy: fell under a fifth of its first value at step" in found.out
    told = re.search(r"would reach ([\d.]+) \(95% interval ([\d.]+) to ([\d.]+)\)", found.out)
    ceiling, low, high = map(float, told.groups())
    assert low <= ceiling <= high
    assert ceiling == pytest.approx(0.6, abs=0.02)


def test_a_forecast_that_the_run_has_passed_says_so(hartley, tmp_path):
    scores = [0.0] * 20 + [0.5] * 10 + [1.0] * 10  # the last gain comes when no entropy is left to pay for it
    rows = [
        {"step": i, "actor/entropy": max(2 - 0.1 * i, 0.01 * (i % 3)), "critic/score/mean": score}
        for i, score in enumerate(scores)
    ]
    (tmp_path / "log.jsonl").write_text(records(*rows))
    found = hartley("watch", tmp_path, "--once")
    assert "the law does not describe this run." in found.out


def test_json_is_the_tidy_table_and_what_the_run_says(hartley, verl):
    lines = [json.loads(line) for line in hartley("watch", verl, "--json").out.splitlines()]
    assert {"step": 40, "name": "response_length/mean", "value": 400.0} in lines
    assert sum(line.get("name") == "actor/entropy" for line in lines[:-1]) == 40
    last = lines[-1]
    by_name = {column["name"]: column for column in last["columns"]}
    assert by_name["actor/entropy"]["entropy"]["distribution"] == "tempered"
    assert last["forecast"]["low"] < 0.6 < last["forecast"]["high"]
    assert last["alarms"][0]["name"] == "actor/entropy"


def test_the_page(hartley, verl, tmp_path):
    page = tmp_path / "page.html"
    found = hartley("watch", verl, "--once", "--html", page, "--target", 0.4)
    assert f"Page saved to {page}" in found.err
    text = page.read_text()
    checked = check_safe(text)
    assert checked.tags.count("img") >= 5
    for part in ("under the target of 0.4", "Forecast:", "What each column is"):
        assert part in text


def test_markup_in_a_name_stays_text(hartley, tmp_path):
    (tmp_path / "log.jsonl").write_text(records({"step": 1, "<script>alert(1)</script>": 1.0, "loss": 1.0}))
    hartley("watch", tmp_path, "--once", "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    check_safe(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_an_unknown_column_is_called_unknown(hartley, tmp_path):
    (tmp_path / "log.jsonl").write_text(records({"step": 1, "my_entropy": 1.25}, {"step": 2, "my_entropy": 0.5}))
    found = hartley("watch", tmp_path, "--once")
    assert found.status == 0
    assert "Unknown columns (what they are cannot be told): my_entropy 0.5" in found.out
    assert "No column that is known has a number yet." in found.out


def test_what_is_damaged_is_told_and_costs_itself_alone(hartley, tmp_path):
    text = (
        records({"step": 1, "loss": 3.0}) + "oops\n" + '{"step": 2, "loss": NaN}\n' + records({"step": 3, "loss": 1.0})
    )
    (tmp_path / "log.jsonl").write_text(text + '{"step": 4, "lo')
    found = hartley("watch", tmp_path, "--once")
    assert "3 → 1" in found.out
    assert "line 2 is no JSON object and left out" in found.out
    assert "loss is NaN, null or infinite at 1 of 3 steps, first at 2" in found.out
    assert '"value": null' in hartley("watch", tmp_path, "--json").out


def test_over_optimised_preference_training_rings(hartley, tmp_path):
    rows = [
        {
            "step": 50 * i, "eval_topk_entropy": 2.5 - 0.05 * max(0, i - 5), "eval_topk_mass": 0.9,
            "eval_logps_chosen": -1 - 0.1 * i, "logps/chosen": -50.0 - i, "rewards/margins": 0.5 * i,
        }
        for i in range(20)
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text(records(*rows))
    found = hartley("watch", tmp_path, "--once")
    assert "! eval/topk_entropy: over-optimised" in found.out
    assert "the best was at step 250" in found.out
    assert re.search(
        r"! logps/chosen: the chosen answers lost 15 ± \S+ nats a text .* while the margin grew by", found.out
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is no training log in"),
        (["--target", "-1"], "--target must be at least 0 nats; got -1.0"),
        (["--every", "0"], "--every must be 0.1 to 3600 seconds; got 0.0"),
        (["--html", "/nowhere/page.html"], "the folder /nowhere does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(hartley, tmp_path, options, message):
    found = hartley("watch", tmp_path, *options)
    assert (found.status, found.out) == (2, "")
    assert message in found.err
    assert found.err.count("\n") == 1


def test_it_watches_until_ctrl_c(monkeypatch, tmp_path):
    """On a terminal: each look takes what has come, and writes the page anew."""
    import io

    from rich.console import Console

    from hartley.cli import watch as command
    from hartley.report import terminal

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=160, height=60, color_system=None)
    monkeypatch.setattr(terminal, "output", lambda: console)
    page, looks, run = tmp_path / "page.html", [], tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").write_text(records({"step": 40, "loss": 1.0}))

    def wait(seconds):
        looks.append(page.read_text())
        if len(looks) == 1:
            (run / "late.jsonl").write_text(records({"step": 77, "loss": 0.5}))
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", wait)
    command.watch(run, html=page, once=False, target=None, every=2.0, as_json=False)
    assert "step 40" in screen.getvalue()
    assert "step 77" in screen.getvalue()
    assert "watching: Ctrl-C ends" in screen.getvalue()
    assert looks[0] != looks[1]
    assert looks[1] == looks[2]
