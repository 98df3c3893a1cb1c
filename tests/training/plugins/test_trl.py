"""The plug-in inside the real TRL, on the CPU, with the tiny model of the example."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed")

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from hartley.training.plugins.trl import STATE, EntropyGRPOTrainer
from hartley.training.plugins.versions import check_version
from hartley.training.rl import (
    ClipCovLoss,
    ConstantCoefficient,
    DeltaController,
    KLCovLoss,
    PIController,
    SteerLoss,
    clip_cov_loss,
    kl_cov_loss,
    steer_loss,
    token_entropy,
    top_entropy_mask,
)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


def load_example():
    spec = importlib.util.spec_from_file_location("grpo_entropy", ROOT / "examples" / "grpo_entropy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


example = load_example()


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        return example.warm_model(30)


def config(folder, **changes):
    settings = {**example.SETTINGS, "per_device_train_batch_size": 8, "num_generations": 4, "steps_per_generation": 2}
    return GRPOConfig(output_dir=str(folder), **{**settings, "max_steps": 4, "seed": 3, **changes})


def trainer(model, folder, kind=EntropyGRPOTrainer, changes=None, **how):
    import copy

    prompts, answers = zip(*example.sums(), strict=True)
    with torch.random.fork_rng():
        return kind(
            model=copy.deepcopy(model),
            reward_funcs=example.right,
            args=config(folder, **(changes or {})),
            train_dataset=Dataset.from_dict({"prompt": list(prompts), "answer": list(answers)}),
            processing_class=example.tokenizer(),
            **how,
        )


def inputs(seed, rows=8):
    """What TRL's loss takes, made up."""
    generator = torch.Generator().manual_seed(seed)
    completion = torch.randint(2, 14, (rows, 3), generator=generator)
    mask = (torch.arange(3) < torch.randint(1, 4, (rows, 1), generator=generator)).long()
    return {
        "prompt_ids": torch.randint(2, 14, (rows, 4), generator=generator),
        "prompt_mask": torch.ones(rows, 4, dtype=torch.long),
        "completion_ids": completion,
        "completion_mask": mask,
        "advantages": torch.randn(rows, generator=generator),
        "old_per_token_logps": -3 * torch.rand(rows, 3, generator=generator),
        "num_items_in_batch": mask.sum(),
    }


def by_hand(model, batch, temperature=1.0):
    """Log-probabilities and entropies of the completion from the model's logits."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    logits = model(ids).logits[:, 3:-1] / temperature
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0], token_entropy(logits), logits


def gradients(value, model):
    return [g.clone() for g in torch.autograd.grad(value, list(model.parameters()))]


LOSSES = {
    "clip_cov": (
        ClipCovLoss(ratio=1.0, cov_low=0.3),
        lambda p, old, a, h, m: clip_cov_loss(p, old, a, m, ratio=1.0, cov_low=0.3)[0],
        {},
    ),
    "kl_cov": (
        KLCovLoss(ratio=0.2, beta=2.0),
        lambda p, old, a, h, m: kl_cov_loss(p, old, a, m, ratio=0.2, beta=2.0)[0],
        {},
    ),
    "steer": (
        SteerLoss(lambda_min=0.3),
        lambda p, old, a, h, m: steer_loss(p, old, a, h.detach(), m, lambda_min=0.3)[0],
        {"epsilon_high": 0.28, "delta": 10.0},
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_inside_trl_is_that_of_the_loss(name, model, tmp_path):
    loss, function, changes = LOSSES[name]
    made = trainer(model, tmp_path, changes={"loss_type": "bnpo", "temperature": 0.8, **changes}, policy_loss=loss)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    batch = inputs(0)
    found = gradients(made._compute_loss(made.model, batch), made.model)
    log_prob, h, _ = by_hand(made.model, batch, 0.8)
    given = (log_prob, batch["old_per_token_logps"], batch["advantages"], h, batch["completion_mask"])
    for got, want in zip(found, gradients(function(*given), made.model), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    plain = gradients(GRPOTrainer._compute_loss(made, made.model, batch), made.model)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(found, plain, strict=True)), "TRL's own loss does the same"
    logged = made._metrics["train"]
    assert logged["policy_loss/covariance"]
    if name == "steer":
        assert 0.3 < logged["policy_loss/weight"][0] < 1
    else:
        assert logged["policy_loss/selected"][0] > 0


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "luspo"])
def test_a_loss_that_chooses_nothing_is_trls_own_whatever_its_type(loss_type, model, tmp_path):
    modes = {"dapo": "token-mean", "grpo": "seq-mean-token-mean", "dr_grpo": "seq-mean-token-sum-norm"}
    loss = ClipCovLoss(ratio=0.0, loss_agg_mode=modes.get(loss_type, "seq-mean-token-sum"))
    made = trainer(model, tmp_path, changes={"loss_type": loss_type, "top_entropy_quantile": 0.5}, policy_loss=loss)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    ours, theirs = made._compute_loss(made.model, inputs(1)), GRPOTrainer._compute_loss(made, made.model, inputs(1))
    torch.testing.assert_close(ours, theirs)


def test_tokens_are_chosen_over_all_micro_batches_of_an_update(model, tmp_path):
    loss = KLCovLoss(ratio=0.1)
    changes = {"gradient_accumulation_steps": 2, "steps_per_generation": 4}
    made = trainer(model, tmp_path, changes=changes, policy_loss=loss)
    made.model.train()
    made.current_gradient_accumulation_steps = 2
    made._buffered_inputs = batches = [inputs(seed) for seed in range(4)]
    with torch.no_grad():
        parts = [by_hand(made.model, batch)[0] for batch in batches[2:]]
    tokens = torch.cat(parts)
    whole = loss.choose(
        tokens,
        tokens,
        torch.cat([batch["advantages"] for batch in batches[2:]]),
        torch.cat([batch["completion_mask"] for batch in batches[2:]]),
    )
    assert whole.any()
    for step, expected in zip((2, 3), whole.chunk(2), strict=True):
        made._step = step
        found = made._forward(made.model, batches[step])
        assert torch.equal(made._chosen(made.model, batches[step], found), expected)


def test_the_mask_of_highest_entropies_is_trls(model, tmp_path):
    made = trainer(model, tmp_path)
    h, mask = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)), torch.rand(5, 7) < 0.6
    assert torch.equal(made.get_high_entropy_mask(h, mask, 0.7), top_entropy_mask(h, mask, 0.3))


def test_trains_logs_saves_and_goes_on(model, tmp_path):
    changes = {"gradient_accumulation_steps": 2, "steps_per_generation": 4, "save_strategy": "steps", "save_steps": 2}

    def made():
        control = PIController(2.0, kp=0.1, ki=0.01)
        return trainer(model, tmp_path, changes=changes, policy_loss=KLCovLoss(ratio=0.1), controller=control), control

    first, control = made()
    first.train()
    log = [entry for entry in first.state.log_history if "entropy" in entry]
    assert len(log) == 4
    assert all({"policy_loss/selected", "policy_loss/covariance", "entropy_coef", "reward"} & set(e) for e in log)
    assert log[0]["entropy_coef"] == 0
    assert all(e["entropy_coef"] > 0 for e in log[1:])
    half = json.loads((tmp_path / "checkpoint-2" / STATE).read_text())
    assert half["coefficient"] == log[2]["entropy_coef"], "the third update goes on from it"
    second, resumed = made()
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state_dict() == pytest.approx(control.state_dict(), rel=1e-4)


def test_the_delta_rule_is_trls_adaptive_entropy(model, tmp_path):
    """The same seeds and the same rule: the same curve of entropy, to the last digit."""
    adaptive = {"use_adaptive_entropy": True, "entropy_target": 1.9, "entropy_coef_delta": 0.5}
    theirs = trainer(model, tmp_path / "a", GRPOTrainer, changes=adaptive)
    ours = trainer(model, tmp_path / "b", controller=DeltaController(1.9, 0.5))
    plain = trainer(model, tmp_path / "c", GRPOTrainer)
    curves = []
    for one in (theirs, ours, plain):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            one.train()
        curves.append([entry["entropy"] for entry in one.state.log_history if "entropy" in entry])
    assert curves[0] == curves[1]
    assert curves[0] != curves[2], "the bonus was never applied"


def test_the_example_runs(tmp_path, model, monkeypatch):
    monkeypatch.setitem(example.SETTINGS, "per_device_train_batch_size", 8)
    runs = {way: [example.train(model, 5, 0, str(tmp_path), **how)] for way, how in list(example.ways().items())[:2]}
    example.draw(runs, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert all(len(log[0]) == 5 for log in runs.values())


@pytest.mark.parametrize(
    ("loss", "changes", "said"),
    [
        (ClipCovLoss(), {"epsilon": 0.3}, "epsilon and epsilon_high must be 0.2 and 0.2 with ClipCovLoss"),
        (SteerLoss(), {}, "delta must be its dual_clip, 10.0 with SteerLoss; got None in GRPOConfig"),
        (KLCovLoss(), {"loss_type": "grpo"}, "loss_type must be 'dapo' or 'bnpo'"),
        (KLCovLoss(), {"loss_type": "cispo"}, "loss_type must be one of dapo"),
        (KLCovLoss(), {"steps_per_generation": 1}, "KLCovLoss needs two or more updates a rollout"),
        (ClipCovLoss(), {"importance_sampling_level": "sequence"}, "importance_sampling_level must be 'token'"),
        (
            ClipCovLoss(),
            {"steps_per_generation": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
            "steps_per_generation must be a multiple",
        ),
    ],
)
def test_settings_that_contradict_the_loss_are_named(loss, changes, said, model, tmp_path):
    with pytest.raises(ValueError, match=said):
        trainer(model, tmp_path, changes=changes, policy_loss=loss)


def test_two_controllers_are_refused(model, tmp_path):
    for changes, said in (
        ({"use_adaptive_entropy": True}, "use_adaptive_entropy must be False"),
        ({"entropy_coef": 0.1}, "entropy_coef must be 0 with a controller"),
    ):
        with pytest.raises(ValueError, match=said):
            trainer(model, tmp_path, changes=changes, controller=ConstantCoefficient(0.1))


def test_another_version_is_refused():
    check_version("plugin", "1.16.3")
    with pytest.raises(ImportError, match=r"plugin is written for TRL 1\.16; got 1\.17\.0"):
        check_version("plugin", "1.17.0")
