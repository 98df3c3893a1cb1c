"""The distillation losses inside the real TRL, on the CPU, with a tiny model."""

import copy

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed")
from hartley.training.losses import DivergenceLoss, PLDLoss, SinkhornKDLoss, TopKLDLoss, jensen_shannon_loss
from tiny_models import tiny_model
from training_runs import arguments, preferences, tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")]
LOSSES = {
    "forward_kl": DivergenceLoss("forward_kl"),
    "pld": PLDLoss(top_k=8),
    "topkld": TopKLDLoss(k=4, form="generalized"),
    "sinkhorn": SinkhornKDLoss(reduction="mean"),
}


def gkd(place, loss=None, **more):
    """TRL's trainer off policy, two micro-batches of two a step, with a teacher that differs from the student."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from hartley.training.plugins.gkd import LossGKDTrainer

    rows = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}]}
        for row in preferences()[:8]
    ]
    settings = arguments(
        place, eval_strategy="no", save_strategy="no", report_to=[], per_device_train_batch_size=2,
        gradient_accumulation_steps=2, max_length=64, max_new_tokens=4, bf16=False,
        **{"lmbda": 0.0, "max_steps": 1, **more},
    )  # fmt: skip
    student = tiny_model()
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(2)
    kind, how = (GKDTrainer, {}) if loss is None else (LossGKDTrainer, {"distillation_loss": loss})
    return kind(
        model=student, teacher_model=teacher, args=GKDConfig(**settings), train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(), **how,
    )  # fmt: skip


def train(trainer):
    trainer.train()
    return trainer.state.log_history[0]


def test_the_jensen_shannon_loss_trains_as_trls_own(tmp_path):
    """Losses and gradients of accumulated micro-batches of unequal length, float32."""
    ours = train(gkd(tmp_path / "ours", lambda s, t, labels: jensen_shannon_loss(s, t, labels, beta=0.3)))
    theirs = train(gkd(tmp_path / "theirs", beta=0.3))
    assert theirs["loss"] > 1e-4
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(tmp_path, name):
    log = train(gkd(tmp_path, LOSSES[name]))
    assert 0 < log["grad_norm"] < float("inf")


def test_answers_of_the_student_itself(tmp_path):
    log = train(gkd(tmp_path, LOSSES["forward_kl"], lmbda=1.0))
    assert 0 < log["grad_norm"] < float("inf")


def test_a_loss_that_is_no_mean_is_refused(tmp_path):
    with pytest.raises(ValueError, match="distillation_loss must have reduction 'mean'; got 'sum'"):
        gkd(tmp_path, SinkhornKDLoss())
