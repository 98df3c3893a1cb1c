"""Logs to watch: those that transformers' Trainer and TRL really write, and verl's by its recorded schema."""

import atexit
import json
import math
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tiny_models import SPECIAL, TEMPLATE, tiny_model, tiny_tokenizer

STEPS = 6
WORDS = ("the sea", "a whale", "and then", "the end", "an anchor", "that man")


def folder(name: str) -> Path:
    """A folder that is gone when the tests are over."""
    path = Path(tempfile.mkdtemp(prefix=f"hartley-{name}-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def tokenizer() -> Any:
    """The tiny tokenizer as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), bos_token=SPECIAL[1], eos_token=SPECIAL[2], pad_token=SPECIAL[0],
        chat_template=TEMPLATE,
    )  # fmt: skip


def arguments(place: Path, **more: Any) -> dict[str, Any]:
    """Settings of a short run on the CPU that logs every step to TensorBoard."""
    return {
        "output_dir": str(place), "max_steps": STEPS, "logging_steps": 1, "save_steps": 3, "eval_strategy": "steps",
        "eval_steps": 3, "per_device_train_batch_size": 4, "report_to": ["tensorboard"], "use_cpu": True,
        "disable_tqdm": True, "learning_rate": 1e-3, "seed": 0, "save_only_model": True, **more,
    }  # fmt: skip


def trainer(place: Path, **more: Any) -> Any:
    """transformers' Trainer of the tiny model on a few words."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    known = tokenizer()
    rows = [{"input_ids": known(f"{a}, {b}.")["input_ids"]} for a in WORDS for b in WORDS]
    return Trainer(
        model=tiny_model(), args=TrainingArguments(**arguments(place, **more)), train_dataset=rows,
        eval_dataset=rows[:4], processing_class=known, data_collator=DataCollatorForLanguageModeling(known, mlm=False),
    )  # fmt: skip


def preferences() -> list[dict[str, str]]:
    """Pairs whose chosen answer says "the"."""
    return [{"prompt": f"{a},", "chosen": f" the {b}", "rejected": f" {b} x"} for a in WORDS for b in WORDS]


@cache
def trainer_run() -> Path:
    """The output folder of a run of transformers' Trainer."""
    place = folder("trainer")
    trainer(place).train()
    return place


def dpo_trainer(place: Path, **more: Any) -> Any:
    """TRL's DPOTrainer of the tiny model."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = Dataset.from_list(preferences())
    return DPOTrainer(
        model=tiny_model(), ref_model=tiny_model(),
        args=DPOConfig(**arguments(place, max_length=64, beta=0.5, **more)), train_dataset=rows,
        eval_dataset=rows.select(range(4)), processing_class=tokenizer(),
    )  # fmt: skip


@cache
def dpo_run() -> Path:
    """The output folder of a run of TRL's DPOTrainer."""
    place = folder("dpo")
    dpo_trainer(place).train()
    return place


def grpo_trainer(place: Path, **more: Any) -> Any:
    """TRL's GRPOTrainer of the tiny model at temperature 0.7, rewarded for the letter e."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def letters(completions: list[str], **_: Any) -> list[float]:
        return [float(text.count("e")) for text in completions]

    settings = arguments(
        place, eval_strategy="no", save_strategy="no", num_generations=4, max_completion_length=8, temperature=0.7,
        bf16=False,
    )  # fmt: skip
    return GRPOTrainer(
        model=tiny_model(), reward_funcs=letters, args=GRPOConfig(**settings | {"max_steps": 2} | more),
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in preferences()]),
        processing_class=tokenizer(),
    )  # fmt: skip


def verl_lines(steps: int = 40, seed: int = 0) -> str:
    """What verl 0.9.1's file logger writes (names from its source), with scores that follow the entropy's law."""
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for step in range(1, steps + 1):
        noise = 0.005 * torch.randn(1, generator=generator).item()
        entropy = 0.1 + 1.4 * math.exp(-step / 12)
        data = {
            "actor/entropy": entropy, "actor/ppo_kl": 0.001 * step, "actor/pg_loss": -0.01, "actor/grad_norm": 0.3,
            "actor/pg_clipfrac": 0.002, "critic/score/mean": 0.8 - 0.2 * math.exp(entropy) + noise,
            "critic/score/max": 1.0, "response_length/mean": 200.0 + 5 * step, "prompt_length/mean": 80.0,
            "perf/throughput": 1234.5, "training/global_step": step, "training/epoch": 0,
        }  # fmt: skip
        lines.append(json.dumps({"step": step, "data": data}) + "\n")
    return "".join(lines)
