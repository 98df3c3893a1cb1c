"""GRPO on one-digit sums with a tiny model, on a CPU: entropy with plain GRPO, with KL-Cov, and held by a controller.

    pip install "hartley[trl]"
    python examples/grpo_entropy.py --out runs/grpo-entropy

A Llama of about 80,000 parameters, whose tokens are characters, first learns from worked sums until about half of its
answers are right. From there the same TRL trainer goes on three times, with the same seeds and the same settings:
plain, with `KLCovLoss`, and with a `PIController` that holds the entropy at a target. The reward is 1 for the right
answer, else 0. Also runs on several processes: ``torchrun --nproc-per-node 2 examples/grpo_entropy.py``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig

from hartley.training.plugins.trl import EntropyGRPOTrainer
from hartley.training.rl import KLCovLoss, PIController

PAD, END = "<pad>", "<end>"
ANSWER = 3  # tokens: two digits and the end
TARGET = 0.5  # nats a token, what the controller holds
SETTINGS: dict[str, Any] = {
    "learning_rate": 6e-4,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 64,  # an update: 8 prompts of 8 answers
    "steps_per_generation": 4,  # updates a rollout
    "num_generations": 8,
    "max_completion_length": ANSWER,
    "beta": 0.0,
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
}


def ways() -> dict[str, dict[str, Any]]:
    """The arguments of the trainer in each run."""
    return {
        "plain GRPO": {},
        "KL-Cov": {"policy_loss": KLCovLoss(ratio=0.2, beta=3.0)},
        f"held at {TARGET:g} nats": {"controller": PIController(TARGET, kp=2.0, ki=0.05)},
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """Every character is a token."""
    vocabulary = {token: i for i, token in enumerate([PAD, END, *"0123456789+="])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()  # no spaces between characters
    made.add_special_tokens([PAD, END])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=PAD, eos_token=END, padding_side="left")


def sums() -> list[tuple[str, str]]:
    """All one-digit sums with their answers."""
    return [(f"{a}+{b}=", str(a + b)) for a in range(10) for b in range(10)]


def warm_model(steps: int, seed: int = 0) -> LlamaForCausalLM:
    """A model that has learnt from worked sums for a while, and is still unsure."""
    torch.manual_seed(seed)
    words = tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=16,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
            bos_token_id=None,
        )
    )
    lines = [prompt + answer + END for prompt, answer in sums()]
    rows = words(lines, padding=True, padding_side="right", return_tensors="pt")
    labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)
    labels[:, :4] = -100  # the question is given
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        loss = model(rows["input_ids"], attention_mask=rows["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """1 for each right answer, else 0."""
    return [float(text == wanted) for text, wanted in zip(completions, answer, strict=True)]


def train(model: LlamaForCausalLM, rollouts: int, seed: int, folder: str, **how: Any) -> list[dict[str, float]]:
    """Train a copy of the model with TRL, and return what it logged at the first update of each rollout."""
    prompts, answers = zip(*sums(), strict=True)
    trainer = EntropyGRPOTrainer(
        model=copy.deepcopy(model),
        reward_funcs=right,
        args=GRPOConfig(
            output_dir=folder, seed=seed, max_steps=rollouts * SETTINGS["steps_per_generation"], **SETTINGS
        ),
        train_dataset=Dataset.from_dict({"prompt": list(prompts), "answer": list(answers)}),
        processing_class=tokenizer(),
        **how,
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def draw(runs: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """Entropy and reward against rollouts: each seed thin, their mean thick."""
    from hartley.report.plotting import MARKERS, PALETTE, figure

    with figure(1, 2, title="Plain GRPO spends its entropy; KL-Cov keeps more of it; a controller holds it") as (
        fig,
        axes,
    ):
        for axis, name in zip(axes, ("entropy", "reward"), strict=True):
            for (way, seeds), color, marker in zip(runs.items(), PALETTE, MARKERS, strict=False):
                curves = np.array([[entry[name] for entry in log] for log in seeds])
                smooth = np.array([np.convolve(c, np.ones(4) / 4, "valid") for c in curves])
                steps = np.arange(smooth.shape[1]) + 4
                axis.plot(steps, smooth.T, color=color, alpha=0.3, linewidth=1, marker="")
                axis.plot(
                    steps, smooth.mean(0), color=color, marker=marker, markevery=max(1, len(steps) // 8), label=way
                )
        axes[0].axhline(TARGET, color="black", linestyle=":", linewidth=1, marker="")
        axes[0].set(xlabel="rollout (mean of the last 4)", ylabel="entropy (nats a token)", ylim=(0, None))
        axes[1].set(xlabel="rollout (mean of the last 4)", ylabel="right answers (share)", ylim=(0, 1))
        axes[0].legend()
    fig.savefig(path, dpi=120)


def main() -> None:
    """Run the three ways and write what was logged and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for log.json and figure.png")
    parser.add_argument("--rollouts", type=int, default=80)
    parser.add_argument("--warm", type=int, default=80, help="steps of supervised learning before")
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    model = warm_model(given.warm)
    runs: dict[str, list[list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.seeds):
            for way, how in ways().items():
                runs.setdefault(way, []).append(train(model, given.rollouts, seed, folder, **how))
    if os.environ.get("RANK", "0") != "0":
        return  # TRL logs the numbers of all processes to each
    last = {
        way: {
            name: [float(np.mean([entry[name] for entry in log[len(log) // 2 :]])) for log in seeds]
            for name in ("entropy", "reward")
        }
        for way, seeds in runs.items()
    }
    for way, found in last.items():
        print(way, {name: [round(value, 3) for value in values] for name, values in found.items()})
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "log.json").write_text(json.dumps({"second half": last, "runs": runs}), encoding="utf-8")
    draw(runs, given.out / "figure.png")


if __name__ == "__main__":
    main()
