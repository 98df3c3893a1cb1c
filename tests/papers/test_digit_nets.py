"""Many networks at once are each what they would be alone."""

import torch

from hartley.papers.digit_nets import Nets, batches, digits, generators, shuffled, top_k_accuracy


def trained(seeds):
    x, y = digits()
    randoms = generators(seeds)
    nets = Nets([64, 8, 10], randoms, torch.tanh)
    optimizer = torch.optim.Adam(nets.parameters(), lr=1e-2)
    for at in batches(200, 64, 5, randoms):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(nets(x[at]).transpose(1, 2), y[at], reduction="none").mean(1).sum().backward()
        optimizer.step()
    return nets


def test_a_seed_s_network_does_not_depend_on_its_neighbours():
    x, y = digits()
    together, alone = trained([3, 5, 8]), trained([5])
    torch.testing.assert_close(together(x)[1], alone(x)[0], rtol=1e-4, atol=1e-4)
    accuracy = top_k_accuracy(together, x[:200], y[:200])
    expected = 100 * (together(x[:200]).argmax(-1) == y[:200]).double().mean(-1)
    torch.testing.assert_close(accuracy, expected)
    assert (accuracy > 60).all()
    assert (top_k_accuracy(together, x, y, 3) >= top_k_accuracy(together, x, y)).all()
    assert (top_k_accuracy(together, x, y, 10) == 100).all()


def test_every_example_comes_once_an_epoch():
    steps = list(batches(10, 4, 2, generators([0, 1])))
    assert [step.shape for step in steps] == [(2, 4), (2, 4), (2, 2)] * 2
    for epoch in (steps[:3], steps[3:]):
        assert torch.equal(torch.cat(epoch, 1).sort(1).values, torch.arange(10).expand(2, -1))
    assert not torch.equal(*shuffled(50, generators([0, 1])))
