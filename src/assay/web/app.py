"""The page and its API: every page has its twin in JSON."""

from __future__ import annotations

import asyncio
import contextlib
import html
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from types import FrameType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from starlette.exceptions import HTTPException as StarletteHTTPException

from assay import __version__, numbers
from assay.database import open_database
from assay.papers import FIELDS, Paper, Papers, UnknownPaper
from assay.web import source
from assay.web.checks import Checks, Controls
from assay.web.exhibits import Exhibit, Exhibits, wrong_verdicts
from assay.web.guard import FIGURE_POLICY, Guard, served_hosts
from assay.web.plot import trial_plot

POLL_SECONDS = 0.5
"""How often a stream looks whether there is anything new."""

PING_POLLS = 30
"""After how many looks without news a stream sends a comment, so that proxies keep it open."""


def create_app(
    engine: sa.Engine, *, port: int = 8000, hosts: Iterable[str] = (), stopping: threading.Event | None = None
) -> FastAPI:
    """The application over the database behind `engine`, answering to the loopback names at `port`.

    `hosts` are further Host headers to answer to, beside those in the comma list `ASSAY_HOSTS`; streams end
    when `stopping` is set.
    """
    page = _Page(engine, stopping or threading.Event())
    app = FastAPI(title="assay", lifespan=page.lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        Guard, hosts=served_hosts(port, [*hosts, *os.environ.get("ASSAY_HOSTS", "").split(",")])
    )
    app.mount("/static", StaticFiles(packages=[("assay.web", "static")]))
    for path, handler in (
        ("/", page.papers),
        ("/papers.json", page.papers_json),
        ("/events", page.papers_events),
        ("/source/{module}.json", page.source_json),
        ("/source/{module}", page.source),
        # A key may hold slashes (cs/0112017): what follows it has to be tried first.
        ("/papers/{key:path}/figures/{experiment}.svg", page.figure),
        ("/papers/{key:path}/events", page.paper_events),
        ("/papers/{key:path}.json", page.paper_json),
        ("/papers/{key:path}", page.paper),
    ):
        app.add_api_route(path, handler, methods=["GET"], response_model=None)
    app.add_api_route("/papers/{key:path}/check", page.check, methods=["POST"], response_model=None)
    app.add_api_route("/worker/{wish}", page.pause, methods=["POST"], response_model=None)
    app.add_exception_handler(StarletteHTTPException, page.error)
    app.add_exception_handler(500, page.error)
    return app


def serve(host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the page until SIGINT or SIGTERM."""
    stopping = threading.Event()
    app = create_app(open_database(), port=port, hosts=[f"{host}:{port}"], stopping=stopping)
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


class _Page:
    def __init__(self, engine: sa.Engine, stopping: threading.Event) -> None:
        self.stopping = stopping
        self.records = Papers(engine)
        self.exhibits = Exhibits(engine)
        self.checks = Checks(engine)
        self.controls = Controls(engine)
        self.templates = Environment(
            loader=PackageLoader("assay.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self.templates.filters["address"] = address
        self.templates.globals.update(
            version=__version__,
            spread=numbers.spread,
            seconds=numbers.seconds,
            trial_plot=trial_plot,
            shape=_shape,
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        # In the background: torch alone takes seconds, and the list does not need it.
        threading.Thread(target=self.exhibits.import_all, daemon=True).start()
        yield
        self.checks.close()

    # ------------------------------------------------------------------ the list

    def _list(self, field: str | None) -> dict[str, Any]:
        every = self.records.list()
        if field is not None and field not in FIELDS:
            raise HTTPException(404, f"No field is called {field!r}; there are {', '.join(FIELDS)}.")
        exhibits = self.exhibits.every()
        chosen = [paper for paper in every if field in (None, paper.field)]
        chosen.sort(key=lambda paper: str(paper.listed or paper.submitted or ""), reverse=True)
        shown = [(paper, exhibits.get(paper.slug or "")) for paper in chosen]
        studied = [exhibit for _, exhibit in shown if exhibit is not None]
        given, wrong = wrong_verdicts(studied)
        count = Counter(paper.field for paper in every)
        return {
            "field": field,
            "fields": {name: count[name] for name in FIELDS if count[name]},
            "query": f"?{urlencode({'field': field})}" if field else "",
            "shown": shown,
            "studied": len(studied),
            "given": given,
            "wrong": wrong,
            "worker": self.controls.as_json(),
        }

    def papers(self, field: str | None = None) -> Response:
        return self._html("papers.html", self._list(field))

    def papers_json(self, field: str | None = None) -> Response:
        found = self._list(field)
        return JSONResponse(
            {
                "papers": [
                    paper.as_json()
                    | {
                        "address": f"{address(paper)}.json",
                        "study": exhibit and {"counts": exhibit.counts, "running": exhibit.running},
                    }
                    for paper, exhibit in found["shown"]
                ],
                "verdicts_given": found["given"],
                "expected_wrong": found["wrong"],
                "worker": found["worker"],
            }
        )

    async def papers_events(self, request: Request, field: str | None = None) -> Response:
        await asyncio.to_thread(self._list, field)  # an unknown field is no stream

        return self._stream(request, "_list.html", lambda: self._list(field))

    # ------------------------------------------------------------------ a paper

    def _find(self, key: str) -> tuple[Paper, Exhibit | None]:
        try:
            paper = self.records.find(key)
        except UnknownPaper as error:
            raise HTTPException(404, _sentence(str(error))) from error
        return paper, self.exhibits.one(paper.slug) if paper.slug else None

    def _shown(self, paper: Paper, exhibit: Exhibit | None) -> dict[str, Any]:
        given, wrong = wrong_verdicts([exhibit] if exhibit else [])
        check = self.checks.under_way().get(exhibit.slug) if exhibit else None
        return {
            "paper": paper,
            "exhibit": exhibit,
            "check": check,
            "under_way": check is not None or (exhibit is not None and exhibit.running),
            "given": given,
            "wrong": wrong,
            "worker": self.controls.as_json(),
        }

    def paper(self, key: str) -> Response:
        paper, exhibit = self._find(key)
        if key != _key(paper):
            return RedirectResponse(address(paper), 307)
        return self._html("paper.html", self._shown(paper, exhibit) | _code(paper, exhibit))

    def paper_json(self, key: str) -> Response:
        paper, exhibit = self._find(key)
        shown = self._shown(paper, exhibit)
        code = _code(paper, exhibit)
        return JSONResponse(
            paper.as_json()
            | {
                "method": code["method"],
                "use_it": code["example"] and code["example"].code,
                "study": exhibit and exhibit.as_json(),
                "check": shown["check"],
                "verdicts_given": shown["given"],
                "expected_wrong": shown["wrong"],
                "worker": shown["worker"],
            }
        )

    async def paper_events(self, request: Request, key: str) -> Response:
        _, exhibit = await asyncio.to_thread(self._find, key)
        if exhibit is None:
            raise HTTPException(404, "No study tests this paper yet.")

        return self._stream(request, "_evidence.html", lambda: self._shown(*self._find(key)))

    def figure(self, key: str, experiment: str) -> Response:
        _, exhibit = self._find(key)
        try:
            drawn = self.exhibits.figure(exhibit, experiment) if exhibit else None
        except (Exception, SystemExit) as error:  # the figure is the study's code
            raise HTTPException(
                500, f"The figure cannot be drawn: {type(error).__name__}: {error}"
            ) from error
        if drawn is None:
            raise HTTPException(404, "There is no such figure, or no trial to draw yet.")
        headers = {"Content-Security-Policy": FIGURE_POLICY, "Cache-Control": "no-cache"}
        return Response(drawn, media_type="image/svg+xml", headers=headers)

    def check(self, key: str) -> Response:
        paper, exhibit = self._find(key)
        if exhibit is None or exhibit.study is None:
            raise HTTPException(404, "There is no study to check.")
        self.checks.start(exhibit.slug)
        return RedirectResponse(address(paper), 303)

    def pause(self, request: Request, wish: str) -> Response:
        if wish not in ("pause", "resume"):
            raise HTTPException(404, "A worker can be paused and resumed.")
        self.controls.paused = wish == "pause"
        # Back to where the button was; only the path is taken, so that it leads nowhere else.
        back = urlsplit(request.headers.get("referer", ""))
        query = f"?{back.query}" if back.query else ""
        return RedirectResponse(f"/{back.path.lstrip('/')}{query}", 303)

    # ------------------------------------------------------------------ source

    def _source(self, module: str) -> str:
        path = source.modules().get(module)
        if path is None:
            raise HTTPException(
                404, "The page shows the source of methods and of studies, and of nothing else."
            )
        return path.read_text("utf-8")

    def source(self, module: str) -> Response:
        return self._html("source.html", {"module": module, "lines": self._source(module).splitlines()})

    def source_json(self, module: str) -> Response:
        return JSONResponse({"module": module, "source": self._source(module)})

    # ------------------------------------------------------------------ how it is sent

    def _render(self, template: str, values: dict[str, Any]) -> str:
        return self.templates.get_template(template).render(values)

    def _html(self, template: str, values: dict[str, Any], status: int = 200) -> Response:
        return HTMLResponse(self._render(template, values), status, headers={"Cache-Control": "no-cache"})

    def _stream(self, request: Request, template: str, look: Callable[[], dict[str, Any]]) -> Response:
        """A stream of the template over what `look` finds, whenever that changes; `ended` says that no check
        is queued or running."""

        async def events() -> AsyncIterator[str]:
            last: dict[str, Any] = {}
            quiet = 0
            while not self.stopping.is_set() and not await request.is_disconnected():
                found = await asyncio.to_thread(look)
                quiet += 1
                if found != last:
                    yield _event("update", await asyncio.to_thread(self._render, template, found))
                    quiet = 0
                    if not found.get("under_way", True) and last.get("under_way", True):
                        yield _event("ended", "no check is under way")
                if quiet >= PING_POLLS:
                    yield ": still here\n\n"
                    quiet = 0
                last = found
                await self._pause()

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events(), media_type="text/event-stream", headers=headers)

    async def _pause(self) -> None:
        for _ in range(5):
            if not self.stopping.is_set():
                await asyncio.sleep(POLL_SECONDS / 5)

    async def error(self, request: Request, error: Exception) -> Response:
        status, sentence = 500, "The server met an error; the terminal it runs in says more."
        # Starlette's own class: the router raises that, and FastAPI's is one.
        if isinstance(error, StarletteHTTPException):
            status, sentence = error.status_code, error.detail
        if sentence == "Not Found":
            sentence = "There is nothing at this address."
        if request.url.path.endswith(".json"):
            return JSONResponse({"error": sentence}, status)
        return self._html("error.html", {"status": status, "sentence": sentence}, status)


def address(paper: Paper) -> str:
    """The path of the paper's page: by slug where it has one, else by arXiv id, else by title."""
    return f"/papers/{quote(_key(paper))}"


def _key(paper: Paper) -> str:
    return paper.slug or paper.arxiv_id or paper.title


def _code(paper: Paper, exhibit: Exhibit | None) -> dict[str, Any]:
    """The modules of the method and of the study, and the method's example; None for what there is not."""
    method = source.method_module(paper.slug) if paper.slug else None
    return {
        "method": method,
        "study_source": exhibit.module if exhibit and exhibit.module in source.modules() else None,
        "example": source.example(method) if method else None,
    }


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


def _shape(kind: str, x: float, y: float, size: float) -> Markup:
    """The mark of one measurement in a plot: which one it is shows in its shape, not only in its colour."""
    r = size
    match kind:
        case "circle":
            drawn = f'<circle cx="{x}" cy="{y}" r="{r}"/>'
        case "square":
            drawn = f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>'
        case "triangle":
            drawn = f'<path d="M{x} {y - r:.1f}l{r} {2 * r:.1f}h-{2 * r:.1f}z"/>'
        case _:
            drawn = f'<path d="M{x} {y - r:.1f}l{r} {r}l-{r} {r}l-{r}-{r}z"/>'
    return Markup(f'<g class="dot {html.escape(kind)}">{drawn}</g>')
