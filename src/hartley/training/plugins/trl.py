"""Hold entropy in TRL's GRPO: its trainer, with our policy losses and an entropy controller.

Written for TRL 1.16 and tested with 1.16.0; another minor version is refused on import, since three private steps of
the trainer are extended here. TRL's ``entropy`` is the Shannon entropy, in nats, of the model's distribution at the
sampling temperature.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from hartley.info.checks import check_one_of
from hartley.info.processes import Group
from hartley.training.plugins.versions import require_trl
from hartley.training.rl.aggregate import LossAggMode
from hartley.training.rl.controllers import Controller, EntropyMeter
from hartley.training.rl.covariance import token_covariance
from hartley.training.rl.modules import KLCovLoss, PolicyLoss
from hartley.training.rl.surrogate import mean_of

STATE = "entropy_controller.json"
LOSS_TYPES: dict[str, LossAggMode] = {
    "dapo": "token-mean",
    "bnpo": "token-mean",
    "grpo": "seq-mean-token-mean",
    "dr_grpo": "seq-mean-token-sum-norm",
    "luspo": "seq-mean-token-sum",
}
"""The loss types of ``GRPOConfig`` that rest on the clipped surrogate, and how each aggregates."""

require_trl(__name__)

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402


class EntropyGRPOTrainer(GRPOTrainer):
    """TRL's ``GRPOTrainer`` with a policy loss of this house, an entropy controller, or both.

    Parameters
    ----------
    policy_loss
        `ClipCovLoss`, `KLCovLoss` or `SteerLoss`; None keeps TRL's own. It changes what TRL is told of each token's
        advantage, so that ``loss_type``, the reference KL, vLLM's importance weights and everything else go on as
        configured. Its clip and its aggregation must be those of the ``GRPOConfig``; a difference is refused by name.
    controller
        `ConstantCoefficient`, `PIController` or `DeltaController`. Its coefficient is that of TRL's entropy bonus; it
        is updated once an optimizer step with the mean entropy of all tokens of the step, over micro-batches and
        processes, and its state is saved in every checkpoint (``entropy_controller.json``) and resumed.
    selection
        Over which tokens the policy loss chooses: those of one optimizer step, over its micro-batches and processes
        (``"global"``, which with gradient accumulation costs one more forward pass without gradients), or those of one
        micro-batch on one process (``"microbatch"``, as the papers' code).

    Other arguments are TRL's. Logs, beside TRL's: ``policy_loss/covariance`` (nats) and ``policy_loss/selected``, the
    share of tokens touched, or ``policy_loss/weight``, the mean weight, each over all processes; and ``entropy_coef``.

    Raises ``ValueError`` for settings of TRL's that the policy loss or the controller contradicts.
    """

    def __init__(
        self,
        *args: Any,
        policy_loss: PolicyLoss | None = None,
        controller: Controller | None = None,
        selection: Literal["global", "microbatch"] = "global",
        **kwargs: Any,
    ) -> None:
        check_one_of("selection", selection, ("global", "microbatch"))
        super().__init__(*args, **kwargs)
        self._policy_loss = policy_loss
        self._controller = controller
        self._selection = selection
        self._meter = EntropyMeter()
        self._forwarded: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._window: list[Tensor] = []  # what was chosen in the micro-batches of this optimizer step still to come
        if policy_loss is not None:
            _check_policy_loss(policy_loss, self.args, selection)
        if controller is not None:
            _check_controller(self.args)
            self._entropy_bonus_enabled = True

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if self._forwarded is not None:
            found, self._forwarded = self._forwarded, None
            return found
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self._policy_loss is None and self._controller is None:
            return super()._compute_loss(model, inputs)
        training = model.training
        found = self._forward(model, inputs)
        mask = _mask(inputs)
        if self._policy_loss is not None:
            inputs = {**inputs, "advantages": self._advantages(model, inputs, found)}
        if self._controller is not None:
            self.entropy_coef = self._controller.coefficient
        self._forwarded = found
        with self._unclipped() if isinstance(self._policy_loss, KLCovLoss) else _as_it_is():
            loss = super()._compute_loss(model, inputs)
        if self._forwarded is not None:
            raise RuntimeError(
                "TRL did not ask for the log-probabilities it was given: another version of its trainer?"
            )
        if self._controller is not None and training:
            self._meter.add(found[1], mask)
            if self.accelerator.sync_gradients:
                entropy = self._meter.read(self._group)
                if entropy is not None:
                    self._controller.update(entropy)
        return loss

    def _forward(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Log-probabilities and entropies of the completions ``[B, T]``, asked of TRL as its own loss does."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        others = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
        return super()._get_per_token_logps_and_entropies(
            model,
            ids,
            attention,
            inputs["completion_ids"].size(1),
            compute_entropy=True,
            compute_aux_loss=self.aux_loss_enabled,
            **{name: inputs[name] for name in others if name in inputs and name not in ("input_ids", "attention_mask")},
        )

    def _advantages(self, model: Any, inputs: dict[str, Any], found: Any) -> Tensor:
        """What TRL is told instead of the advantages ``[B, T]``."""
        loss, mode = self._policy_loss, "train" if model.training else "eval"
        assert loss is not None
        log_prob, old_log_prob, advantages, mask, _ = _tokens(inputs, found)
        chosen = self._chosen(model, inputs, found)
        metrics = {"covariance": token_covariance(log_prob, advantages, mask, group=self._group)}
        metrics["selected" if chosen.dtype == torch.bool else "weight"] = chosen.float()
        for name, values in metrics.items():
            self._metrics[mode][f"policy_loss/{name}"].append(mean_of(values, mask, self._group))
        return loss.as_advantages(log_prob.detach(), old_log_prob, advantages, chosen)

    def _chosen(self, model: Any, inputs: dict[str, Any], found: Any) -> Tensor:
        loss = self._policy_loss
        assert loss is not None
        generator = torch.Generator().manual_seed(self.args.seed + self._step)  # the same again after a resume
        if self._selection == "microbatch":
            return loss.choose(*_tokens(inputs, found), generator=generator)
        ahead = self.current_gradient_accumulation_steps if model.training else 1
        if ahead == 1:
            return loss.choose(*_tokens(inputs, found), generator=generator, group=self._group)
        if not self._window:
            args: Any = self.args
            buffered: Any = self._buffered_inputs
            at = self._step % args.steps_per_generation
            batches = [inputs, *buffered[at + 1 : at + ahead]]
            if len(batches) != ahead:
                raise RuntimeError(
                    f"the micro-batches of one optimizer step must be of one generation; got {len(batches)} of {ahead}"
                )
            with torch.no_grad():
                ready = [found, *(self._forward(model, batch) for batch in batches[1:])]
            tokens = [_tokens(batch, done) for batch, done in zip(batches, ready, strict=True)]
            self._window = _choose_over(loss, tokens, generator, self._group)
        return self._window.pop(0)

    @property
    def _group(self) -> Group:
        return dist.group.WORLD if self.accelerator.num_processes > 1 else None

    @contextmanager
    def _unclipped(self) -> Iterator[None]:
        """A surrogate -A r without a clip, which KL-Cov rests on."""
        before = self.epsilon_low, self.epsilon_high
        self.epsilon_low, self.epsilon_high = 1.0, float("inf")
        try:
            yield
        finally:
            self.epsilon_low, self.epsilon_high = before

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._controller is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            written = folder / f".{STATE}"
            written.write_text(json.dumps(self._controller.state_dict()), encoding="utf-8")
            os.replace(written, folder / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._controller is not None and checkpoint is not None:
            path = Path(checkpoint, STATE)
            if not path.is_file():
                raise ValueError(f"the checkpoint holds no state of the entropy controller: {path} is missing")
            self._controller.load_state_dict(json.loads(path.read_text(encoding="utf-8")))


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _mask(inputs: dict[str, Any]) -> Tensor:
    mask = inputs["completion_mask"]
    return mask * inputs["tool_mask"] if "tool_mask" in inputs else mask


def _tokens(inputs: dict[str, Any], found: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities now and before, advantages, mask and entropies of one micro-batch, ``[B, T]``."""
    log_prob, entropy, _ = found
    log_prob, entropy = log_prob.detach(), entropy.detach()
    old_log_prob, advantages = inputs.get("old_per_token_logps"), inputs["advantages"]
    old_log_prob = log_prob if old_log_prob is None else old_log_prob
    advantages = advantages[:, None] if advantages.ndim == 1 else advantages
    return log_prob, old_log_prob, advantages.expand_as(log_prob), _mask(inputs), entropy


def _choose_over(
    loss: PolicyLoss, batches: list[tuple[Tensor, ...]], generator: torch.Generator, group: Group
) -> list[Tensor]:
    """Choose once over the tokens of several micro-batches, and hand each its own."""
    chosen = loss.choose(
        *(torch.cat([part.flatten() for part in parts]) for parts in zip(*batches, strict=True)),
        generator=generator,
        group=group,
    )
    shapes = [batch[0].shape for batch in batches]
    pieces = chosen.split([shape.numel() for shape in shapes])
    return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _check_policy_loss(loss: PolicyLoss, args: Any, selection: str) -> None:
    def refuse(what: str, allowed: str, got: object) -> None:
        raise ValueError(f"{what} must be {allowed} with {type(loss).__name__}; got {got!r} in GRPOConfig")

    if args.loss_type not in LOSS_TYPES:
        refuse("loss_type", f"one of {', '.join(LOSS_TYPES)}", args.loss_type)
    if args.importance_sampling_level != "token":
        refuse("importance_sampling_level", "'token'", args.importance_sampling_level)
    if loss.loss_agg_mode != LOSS_TYPES[args.loss_type]:
        allowed = [name for name, mode in LOSS_TYPES.items() if mode == loss.loss_agg_mode]
        refuse("loss_type", f"{' or '.join(map(repr, allowed))} (its {loss.loss_agg_mode!r})", args.loss_type)
    if args.delta != loss.dual_clip:
        refuse("delta", f"its dual_clip, {loss.dual_clip}", args.delta)
    if loss.epsilon is not None:
        high = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
        theirs = args.epsilon if args.epsilon_high is None else args.epsilon_high
        if (args.epsilon, theirs) != (loss.epsilon, high):
            refuse("epsilon and epsilon_high", f"{loss.epsilon} and {high}", (args.epsilon, args.epsilon_high))
    steps, window = args.steps_per_generation, args.gradient_accumulation_steps
    if isinstance(loss, KLCovLoss) and args.num_iterations * steps <= window:
        raise ValueError(
            "KLCovLoss needs two or more updates a rollout, or its penalty is 0: set num_iterations=2 or "
            f"steps_per_generation above gradient_accumulation_steps={window}; got num_iterations="
            f"{args.num_iterations}, steps_per_generation={steps}"
        )
    if selection == "global" and steps % window:
        raise ValueError(
            "steps_per_generation must be a multiple of gradient_accumulation_steps with selection='global'; "
            f"got {steps} and {window}"
        )


def _check_controller(args: Any) -> None:
    if args.use_adaptive_entropy:
        raise ValueError("use_adaptive_entropy must be False with a controller: DeltaController is TRL's rule")
    if args.entropy_coef != 0:
        raise ValueError(f"entropy_coef must be 0 with a controller, which sets it; got {args.entropy_coef}")
