import pytest
import torch
from torch import Tensor, nn

from hartley.representation import record


class Pair(nn.Module):
    def forward(self, x: Tensor, *, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x * 2, torch.softmax(x if other is None else other, -1)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_the_values_are_those_the_network_computes():
    model, x = network(), torch.randn(5, 4)
    with record(model, ["0", "1"]) as taken:
        model(x)
    torch.testing.assert_close(taken["0"], model[0](x), rtol=0, atol=0)
    torch.testing.assert_close(taken["1"], model[0](x).relu(), rtol=0, atol=0)
    assert not taken["0"].requires_grad


def test_every_pass_reaches_take_and_nothing_is_kept():
    model, seen = network(), []
    with record(model, ["2"], lambda name, values: seen.append((name, values.shape))) as taken:
        model(torch.randn(5, 4))
        model(torch.randn(6, 4))
    assert seen == [("2", (5, 2)), ("2", (6, 2))]
    assert not taken


def test_what_goes_in_and_the_second_of_a_pair():
    model, x = nn.Sequential(Pair()), torch.randn(2, 3)
    with record(model, ["0"], of="input") as entering, record(model, ["0"], of="weights") as weights:
        model(x)
    torch.testing.assert_close(entering["0"], x)
    torch.testing.assert_close(weights["0"], x.softmax(-1))


def test_a_tensor_given_by_keyword_goes_in_too():
    pair, other = Pair(), torch.randn(2, 3)
    with record(pair, [""], of="input") as entering:
        pair(x=other)
    torch.testing.assert_close(entering[""], other)


@pytest.mark.parametrize("bad", ["take", "forward"])
def test_the_hooks_go_with_an_exception(bad):
    model = network()

    def take(name: str, values: Tensor) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError), record(model, ["0", "1"], take if bad == "take" else None):
        model(torch.randn(5, 4 if bad == "take" else 7))
    assert hooks(model) == 0


def test_an_unknown_name_leaves_no_hook_behind():
    model = network()
    with pytest.raises(ValueError, match=r"no module '22'; the nearest name is '2'"), record(model, ["0", "22"]):
        pass
    assert hooks(model) == 0


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_layer_that_gives_no_number_is_named(value, word):
    model = network()
    with torch.no_grad():
        model[2].get_parameter("bias")[0] = value
    with pytest.raises(ValueError, match=rf"layer '2' gave {word}"), record(model, ["0", "2"]):
        model(torch.randn(5, 4))


def test_what_offers_no_hook_or_tensor_is_refused():
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(network(), torch.randn(1, 4))
    assert isinstance(scripted, torch.jit.ScriptModule)
    with pytest.raises(ValueError, match="scripted module"), record(scripted, ["0"]):
        pass
    model = network()
    with pytest.raises(ValueError, match="'1' gave no attention weights"), record(model, ["1"], of="weights"):
        model(torch.randn(1, 4))
    with pytest.raises(ValueError, match="of must be"), record(network(), ["0"], of="both"):  # pyright: ignore
        pass
