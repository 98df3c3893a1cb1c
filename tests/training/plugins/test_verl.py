"""verl's registry: against its recorded interface, and against verl itself where it is installed."""

import inspect
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from hartley.training.plugins import verl as plugin
from hartley.training.rl import clip_cov_loss, kl_cov_loss

# Of verl 0.9.1, verl/trainer/ppo/core_algos.py and verl/workers/config/actor.py
RECORDED = ["old_log_prob", "log_prob", "advantages", "response_mask", "loss_agg_mode", "config", "rollout_is_weights"]


def config(**changes):
    settings = {"clip_cov_ratio": 0.5, "clip_cov_lb": 0.1, "clip_cov_ub": 5.0, "kl_cov_ratio": 0.3, "ppo_kl_coef": 2.0}
    return SimpleNamespace(
        policy_loss=SimpleNamespace(**settings),
        **{"clip_ratio": 0.2, "clip_ratio_low": 0.1, "clip_ratio_high": 0.3, "global_batch_info": {}, **changes},
    )


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(6, 5, generator=generator)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    return {
        "old_log_prob": old,
        "log_prob": old + 0.2 * torch.randn(6, 5, generator=generator),
        "advantages": torch.randn(6, 1, generator=generator).expand(6, 5),
        "response_mask": mask,
    }


@pytest.fixture
def registry():
    found = {}

    def register_policy_loss(name):
        def decorator(function):
            found[name] = function
            return function

        return decorator

    assert plugin.register_with(register_policy_loss) == ("hartley_clip_cov", "hartley_kl_cov")
    return found


def test_the_signature_is_the_recorded_one(registry):
    for function in registry.values():
        assert list(inspect.signature(function).parameters) == RECORDED


def test_values_are_those_of_the_losses(registry):
    data = batch()
    given = [data[name] for name in ("log_prob", "old_log_prob", "advantages", "response_mask")]
    torch.manual_seed(0)
    found, metrics = registry["hartley_clip_cov"](**data, loss_agg_mode="token-mean", config=config())
    torch.manual_seed(0)
    expected, ours = clip_cov_loss(*given, ratio=0.5, cov_low=0.1, epsilon=0.1, epsilon_high=0.3)
    assert torch.equal(found, expected)
    assert metrics == {"actor/pg_clipfrac": ours["selected"], "actor/ppo_kl": ours["ppo_kl"]}
    found, _ = registry["hartley_kl_cov"](**data, loss_agg_mode="seq-mean-token-mean", config=config())
    expected, _ = kl_cov_loss(*given, ratio=0.3, beta=2.0, loss_agg_mode="seq-mean-token-mean")
    assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm"])
def test_micro_batches_and_processes_add_up(registry, mode):
    """Two processes whose gradients are averaged, with verl's batch info, against one whole batch."""
    data, settings = batch(), config()
    settings.policy_loss.kl_cov_ratio = 0.0  # chosen per micro-batch, so the parts would differ
    whole, _ = registry["hartley_kl_cov"](**data, loss_agg_mode=mode, config=settings)
    sequences = int(data["response_mask"].any(-1).sum())
    info = {"dp_size": 2, "batch_num_tokens": int(data["response_mask"].sum()), "global_batch_size": sequences}
    split = config(global_batch_info={**info, "loss_scale_factor": None})
    split.policy_loss.kl_cov_ratio = 0.0
    parts = [
        registry["hartley_kl_cov"](**{n: v[s] for n, v in data.items()}, loss_agg_mode=mode, config=split)[0]
        for s in (slice(0, 4), slice(4, 6))
    ]
    torch.testing.assert_close(sum(parts) / 2, whole)


def test_rollout_weights_weigh_the_surrogate_and_choose_nothing(registry):
    data = batch()
    ones = torch.ones_like(data["log_prob"])
    plain, _ = registry["hartley_kl_cov"](**data, config=config())
    assert torch.equal(registry["hartley_kl_cov"](**data, config=config(), rollout_is_weights=ones)[0], plain)
    _, metrics = registry["hartley_kl_cov"](**data, config=config(), rollout_is_weights=0 * ones)
    assert metrics["actor/pg_clipfrac"] > 0


def test_no_config_is_an_error(registry):
    with pytest.raises(ValueError, match="config must be verl's ActorConfig; got None"):
        registry["hartley_kl_cov"](**batch())


@pytest.mark.skipif(find_spec("verl") is not None, reason="verl is installed")
def test_verl_missing_is_said():
    with pytest.raises(ImportError, match="needs verl"):
        plugin.register()


@pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed: the recorded signature stands for it")
def test_verl_itself():
    from verl.trainer.ppo.core_algos import compute_policy_loss_vanilla, get_policy_loss_fn

    plugin.register()
    assert get_policy_loss_fn("hartley_kl_cov") is plugin.kl_cov
    assert list(inspect.signature(compute_policy_loss_vanilla).parameters) == RECORDED
