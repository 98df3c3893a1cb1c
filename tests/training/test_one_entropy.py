"""One set of logits, one entropy: the sampler's, the monitor's, the trainer plug-in's, and the report's."""

import json
import math
from pathlib import Path

import pytest
import torch

from hartley.decoding import chain
from hartley.report import read, run_totals
from hartley.training import read_sums, top_k_sums
from hartley.training.rl import ConstantCoefficient, policy_entropy

ROWS, SIZE = 6, 50


def logits_of(seed: int) -> torch.Tensor:
    return 2 * torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(seed))


def defined(logits: torch.Tensor) -> float:
    """Mean of -sum p ln p in float64."""
    log_p = logits.double().log_softmax(-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())


def of_sampler(logits: torch.Tensor) -> float:
    draw, _ = chain().step(logits, None, torch.Generator().manual_seed(0))
    return float(draw.entropy.double().mean())


def of_monitor(logits: torch.Tensor) -> float:
    return read_sums(top_k_sums(logits[None], k=SIZE)).entropy * math.log(2)  # it reports bits


def of_trainer(logits: torch.Tensor, folder: Path) -> float:
    """What the plug-in tells its controller: the entropies of TRL's own pass, through its meter."""
    pytest.importorskip("trl", reason="trl is not installed")
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig

    from hartley.training.plugins.trl import EntropyGRPOTrainer

    # Without layers: the i-th unit vector comes out of the final norm as sqrt(ROWS) times itself, so token i says row i
    with torch.random.fork_rng(), torch.no_grad():
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=SIZE, hidden_size=ROWS, intermediate_size=8, num_hidden_layers=0, num_attention_heads=1,
                num_key_value_heads=1, rms_norm_eps=0.0, pad_token_id=0, eos_token_id=0, bos_token_id=None,
            )
        )  # fmt: skip
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:ROWS] = torch.eye(ROWS)
        model.lm_head.weight.copy_(logits.T / ROWS**0.5)
        words = Tokenizer(models.WordLevel({str(i): i for i in range(SIZE)}, unk_token="0"))
        control = ConstantCoefficient(0.0)
        trainer = EntropyGRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(folder), per_device_train_batch_size=2, num_generations=2, report_to="none",
                bf16=False, gradient_checkpointing=False, use_cpu=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["1"]}),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="0"),
            controller=control,
        )  # fmt: skip
    told: list[float] = []
    control.update = lambda entropy: told.append(entropy) or 0.0  # pyright: ignore[reportAttributeAccessIssue]
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    # A prompt of token 0 and a completion of 1, 2, ...: each place is foretold by the row of the token before it
    ids = torch.arange(ROWS)[None]
    trainer._compute_loss(
        trainer.model,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": torch.ones(1, 1, dtype=torch.long),
            "completion_ids": torch.cat([ids[:, 1:], torch.zeros(1, 1, dtype=torch.long)], 1),
            "completion_mask": torch.ones(1, ROWS, dtype=torch.long),
            "advantages": torch.zeros(1),
            "num_items_in_batch": torch.tensor(ROWS),
        },
    )
    return told[0]


def of_report(logits: torch.Tensor, folder: Path) -> float:
    """From a file of log-probabilities, as servers give them, that lists the whole vocabulary."""
    log_probs = logits.double().log_softmax(-1)

    def listed(row: torch.Tensor) -> list[dict[str, object]]:
        places = row.argsort(descending=True).tolist()
        return [{"token": f"t{i}", "bytes": None, "logprob": float(row[i])} for i in places]

    content = [
        {
            "token": f"t{int(row.argmax())}",
            "bytes": None,
            "logprob": float(row.max()),
            "top_logprobs": listed(row),
        }
        for row in log_probs
    ]
    choice = {
        "index": 0,
        "message": {"content": "".join(c["token"] for c in content)},
        "logprobs": {"content": content},
    }
    path = folder / "answer.json"
    path.write_text(json.dumps({"object": "chat.completion", "model": "m", "choices": [choice]}))
    found = run_totals(read(path, vocab_size=SIZE))
    if found["mean_entropy"] is not None:
        return found["mean_entropy"]
    assert found["mean_entropy_high"] - found["mean_entropy_low"] < 1e-6
    return found["mean_entropy_low"]


@pytest.mark.parametrize("seed", [0, 1])
def test_four_readings_of_the_same_logits_are_one_number(seed: int, tmp_path: Path) -> None:
    logits = logits_of(seed)
    expected = defined(logits)
    readings = {
        "sampler": of_sampler(logits),
        "monitor": of_monitor(logits),
        "trainer": of_trainer(logits, tmp_path),
        "report": of_report(logits, tmp_path),
        "loop": float(policy_entropy(logits)),
    }
    assert readings == pytest.approx(dict.fromkeys(readings, expected), abs=2e-6)
