"""The logits processor that vLLM loads, in both of its interfaces: entry-point group ``vllm.logits_processors``.

V1 shows the changes of its batch (``update_state``) and then the logits by place in the batch; V2 gives each request a
slot (``add_request``) and says with the logits which slot each row is (``apply(logits, ctx)``). vLLM builds the one
class of the entry point either way, so this class is both. All it knows of sampling is in ``rows.py``.

A drawn token is told by :mod:`hartley.engines.vllm.channel` right after it was drawn, which also works where vLLM runs
a step ahead of itself; without the channel it is read from the request's own tokens at the next step. State stays with
the request's parameters, an object that vLLM keeps while the request lives, so it survives moves, swaps and preemption
(but for one case: in V2 with several worker processes a preempted request comes back with new parameters, and mirostat
starts anew).
"""

# vLLM is not installed where this is checked
# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUntypedBaseClass=false
# pyright: reportGeneralTypeIssues=false

from typing import Any

import torch
from torch import Tensor

from hartley.engines.vllm import channel, rows
from hartley.engines.vllm.arguments import arguments, check_beside
from hartley.info.kernels import kernels_for

BASES: tuple[type, ...] = ()
try:
    from vllm.v1.sample.logits_processor import LogitsProcessor as V1

    BASES = (V1,)
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2

    BASES = (V1, V2)
except ImportError:  # an older vLLM, or none: the class works alone, as its tests show
    pass

STATE = "_hartley_row"  # where a request's parameters keep its row


class HartleyProcessor(*BASES):
    """Hartley's samplers, and the entropy of every token, for the requests that ask for them."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse what cannot be done, when the request comes in: ``ValueError``, over REST a status of 400."""
        asked = arguments(sampling_params.extra_args)
        if asked is None:
            return
        check_beside(asked, sampling_params)
        if asked.numbers and channel.trouble:
            raise ValueError(f"numbers of each token cannot be returned: {channel.trouble}; ask with entropy=false")

    def __init__(self, vllm_config: Any, device_or_states: Any = None, is_pin_memory: bool | None = None) -> None:
        self.states: Any = device_or_states if is_pin_memory is None else None  # V2's buffers of tokens by slot
        self.rows: dict[int, rows.Row] = {}  # by place in the batch (V1) or slot (V2)
        self.outputs: dict[int, list[int]] = {}  # V1: the running lists of drawn tokens, by place
        self.turns: list[rows.Turn] = []  # of the last step, until its tokens are known
        if getattr(device_or_states, "type", None) == "cpu":
            kernels_for(torch.zeros(1, 1))  # compile them now, if they are not yet, and not under the first request
        if getattr(vllm_config, "speculative_config", None) is not None:
            rows.log.warning("hartley does nothing under speculative decoding: a request has several rows there")

    def is_argmax_invariant(self) -> bool:
        """No: ours come before the temperature, and a greedy request is measured too."""
        return False

    def update_state(self, batch_update: Any | None) -> None:
        """V1, once a step: take in what was drawn, then follow the requests that left, came and moved."""
        self._take_in()
        if batch_update is None:
            return
        for place in batch_update.removed:
            self._put(place, None)
        for place, params, _prompt, output in batch_update.added:
            self._put(place, _row(params), output)
        for start, end, way in batch_update.moved:
            first = self.rows.pop(start, None), self.outputs.pop(start, [])
            second = self.rows.pop(end, None), self.outputs.pop(end, [])
            self._put(end, *first)
            if way.name == "SWAP":
                self._put(start, *second)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request takes a slot, whoever had it; whether it asks anything of us."""
        self._put(req_idx, _row(sampling_params))
        return req_idx in self.rows

    def apply_staged_writes(self) -> None:
        """V2: nothing of ours is staged."""

    def apply(self, logits: Tensor, ctx: Any = None) -> Tensor:
        """Apply the samplers, in place, to ``logits [B, V]`` of the step."""
        self.turns = []
        if not self.rows:
            return logits
        if ctx is None:
            here = self.rows
            for place, row in here.items():
                row.seen = len(self.outputs[place])
        else:
            here = self._in_batch(ctx, logits.shape[0])
        with rows.few_threads(len(here)):
            self.turns = rows.mask(logits, here)
        return logits

    def drawn(self, tokens: Tensor) -> dict[int, list[Any]]:
        """Take in the ``tokens [B]`` of the step; returns the numbers that the rows asked for."""
        turns, self.turns = self.turns, []
        with rows.few_threads(tokens.shape[0]):
            return rows.drawn(turns, tokens)

    def _put(self, place: int, row: rows.Row | None, output: list[int] | None = None) -> None:
        self.rows.pop(place, None)
        self.outputs.pop(place, None)
        if row is not None:
            self.rows[place] = row
            self.outputs[place] = [] if output is None else output

    def _take_in(self) -> None:
        """V1: a token counts if the request's list has grown by it."""
        grown = {row: self.outputs[place][row.seen :] for place, row in self.rows.items() if row.turn is not None}
        for turn in self.turns:
            if not turn.told and turn.rows[0].stateful:
                turn.tell(torch.tensor([(grown.get(row) or [-1])[0] for row in turn.rows]))
                if any(tokens[:1] == [-1] for tokens in grown.values()):
                    rows.log.error("hartley sees no drawn tokens, and mirostat is wrong; use --no-async-scheduling")
        for row, tokens in grown.items():
            row.commit(bool(tokens))
        self.turns = []

    def _in_batch(self, ctx: Any, size: int) -> dict[int, rows.Row]:
        """V2: the rows of this step by place, after taking in what was drawn.

        A token counts if the prompt had been read to its end, and if the sequence now holds it: a preempted request
        comes back as a longer prompt, with it or without.
        """
        slots, lengths = ctx.idx_mapping_np.tolist(), ctx.seq_lens_upper_bound_np.tolist()
        if len(slots) != size:
            return {}  # speculative decoding: several rows a request
        here: dict[int, rows.Row] = {}
        read: list[rows.Turn] = []  # of a row that is away, and may come back, no token was read
        for place, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
            if (row := self.rows.get(slot)) is None:
                continue
            row.slot = slot
            prompt = int(self.states.prefill_len.np[slot])
            if row.turn is not None:
                counts = row.counts and max(length, prompt) > row.seen
                if counts and row.stateful and not row.turn.told:
                    read.append(row.turn)
                    at = torch.tensor([[one.slot, one.seen] for one in row.turn.rows])
                    tokens = self.states.all_token_ids.gpu
                    row.turn.tell(tokens[tuple(at.T.to(tokens.device))])
                row.commit(counts)
            here[place] = row
        for turn in read:
            turn.told = False
        for place, row in here.items():
            row.seen = lengths[place]
            row.counts = row.seen >= int(self.states.prefill_len.np[row.slot])
        return here


def _row(params: Any) -> rows.Row | None:
    """The row of a request, kept with its parameters; None if it asks nothing of us."""
    row = getattr(params, STATE, None)
    if row is None:
        try:
            asked = arguments(params.extra_args)
        except ValueError as error:  # a request that came in by no front door
            rows.log.error("hartley ignores a request's arguments: %s", error)
            return None
        if asked is None:
            return None
        row = rows.Row(asked)
        setattr(params, STATE, row)
    return row
