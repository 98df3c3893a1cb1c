"""vLLM's two ways to show a batch to a logits processor, acted out: requests join, leave, move, swap, pause and resume.

The names and fields are those of vLLM 0.32 (``tests/with_vllm`` compares them with the real ones).
"""

from dataclasses import dataclass, field
from enum import Enum, auto
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from hartley.engines.vllm.processor import HartleyProcessor

PROMPT = 3  # tokens of every prompt


class MoveDirectionality(Enum):
    UNIDIRECTIONAL = auto()
    SWAP = auto()


@dataclass(frozen=True)
class BatchUpdate:
    batch_size: int
    removed: Any
    added: Any
    moved: Any


def params(extra: dict[str, Any] | None, **others: Any) -> SimpleNamespace:
    """What a processor reads of SamplingParams."""
    return SimpleNamespace(extra_args=extra, **({"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0} | others))


@dataclass(eq=False)
class Sequence:
    """One request: its logits are a stream of its own, so that its fate can be repeated alone."""

    stream: int
    params: SimpleNamespace
    length: int  # tokens until it is done
    chunks: int = 0  # steps in which the prompt is only read in part
    output: list[int] = field(default_factory=list)
    masked: list[Tensor] = field(default_factory=list)  # what the processor left, for each token
    numbers: list[Any] = field(default_factory=list)  # what came back, for each token


class Batch:
    """Steps of an engine over a pool of requests; every choice comes from ``generator``."""

    def __init__(self, pool: list[Sequence], logits: Tensor, generator: torch.Generator, told: bool, size: int) -> None:
        self.waiting, self.running = list(pool), []
        self.logits, self.generator, self.told, self.size = logits, generator, told, size

    def chance(self, share: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < share

    def pick(self, items: list[Any]) -> Any:
        return items[int(torch.randint(len(items), (), generator=self.generator))]

    def row(self, sequence: Sequence) -> Tensor:
        return self.logits[sequence.stream, len(sequence.output)]

    def draw(self, sequences: list[Sequence], before: Tensor, after: Tensor) -> Tensor:
        """Draw every row, and count the token of those whose prompt has been read."""
        probs = after.double().softmax(-1)
        tokens = torch.multinomial(probs, 1, generator=self.generator)[:, 0]
        numbers = self.processor.drawn(tokens) if self.told else {}
        for place, sequence in enumerate(sequences):
            if sequence.chunks:
                sequence.chunks -= 1
                continue
            sequence.output.append(int(tokens[place]))
            sequence.masked.append(after[place].clone())
            sequence.numbers.append(numbers.get(place))
        return tokens

    def run(self) -> None:
        while self.waiting or self.running:
            self.step()


class V1(Batch):
    """Places in a batch without holes, as vLLM's InputBatch keeps them."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.processor = HartleyProcessor(None, torch.device("cpu"), False)

    def step(self) -> None:
        places: list[Sequence | None] = list(self.running)
        removed, added, moved = [], [], []
        for place, sequence in enumerate(self.running):
            done = len(sequence.output) == sequence.length
            if done or self.chance(0.1):  # preempted: it comes back with the same parameters and tokens
                removed.append(place)
                places[place] = None
                if not done:
                    self.waiting.append(sequence)
        while self.waiting and sum(one is not None for one in places) < self.size and self.chance(0.7):
            sequence = self.waiting.pop(0)
            if removed:
                place = min(removed)
                removed.remove(place)
                places[place] = sequence
            else:
                place = len(places)
                places.append(sequence)
            added.append((place, sequence.params, [0] * PROMPT, sequence.output))
        left = sorted(removed, reverse=True)
        for hole in sorted(removed):
            last = max((p for p, one in enumerate(places) if one is not None), default=-1)
            if hole < last:
                places[hole], places[last] = places[last], None
                left.remove(hole)
                moved.append((last, hole, MoveDirectionality.UNIDIRECTIONAL))
        while places and places[-1] is None:
            places.pop()
        if len(places) > 1 and self.chance(0.3):
            a, b = 0, len(places) - 1
            places[a], places[b] = places[b], places[a]
            moved.append((a, b, MoveDirectionality.SWAP))
        self.running = places
        changed = removed or added or moved
        # vLLM sorts what was removed in descending order, and drops from it what was filled again
        self.processor.update_state(BatchUpdate(len(places), left, added, moved) if changed else None)
        if places:
            before = torch.stack([self.row(one) for one in places])
            after = self.processor.apply(before.clone())
            self.draw(places, before, after)


class V2(Batch):
    """Slots that are recycled, and rows in any order."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.slots: dict[int, Sequence] = {}
        self.free = list(range(self.size))
        most = PROMPT + max(one.length for one in self.waiting) + 1
        self.states = SimpleNamespace(
            prefill_len=SimpleNamespace(np=torch.zeros(self.size, dtype=torch.int32).numpy()),
            all_token_ids=SimpleNamespace(gpu=torch.zeros(self.size, most, dtype=torch.int32)),
        )
        self.processor = HartleyProcessor(None, self.states)

    def step(self) -> None:
        for slot, sequence in list(self.slots.items()):
            done = len(sequence.output) == sequence.length
            if done or self.chance(0.1):
                del self.slots[slot]
                self.free.append(slot)
                if not done:
                    self.waiting.append(sequence)
        while self.waiting and self.free and self.chance(0.7):
            slot, sequence = self.free.pop(0), self.waiting.pop(0)
            self.slots[slot] = sequence
            read = PROMPT + len(sequence.output)
            self.states.prefill_len.np[slot] = read
            self.states.all_token_ids.gpu[slot] = -7
            self.states.all_token_ids.gpu[slot, PROMPT:read] = torch.tensor(sequence.output, dtype=torch.int32)
            asks = self.processor.add_request(slot, sequence.params)
            assert asks == bool(sequence.params.extra_args)
        self.processor.apply_staged_writes()
        slots = sorted(self.slots, key=lambda slot: float(torch.rand((), generator=self.generator)))
        self.running = [self.slots[slot] for slot in slots]
        if not slots:
            return
        lengths = [PROMPT + len(one.output) - one.chunks for one in self.running]
        ctx = SimpleNamespace(
            idx_mapping_np=torch.tensor(slots).numpy(), seq_lens_upper_bound_np=torch.tensor(lengths).numpy()
        )
        before = torch.stack([self.row(one) for one in self.running])
        after = self.processor.apply(before.clone(), ctx)
        reading = [one.chunks > 0 for one in self.running]
        tokens = self.draw(self.running, before, after)
        for slot, one, chunk, token in zip(slots, self.running, reading, tokens.tolist(), strict=True):
            if not chunk:
                self.states.all_token_ids.gpu[slot, PROMPT + len(one.output) - 1] = token
