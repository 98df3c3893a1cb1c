"""What the commands that run a model share: opening one, stopping it gently, and its steps as plain token dicts."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hartley.decoding import Sampler
    from hartley.engines import Step

SHOWN = 8  # alternatives of a token
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended


@contextmanager
def ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that what was done can be saved; a second one ends the command."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def once(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, once)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def open_model(model: str, engine: str, dtype: str | None) -> Any:
    """Open the engine, saying so where somebody watches."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    with console.status(f"opening {model}") if console.is_terminal else _nothing():
        from hartley.engines import open_engine

        return open_engine(model, engine, dtype)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def sampler_of(text: str) -> "Sampler":
    """The sampler of a text form; ``ValueError`` for one that has a value per row, since a prompt is one row."""
    from hartley.decoding import parse

    if "[" in text:
        raise ValueError(f"sampler {text!r} has a value for each row of a batch; give one number")
    return parse(text)


def ids_of(engine: Any, prompt: str, chat: bool | None) -> tuple[list[int], bool]:
    """Token ids of a prompt, in the model's chat template if it has one (``chat`` None), and whether it is in it."""
    if not prompt.strip():
        raise ValueError(f"the prompt is empty, got {prompt!r}; give some text")
    chat = engine.tokenizer.template is not None if chat is None else chat
    return (engine.tokenizer.chat(prompt) if chat else engine.tokenizer.encode(prompt)), chat


def token_of(step: "Step", piece: Callable[[int], str]) -> dict[str, Any]:
    """A step as a line of ``--json``; see :mod:`hartley.report`. Nats; varentropies nats^2."""
    from hartley.decoding.draw import likeliest

    draw = step.draw or {}
    return {
        "position": step.position,
        "token_id": step.token,
        "text": step.text,
        "piece": piece(draw["token"]),
        **{key: draw[key] for key in ("surprisal", "entropy", "varentropy", "rank", "kept", "mass", "log_prob")},
        "drawn_entropy": draw["drawn_entropy"],
        "drawn_varentropy": draw["drawn_varentropy"],
        "top": [
            {"token_id": token, "text": piece(token), "log_prob": log_prob}
            for token, log_prob in likeliest(draw, SHOWN)
        ],
    }
