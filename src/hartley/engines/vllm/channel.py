"""The way back: each token's numbers from the process that samples to the caller, as the key ``hartley`` of a choice.

A logits processor can change logits and nothing else: vLLM gives it no way to return anything, and the surprisal of a
token is known only after it was drawn. Looked at, in vLLM 0.32: log-probabilities (what this replaces: a sort of the
vocabulary and objects for each alternative), the auxiliary outputs (routed experts only, in V2 only), request metrics
(totals), a socket or shared memory of our own (a second stream to keep in step with the first through aborts,
preemption and several front ends). What is simplest is to ride along with the token itself, through every hop it takes:

    model runner .sample_tokens      -> ModelRunnerOutput, an object with a place for one more attribute
    Scheduler.update_from_output     -> EngineCoreOutput, whose kv_transfer_params is the one field of free form
    OutputProcessor.process_outputs  takes ours out of that field again, before anyone looks at it
    RequestState._new_completion_output, RequestOutput.add   -> CompletionOutput.hartley, whole or the new part of it
    the servers of /v1/completions and /v1/chat/completions  -> choices[i].hartley, streamed or not

So nothing is sent for a token that vLLM throws away, and nothing for a request that did not ask. :func:`install` wraps
those functions when vLLM loads its plug-ins (entry-point group ``vllm.general_plugins``), in every process. They are no
public interface, so the version and every signature are checked first; where they are not what is known here, nothing
is wrapped, :data:`trouble` says why, vLLM's log says it too, and requests for numbers are refused (HTTP 400) while
samplers go on working.
"""

# vLLM is not installed where this is checked
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import functools
import importlib.abc
import importlib.util
import inspect
import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import torch

from hartley.engines.vllm.arguments import ALL

KEY = "hartley"
KNOWN = ("0.32",)  # versions of vLLM whose insides these are

log = logging.getLogger("vllm.hartley")  # under vLLM's own logger, whose handler prints it

#: why no numbers can come back; empty if they can
trouble = "Hartley's plug-in of the group vllm.general_plugins is not loaded"


def install() -> None:
    """Wrap the hops, those of modules not yet imported when they are; called by vLLM in each of its processes."""
    global trouble
    import vllm

    if not vllm.__version__.startswith(tuple(f"{known}." for known in KNOWN)):
        trouble = f"vLLM {vllm.__version__} is unknown to this version of Hartley, which knows {', '.join(KNOWN)}"
        log.error("hartley: %s; samplers work, but numbers of each token cannot be returned", trouble)
        return
    trouble = ""
    for name in HOPS:
        if name in sys.modules:
            _wrap(sys.modules[name])
    if not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


class _WhenImported(importlib.abc.MetaPathFinder):
    """Wraps the functions of a module as soon as it is imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname not in HOPS:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                _wrap(module)

            spec.loader.exec_module = exec_module  # this loader is of this module alone
        return spec


def _wrap(module: Any) -> None:
    global trouble
    for owner, name, parameters, wrapper in HOPS[module.__name__]:
        holder = getattr(module, owner, None)
        original = getattr(holder, name, None)
        if hasattr(original, KEY):
            continue
        found = list(inspect.signature(original).parameters) if original is not None else []
        if original is None or [one for one in found if one in parameters] != list(parameters):
            trouble = f"{module.__name__}.{owner}.{name} is not what Hartley knows: its parameters are {found}"
            log.error("hartley: %s; numbers of each token are not returned", trouble)
            continue
        wrapped = functools.wraps(original)(wrapper(original))
        wrapped.hartley = True  # type: ignore[attr-defined]
        setattr(holder, name, wrapped)
    if module.__name__ == "vllm.outputs":
        module.CompletionOutput.hartley = None  # for those who did not ask


def _sample_tokens(original: Callable[..., Any]) -> Callable[..., Any]:
    """In the process that samples, V1 and V2: tell our processor the tokens and attach the numbers by request."""

    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        try:
            for processor in _processors(self):
                attach(processor, output)
        except Exception:  # numbers are not worth an engine
            log.exception("hartley: the numbers of a step are lost")
        return output

    return sample_tokens


def _processors(runner: Any) -> list[Any]:
    from hartley.engines.vllm.processor import HartleyProcessor

    sampler, batch = getattr(runner, "sampler", None), getattr(runner, "input_batch", None)
    held = getattr(sampler, "logits_processors", None)  # V2
    if held is None:
        held = batch.logitsprocs.non_argmax_invariant if batch is not None else []
    return [one for one in held if isinstance(one, HartleyProcessor) and one.turns]


def attach(processor: Any, output: Any) -> None:
    """Put ``{request: numbers}`` on the output of a step, which may still be on its way from the device."""
    inner, tokens = output, getattr(output, "_sampled_token_ids", None)  # V1, ahead of itself
    if tokens is not None:
        inner = output._model_runner_output
    elif hasattr(output, "sampler_output"):  # V2
        inner, tokens = output.model_runner_output, output.sampler_output.sampled_token_ids[:, 0]
    else:
        tokens = torch.tensor([ids[0] if ids else 0 for ids in output.sampled_token_ids])
    numbers = processor.drawn(tokens)
    if numbers:
        inner.hartley = {inner.req_ids[place]: row for place, row in numbers.items()}


def _update_from_output(original: Callable[..., Any]) -> Callable[..., Any]:
    """In the engine's process: hand the numbers on with each token that was accepted."""

    def update_from_output(self: Any, scheduler_output: Any, model_runner_output: Any) -> Any:
        batches = original(self, scheduler_output, model_runner_output)
        numbers = getattr(model_runner_output, KEY, None)
        if numbers:
            for batch in batches.values():
                for output in batch.outputs:
                    if output.new_token_ids and output.request_id in numbers:
                        free = output.kv_transfer_params or {}
                        output.kv_transfer_params = {**free, KEY: numbers[output.request_id]}
        return batches

    return update_from_output


def _process_outputs(original: Callable[..., Any]) -> Callable[..., Any]:
    """In the front end: take the numbers out again and keep them with the request."""

    def process_outputs(self: Any, engine_core_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        for output in engine_core_outputs:
            free = output.kv_transfer_params
            if free and KEY in free:
                row = free[KEY]
                output.kv_transfer_params = {key: value for key, value in free.items() if key != KEY} or None
                state = self.request_states.get(output.request_id)
                if state is not None:
                    columns = state.__dict__.setdefault(KEY, {name: [] for name in ALL[: len(row)]})
                    for values, value in zip(columns.values(), row, strict=True):
                        values.append(value)
        return original(self, engine_core_outputs, *args, **kwargs)

    return process_outputs


def _new_completion_output(original: Callable[..., Any]) -> Callable[..., Any]:
    """All numbers so far, or those of the new tokens, as the request wants its tokens."""

    def new_completion_output(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        if (columns := getattr(self, KEY, None)) is not None:
            count = len(output.token_ids)
            output.hartley = {name: values[len(values) - count :] for name, values in columns.items()}
        return output

    return new_completion_output


def _add(original: Callable[..., Any]) -> Callable[..., Any]:
    """Where a slow reader gets several pieces as one, the numbers are joined as the tokens are."""

    def add(self: Any, next_output: Any, aggregate: bool) -> None:
        before = {one.index: one for one in self.outputs}
        original(self, next_output, aggregate)
        for more in next_output.outputs if aggregate else ():
            one, new = before.get(more.index), getattr(more, KEY, None)
            if one is not None and new is not None:
                old = getattr(one, KEY, None) or {}
                one.hartley = {name: [*old.get(name, []), *values] for name, values in new.items()}

    return add


def _completion_response(original: Callable[..., Any]) -> Callable[..., Any]:
    """``/v1/completions``, not streamed: one choice for each output, in order."""

    def respond(self: Any, final_res_batch: Any, *args: Any, **kwargs: Any) -> Any:
        response = original(self, final_res_batch, *args, **kwargs)
        outputs = [output for result in final_res_batch for output in result.outputs]
        _on_choices(response, outputs)
        return response

    return respond


def _chat_response(original: Callable[..., Any]) -> Callable[..., Any]:
    """``/v1/chat/completions``, not streamed."""
    signature = inspect.signature(original)

    async def respond(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        last: list[Any] = []

        async def tapped(results: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for result in results:
                last[:] = result.outputs
                yield result

        bound.arguments["result_generator"] = tapped(bound.arguments["result_generator"])
        response = await original(*bound.args, **bound.kwargs)
        _on_choices(response, last)
        return response

    return respond


def _on_choices(response: Any, outputs: list[Any]) -> None:
    for choice, output in zip(getattr(response, "choices", ()), outputs, strict=False):
        if (columns := getattr(output, KEY, None)) is not None:
            setattr(choice, KEY, columns)


def _stream(original: Callable[..., Any]) -> Callable[..., Any]:
    """Both servers, streamed: each event carries the numbers of the tokens since the last one of its choice."""
    signature = inspect.signature(original)

    async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[str]:
        bound = signature.bind(*args, **kwargs)
        choices = bound.arguments["request"].n or 1
        waiting: dict[int, dict[str, list[Any]]] = {}

        async def tapped(results: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for item in results:
                prompt, result = item if isinstance(item, tuple) else (0, item)
                for output in result.outputs:
                    if (columns := getattr(output, KEY, None)) is not None:
                        held = waiting.setdefault(output.index + prompt * choices, {})
                        for name, values in columns.items():
                            held.setdefault(name, []).extend(values)
                yield item

        bound.arguments["result_generator"] = tapped(bound.arguments["result_generator"])
        async for event in original(*bound.args, **bound.kwargs):
            yield on_event(event, waiting)

    return stream


def on_event(event: str, waiting: dict[int, dict[str, list[Any]]]) -> str:
    """Put what waits for a choice into the event that has it, but not into the one that only opens a chat's turn.

    >>> on_event('data: {"choices": [{"index": 0, "text": "a"}]}', {0: {"entropy": [1.5]}})
    'data: {"choices": [{"index": 0, "text": "a", "hartley": {"entropy": [1.5]}}]}\\n\\n'
    """
    if not waiting or not event.startswith("data: {"):
        return event
    chunk = json.loads(event.removeprefix("data: "))
    for choice in chunk.get("choices", ()):
        if choice["index"] in waiting and "role" not in (choice.get("delta") or {}):
            choice[KEY] = waiting.pop(choice["index"])
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


#: module -> class, function, the parameters it has to have in this order, and what is put around it
HOPS: dict[str, tuple[tuple[str, str, tuple[str, ...], Callable[..., Any]], ...]] = {
    "vllm.v1.worker.gpu_model_runner": (
        ("GPUModelRunner", "sample_tokens", ("self", "grammar_output"), _sample_tokens),
    ),
    "vllm.v1.worker.gpu.model_runner": (
        ("GPUModelRunner", "sample_tokens", ("self", "grammar_output"), _sample_tokens),
    ),
    "vllm.v1.core.sched.scheduler": (
        ("Scheduler", "update_from_output", ("self", "scheduler_output", "model_runner_output"), _update_from_output),
    ),
    "vllm.v1.engine.output_processor": (
        ("OutputProcessor", "process_outputs", ("self", "engine_core_outputs"), _process_outputs),
        ("RequestState", "_new_completion_output", ("self", "token_ids"), _new_completion_output),
    ),
    "vllm.outputs": (("RequestOutput", "add", ("self", "next_output", "aggregate"), _add),),
    "vllm.entrypoints.openai.completion.serving": (
        (
            "OpenAIServingCompletion",
            "request_output_to_completion_response",
            ("self", "final_res_batch"),
            _completion_response,
        ),
        (
            "OpenAIServingCompletion",
            "completion_stream_generator",
            ("self", "request", "result_generator"),
            _stream,
        ),
    ),
    "vllm.entrypoints.openai.chat_completion.serving": (
        (
            "OpenAIServingChat",
            "chat_completion_full_generator",
            ("self", "request", "result_generator"),
            _chat_response,
        ),
        (
            "OpenAIServingChat",
            "chat_completion_stream_generator",
            ("self", "request", "result_generator"),
            _stream,
        ),
    ),
}
