"""The application: every part's routes behind one guard, and the server that runs it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterable
from types import FrameType

import sqlalchemy as sa
import sqlalchemy.orm  # what DBOS imports: half imported by one thread, it breaks statements of others
import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import compile_path

from assay.database import open_database
from assay.papers.search import Search
from assay.web import api, contributions, digest, feeds, lists, paper, people
from assay.web.guard import Guard, SignedIn, admission, in_json, served_hosts
from assay.web.makers import Makers
from assay.web.page import Page, Route


def routes(page: Page) -> list[Route]:
    """Every route of the page; of those that fit an address the first answers."""
    parts = (lists, feeds, api, people, contributions, paper, digest)
    return [route for part in parts for route in part.routes(page)]


def create_app(
    engine: sa.Engine,
    *,
    port: int = 8000,
    hosts: Iterable[str] = (),
    stopping: threading.Event | None = None,
    makers: int = 0,
) -> FastAPI:
    """The application over the database behind `engine`, answering to the loopback names at `port`.

    `hosts` are further Host headers to answer to, beside those in the comma list `ASSAY_HOSTS`; streams end
    when `stopping` is set; so many `makers` are processes of their own that make lists and searches.
    """
    page = Page(engine, stopping or threading.Event())

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        # In the background: torch alone takes seconds, and the list does not need it.
        threading.Thread(target=page.exhibits.import_all, daemon=True).start()
        closing = threading.Event()
        indexing = threading.Thread(target=Search(engine).keep_fresh, args=(closing,), daemon=True)
        indexing.start()
        if makers:
            page.makers = Makers(engine, makers)
        yield
        closing.set()
        if page.makers is not None:
            page.makers.close()
        indexing.join(10)
        page.checks.close()

    async def error(request: Request, error: Exception) -> Response:
        status, sentence = 500, "The server met an error; the terminal it runs in says more."
        headers = None
        # Starlette's own class: the router raises that, and FastAPI's is one.
        if isinstance(error, StarletteHTTPException):
            status, sentence, headers = error.status_code, error.detail, error.headers
        elif isinstance(error, RequestValidationError):
            status, sentence = 422, _what_was_wrong(error)
        if sentence == "Not Found":
            sentence = "There is nothing at this address."
        if in_json(request.url.path):
            return JSONResponse({"error": sentence}, status, headers)
        answer = page.html(request, "error.html", {"status": status, "sentence": sentence}, status)
        answer.headers.update(headers or {})
        return answer

    app = FastAPI(title="assay", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    every = routes(page)
    app.add_middleware(SignedIn, accounts=page.accounts)
    app.add_middleware(
        Guard,
        hosts=served_hosts(port, [*hosts, *os.environ.get("ASSAY_HOSTS", "").split(",")]),
        from_anywhere=[compile_path(route.path)[0] for route in every if route.from_anywhere],
    )
    app.mount("/static", StaticFiles(packages=[("assay.web", "static")]))
    for route in every:
        app.add_api_route(
            route.path,
            route.handler,
            methods=[route.method],
            response_model=None,
            dependencies=[Depends(admission(route, page.limits))],
        )
    app.add_exception_handler(StarletteHTTPException, error)
    app.add_exception_handler(RequestValidationError, error)
    app.add_exception_handler(500, error)
    return app


def _what_was_wrong(error: RequestValidationError) -> str:
    first = error.errors()[0]
    return f"{first['loc'][-1]} is not as it should be: {first['msg']}."


def serve(host: str = "127.0.0.1", port: int = 8000, *, makers: int = 0) -> None:
    """Serve the page until SIGINT or SIGTERM; `makers` is how many processes make lists and searches."""
    stopping = threading.Event()
    app = create_app(open_database(), port=port, hosts=[f"{host}:{port}"], stopping=stopping, makers=makers)
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=1, server_header=False
    )
    print(f"assay  http://{host}:{port}/", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, stopping).run()


class _Server(uvicorn.Server):
    """Tells the streams that it stops: uvicorn itself would wait for them."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stopping.set()
        super().handle_exit(sig, frame)
