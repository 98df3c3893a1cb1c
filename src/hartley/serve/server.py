"""The process: uvicorn, which says where it listens and ends in peace."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from sse_starlette.sse import AppStatus

from hartley.serve.backend import Backend

CONNECTIONS = 1024  # at the same time
LAST_WORDS = 10  # seconds after the last answer was ended, for it to be sent


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet; ``OSError`` where it cannot have it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
    return made


class Server(uvicorn.Server):
    """A server whose running answers are finished, or ended with an event that says so, when it is told to end."""

    def __init__(self, app: Any, backend: Backend, *, grace: float, ready: Callable[[str], None]) -> None:
        AppStatus.disable_automatic_graceful_drain()  # it would cut streams off in the middle
        super().__init__(
            uvicorn.Config(
                app,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=75,  # longer than a proxy keeps a connection that it may use again
                timeout_graceful_shutdown=int(grace) + LAST_WORDS,
            )
        )
        self.backend, self.grace, self.ready = backend, grace, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new work, wait for what runs, give everything back."""
        draining = asyncio.create_task(self.backend.drain(self.grace))
        try:
            await super().shutdown(sockets)
            if not self.force_exit:
                await draining
        finally:
            draining.cancel()
            self.backend.close()
