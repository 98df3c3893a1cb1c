"""The callback in transformers' Trainer and TRL's DPOTrainer: what it measures, logs, stops, and leaves alone."""

import json
import math
from importlib.util import find_spec

import pytest
import torch

import training_runs
from hartley.training import OverOptimisationMonitor
from hartley.training.logs import RunLogs
from hartley.training.plugins.transformers import OverOptimisationCallback

needs_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")
ROWS = training_runs.preferences()[:5]
QUIET = {"report_to": [], "eval_strategy": "no", "save_strategy": "no"}


def added(trainer, **settings):
    callback = OverOptimisationCallback(
        trainer, ROWS, **{"monitor": OverOptimisationMonitor(every=2), "max_new_tokens": 6, "batch_size": 2, **settings}
    )
    trainer.add_callback(callback)
    return callback


@pytest.fixture
def place(tmp_path):
    return tmp_path / "run"


@needs_tensorboard
def test_it_logs_where_the_trainer_logs(place):
    trainer = training_runs.trainer(place)
    added(trainer)
    trainer.train()
    logs = RunLogs(place)
    for name in ("topk_entropy", "topk_entropy_error", "topk_mass", "logps_chosen", "ead"):
        series = logs.series[f"eval/{name}"]
        assert series.steps == [0, 2, 4, 6]
        assert logs.meaning(series.name) is not None
    assert logs.series["loss"].steps == list(range(1, 7))  # the trainer's own logs are all there
    assert all(0 < value <= math.log2(10) for value in logs.series["eval/topk_entropy"].values)
    assert all(0 < value <= 1 for value in logs.series["eval/topk_mass"].values)


@needs_trl
@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_it_works_in_trls_dpo_trainer(place, loss):
    trainer = training_runs.dpo_trainer(place, loss_type=loss, max_steps=2, **QUIET)
    callback = added(trainer, on="chosen")
    trainer.train()
    assert callback.monitor.steps == [0, 2]
    records = trainer.state.log_history
    assert [record["step"] for record in records if "eval_topk_entropy" in record] == [0, 2]
    assert [record["step"] for record in records if "entropy" in record] == [1, 2]
    assert not any("entropy" in record for record in records if "eval_topk_entropy" in record)


@needs_trl
def test_trls_own_evaluation_set_will_do(place):
    trainer = training_runs.dpo_trainer(place, **QUIET)
    callback = OverOptimisationCallback(trainer, trainer.eval_dataset, on="chosen")
    found = callback.measure(trainer.model)
    rows = training_runs.preferences()[:4]
    other = OverOptimisationCallback(trainer, rows, on="chosen").measure(trainer.model)
    assert found["eval_logps_chosen"] != pytest.approx(other["eval_logps_chosen"], abs=1e-9)  # TRL ends its answers
    assert len(callback.pairs) == 4
    assert callback.pairs[0].answer[:-1] == OverOptimisationCallback(trainer, rows).pairs[0].answer


def test_chosen_answers_are_read_as_one_by_one(place):
    """Batches with padding against each answer alone, from the definition."""
    trainer = training_runs.trainer(place, **QUIET)
    callback = added(trainer, on="chosen", batch_size=3)
    found = callback.measure(trainer.model)
    known = training_runs.tokenizer()
    logps, entropies, masses = [], [], []
    for row in ROWS:
        prompt, both = known(row["prompt"])["input_ids"], known(row["prompt"] + row["chosen"])["input_ids"]
        with torch.no_grad():
            log_probs = trainer.model.eval()(torch.tensor([both])).logits[0].double().log_softmax(-1)
        for place_, token in list(enumerate(both))[len(prompt) :]:
            row_ = log_probs[place_ - 1]
            logps.append(row_[token].item())
            top = row_.exp().topk(10).values
            masses.append(top.sum().item())
            q = top / top.sum()
            entropies.append(-(q * q.log2()).sum().item())
    assert found["eval_logps_chosen"] == pytest.approx(sum(logps) / len(logps), abs=1e-5)
    assert found["eval_topk_entropy"] == pytest.approx(sum(entropies) / len(entropies), abs=1e-5)
    assert found["eval_topk_mass"] == pytest.approx(sum(masses) / len(masses), abs=1e-5)


def test_a_token_across_the_border_is_the_answers(place):
    trainer = training_runs.trainer(place, **QUIET)
    [pair] = OverOptimisationCallback(trainer, [{"prompt": "a ", "chosen": "the end"}]).pairs
    known = trainer.processing_class
    assert [known.decode(ids) for ids in pair] == ["a", " the end"]


def test_generated_answers_are_the_policys_and_the_same_each_time(place):
    trainer = training_runs.trainer(place, **QUIET)
    callback = added(trainer, max_new_tokens=16)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pairs = list(callback._generate(trainer.model))
    assert torch.equal(torch.get_rng_state(), before)
    assert pairs == list(callback._generate(trainer.model))
    assert [pair.prompt for pair in pairs] == [pair.prompt for pair in callback.pairs]
    end = trainer.model.generation_config.eos_token_id
    assert all(end not in pair.answer[:-1] for pair in pairs)
    assert all(len(pair.answer) == 16 or pair.answer[-1] == end for pair in pairs)
    assert callback.measure(trainer.model) == callback.measure(trainer.model)


def test_training_is_the_same_with_and_without_it(place):
    weights = []
    for watched in (False, True):
        trainer = training_runs.trainer(place, max_steps=3, **QUIET)
        if watched:
            added(trainer)
        trainer.train()
        weights.append(trainer.model.lm_head.weight.detach().clone())
        assert trainer.model.training
    assert torch.equal(*weights)


class Scripted(OverOptimisationCallback):
    """Entropy that falls by half a bit an evaluation."""

    def measure(self, model):
        at = len(self.monitor.steps)
        return {"eval_topk_entropy": 3.0 - 0.5 * at, "eval_topk_mass": 0.9, "eval_logps_chosen": -1.0 - at}


@pytest.mark.parametrize("stop", [True, False])
def test_a_signal_stops_the_training_and_names_the_checkpoint(place, stop, caplog):
    more = {"max_steps": 6, "save_strategy": "steps", "save_steps": 1, "report_to": [], "eval_strategy": "no"}
    trainer = training_runs.trainer(place, **more)
    callback = Scripted(trainer, ROWS, monitor=OverOptimisationMonitor(every=1, patience=2), stop=stop)
    trainer.add_callback(callback)
    trainer.train()
    [signal] = callback.monitor.signals
    assert trainer.state.global_step == (signal.step if stop else 6)
    assert callback.restore_checkpoint() is None  # the best was before the first checkpoint
    assert f"over-optimised at step {signal.step} (entropy" in caplog.text
    callback.monitor.signals = [signal._replace(restore_step=3)]
    assert callback.restore_checkpoint().name == "checkpoint-3"


def test_a_resumed_run_goes_on_from_its_own_log(place):
    more = {"report_to": [], "eval_strategy": "no", "save_steps": 4, "save_only_model": False}
    trainer = training_runs.trainer(place, max_steps=4, **more)
    first = added(trainer, on="chosen")
    trainer.train()
    state = json.loads((place / "checkpoint-4" / "trainer_state.json").read_text())
    assert [record["step"] for record in state["log_history"] if "eval_topk_mass" in record] == [0, 2, 4]
    again = training_runs.trainer(place, max_steps=6, **more)
    second = added(again, on="chosen")
    again.train(resume_from_checkpoint=str(place / "checkpoint-4"))
    assert second.monitor.steps == [0, 2, 4, 6]
    assert second.monitor.first_logps == first.monitor.first_logps
    records = [record["step"] for record in again.state.log_history if "eval_topk_mass" in record]
    assert records == [0, 2, 4, 6]


def test_messages_go_through_the_chat_template(place):
    trainer = training_runs.trainer(place, **QUIET)
    row = {
        "prompt": [{"role": "user", "content": "the sea"}],
        "chosen": [{"role": "assistant", "content": "a whale"}],
    }
    [pair] = OverOptimisationCallback(trainer, [row]).pairs
    known = trainer.processing_class
    assert known.decode(pair.prompt) == "<|im_start|>user\nthe sea<|im_end|>\n<|im_start|>assistant\n"
    assert known.decode(pair.answer) == "a whale<|im_end|>\n"


def test_what_is_refused(place):
    trainer = training_runs.trainer(place, **QUIET)
    for rows, message in [
        ([], "held_out must hold at least one row"),
        ([{"prompt": "a"}], "must have prompt and chosen, or prompt_ids and chosen_ids; row 0 has prompt"),
        ([*ROWS, {"prompt": "a", "chosen": ""}], "at least one token; row 5 has not"),
    ]:
        with pytest.raises(ValueError, match=message):
            OverOptimisationCallback(trainer, rows)
    with pytest.raises(ValueError, match="on must be one of 'generated', 'chosen'; got 'both'"):
        OverOptimisationCallback(trainer, ROWS, on="both")
