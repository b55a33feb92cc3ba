"""Lists and searches made by processes beside the server, for where many people read at once.

More threads would be of no use: of a process of Python, one runs at a time. All else, and above all what has
to be counted and kept in one place, stays with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import sqlalchemy as sa
from fastapi import Request
from fastapi.responses import Response

from assay.database import open_database
from assay.papers.people import Person
from assay.papers.search import Search
from assay.web.page import Page

if TYPE_CHECKING:
    from assay.web.lists import ListPages


class Makers:
    """So many processes over the database behind `engine`; those that die are replaced."""

    def __init__(self, engine: sa.Engine, count: int) -> None:
        self._url = engine.url
        self._count = count
        self._pool = self._start()

    async def make(self, request: Request) -> Response:
        """What `ListPages.make` answers to the request."""
        asked = request.url.path, request.url.query, getattr(request.state, "person", None)
        pool = self._pool
        try:
            return await asyncio.wrap_future(pool.submit(_make, *asked))
        except BrokenProcessPool:  # one was killed, which takes the others along
            if self._pool is pool:
                self._pool = self._start()
            return await asyncio.wrap_future(self._pool.submit(_make, *asked))

    def close(self) -> None:
        """End the processes, whatever they do."""
        self._held.close()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        until, self._held = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(self._count, context, initializer=_begin, initargs=(self._url, until))
        for _ in range(self._count):  # each task that finds none idle starts one: now, not when somebody asks
            pool.submit(_be_ready)
        return pool


# -- in the processes ---------------------------------------------------------------------------------------

_lists: ListPages


def _begin(url: sa.URL, until: Connection) -> None:
    from assay.web.app import routes  # which imports this module
    from assay.web.lists import ListPages

    global _lists
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches these as well
    threading.Thread(target=_follow, args=(until,), daemon=True).start()
    page = Page(open_database(url), threading.Event())
    routes(page)  # tells the templates what all parts of the page need
    _lists = ListPages(page)
    threading.Thread(target=page.exhibits.import_all, daemon=True).start()


def _follow(until: Connection) -> None:
    """End when the server closes its end, or is killed."""
    with contextlib.suppress(EOFError):
        until.recv()
    os._exit(0)


def _be_ready() -> None:
    Search(_lists.page.engine).rank("papers")  # loads the model and the vectors


def _make(path: str, query: str, person: Person | None) -> Response:
    scope = {"type": "http", "path": path, "query_string": query.encode(), "headers": []}
    return _lists.make(Request(scope | {"state": {"person": person}}))
