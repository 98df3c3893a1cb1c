"""Before every route: who may come in and how much they may say; after it: headers, metrics and the log."""

import asyncio
import hmac
import time
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hartley.serve.errors import Refusal, answer, fault
from hartley.serve.logs import log
from hartley.serve.metrics import Metrics
from hartley.serve.schemas import LONGEST

OPEN = {"/", "/healthz", "/readyz"}  # without a key; every other path needs it, also one that does not exist
OPEN_FOLDER = "/page/"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
READ_SECONDS = 30.0  # for a body to arrive
DISCARDED = 16 << 20  # bytes of a body too long that are still read, so that its sender gets to see the answer

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Watch:
    """Outermost: one line of log and the metrics of every request, headers on every answer, and no trace outward.

    Routes leave what they know of a request in ``scope["hartley"]``, which goes into the line.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        notes: dict[str, Any] = {}
        scope["hartley"] = notes
        status, whole = 0, False

        async def sending(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            elif message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except (ClientDisconnect, TimeoutError):  # or it does not read what it is sent
            pass
        except Exception:
            log.exception("a request failed")
            if not status:
                await JSONResponse(fault(500, "the server failed; its log says where"), 500)(scope, receive, sending)
        finally:
            status = status or 499
            if not whole:
                notes["gone"] = True
                self.metrics.gone.inc()
            route = getattr(scope.get("route"), "path", "other")
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            said = {
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1e3, 1),
            }
            log.info("request", extra={"fields": said | notes})


class Gate:
    """Refuses a strange host, a wrong key and a body that is too long or too slow, before any route is looked for."""

    def __init__(self, app: ASGIApp, key: bytes | None, hosts: frozenset[str] | None) -> None:
        self.app, self.key, self.hosts = app, key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_key(scope["path"], headers)
            if "content-length" in headers or "transfer-encoding" in headers:
                receive = _replay(await _body(receive), receive)
        except HTTPException as error:
            await answer(error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """A page elsewhere can make a browser call this machine by a name of its own; it cannot choose this header."""
        host = headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        if self.hosts is not None and name.lower() not in self.hosts:
            allowed = ", ".join(sorted(self.hosts))
            raise Refusal(400, f"Host must be one of {allowed}, got {host!r:.100}", param="Host", code="invalid_host")

    def _check_key(self, path: str, headers: Headers) -> None:
        if self.key is None or path in OPEN or path.startswith(OPEN_FOLDER):
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self.key):
            raise Refusal(
                401,
                "a key is needed, as Authorization: Bearer KEY" if not given else "this key is not the server's",
                param="Authorization",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


async def _body(receive: Receive) -> bytes:
    """The whole body, counted while it is read: what its header says is not believed."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                size += len(message.get("body", b""))
                if size <= LONGEST:
                    body += message.get("body", b"")
                if not message.get("more_body", False) or size > DISCARDED:
                    break
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {READ_SECONDS:g} s", param="body", code="timeout") from None
    if size > LONGEST:
        raise Refusal(413, f"the body is longer than {LONGEST} bytes", param="body", code="body_too_long")
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read, once, and then what comes after it."""
    waiting = [body]

    async def replayed() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replayed
