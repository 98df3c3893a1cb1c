"""Losses that choose tokens, and a controller, on several processes: the same numbers as on one.

    torchrun --nproc-per-node 2 examples/data_parallel.py --out result.json
    accelerate launch --multi_gpu --num_processes 2 examples/data_parallel.py --out result.json

Both run it on the CPU: accelerate's ``--multi_gpu`` is its name for several processes, its ``--cpu`` starts one.

A small policy learns from made-up responses. Each process holds its share of the batch, in micro-batches. What is
chosen (KL-Cov, Clip-Cov, the tokens of highest entropy, STEER's weights) is chosen once over all of them, the loss is
divided by the tokens of all of them, and the controller is told the entropy of all of them. Under FSDP or DeepSpeed
nothing else changes: they too average the gradients over processes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hartley.info import logits_statistics
from hartley.training.rl import (
    ClipCovLoss,
    EntropyMeter,
    KLCovLoss,
    PIController,
    SteerLoss,
    batch_sizes,
    top_entropy_mask,
)

RESPONSES, LENGTH, WIDTH, VOCABULARY, UPDATES = 16, 6, 8, 12, 4
LOSSES = {
    "KL-Cov": KLCovLoss(ratio=0.1, beta=2.0),
    "Clip-Cov": ClipCovLoss(ratio=0.1, cov_low=0.2),
    "STEER": SteerLoss(lambda_min=0.5),
}


def responses() -> dict[str, Tensor]:
    """The whole batch: states, tokens, old log-probabilities, advantages and mask."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(RESPONSES, LENGTH, WIDTH, generator=generator)
    tokens = torch.randint(VOCABULARY, (RESPONSES, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (RESPONSES, 1), generator=generator)
    return {
        "states": states,
        "tokens": tokens,
        "old": -0.5 - 3 * torch.rand(RESPONSES, LENGTH, generator=generator),
        "advantages": torch.randn(RESPONSES, 1, generator=generator).expand(-1, LENGTH),
        "mask": torch.arange(LENGTH) < lengths,
    }


def learn(
    rank: int,
    processes: int,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    micro_batches: int = 2,
) -> dict[str, Any]:
    """Learn on this process's share; what comes back is the same on every process."""
    group = dist.group.WORLD if processes > 1 else None
    share = RESPONSES // processes
    mine = {name: values[rank * share : (rank + 1) * share] for name, values in responses().items()}
    parts = [
        dict(zip(mine, values, strict=True))
        for values in zip(*(values.chunk(micro_batches) for values in mine.values()), strict=True)
    ]
    size = batch_sizes(mine["mask"], group=group) / processes  # gradients are averaged over the processes
    found: dict[str, Any] = {}
    for name, loss in LOSSES.items():
        torch.manual_seed(1)
        model = wrap(nn.Linear(WIDTH, VOCABULARY))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        controller, meter = PIController(2.0, kp=0.1, ki=0.01), EntropyMeter()
        chosen_in, coefficients = [], []
        for update in range(UPDATES):

            def read(part: dict[str, Tensor], model: nn.Module = model) -> tuple[Tensor, Tensor]:
                statistics = logits_statistics(model(part["states"]), part["tokens"])
                assert statistics.log_prob is not None
                return statistics.log_prob, statistics.entropy

            # First without gradients, to choose over all tokens that this update is about
            with torch.no_grad():
                log_prob, entropy = map(torch.cat, zip(*(read(part) for part in parts), strict=True))
            generator = torch.Generator().manual_seed(update)
            chosen = loss.choose(
                log_prob, mine["old"], mine["advantages"], mine["mask"], entropy, generator=generator, group=group
            )
            sure = ~top_entropy_mask(entropy, mine["mask"], 0.8, group=group)
            chosen_in.append(everywhere(torch.where(sure, -1.0, chosen.float()), group).tolist())
            for part, its in zip(parts, chosen.chunk(micro_batches), strict=True):
                log_prob, entropy = read(part)
                value, _ = loss(
                    log_prob, part["old"], part["advantages"], part["mask"], entropy, chosen=its, batch_size=size
                )
                bonus = (entropy * part["mask"]).sum() / size
                (value - controller.coefficient * bonus).backward()
                meter.add(entropy, part["mask"])
            optimizer.step()
            optimizer.zero_grad()
            measured = meter.read(group)
            assert measured is not None
            coefficients.append(controller.update(measured))
        weights = [float(w) for p in model.parameters() for w in p.detach().flatten()]
        found[name] = {"chosen": chosen_in, "coefficients": coefficients, "weights": weights}
    return found


def everywhere(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The rows of all processes."""
    if group is None:
        return values
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values.contiguous(), group=group)
    return torch.cat(parts)


def main() -> None:
    """Run under a launcher and write what the first process holds."""
    from accelerate import Accelerator

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    accelerator = Accelerator(cpu=True)
    found = learn(accelerator.process_index, accelerator.num_processes, accelerator.prepare)
    if accelerator.is_main_process:
        given.out.write_text(json.dumps({"processes": accelerator.num_processes, **found}), encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    main()
