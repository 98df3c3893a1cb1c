"""``hartley serve``: a model behind OpenAI's interface, with a page that shows its entropy."""

import ipaddress
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hartley.cli.running import INTERRUPTED, open_model

SHORTEST_KEY = 16  # characters
ORIGIN = re.compile(r"https?://[^/\s*?#@]+")


def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; another than this machine's own needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    model: Annotated[str, typer.Option(help="smollm2, a Hugging Face folder or hub id, or a GGUF file.")] = "smollm2",
    engine: Annotated[str, typer.Option(help="auto, onnx, transformers, llama or vllm.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="As for generate. [default: the engine's]")] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A file with the key that clients have to send. [default: none is asked for]")
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may call this server; may be repeated.")
    ] = None,
    streams: Annotated[int, typer.Option(min=1, max=1024, help="Texts drawn at the same time.")] = 16,
    queue: Annotated[int, typer.Option(min=1, max=100_000, help="Texts that may wait for a place.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="The most a request may ask for.")] = 4096,
    timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds that a request may take.")] = 600,
    grace: Annotated[
        float, typer.Option(min=0, max=3600, help="Seconds that running answers get when the server is told to end.")
    ] = 20,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    upstream: Annotated[
        str | None, typer.Option(help="The address of a vLLM with Hartley's plug-in, to be served instead of a model.")
    ] = None,
    upstream_key_file: Annotated[Path | None, typer.Option(help="A file with the key that vLLM asks for.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a model: any OpenAI client at /v1, a page at /, measurements at /metrics.

    The log, one JSON object a request, goes to standard error. Ctrl-C or SIGTERM lets running answers finish.
    """
    key = None if api_key_file is None else read_key(api_key_file, "--api-key-file")
    local = _is_loopback(host)
    if key is None and not local:
        raise ValueError(f"--host {host} can be reached from other machines: give --api-key-file")
    for origin in cors or ():
        if not ORIGIN.fullmatch(origin):
            raise ValueError(f"--cors must be an origin such as https://example.org, got {origin!r}")
    for name, value in {"--timeout": timeout, "--grace": grace}.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a number of seconds, got {value}")
    if upstream_key_file is not None and upstream is None:
        raise ValueError("--upstream-key-file is about --upstream; give that too")
    try:
        from hartley.serve.app import create_app
        from hartley.serve.gate import LOOPBACK
        from hartley.serve.logs import to_stderr
        from hartley.serve.server import Server, bound
    except ImportError as error:
        raise ImportError(f'hartley serve needs its extra: pip install "hartley[serve]"; {error}') from error

    listener = bound(host, port)  # what is taken is told before a model is opened
    backend = _upstream(upstream, upstream_key_file) if upstream else _embedded(model, engine, dtype, streams, queue)
    app = create_app(
        backend,
        max_tokens=max_tokens,
        seconds=timeout,
        key=key,
        hosts=LOOPBACK | {host.lower()} if local else None,
        cors=cors or (),
        log_prompts=log_prompts,
    )

    def ready(address: str) -> None:
        print(f"Hartley serves {backend.model} at {address} (OpenAI's interface at {address}/v1)", flush=True)
        if open_page:
            import webbrowser

            webbrowser.open(address)

    to_stderr()
    try:
        Server(app, backend, grace=grace, ready=ready).run([listener])
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    finally:
        backend.close()


def read_key(path: Path, option: str) -> bytes:
    """The key in a file; ``ValueError`` if it is none that can be sent, or one that can be guessed."""
    key = path.read_bytes()[:4097].strip()
    if not SHORTEST_KEY <= len(key) <= 4096 or not all(33 <= byte <= 126 for byte in key):
        raise ValueError(f"{option} {path} must hold one key of {SHORTEST_KEY} to 4096 visible ASCII characters")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _embedded(model: str, engine: str, dtype: str | None, streams: int, queue: int) -> Any:
    opened = open_model(model, engine, dtype)
    from hartley.decoding import top_h
    from hartley.engines import Request, generate
    from hartley.serve.embedded import Embedded
    from hartley.serve.scheduler import Scheduler

    list(generate(opened, [Request("a", top_h(0.5), max_tokens=2)]))  # the first client does not wait for kernels
    scheduler = Scheduler(opened, streams=streams, queue=queue)
    scheduler.start()
    return Embedded(opened, scheduler)


def _upstream(url: str, key_file: Path | None) -> Any:
    from hartley.decoding.text import parse_request
    from hartley.serve.upstream import Upstream

    key = None if key_file is None else read_key(key_file, "--upstream-key-file").decode()
    print(f"Asking {url} for its model", file=sys.stderr)
    made = Upstream.connect(url, key)
    parse_request("top_h=0.5")  # as above
    return made
