"""The page as static files that any host serves, search by words included."""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import posixpath
import re
import shutil
import threading
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import sqlalchemy as sa
from starlette.types import ASGIApp, Message

from assay.evidence.verdict_log import verdict_index
from assay.papers import FIELDS, Paper
from assay.papers.records import papers, read
from assay.papers.selection import VERDICTS
from assay.web.app import create_app
from assay.web.page import Page, address

HOST = "http://127.0.0.1:8000"
"""Whom the pages are asked for, in this process; no file names it."""

MARK = ".assay-export"
"""A file that tells an earlier export, which a new one may replace, from a folder of something else."""

_ALONE = {"field", "date", "week", "month"}
"""What lists have files of their own by, one at a time; the rest is found by the page of search."""

_LISTS = {"/": "html", "/papers.json": "json", "/feed.atom": "atom", "/feed.json": "feed.json"}
_LOGS = {
    "/verdicts": "html",
    "/verdicts.json": "json",
    "/verdicts/feed.atom": "atom",
    "/verdicts/feed.json": "feed.json",
}
_AT_ONCE = 500
_TEXT_AT_MOST = 300  # characters of an abstract that the index of search holds


class ExportError(ValueError):
    """The export cannot be made; the message says why."""


def export(
    engine: sa.Engine,
    folder: Path,
    *,
    site: str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> int:
    """Write the page into the folder, as somebody sees it who is not signed in; returns how many files.

    `site` is the address that the files will have; feeds need it, and are left out without. `progress` is
    told how many addresses are done, and how many are known. An earlier export in the folder is replaced
    when the new one is complete; a folder that holds anything else is left alone (`ExportError`).
    """
    if site is not None and urlsplit(site).scheme not in ("http", "https"):
        raise ExportError(f"the address of the site is to be like https://papers.example/, got {site!r}")
    if folder.exists() and not (folder / MARK).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder} holds something else than an export of this page; name an empty folder")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / MARK).write_text("made by assay export\n")
    count = asyncio.run(_Export(engine, partial, site and site.rstrip("/") + "/", progress).run())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return count


class _Export:
    def __init__(
        self,
        engine: sa.Engine,
        folder: Path,
        site: str | None,
        progress: Callable[[int, int], object] | None,
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.site = site
        self.progress = progress or (lambda done, known: None)
        self.app = create_app(engine)
        self.known: dict[str, None] = {}
        """Every address that is to be written, in the order in which it was met."""
        self.count = 0

    async def run(self) -> int:
        index = []
        with self.engine.connect() as connection:
            kinds: dict[str, list[str]] = {}
            ids = connection.scalars(sa.select(papers.c.id).order_by(papers.c.id)).all()
            for start in range(0, len(ids), _AT_ONCE):
                for paper in read(connection, ids[start : start + _AT_ONCE]):
                    # Papers before lists: their pages read the evidence that lists count.
                    self._file(address(paper))
                    index.append(paper)
        for begin in ("/", "/verdicts"):
            self._file(begin)
        done = 0
        while done < len(self.known):
            for asked in list(self.known)[done:]:
                await self._write(asked)
                done += 1
                self.progress(done, len(self.known))
        with self.engine.connect() as connection:
            for study, kind in connection.execute(sa.select(verdict_index.c.study, verdict_index.c.kind)):
                kinds.setdefault(study, []).append(kind)
        self._write_search([_indexed(paper, kinds.get(paper.slug or "", [])) for paper in index])
        return self.count

    async def _write(self, asked: str) -> None:
        status, media, body = await _ask(self.app, asked)
        if status != 200:
            return  # such as a figure that cannot be drawn: the page says why
        name = _name(asked)
        assert name is not None
        if media == "text/html":
            body = self._linked(body.decode(), name).encode()
        elif media == "application/atom+xml":
            body = re.sub(
                rf'{HOST}(/[^\s"<]*)',
                lambda found: html.escape(self._absolute(html.unescape(found[1])), quote=False),
                body.decode(),
            ).encode()
        elif media == "application/feed+json":
            body = re.sub(
                rf'{HOST}(/[^\s"\\]*)', lambda found: self._absolute(found[1]), body.decode()
            ).encode()
        elif media == "application/json":
            body = re.sub(
                r'"(address|next)":"(/[^"]*)"',
                lambda found: f'"{found[1]}":"{self._relative(found[2], name) or found[2]}"',
                body.decode(),
            ).encode()
        self._save(name, body)

    def _save(self, name: str, body: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self.count += 1

    def _file(self, asked: str) -> str | None:
        """The file of an address, which is then to be written; None where it has none."""
        name = _name(asked)
        if name is None or (self.site is None and name.endswith((".atom", ".feed.json"))):
            return None
        if not name.endswith((".js", ".css")) and not name.startswith("static/"):
            self.known.setdefault(asked)
        return name

    def _relative(self, asked: str, name: str) -> str | None:
        """The address from within the file of that name; None where it leads to what is no file."""
        target, hash_, fragment = asked.partition("#")
        if not target:
            return asked
        file = self._file(target)
        if file is None and urlsplit(target).path == "/":
            # The page of search chooses by the same parameters.
            return posixpath.relpath("search.html", posixpath.dirname(name) or ".") + target[1:]
        if file is None:
            return None
        return quote(posixpath.relpath(file, posixpath.dirname(name) or ".")) + hash_ + fragment

    def _absolute(self, asked: str) -> str:
        assert self.site is not None
        return self.site + (self._relative(asked, "index.html") or "").removeprefix("index.html")

    def _linked(self, page: str, name: str) -> str:
        """The page with addresses of files, and without what needs the server."""

        def tag(found: re.Match[str]) -> str:
            kind, attributes, inner = found["tag"], found["attributes"], found["inner"] or ""
            to = re.search(r'\b(href|src)="([^"]*)"', attributes)
            if to is None or not to[2].startswith("/"):
                return found[0]
            relative = self._relative(html.unescape(to[2]), name)
            if relative is None:
                return inner
            attributes = attributes.replace(to[0], f'{to[1]}="{html.escape(relative)}"')
            return f"<{kind}{attributes}>{inner}" + ("</a>" if kind == "a" else "")

        def form(found: re.Match[str]) -> str:
            if 'class="search"' not in found[0]:
                return ""
            search = posixpath.relpath("search.html", posixpath.dirname(name) or ".")
            return found[0].replace('action="/"', f'action="{search}"')

        for pattern in (
            r' data-events="[^"]*"',
            r'<nav class="who".*?</nav>',
            r'<div class="check">.*?</div>',
        ):
            page = re.sub(pattern, "", page, flags=re.DOTALL)
        page = re.sub(r"<form\b.*?</form>", form, page, flags=re.DOTALL)
        # Attributes are quoted and escaped, so that a tag ends at the first ">".
        anchor = r"<(?P<tag>a)\b(?P<attributes>[^>]*)>(?P<inner>.*?)</a>"
        page = re.sub(anchor, tag, page, flags=re.DOTALL)
        return re.sub(r"<(?P<tag>link|script|img)\b(?P<attributes>[^>]*)>(?P<inner>)", tag, page)

    def _write_search(self, index: list[list[Any]]) -> None:
        values = {"fields": FIELDS, "verdicts": VERDICTS, "papers": len(index)}
        page = Page(self.engine, threading.Event()).render("search.html", values)
        self._save("search.html", self._linked(page, "search.html").encode())
        # A script, not JSON: a browser reads that from a folder on disk too.
        said = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
        self._save("search-index.js", f"const PAPERS = {said};\n".encode())
        for name in ("favicon.svg", "page.css", "progress.js", "search.js"):
            text = resources.files("assay.web").joinpath("static", name).read_bytes()
            self._save(f"static/{name}", text)


def _indexed(paper: Paper, kinds: list[str]) -> list[Any]:
    """What the page of search knows of a paper; `static/search.js` reads it by place."""
    return [
        paper.title,
        _name(address(paper)),
        str(paper.day or ""),
        paper.field or "",
        paper.organisation or "",
        paper.submitter or "",
        paper.author_names,
        [*paper.keywords, *paper.categories],
        paper.sentence or (paper.abstract or "")[:_TEXT_AT_MOST],
        sorted(set(kinds)),
    ]


def _name(asked: str) -> str | None:
    """The name of the file that an address becomes; None for what becomes none."""
    parts = urlsplit(asked)
    path, query = unquote(parts.path), dict(parse_qsl(parts.query))
    if path.startswith("/static/") or path == "/search-index.js":
        return path[1:]
    if path in _LISTS:
        named = query.keys() - {"sort", "after"}
        if len(named) > 1 or named - _ALONE or query.get("sort") == "relevance":
            return None
        if named - {"field"} and ("sort" in query or "/feed" in path):
            return None  # of days long past there is no news, and little to rank
        own = "-".join(f"{name}-{value}" for name, value in sorted(query.items()))
        return f"lists/{_safe(own)}.{_LISTS[path]}" if own else f"index.{_LISTS[path]}"
    if path in _LOGS:
        own = "-".join(["verdicts", *(f"{name}-{value}" for name, value in sorted(query.items()))])
        return f"{_safe(own)}.{_LOGS[path]}"
    for folder, suffixes in (("papers", (".svg", ".json", ".md")), ("source", (".json",))):
        if path.startswith(f"/{folder}/"):
            key = path.removeprefix(f"/{folder}/")
            suffix = next((suffix for suffix in suffixes if key.endswith(suffix)), "")
            return f"{folder}/{_safe(key.removesuffix(suffix))}{suffix or '.html'}"
    return None


def _safe(text: str) -> str:
    """A name that every file system takes and tells from others: by a digest, where letters would not do."""
    if re.fullmatch(r"[a-z0-9_-][a-z0-9_.-]*(/[a-z0-9_-][a-z0-9_.-]*)*", text) and len(text) <= 100:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{re.sub('[^a-z0-9]+', '-', text.lower())[:40].strip('-')}-{digest}"


async def _ask(app: ASGIApp, asked: str) -> tuple[int, str, bytes]:
    """Status, media type and body of the answer to a GET."""
    parts = urlsplit(asked)
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(b"host", urlsplit(HOST).netloc.encode())],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    headers = dict(said[0]["headers"])
    body = b"".join(message.get("body", b"") for message in said[1:])
    return said[0]["status"], headers.get(b"content-type", b"").decode().partition(";")[0], body
