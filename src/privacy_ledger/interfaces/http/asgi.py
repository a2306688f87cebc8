"""The service as an ASGI application on Litestar: routes, and problems instead of the framework's errors."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from privacy_ledger.interfaces.http import openapi, problems
from privacy_ledger.interfaces.http.problems import Kind, Problem
from privacy_ledger.interfaces.http.service import Figures, Service
from privacy_ledger.logging import get_logger

__all__ = ["create_app"]

Asked = Request[Any, Any, State]
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS = {**_HEADERS, "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
log_line = get_logger()


class _Incoming:
    """`Incoming` over a request of the framework."""

    def __init__(self, request: Asked) -> None:
        self._request = request

    def field(self, name: str) -> Sequence[str]:
        return self._request.headers.getall(name, [])

    def fields(self) -> Sequence[tuple[str, str]]:
        return list(self._request.headers.multi_items())

    def query(self, name: str) -> str | None:
        found: str | None = self._request.query_params.get(name)
        return found

    def stream(self) -> AsyncIterator[bytes]:
        return self._request.stream()


def create_app(service: Service, *, formats: Sequence[str], partners: Sequence[str]) -> Litestar:
    """Return the application; `formats` and `partners` are those that the document names.

    Debug pages, the framework's own documents and its logs are off: they would show or load what is not ours.
    """
    figures = service.figures
    document = openapi.document(formats=formats, partners=partners)
    page = openapi.page(document)

    @post(["/v1/events", "/v1/events/{name:str}"], status_code=200)
    async def events(request: Asked) -> Response[bytes]:
        return _answered(figures, await service.events(_Incoming(request), request.path_params.get("name")))

    @post("/v1/webhooks/{name:str}", status_code=200)
    async def webhooks(request: Asked) -> Response[bytes]:
        return _answered(figures, await service.webhook(_Incoming(request), request.path_params["name"]))

    @get("/openapi.json", sync_to_thread=False)
    def described() -> Response[bytes]:
        return Response(openapi.encoded(document), media_type=MediaType.JSON, headers=_HEADERS)

    @get("/docs", sync_to_thread=False)
    def shown() -> Response[str]:
        return Response(page, media_type=MediaType.HTML, headers=_PAGE_HEADERS)

    def refused(_: Asked, error: Problem) -> Response[bytes]:
        return _problem(figures, error)

    def unserved(request: Asked, error: HTTPException) -> Response[bytes]:
        return _problem(figures, _of_framework(request, error))

    def failed(_: Asked, error: Exception) -> Response[bytes]:
        log_line.error("request failed", reason=type(error).__name__)
        return _problem(figures, Problem(Kind.INTERNAL))

    return Litestar(
        [events, webhooks, described, shown],
        exception_handlers={Problem: refused, HTTPException: unserved, Exception: failed},
        openapi_config=None, logging_config=None, debug=False, request_max_body_size=None,
    )  # fmt: skip


def _answered(figures: Figures, body: bytes) -> Response[bytes]:
    figures.statuses[200] += 1
    return Response(body, media_type=MediaType.JSON, headers=_HEADERS)


def _problem(figures: Figures, problem: Problem) -> Response[bytes]:
    status = problem.kind.status
    figures.statuses[status] += 1
    log_line.info("request refused", state=status, reason=problem.kind.code)
    return Response(
        problem.body, status_code=status, media_type=problems.MEDIA_TYPE,
        headers={**_HEADERS, **problem.headers},
    )  # fmt: skip


def _of_framework(request: Asked, error: HTTPException) -> Problem:
    """Return the problem that an error of the framework is; nothing that it says is handed on."""
    match error:
        case NotFoundException():
            return Problem(Kind.NOT_FOUND)
        case MethodNotAllowedException():
            is_posted = request.scope["path"].startswith("/v1/")
            return Problem(Kind.METHOD, headers={"Allow": "OPTIONS, POST" if is_posted else "GET, OPTIONS"})
        case _ if error.status_code < 500:  # noqa: PLR2004 - as HTTP says
            return Problem(Kind.HEADER_INVALID)
        case _:
            return Problem(Kind.INTERNAL)
