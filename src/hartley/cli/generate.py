"""``hartley generate``: continue a prompt and say how sure the model was of every token."""

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hartley.cli.running import INTERRUPTED, ctrl_c, ids_of, open_model, sampler_of, token_of

SINGLE = "Sampler, single settings (chained in this order)"


def flag(help: str) -> Any:
    """A single setting of the sampler."""
    return typer.Option(help=help, rich_help_panel=SINGLE, show_default=False)


def generate(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt; '-' or nothing reads it from standard input.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Samplers in the order they are applied: temperature=1.5,top_h=0.4. [default: plain sampling]"
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to draw at most.")] = 128,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same text. [default: drawn and printed]"),
    ] = None,
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = "smollm2",
    engine: Annotated[str, typer.Option(help="auto, onnx, transformers or llama.")] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="int8 or float32 (onnx); float32, bfloat16 or float16. [default: the engine's]")
    ] = None,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Put the prompt in the model's chat template. [default: if it has one]"),
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text to stop at; may be repeated.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a token, the last one the totals.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page of the run to this file.")] = None,
    temperature: Annotated[float | None, flag("Divide the logits; 0 takes the likeliest token.")] = None,
    top_h: Annotated[float | None, flag("Keep up to this share of the entropy.")] = None,
    top_k: Annotated[int | None, flag("Keep so many tokens.")] = None,
    top_p: Annotated[float | None, flag("Keep the likeliest tokens up to this mass.")] = None,
    min_p: Annotated[float | None, flag("Keep what has this share of the likeliest one's probability.")] = None,
    typical_p: Annotated[float | None, flag("Keep this mass of tokens whose surprisal is near the entropy.")] = None,
    epsilon_cutoff: Annotated[float | None, flag("Keep tokens of at least this probability.")] = None,
    eta_cutoff: Annotated[float | None, flag("The same, lower where the entropy is high.")] = None,
    top_n_sigma: Annotated[float | None, flag("Keep logits within so many deviations of the largest.")] = None,
    entropy_top_k: Annotated[int | None, flag("Keep up to so many tokens, the more the higher the entropy.")] = None,
    mirostat: Annotated[int | None, flag("Version 1 or 2: hold the surprisal at a target.")] = None,
    mirostat_tau: Annotated[float | None, flag("Its target, in bits a token; 5 unless given.")] = None,
    mirostat_eta: Annotated[float | None, flag("Its step; 0.1 unless given.")] = None,
) -> None:
    """Continue a prompt, coloured by surprisal, and print the run's entropy.

    Surprisal and entropy are the model's own, at temperature 1 and before any sampler, in nats. Text goes to standard
    output; when that is not a terminal, the totals go to standard error. Ctrl-C keeps and saves what was drawn.
    """
    text = sampler_text(sampler, _single(locals()))
    prompt = read_prompt(prompt)
    if html is not None:
        from hartley.report.files import check_writable

        check_writable("--html", html)
    seed = secrets.randbelow(2**32) if seed is None else seed
    chosen = sampler_of(text)
    opened = open_model(model, engine, dtype)
    ids, chat = ids_of(opened, prompt, chat)

    from hartley.engines import Request
    from hartley.engines import generate as run
    from hartley.models.tokenizer import pieces
    from hartley.report import terminal
    from hartley.report.summary import totals

    piece = pieces(opened.tokenizer)
    out = terminal.output()
    stream = terminal.Stream(out)
    if out.is_terminal and not as_json:
        out.print(terminal.legend(out))
        out.print()
    tokens: list[dict[str, Any]] = []
    finish: str | None = None
    times = [time.perf_counter()]
    with ctrl_c() as pressed:
        for step in run(opened, [Request(ids, chosen, max_tokens, seed, tuple(stop or ()))], cancel=pressed):
            times.append(time.perf_counter())
            finish = step.finish
            if step.draw is None:  # cancelled: only text that was held back
                times.pop()
                if tokens and step.text:
                    tokens[-1]["text"] += step.text
            else:
                tokens.append(token_of(step, piece))
            if not as_json:
                stream.push(step.text, step.draw["surprisal"] if step.draw else None)
            elif step.draw is not None:
                print(json.dumps(tokens[-1], ensure_ascii=False), flush=True)
        if stream.column:
            stream.end_line()

        found = totals(tokens) | {
            "tokens_per_second": (len(times) - 2) / (times[-1] - times[1]) if len(times) > 2 else None,
            "seconds_to_first_token": times[1] - times[0] if len(times) > 1 else None,
            "finish": finish,
            "model": opened.model_name,
            "engine": opened.name,
            "dtype": opened.dtype,
            "sampler": str(chosen),
            "seed": seed,
        }
        saved = f", saved to {html}" if html is not None else ""
        stopped = (
            f"Stopped by Ctrl-C after {len(tokens)} of up to {max_tokens} tokens" if finish == "cancelled" else None
        )
        if html is not None:
            from hartley.report import tokens_page, write_atomic

            settings = _settings(found, chat, max_tokens, stop)
            title = f"One run of {opened.model_name}"
            page = tokens_page(tokens, prompt=prompt, settings=settings, title=title, note=stopped)
            write_atomic(html, page)
        said = out if out.is_terminal else terminal.messages()
        if as_json:
            print(json.dumps(found, ensure_ascii=False), flush=True)
        elif tokens:
            said.print()
            said.print(terminal.summary(found, tokens, said))
        if stopped:
            print(f"hartley: {stopped}{saved}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
        if saved and not as_json:
            print(f"Page{saved}", file=sys.stderr)


def sampler_text(text: str | None, flags: dict[str, Any]) -> str:
    """The text form of what the options ask for; ``ValueError`` if it is said in both ways."""
    if text is not None and flags:
        named = ", ".join(f"--{key.replace('_', '-')}" for key in flags)
        raise ValueError(f"--sampler and {named} are both given; write everything in --sampler, in the order you mean")
    if text is not None:
        return text
    from hartley.decoding.text import joined

    return joined(flags)


def _single(given: dict[str, Any]) -> dict[str, Any]:
    """The single settings of the sampler among the options."""
    from hartley.decoding.text import known_settings

    return {key: given[key] for key in known_settings() if given.get(key) is not None}


def read_prompt(prompt: str | None) -> str:
    """The prompt itself, or what standard input has; ``ValueError`` if that is nothing."""
    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            print("Type the prompt; end it with Ctrl-D.", file=sys.stderr)
        prompt = str(sys.stdin.read()).removesuffix("\n")
    if not prompt.strip():
        raise ValueError("the prompt is empty; give some text, as an argument or on standard input")
    return prompt


def _settings(found: dict[str, Any], chat: bool, max_tokens: int, stop: list[str] | None) -> dict[str, Any]:
    speed = found["tokens_per_second"]
    return {
        "model": found["model"],
        "engine": f"{found['engine']}, {found['dtype']}",
        "sampler": found["sampler"] or "plain sampling",
        "seed": found["seed"],
        "chat template": "yes" if chat else "no",
        "most tokens": max_tokens,
        "stops": ", ".join(map(repr, stop)) if stop else None,
        "ended by": {"stop": "the end of the text", "length": "the limit", "cancelled": "Ctrl-C"}.get(found["finish"]),
        "tokens per second": None if speed is None else f"{speed:.1f}",
    }
