"""Superposition of a layer while the network runs: the same as of its outputs, whatever the batches are."""

import pytest
import torch
from torch import nn

from hartley.representation import SparseAutoencoder, TiedSAE, measure_dictionary, measure_superposition

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

QUICK = SparseAutoencoder(max_epochs=3, random_state=0)


class Net(nn.Module):
    """Pictures or rows through one named layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, scale=1.0):
        return self.layer(x) * scale


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))


@pytest.fixture
def rows():
    return torch.randn(60, 4, generator=torch.Generator().manual_seed(0))


def test_a_ready_autoencoder_measures_every_row(net, rows):
    sae = TiedSAE(3, 6, generator=torch.Generator().manual_seed(0))
    expected = measure_dictionary(sae, [net.layer(rows).detach()])
    batches = [rows[:10], (rows[10:30],), {"x": rows[30:], "scale": 2.0}]
    found = measure_superposition(net, batches, "layer", sae=sae)
    assert found == pytest.approx(expected, rel=1e-6)
    sequences = measure_superposition(net, [rows.reshape(6, 10, 4)], "layer", sae=sae)
    assert sequences == pytest.approx(expected, rel=1e-6)


def test_settings_alone_train_on_a_sample_that_no_order_changes(net, rows):
    few = SparseAutoencoder(max_epochs=3, max_samples=20, random_state=0)
    found = measure_superposition(net, [rows], "layer", sae=few)
    assert found.n_samples == 20
    assert measure_superposition(net, rows.flip(0).split(7), "layer", sae=few) == found
    assert not hasattr(few, "sae_")


def test_pictures_are_read_by_channel():
    convolution = Net(nn.Conv2d(1, 5, 3))
    images = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    found = measure_superposition(convolution, [images], "layer", sae=QUICK)
    assert found.n_samples == 4 * 4 * 4
    assert found.ratio == found.effective_features / 5


def test_refuses(net, rows):
    with pytest.raises(ValueError, match="no module 'layers'; the nearest name is 'layer"):
        measure_superposition(net, [rows], "layers")
    with pytest.raises(ValueError, match="layer 'layer' gave NaN"):
        measure_superposition(net, [rows * torch.nan], "layer")
    with pytest.raises(ValueError, match="batches must give layer 'layer' at least one row"):
        measure_superposition(net, [], "layer")
    with pytest.raises(RuntimeError):
        measure_superposition(net, [rows], "layer", sae=TiedSAE(7, 8))
    assert not net.layer._forward_hooks
