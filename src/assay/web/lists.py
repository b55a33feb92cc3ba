"""The lists of papers: by day, week and month, by date and trending, by field and keyword, and searches."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable
from datetime import date
from typing import Any
from urllib.parse import urlencode

import anyio
import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import JSONResponse, Response

from assay.papers import Paper
from assay.papers.lists import Lists
from assay.papers.selection import VERDICTS, Selection, week_of
from assay.web.exhibits import Exhibit, wrong_verdicts
from assay.web.mailings import described
from assay.web.page import Page, Route, address, refused

SIZE = 50
"""Papers of one page."""

KEPT_SECONDS = 10
"""How long an answer is given again while nothing is written. Whether a worker runs shows in time only."""

KEPT_AT_MOST = 500
MADE_AT_ONCE = 2


def routes(page: Page) -> list[Route]:
    lists = ListPages(page)
    return [
        Route("/", lists.papers),
        Route("/papers.json", lists.papers),
        Route("/events", lists.papers_events),
    ]


class Shown:
    """Lists as people see them: papers with their evidence, votes and comments."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.lists = Lists(page.engine)

    def list(
        self, selection: Selection, after: str | None = None, *, size: int = SIZE, skip: int = 0
    ) -> dict[str, Any]:
        """What the list's template shows. Raises ValueError for an `after` that no page has given."""
        found = self.lists.page(selection, after, size=size, skip=skip)
        exhibits = self.exhibits(found.papers)
        attention = self.lists.attention([paper.id for paper in found.papers])
        given, wrong = wrong_verdicts(exhibits.values())
        return {
            "shown": [
                (paper, exhibits.get(paper.slug or ""), *attention.get(paper.id, (0, 0)))
                for paper in found.papers
            ],
            "next": found.next,
            "studied": len(exhibits),
            "given": given,
            "wrong": wrong,
        }

    def exhibits(self, papers: tuple[Paper, ...]) -> dict[str, Exhibit]:
        """The studies of these papers, by slug."""
        slugs = {paper.slug for paper in papers if paper.slug}
        if not slugs:
            return {}
        return {slug: one for slug, one in self.page.exhibits.every().items() if slug in slugs}


class ListPages:
    """The routes of the lists. What `make` answers is kept, and may be made by another process."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.shown = Shown(page)
        self.lists = self.shown.lists
        self.kept = _Kept(page, self.make)
        self._counted: tuple[float, dict[str, int]] = (-KEPT_SECONDS, {})
        page.templates.globals.update(verdicts=VERDICTS)

    def _list(self, selection: Selection, after: str | None) -> dict[str, Any]:
        query = selection.query()
        place = urlencode({"after": after}) if after else ""
        found = self.shown.list(selection, after)
        return found | {
            "selection": selection,
            "query": query,
            "link": _links(selection),
            "first": after is None,
            "place": "&".join(filter(None, (query, place))),
            "following": found["next"]
            and "&".join(filter(None, (query, urlencode({"after": found["next"]})))),
            "worker": self.page.controls.as_json(),
        }

    def _around(self, selection: Selection) -> dict[str, Any]:
        """What stands around the list and changes little: its heading, the fields, the days beside."""
        period = selection.period
        before, behind = self.lists.days_beside(*period) if period else (None, None)
        # Other periods are those of its last day with papers.
        last = self.lists.newest_day(period and period[1])
        if period and (last is None or last < period[0]):
            last = period[1]
        kind = next((kind for kind in ("date", "week", "month") if getattr(selection, kind)), "")
        return {
            "heading": heading(selection),
            "fields": self._fields(),
            "periods": last and {name: _named(name, last) for name in ("date", "week", "month")},
            "earlier": kind and before and {kind: _named(kind, before)},
            "later": kind and behind and {kind: _named(kind, behind)},
        }

    def _fields(self) -> dict[str, int]:
        """How many papers each field has, or had a little while ago: counting takes as long as a list."""
        at, counts = self._counted
        if not counts or time.monotonic() - at >= KEPT_SECONDS:
            counts = self.lists.fields()
            self._counted = time.monotonic(), counts
        return counts

    async def papers(self, request: Request) -> Response:
        with refused():
            return await self.kept.get(request)

    def make(self, request: Request) -> Response:
        """The list that is asked for. Raises ValueError for an address that names none."""
        selection = Selection.read(request.query_params)
        after = request.query_params.get("after")
        if request.url.path == "/papers.json":
            return JSONResponse(self._as_json(selection, after))
        values = self._list(selection, after) | self._around(selection)
        return self.page.html(request, "papers.html", values)

    def _as_json(self, selection: Selection, after: str | None) -> dict[str, Any]:
        found = self._list(selection, after)
        return {
            "papers": [
                paper.as_json()
                | {
                    "address": f"{address(paper)}.json",
                    "votes": votes,
                    "comments_here": comments,
                    "study": exhibit and {"counts": exhibit.counts, "running": exhibit.running},
                }
                for paper, exhibit, votes, comments in found["shown"]
            ],
            "next": found["following"] and f"/papers.json?{found['following']}",
            "verdicts_given": found["given"],
            "expected_wrong": found["wrong"],
            "worker": found["worker"],
        }

    async def papers_events(self, request: Request, after: str | None = None) -> Response:
        with refused():
            selection = Selection.read(request.query_params)
            last = await asyncio.to_thread(self._list, selection, after)  # what cannot be shown is no stream
        seen = self.kept.stamp()

        def look() -> dict[str, Any]:
            nonlocal last, seen
            # While nothing was written, nothing is read: many readers leave a list open.
            stamp = self.kept.stamp()
            if stamp != seen or _loading(last):
                last, seen = self._list(selection, after), stamp
            return last

        return self.page.stream(request, "_list.html", look)


class _Kept:
    """Answers to those who are not signed in, given again as long as nothing is written to the database."""

    def __init__(self, page: Page, make: Callable[[Request], Response]) -> None:
        self._page = page
        self._make = make
        self._engine = page.engine
        self._postgresql = self._engine.dialect.name == "postgresql"
        self._connection: Any = None
        self._lock = threading.Lock()
        self._answers: dict[str, Response] = {}
        self._of: object = None
        # More threads at once would take each other's turns in Python, and all of them end late.
        self._making = anyio.CapacityLimiter(MADE_AT_ONCE)

    def stamp(self) -> object:
        """Another one after every write, by whatever process, and now and then without."""
        since = time.monotonic() // KEPT_SECONDS
        if self._postgresql:
            with self._engine.connect() as connection:
                return since, connection.scalar(sa.text("SELECT pg_current_wal_insert_lsn()::text"))
        with self._lock:
            if self._connection is None:
                self._connection = self._engine.raw_connection()
            # It tells what other connections have written: this one is kept for nothing else.
            return since, self._connection.cursor().execute("PRAGMA data_version").fetchone()[0]

    async def get(self, request: Request) -> Response:
        """The answer to the request, made now if need be."""
        if getattr(request.state, "person", None) is not None:
            return await self._made(request)
        key = str(request.url)
        # Before what is read: a write between the two is not missed. In SQLite it takes no time.
        stamp = await anyio.to_thread.run_sync(self.stamp) if self._postgresql else self.stamp()
        if self._of != stamp:
            self._answers.clear()
            self._of = stamp
        kept = self._answers.get(key)
        if kept is None:
            kept = await self._made(request)
            if self._of == stamp and len(self._answers) < KEPT_AT_MOST:
                self._answers[key] = kept
        return Response(kept.body, kept.status_code, headers=dict(kept.headers))

    async def _made(self, request: Request) -> Response:
        if self._page.makers is not None:
            return await self._page.makers.make(request)
        return await anyio.to_thread.run_sync(self._make, request, limiter=self._making)


def heading(selection: Selection) -> str:
    """The selection in words, its period and order included.

    >>> heading(Selection(field="gating", month="2026-11", sort="trending"))
    'Trending papers in gating, November 2026'
    """
    words = described(selection).removeprefix("all ")
    if selection.order == "trending":
        words = f"trending {words}"
    period = ""
    if selection.period:
        first = selection.period[0]
        if selection.date:
            period = f", {first.day} {first:%B %Y}"
        elif selection.week:
            period = f", week {int(selection.week[-2:])} of {selection.week[:4]}"
        else:
            period = f", {first:%B %Y}"
    return f"{words[0].upper()}{words[1:]}{period}"


def _named(kind: str, day: date) -> str:
    """The day, week or month of a day, as a selection names it."""
    return {"date": day.isoformat(), "week": week_of(day), "month": day.isoformat()[:7]}[kind]


def _links(selection: Selection) -> Callable[..., str]:
    """A function from what is to differ to the address of that list."""
    plain = dataclasses.asdict(selection)

    def link(**changes: str) -> str:
        if changes.keys() & {"date", "week", "month"}:
            changes = {"date": "", "week": "", "month": ""} | changes
        query = Selection(**plain | changes).query()
        return f"/?{query}" if query else "/"

    return link


def _loading(found: dict[str, Any]) -> bool:
    return any(exhibit and not exhibit.study and not exhibit.cause for _, exhibit, *_ in found["shown"])
