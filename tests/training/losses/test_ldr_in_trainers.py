"""The LDR losses inside transformers' real Trainer, and ALDR-KL's lambdas over two real processes."""

import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from hartley.training.losses import ALDRKLLoss, LDRKLLoss, aldr_kl_loss, as_compute_loss_func

ROWS, CLASSES = 12, 3


class Classifier(nn.Module):
    """One layer, called as the Trainer calls a model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(12.0).reshape(3, 4).sin())
            self.layer.bias.zero_()

    def forward(self, x, labels=None):
        """The logits."""
        return {"logits": self.layer(x)}


def rows(pairs):
    x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": x[i], "labels": torch.tensor([i % CLASSES, i] if pairs else i % CLASSES)} for i in range(ROWS)]


def trainer(loss, tmp_path, *, pairs, accumulate, evaluation=None):
    from transformers import Trainer, TrainingArguments

    settings = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4 // accumulate,
        gradient_accumulation_steps=accumulate,
        num_train_epochs=2,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    return Trainer(
        Classifier(),
        settings,
        train_dataset=rows(pairs),
        eval_dataset=evaluation,
        compute_loss_func=as_compute_loss_func(loss),
    )


@pytest.mark.parametrize("pairs", [False, True])
def test_accumulated_batches_train_as_whole_ones(tmp_path, pairs):
    weights = []
    for accumulate in (1, 2):
        loss = ALDRKLLoss(ROWS) if pairs else LDRKLLoss(lam=2.0, margin=0.1)
        run = trainer(loss, tmp_path, pairs=pairs, accumulate=accumulate)
        run.train()
        weights.append(run.model.layer.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])
    start = Classifier().layer.weight
    assert (weights[0] - start).abs().max() > 0.01


def test_training_moves_every_lambda_and_evaluation_none(tmp_path):
    loss = ALDRKLLoss(ROWS)
    held_out = rows(pairs=False)
    run = trainer(loss, tmp_path, pairs=True, accumulate=1, evaluation=held_out)
    run.train()
    trained = loss.lambdas()
    assert (trained < 1).all()
    x, labels = torch.stack([row["x"] for row in held_out]), torch.stack([row["labels"] for row in held_out])
    with torch.no_grad():
        expected = aldr_kl_loss(run.model(x)["logits"], labels)
    assert run.evaluate()["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(loss.lambdas(), trained)


def _visit(rank: int, store: str, logits: torch.Tensor, target: torch.Tensor) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    loss = ALDRKLLoss(6)
    mine = torch.arange(rank, 5, 2)  # three examples here, two there
    for _ in range(2):
        loss(logits[mine], target[mine], mine)
    torch.save(loss.state_dict(), f"{store}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo's file store is tried on Linux and macOS")
def test_two_processes_hold_the_lambdas_of_one(tmp_path):
    logits, target = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    store = str(tmp_path / "store")
    mp.spawn(_visit, (store, logits, target), nprocs=2)
    alone = ALDRKLLoss(6)
    for _ in range(2):
        alone(logits, target, torch.arange(5))
    for rank in range(2):
        found = torch.load(f"{store}.{rank}", weights_only=True)["lam"]
        torch.testing.assert_close(found, alone.lam)
