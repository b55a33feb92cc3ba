"""What all parts of the page share: templates, how a page or a stream is sent, who may call what."""

from __future__ import annotations

import asyncio
import html
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa
from fastapi import HTTPException, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from jinja2 import Environment, PackageLoader
from jinja2.filters import do_urlencode
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from markupsafe import Markup

from assay import __version__, numbers
from assay.papers import Paper, Papers, UnknownPaper
from assay.papers.people import Accounts, Contributions
from assay.papers.records import read
from assay.web.checks import Checks, Controls
from assay.web.exhibits import Exhibit, Exhibits
from assay.web.plot import trial_plot

if TYPE_CHECKING:
    from assay.web.makers import Makers

POLL_SECONDS = 0.5
"""How often a stream looks whether there is anything new."""

PING_POLLS = 30
"""After how many looks without news a stream sends a comment, so that proxies keep it open."""


class Who(IntEnum):
    """Who may call a route; each may what those before may."""

    ANYONE = 0
    READER = 1
    CURATOR = 2
    ADMIN = 3


@dataclass(frozen=True)
class Route:
    """An address, what answers it, and who may call it. A handler's person is `request.state.person`."""

    path: str
    handler: Callable[..., Any]
    who: Who = Who.ANYONE
    method: str = "GET"
    limit: str = ""
    """How often one person, or one address, may call it, such as "60/minute"."""
    from_anywhere: bool = False
    """May be posted to by programs and pages of others: what it needs to know is in its own address."""


class Limits:
    """How often somebody has done something of late; forgotten when the server ends."""

    def __init__(self) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def spend(self, limit: str, *what: str) -> None:
        """Count one more time; 429 where that is more than `limit`, such as "60/minute"."""
        rate = parse(limit)
        if not self._limiter.hit(rate, *what):
            wait = max(1, math.ceil(self._limiter.get_window_stats(rate, *what).reset_time - time.time()))
            raise HTTPException(
                429, f"That was too often; try again in {wait} seconds.", headers={"Retry-After": str(wait)}
            )


class Page:
    """The records, the evidence and the templates behind all parts of the page."""

    def __init__(self, engine: sa.Engine, stopping: threading.Event) -> None:
        self.engine = engine
        self.stopping = stopping
        self.makers: Makers | None = None
        """The processes that make lists and searches; without, threads do."""
        self.records = Papers(engine)
        self.accounts = Accounts(engine)
        self.contributions = Contributions(engine)
        self.limits = Limits()
        self.exhibits = Exhibits(engine)
        self.checks = Checks(engine)
        self.controls = Controls(engine)
        self.templates = Environment(
            loader=PackageLoader("assay.web"), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self.templates.filters["address"] = address
        # A list has hundreds of keywords and organisations to quote, most of them again and again.
        self.templates.filters["urlencode"] = lru_cache(10_000)(do_urlencode)
        self.templates.globals.update(
            version=__version__,
            spread=numbers.spread,
            seconds=numbers.seconds,
            trial_plot=trial_plot,
            shape=_shape,
        )

    def find(self, key: str) -> tuple[Paper, Exhibit | None]:
        """The paper of that key and its study; 404 where there is none."""
        try:
            paper = self.records.find(key)
        except UnknownPaper as error:
            raise HTTPException(404, sentence(str(error))) from error
        return paper, self.exhibits.one(paper.slug) if paper.slug else None

    def papers(self, ids: Iterable[int | None]) -> dict[int, Paper]:
        """The papers with these ids."""
        wanted = sorted({paper_id for paper_id in ids if paper_id is not None})
        with self.engine.connect() as connection:
            return {paper.id: paper for paper in read(connection, wanted)}

    def render(self, template: str, values: dict[str, Any]) -> str:
        return self.templates.get_template(template).render(values)

    def html(self, request: Request, template: str, values: dict[str, Any], status: int = 200) -> Response:
        """A page, as the person who asks for it sees it."""
        person = getattr(request.state, "person", None)
        # A page for one person must not be kept for another.
        headers = {"Cache-Control": "private, no-store" if person else "no-cache"}
        here = f"{request.url.path}?{request.url.query}" if request.url.query else request.url.path
        values = values | {"person": person, "here": here}
        return HTMLResponse(self.render(template, values), status, headers=headers)

    def stream(self, request: Request, template: str, look: Callable[[], dict[str, Any]]) -> Response:
        """A stream of the template over what `look` finds, whenever that changes; `ended` says that no check
        is queued or running."""

        person = getattr(request.state, "person", None)

        async def events() -> AsyncIterator[str]:
            last: dict[str, Any] = {}
            quiet = 0
            while not self.stopping.is_set() and not await request.is_disconnected():
                found = await asyncio.to_thread(look)
                quiet += 1
                if found != last:
                    yield _event(
                        "update", await asyncio.to_thread(self.render, template, found | {"person": person})
                    )
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


def address(paper: Paper) -> str:
    """The path of the paper's page: by slug where it has one, else by arXiv id, else by title."""
    return f"/papers/{quote(key_of(paper))}"


def key_of(paper: Paper) -> str:
    return paper.slug or paper.arxiv_id or paper.title


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines())
    return f"event: {name}\n{lines}\n"


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith(('.', '?')) else '.'}"


@contextmanager
def refused() -> Iterator[None]:
    """Answers a ValueError by 400 and a PermissionError by 403, with its sentence."""
    try:
        yield
    except PermissionError as error:
        raise HTTPException(403, sentence(str(error))) from error
    except ValueError as error:
        raise HTTPException(400, sentence(str(error))) from error


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
