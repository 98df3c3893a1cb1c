"""Every error leaves in OpenAI's form, says what was wrong and shows nothing of the inside."""

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
LABELS = {"str", "int", "float", "bool"}  # what pydantic calls the branches of a union


class Refusal(HTTPException):
    """A request that is not carried out, with the status and the words in which the client is told."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def busy(message: str, code: str, *, seconds: int = 1, status: int = 503) -> Refusal:
    """A refusal that invites the client to come again."""
    return Refusal(status, message, code=code, headers={"Retry-After": str(seconds)})


def fault(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of an error."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message[:2000], "type": kind, "param": param, "code": code}}


def answer(error: AnyHTTPException) -> JSONResponse:
    """The response to a request that was refused, by us or by the framework."""
    code = getattr(error, "code", None) or {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    content = fault(error.status_code, str(error.detail), getattr(error, "param", None), code)
    return JSONResponse(content, error.status_code, headers=dict(error.headers or {}))


def invalid(errors: Sequence[Any]) -> JSONResponse:
    """The response to a body that the schema refuses: which field, and why."""
    found: dict[str, list[str]] = {}
    for error in errors:
        said = found.setdefault(_field(error["loc"]), [])
        if error["msg"] not in said:
            said.append(error["msg"])
    parts = [f"{field}: {'; or '.join(said[:4])}" for field, said in list(found.items())[:4]]
    return JSONResponse(fault(422, "; ".join(parts), next(iter(found), None), "invalid_value"), 422)


def _field(place: Sequence[str | int]) -> str:
    """The path to a field, without the names that pydantic gives to the branches of a union.

    >>> _field(("body", "messages", 0, "content", "str")), _field(("body",))
    ('messages[0].content', 'body')
    """
    inside = place[1:]
    parts = [part for i, part in enumerate(inside) if i == 0 or isinstance(part, int) or _is_field(part)]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return path.removeprefix(".")[:200] or "body"


def _is_field(part: str) -> bool:
    return part.isidentifier() and part not in LABELS and not part[0].isupper()
