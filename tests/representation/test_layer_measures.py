import math

import numpy as np
import pytest
import torch
from torch import nn

import training_runs
from hartley.representation import diffusion_spectral_entropy, measures_of
from hartley.representation.layer_measures import layer_measures
from hartley.training.plugins.transformers import MeasureCallback


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))


def test_the_numbers_are_those_of_the_layer():
    """Against the covariance, the codes and the entropy of all rows at once; two batches of unequal size."""
    model, x = network().train(), torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    found = layer_measures(model, [x[:20], x[20:]], ["1"])
    rows = model[1](model[0](x)).detach().double()
    values = torch.linalg.eigvalsh(rows.T.cov()).clamp(min=0)
    shares = values / values.sum()
    assert found["effective_rank/1"] == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-5)
    _, counts = np.unique((rows > 0).numpy(), axis=0, return_counts=True)
    assert found["code_entropy/1"] == pytest.approx(-(counts / 50 * np.log(counts / 50)).sum())
    assert found["dse/1"] == pytest.approx(diffusion_spectral_entropy(rows, sigma="median"), abs=1e-3)
    assert model.training


def test_padding_is_left_out():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    padded = layer_measures(Model(), [{"x": x, "attention_mask": mask}], ["layer"])
    alone = layer_measures(Model(), [(x[mask.bool()], mask)], ["layer"])
    assert padded == pytest.approx(alone)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="batches must hold at least one batch; got none"):
        layer_measures(network(), [], ["1"])
    with pytest.raises(ValueError, match="layer '1' gave NaN"):
        layer_measures(network(), [torch.full((2, 4), math.nan)], ["1"])
    with pytest.raises(ValueError, match="no module 'relu'"):
        layer_measures(network(), [torch.ones(2, 4)], ["relu"])


def test_a_trainer_logs_them(tmp_path):
    """Before the first step and every third, under transformers' own names; the training is the same as without."""
    trainer = training_runs.trainer(tmp_path / "with", eval_strategy="no", save_strategy="no", report_to=[])
    batch = {name: torch.tensor([row]) for name, row in trainer.train_dataset[0].items()}
    layer = "model.layers.0"
    trainer.add_callback(MeasureCallback(trainer, measures_of([batch], [layer]), every=3))
    trainer.train()
    logged = [row for row in trainer.state.log_history if f"eval_dse/{layer}" in row]
    assert [row["step"] for row in logged] == [0, 3, 6]
    assert logged[0][f"eval_effective_rank/{layer}"] != logged[2][f"eval_effective_rank/{layer}"]
    plain = training_runs.trainer(tmp_path / "without", eval_strategy="no", save_strategy="no", report_to=[])
    plain.train()
    losses = [[row["loss"] for row in one.state.log_history if "loss" in row] for one in (trainer, plain)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="every"):
        MeasureCallback(trainer, dict, every=0)  # pyright: ignore[reportArgumentType]
