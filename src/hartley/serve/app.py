"""The application: the routes behind the gate, the page, and what a supervisor asks."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import hartley
from hartley.serve import schemas
from hartley.serve.api import Serving, card, documented, routes
from hartley.serve.backend import Backend
from hartley.serve.errors import answer, busy, invalid
from hartley.serve.gate import Gate, Watch
from hartley.serve.metrics import Metrics

PAGE = Path(str(files("hartley.serve"))) / "page"
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


def create_app(
    backend: Backend,
    *,
    max_tokens: int = 4096,
    seconds: float = 600,
    key: bytes | None = None,
    hosts: frozenset[str] | None = None,
    cors: Sequence[str] = (),
    log_prompts: bool = False,
) -> FastAPI:
    """The server of one model as an ASGI application.

    ``max_tokens`` and ``seconds`` of wall time are the most that a request may take. With a ``key``, everything but
    the page and the probes needs it. ``hosts`` are the names under which the server may be called (None: any), and
    ``cors`` the origins of other pages that may call it.
    """
    metrics = Metrics(backend.load)
    behind = [Middleware(Watch, metrics=metrics), Middleware(Gate, key=key, hosts=hosts)]
    if cors:
        allowed = Middleware(CORSMiddleware, allow_origins=list(cors), allow_methods=["*"], allow_headers=["*"])
        behind.insert(1, allowed)  # a browser's first question has no key
    app = FastAPI(
        title="Hartley",
        version=hartley.__version__,
        description="OpenAI's interface to a language model, with the entropy of every token.",
        docs_url=None,  # their pages come from elsewhere
        redoc_url=None,
        middleware=behind,
        exception_handlers={HTTPException: _refused, RequestValidationError: _invalid},
    )
    app.state.serving = Serving(backend, metrics, max_tokens, seconds, log_prompts, card(backend, max_tokens))
    secured: list[Any] = [] if key is None else [Depends(HTTPBearer(auto_error=False, description="The server's key."))]
    app.include_router(routes(max_tokens, dependencies=secured))
    app.include_router(_told(metrics), dependencies=secured)
    app.include_router(_probes(backend))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))
    _describe(app)
    return app


def _told(metrics: Metrics) -> APIRouter:
    router = APIRouter()

    @router.get("/metrics", response_class=Response, responses=TEXT | documented(400, 401, 500))
    async def read() -> Response:
        """Everything, in Prometheus' text format."""
        return Response(metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _probes(backend: Backend) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz", response_model=schemas.Status, responses=documented(400))
    async def healthz() -> Response:
        """Whether the process is alive."""
        return JSONResponse({"status": "ok"})

    @router.get("/readyz", response_model=schemas.Status, responses=documented(400, 503))
    async def readyz() -> Response:
        """Whether new work is taken."""
        if not await backend.ready():
            raise busy("the server takes no new work", "not_ready")
        return JSONResponse({"status": "ready"})

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> Response:
        """The page."""
        return FileResponse(PAGE / "index.html")

    return router


async def _refused(request: Request, error: Any) -> Response:
    """A refusal in OpenAI's form; the framework's own in words that help."""
    said = {404: "there is nothing at", 405: f"{request.method} is not allowed at"}.get(error.status_code)
    if said and error.detail in ("Not Found", "Method Not Allowed"):
        error.detail = f"{said} {request.url.path[:200]}; see /openapi.json"
    return answer(error)


async def _invalid(request: Request, error: Any) -> Response:
    return invalid(error.errors())


def _describe(app: FastAPI) -> None:
    """Let the description have the events of streams too, which the framework does not know of."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            known = found["components"]["schemas"]
            for chunk in (schemas.CompletionChunk, schemas.ChatChunk):
                made = TypeAdapter(chunk).json_schema(ref_template="#/components/schemas/{model}")
                known |= {name: known.get(name, part) for name, part in made.pop("$defs").items()}
                known[chunk.__name__] = made
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi
