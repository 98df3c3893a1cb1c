"""Logs of real runs are read whole and as they grow; what is damaged costs itself alone, and is told."""

import json
import math
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import training_runs
from hartley.training.logs import COLUMNS, RunLogs, canonical, meaning
from hartley.training.logs.events import EventFile
from hartley.training.logs.json_files import JsonLines, TrainerState
from hartley.training.logs.parquet import ParquetFile

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """An event file of ten scalars and where each of its records ends."""
    from torch.utils.tensorboard import SummaryWriter

    place = tmp_path_factory.mktemp("events")
    with SummaryWriter(str(place)) as writer:
        for step in range(10):
            writer.add_scalar("train/loss", 1 / (step + 1), step)
    [file] = place.iterdir()
    return file.read_bytes()


@needs_tensorboard
def test_the_trainers_event_file_says_what_its_state_says():
    place = training_runs.trainer_run()
    [file] = place.rglob("events.out.tfevents.*")
    reader = EventFile(file)
    told = {(point.step, canonical(point.name)): point.value for point in reader.look()}
    state = json.loads((place / "checkpoint-6" / "trainer_state.json").read_text())
    expected = {
        (record["step"], canonical(name)): value
        for record in state["log_history"]
        for name, value in record.items()
        if name != "step"
    }
    assert {step for step, name in expected if name == "loss"} == set(range(1, 7))
    assert set(expected) <= set(told)
    for key, value in expected.items():
        assert told[key] == pytest.approx(value, rel=1e-6)
    assert reader.settings["max_steps"] == training_runs.STEPS
    assert reader.notes == []


@needs_tensorboard
def test_a_run_of_the_trainer_is_read_as_one():
    logs = RunLogs(training_runs.trainer_run())
    assert {file.name for file in logs.files} >= {"trainer_state.json"}
    assert logs.series["loss"].steps == list(range(1, 7))
    assert logs.series["eval/loss"].steps == [3, 6]
    assert logs.notes == []
    assert logs.last_step == 6
    assert [name for name in logs.series if logs.meaning(name) is None] == []
    assert logs.look() == 0
    points = list(logs.points())
    assert len(points) == len({point[:2] for point in points}) == sum(len(s.points) for s in logs.series.values())


@needs_trl
def test_a_run_of_trls_dpo_says_which_entropy_it_logs():
    logs = RunLogs(training_runs.dpo_run())
    found = logs.meaning("entropy")
    assert "DPOTrainer" in found.source
    assert (found.entropy.kind, found.entropy.distribution, found.unit) == ("Shannon", "plain", "nats/token")
    assert "chosen and rejected" in found.entropy.average
    assert logs.series["entropy"].steps == list(range(1, 7))
    assert [name for name in logs.series if logs.meaning(name) is None] == []


@needs_trl
def test_trls_dpo_entropy_is_what_the_table_says():
    """Recomputed: the plain Shannon entropy over the tokens of chosen and rejected answers, at the first step."""
    import torch

    from hartley.info import entropy

    trainer = training_runs.dpo_trainer(
        training_runs.folder("recomputed"), report_to=[], learning_rate=0.0, max_steps=1
    )
    seen = []
    before = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: (seen.append(inputs), before(model, inputs, *a, **k))[1]
    trainer.train()
    [inputs] = [one for one in seen if one["input_ids"].shape[0] == 8][:1]
    with torch.no_grad():
        logits = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    mask = inputs["completion_mask"][:, 1:].bool()
    logged = next(record["entropy"] for record in trainer.state.log_history if "entropy" in record)
    assert logged == pytest.approx(float(entropy(logits=logits[mask]).mean()), rel=1e-4)


@needs_trl
@needs_tensorboard
def test_trls_grpo_entropy_is_tempered_as_the_table_says(tmp_path):
    """Recomputed at temperature 0.7 over the unmasked completion tokens; the plain entropy is another number."""
    import torch

    from hartley.info import entropy

    trainer = training_runs.grpo_trainer(tmp_path, learning_rate=0.0, max_steps=1)
    seen = []
    before = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *a, **k: (seen.append(inputs), before(model, inputs, *a, **k))[1]
    trainer.train()
    [inputs] = seen
    ids, mask = (torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], 1) for x in ("ids", "mask"))
    kept = inputs["completion_mask"].bool()
    with torch.no_grad():
        logits = trainer.model(ids, attention_mask=mask).logits[:, -kept.shape[1] - 1 : -1][kept]
    plain, tempered = (float(entropy(logits=logits / heat).mean()) for heat in (1.0, 0.7))
    logs = RunLogs(tmp_path)
    [logged] = logs.series["entropy"].values
    assert logged == pytest.approx(tempered, rel=1e-4)
    assert abs(plain - tempered) > 0.05
    found = logs.meaning("entropy")
    assert "GRPOTrainer" in found.source
    assert found.entropy.distribution == "tempered"
    assert logs.settings["temperature"] == 0.7
    assert [name for name in logs.series if logs.meaning(name) is None] == []


def test_verls_file_logger_is_read_by_its_recorded_schema(tmp_path):
    (tmp_path / "grpo.jsonl").write_text(training_runs.verl_lines())
    logs = RunLogs(tmp_path)
    assert logs.series["actor/entropy"].steps == list(range(1, 41))
    found = logs.meaning("actor/entropy")
    assert (found.source, found.entropy.kind, found.entropy.distribution) == ("verl 0.9.1", "Shannon", "tempered")
    assert "loss_agg_mode" in found.entropy.average
    assert [name for name in logs.series if logs.meaning(name) is None] == []


# Which entropy a column is


@pytest.mark.parametrize(
    ("name", "beside", "kind", "distribution", "unit", "source"),
    [
        ("train/entropy", ["reward", "train/completions/mean_length"], "Shannon", "tempered", "nats/token", "GRPO"),
        ("entropy", ["rewards/margins", "logps/chosen"], "Shannon", "plain", "nats/token", "DPOTrainer"),
        ("eval_entropy", ["eval_kl", "eval_logps/chosen"], "Shannon", "plain", "nats/token", "KTO"),
        ("entropy", ["mean_token_accuracy"], "Shannon", "plain", "nats/token", "SFT"),
        ("entropy", ["completions/mean_length"], "Shannon", "tempered", "nats/token", "Distillation"),
        ("entropy", [], "Shannon", "plain or tempered", "nats/token", "TRL"),
        ("objective/entropy", ["policy/entropy_avg"], "minus log-probability", "tempered", "nats/text", "PPO"),
        ("objective/entropy", ["objective/kl"], "minus log-probability", "plain", "nats/text", "OnlineDPO"),
        ("policy/entropy_avg", [], "Shannon", "tempered", "nats/token", "PPO"),
        ("actor/entropy_loss", [], "Shannon", "tempered", "nats/token", "verl"),
        ("eval_topk_entropy", [], "Shannon of the top k", "plain", "bits/token", "Hartley"),
    ],
)  # fmt: skip
def test_which_entropy(name, beside, kind, distribution, unit, source):
    found = meaning(name, [name, *beside])
    assert (found.entropy.kind, found.entropy.distribution, found.unit) == (kind, distribution, unit)
    assert source in found.source


def test_unknown_columns_are_said_to_be_unknown_and_no_entropy_is_left_unsaid():
    assert meaning("policy_entropy_v2") is None
    assert meaning("my/entropy") is None
    for column in COLUMNS:
        assert (column.entropy is not None) == (column.role == "entropy")
        assert column.says
        assert column.source


# Files that grow, and files that are damaged


@needs_tensorboard
def test_an_event_file_cut_anywhere_gives_its_whole_records_and_the_rest_when_it_comes(events, tmp_path):
    file = tmp_path / "events.out.tfevents.1.host"
    for cut in range(0, len(events), 7):
        file.write_bytes(events[:cut])
        reader = EventFile(file)
        first = reader.look()
        assert reader.notes == []
        with file.open("ab") as rest:
            rest.write(events[cut:])
        both = first + reader.look()
        assert [point.step for point in both] == list(range(10))
        assert reader.notes == []


@needs_tensorboard
def test_a_damaged_record_is_told_with_what_it_costs(events, tmp_path):
    file = tmp_path / "events.out.tfevents.1.host"
    spoilt = bytearray(events)
    spoilt[len(events) - 100] ^= 255
    file.write_bytes(spoilt)
    reader = EventFile(file)
    read = len(reader.look())
    assert 0 < read < 10
    [note] = reader.notes
    assert "fails its checksum" in note
    assert f"the {10 - read - 1} after it cannot be read" in note


def test_lines_are_read_as_they_come_and_a_half_one_waits(tmp_path):
    file = tmp_path / "log.jsonl"
    whole = '{"step": 1, "loss": 2.5, "text": "x"}\n{"step": 2, "loss": 1.5}\n'
    for cut in range(len(whole)):
        file.write_text(whole[:cut])
        reader = JsonLines(file)
        first = reader.look()
        file.write_text(whole)
        assert first + reader.look() == [(1, "loss", 2.5), (2, "loss", 1.5)]
        assert reader.notes == []


def test_lines_that_are_no_record_cost_themselves_alone(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_bytes(
        b'{"step": 1, "loss": NaN}\nTraceback (most recent call last):\n[1, 2]\n\xff\xfe\n\n'
        b'{"_step": 4, "a": {"b": 3, "c": [1]}}\n{"loss": 0.5}\n{"step": 7, "loss": null, "done": true}\n'
        b'{"only": "text"}'
    )
    reader = JsonLines(file)
    found = reader.look()
    assert found[1:3] == [(4, "a/b", 3.0), (7, "loss", 0.5)]
    assert [point.step for point in found if math.isnan(point.value)] == [1, 7]
    assert "lines 2, 3, 4 are no JSON object and left out (3 of 9)" in reader.notes[0]
    assert "1 of 4 records have no step" in reader.notes[1]


def test_a_log_written_anew_is_read_anew(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.5}\n')
    reader = JsonLines(file)
    assert len(reader.look()) == 2
    file.write_text('{"step": 1, "loss": 9}\n')
    assert reader.look() == [(1, "loss", 9.0)]


def test_a_state_half_written_waits(tmp_path):
    file = tmp_path / "trainer_state.json"
    text = json.dumps({"log_history": [{"step": 1, "loss": 2.5}, {"step": 2, "eval_loss": 1.5}]})
    file.write_text(text[:-9])
    reader = TrainerState(file)
    assert reader.look() == []
    assert "is half written; it is read at the next look" in reader.notes[0]
    file.write_text(text)
    assert reader.look() == [(1, "loss", 2.5), (2, "eval_loss", 1.5)]
    assert reader.notes == []
    assert reader.look() == []
    file.write_text("{}")
    assert reader.look() == []
    assert "has no log_history" in reader.notes[0]


def test_a_state_that_grows_gives_what_it_gave_once_nan_too(tmp_path):
    state = tmp_path / "trainer_state.json"
    first, second = {"step": 1, "loss": math.nan, "entropy": 0.5}, {"step": 2, "loss": 0.1}
    reader = TrainerState(state)
    state.write_text(json.dumps({"log_history": [first]}))
    assert [point.name for point in reader.look()] == ["loss", "entropy"]
    state.write_text(json.dumps({"log_history": [first, second]}))
    assert reader.look() == [(2, "loss", 0.1)]


def test_parquet_wide_tidy_and_of_completions(tmp_path):
    pq.write_table(pa.table({"step": [1, 2], "reward": [0.5, None], "note": ["a", "b"]}), tmp_path / "wide.parquet")
    wide = ParquetFile(tmp_path / "wide.parquet").look()
    assert wide[0] == (1, "reward", 0.5)
    assert math.isnan(wide[1].value)
    tidy = {"step": [1, 1], "name": ["a", "b"], "value": [1.0, 2.0]}
    pq.write_table(pa.table(tidy), tmp_path / "tidy.parquet")
    assert ParquetFile(tmp_path / "tidy.parquet").look() == [(1, "a", 1.0), (1, "b", 2.0)]
    texts = {"step": [3, 3], "completion": ["x", "y"], "advantage": [1.0, 0.0]}
    pq.write_table(pa.table(texts), tmp_path / "completions_00003.parquet")
    reader = ParquetFile(tmp_path / "completions_00003.parquet")
    assert reader.look() == [(3, "advantage", 0.5)]
    assert "several rows of one step are averaged" in reader.notes[0]


def test_parquet_without_steps_and_without_an_end(tmp_path):
    file = tmp_path / "log.parquet"
    pq.write_table(pa.table({"loss": [2.0, 1.0]}), file)
    reader = ParquetFile(file)
    assert reader.look() == [(0, "loss", 2.0), (1, "loss", 1.0)]
    assert "no column step, global_step or _step; the number of the row stands for it" in reader.notes[0]
    whole = file.read_bytes()
    half = tmp_path / "half.parquet"
    half.write_bytes(whole[:-20])
    reader = ParquetFile(half)
    assert reader.look() == []
    assert "is not whole, or no Parquet; it is read at the next look" in reader.notes[0]
    half.write_bytes(whole)
    assert len(reader.look()) == 2
    assert reader.look() == []


def test_a_run_sees_new_files_and_new_points(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"step": 1, "loss": 2}\n')
    logs = RunLogs(tmp_path)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 1}\n{"step": 3, "lo')
    (tmp_path / "deep").mkdir()
    pq.write_table(pa.table({"step": [2], "reward": [1.0]}), tmp_path / "deep" / "b.parquet")
    assert logs.look() == 2
    assert logs.series["loss"].points == {1: 2.0, 2: 1.0}
    assert logs.series["reward"].points == {2: 1.0}


def test_files_that_disagree_and_values_that_are_none_are_told(tmp_path):
    import os

    for place, (name, value) in enumerate([("a", "2"), ("b", "3")]):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"step": 1, "loss": {value}}}\n{{"step": 2, "loss": NaN}}\n')
        os.utime(tmp_path / f"{name}.jsonl", (place, place))
    logs = RunLogs(tmp_path)
    assert logs.series["loss"].points[1] == 3.0
    assert any("loss: files disagree, first at step 1 (2, 3); the later file is taken" in note for note in logs.notes)
    assert any("loss is NaN, null or infinite at 1 of 2 steps, first at 2" in note for note in logs.notes)


def test_where_there_is_no_log(tmp_path):
    with pytest.raises(ValueError, match=r"there is no training log in .*; looked for events\.out\.tfevents"):
        RunLogs(tmp_path)
    with pytest.raises(ValueError, match="there is no run at"):
        RunLogs(tmp_path / "none")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match="is no training log that can be read; known are"):
        RunLogs(tmp_path / "a.txt")


def test_event_files_without_tensorboard_name_the_extra(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    with pytest.raises(ImportError, match=r'pip install "hartley\[watch\]"'):
        RunLogs(tmp_path)
