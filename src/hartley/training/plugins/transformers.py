"""Callbacks of transformers' trainers and TRL's: the over-optimisation monitor, and any measure every few steps."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import TrainerCallback

from hartley.info.checks import check_count, check_one_of
from hartley.training.monitor import (
    OverOptimisationMonitor,
    Signal,
    expectation_adjusted_distinct,
    read_sums,
    top_k_sums,
)
from hartley.training.preference import sequence_log_probs

LOG = logging.getLogger(__name__)
IGNORED = -100


class Pair(NamedTuple):
    """A prompt and an answer, as token ids."""

    prompt: list[int]
    answer: list[int]


class OverOptimisationCallback(TrainerCallback):
    """Measures held-out prompts every ``monitor.every`` steps, logs what it finds, and stops the training on a signal.

    ``trainer`` is any `transformers.Trainer` of a causal language model (TRL's `DPOTrainer` with ``loss_type``
    "sigmoid", "ipo" or "hinge"); add the callback to it with ``trainer.add_callback``. ``held_out`` are rows with a
    prompt and a chosen answer: texts or messages under ``prompt`` and ``chosen``, or token ids under ``prompt_ids`` and
    ``chosen_ids`` (as TRL's own ``trainer.eval_dataset`` has them). The indicators are read ``on="generated"`` answers,
    drawn from the policy at temperature 1 with ``max_new_tokens``, or on the ``"chosen"`` ones, which is cheaper.
    Logged, to whatever the trainer logs to: ``eval/topk_entropy`` (bits a token) with its standard error,
    ``eval/topk_mass``, ``eval/logps_chosen`` (nats a token) and, of generated answers, ``eval/ead``. ``stop=False``
    only logs. A resumed run goes on from the trainer's own log. Every process measures all prompts and process 0's
    numbers are everybody's. The trainer's random state is left as it was.
    Raises ``ValueError`` for rows without what is needed, and settings out of range.

    Source: Shi et al. 2024, "Understanding Likelihood Over-optimisation in Direct Alignment Algorithms", section 5.
    """

    def __init__(
        self,
        trainer: Any,
        held_out: Sequence[Mapping[str, Any]],
        *,
        on: Literal["generated", "chosen"] = "generated",
        monitor: OverOptimisationMonitor | None = None,
        max_new_tokens: int = 64,
        batch_size: int = 8,
        seed: int = 0,
        stop: bool = True,
    ) -> None:
        check_one_of("on", on, ("generated", "chosen"))
        check_count("max_new_tokens", max_new_tokens)
        check_count("batch_size", batch_size)
        self.trainer, self.on, self.stop = trainer, on, stop
        self.monitor = monitor or OverOptimisationMonitor()
        self.max_new_tokens, self.batch_size, self.seed = max_new_tokens, batch_size, seed
        self.pairs = [_pair(row, number, trainer.processing_class) for number, row in enumerate(held_out)]
        if not self.pairs:
            raise ValueError("held_out must hold at least one row with a prompt and a chosen answer; got none")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take in what a resumed run has logged, and measure the model as it starts."""
        for record in state.log_history:
            if "eval_topk_entropy" in record and record["step"] not in self.monitor.steps:
                self._update(record["step"], record)
        if state.global_step not in self.monitor.steps:
            self._evaluate(state, control, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where it is due; on a signal ask the trainer to stop."""
        if not self.monitor.due(state.global_step) or state.global_step in self.monitor.steps:
            return
        for signal in self._evaluate(state, control, kwargs["model"]):
            LOG.warning(
                "over-optimised at step %d (%s, %.3f below its best): go back to step %d",
                signal.step, signal.name, signal.drop, signal.restore_step,
            )  # fmt: skip
            control.should_training_stop |= self.stop

    def restore_checkpoint(self) -> Path | None:
        """The last checkpoint that was saved at or before the step to go back to; None where there is none."""
        step = self.monitor.restore_step
        folders = Path(self.trainer.args.output_dir).glob("checkpoint-*")
        saved = {int(folder.name.rpartition("-")[2]): folder for folder in folders if folder.name[11:].isdigit()}
        return saved[max(early)] if step is not None and (early := [at for at in saved if at <= step]) else None

    def measure(self, model: Any) -> dict[str, float]:
        """The indicators of ``model`` now, under the names that the trainer logs them by."""
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.trainer.accelerator.autocast():
                chosen_sums, logps = self._read(model, self.pairs)
                found = {"eval_logps_chosen": logps}
                sums = chosen_sums
                if self.on == "generated":
                    answers = list(self._generate(model))
                    sums, _ = self._read(model, [pair for pair in answers if pair.answer])
                    vocabulary = model.config.get_text_config().vocab_size
                    found["eval_ead"] = expectation_adjusted_distinct([pair.answer for pair in answers], vocabulary)
        finally:
            model.train(was_training)
        reading = read_sums(sums)
        found["eval_topk_entropy"], found["eval_topk_entropy_error"] = reading.entropy, reading.entropy_error
        found["eval_topk_mass"] = reading.mass
        return self._everybodys(found)

    def _evaluate(self, state: Any, control: Any, model: Any) -> list[Signal]:
        found = self.measure(model)
        _log(self.trainer, control, model, found)
        return self._update(state.global_step, found)

    def _update(self, step: int, found: Mapping[str, float]) -> list[Signal]:
        return self.monitor.update(
            step,
            topk_entropy=found["eval_topk_entropy"],
            topk_mass=found["eval_topk_mass"],
            logps_chosen=found["eval_logps_chosen"],
            entropy_error=found.get("eval_topk_entropy_error", 0.0),
        )

    def _everybodys(self, found: dict[str, float]) -> dict[str, float]:
        if self.trainer.accelerator.num_processes == 1:
            return found
        from accelerate.utils import broadcast_object_list

        held = [found]
        broadcast_object_list(held)
        return held[0]

    def _batches(self, pairs: Sequence[Pair]) -> Iterator[Sequence[Pair]]:
        for start in range(0, len(pairs), self.batch_size):
            yield pairs[start : start + self.batch_size]

    def _read(self, model: Any, pairs: Sequence[Pair]) -> tuple[Tensor, float]:
        """Top-k sums of each answer, and the mean log-probability of all their tokens."""
        sums, total, count = [torch.zeros(0, 3)], 0.0, 0
        for batch in self._batches(pairs):
            ids, mask, labels = _padded(batch, model.device)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            log_probs, lengths = sequence_log_probs(logits, labels[:, 1:], ignore_index=IGNORED)
            total, count = total + float(log_probs.double().sum()), count + int(lengths.sum())
            sums.append(top_k_sums(logits, labels[:, 1:] != IGNORED, k=self.monitor.k).cpu())
        return torch.cat(sums), total / count if count else float("nan")

    def _generate(self, model: Any) -> Iterator[Pair]:
        """One answer of the policy to each prompt, drawn with the same seed each time."""
        config = model.generation_config
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            for batch in self._batches(self.pairs):
                width = max(len(pair.prompt) for pair in batch)
                ids = torch.zeros(len(batch), width, dtype=torch.long)
                mask = torch.zeros_like(ids)
                for row, pair in enumerate(batch):
                    ids[row, width - len(pair.prompt) :] = torch.tensor(pair.prompt)
                    mask[row, width - len(pair.prompt) :] = 1
                drawn = model.generate(
                    input_ids=ids.to(model.device), attention_mask=mask.to(model.device), do_sample=True,
                    temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=self.max_new_tokens, pad_token_id=0,
                )  # fmt: skip
                for pair, row in zip(batch, drawn[:, width:].tolist(), strict=True):
                    end = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
                    yield Pair(pair.prompt, row[: end + 1])


class MeasureCallback(TrainerCallback):
    """Logs what ``measure(model)`` says, every ``every`` steps and before the first, to whatever the trainer logs to.

    ``trainer`` is any `transformers.Trainer`; add the callback with ``trainer.add_callback``. ``measure`` returns
    numbers by name, each logged as ``eval/NAME``: `hartley.representation.measures_of` gives one for what layers
    encode. It is given the trainer's own model, unwrapped, and has to leave its mode as it was. Under several processes
    each measures, and the first one's numbers are logged.
    Raises ``ValueError`` for ``every`` below 1.
    """

    def __init__(self, trainer: Any, measure: Callable[[Any], Mapping[str, float]], *, every: int = 100) -> None:
        check_count("every", every)
        self.trainer, self.measure, self.every = trainer, measure, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the model as it starts; a resumed run has done so."""
        if state.global_step == 0:
            self._measure(control, kwargs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where it is due."""
        if state.global_step % self.every == 0:
            self._measure(control, kwargs["model"])

    def _measure(self, control: Any, model: Any) -> None:
        found = self.measure(self.trainer.accelerator.unwrap_model(model))
        _log(self.trainer, control, model, {f"eval_{name}": value for name, value in found.items()})


def _log(trainer: Any, control: Any, model: Any, found: Mapping[str, float]) -> None:
    should_log, was_training = control.should_log, model.training
    model.eval()  # TRL's trainers log under the mode of the model, and empty the averages of that mode
    trainer.log(dict(found))
    model.train(was_training)
    control.should_log = should_log  # which the logging has reset


def _padded(pairs: Sequence[Pair], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, attention mask and labels of the answers, padded on the right."""
    width = max(len(pair.prompt) + len(pair.answer) for pair in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, pair in enumerate(pairs):
        size = len(pair.prompt) + len(pair.answer)
        ids[row, :size] = torch.tensor(pair.prompt + pair.answer)
        mask[row, :size] = 1
        labels[row, len(pair.prompt) : size] = torch.tensor(pair.answer)
    return ids.to(device), mask.to(device), labels.to(device)


def _pair(row: Mapping[str, Any], number: int, tokenizer: Any) -> Pair:
    if "prompt_ids" in row and "chosen_ids" in row:
        found = Pair(list(row["prompt_ids"]), list(row["chosen_ids"]))
    elif "prompt" in row and "chosen" in row:
        if tokenizer is None:
            raise ValueError("held_out has texts, and the trainer no processing_class to tokenise them with")
        prompt, both = (_ids(tokenizer, row["prompt"], more) for more in (None, row["chosen"]))
        # A token may span the border, and a template may end the prompt in another way: what they share is the prompt
        size = next((at for at, (a, b) in enumerate(zip(prompt, both, strict=False)) if a != b), len(prompt))
        found = Pair(both[:size], both[size:])
    else:
        raise ValueError(
            f"held_out must have prompt and chosen, or prompt_ids and chosen_ids; row {number} has "
            f"{', '.join(map(str, row)) or 'nothing'}"
        )
    if not found.prompt or not found.answer:
        raise ValueError(f"held_out must have prompts and chosen answers of at least one token; row {number} has not")
    return found


def _ids(tokenizer: Any, prompt: Any, answer: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer(prompt + (answer or ""))["input_ids"])
    told = tokenizer.apply_chat_template(
        [*prompt, *(answer or [])], add_generation_prompt=answer is None, tokenize=True, return_dict=True
    )
    return list(told["input_ids"])
