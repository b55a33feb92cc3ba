"""Feeds, as Atom and JSON Feed: of every list and search, and of the log of verdicts, with its page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import sqlalchemy as sa
from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response

from assay.evidence.verdict_log import VerdictChange, VerdictLog, verdict_changes
from assay.papers import Paper
from assay.papers.records import papers
from assay.papers.selection import Selection
from assay.web.lists import SIZE, Shown, heading
from assay.web.page import Page, Route, address, refused

Before = Annotated[int | None, Query(ge=1, lt=2**31)]


def routes(page: Page) -> list[Route]:
    feeds = _Feeds(page)
    return [
        Route("/feed.atom", feeds.list_atom),
        Route("/feed.json", feeds.list_json),
        Route("/verdicts", feeds.verdicts),
        Route("/verdicts.json", feeds.verdicts_json),
        Route("/verdicts/feed.atom", feeds.verdicts_atom),
        Route("/verdicts/feed.json", feeds.verdicts_feed),
    ]


@dataclass(frozen=True)
class Entry:
    """One entry of a feed; times are ISO text in UTC."""

    id: str
    url: str
    title: str
    published: str
    updated: str
    text: str
    authors: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Feed:
    """What a feed says of itself, and its entries, the newest first. An empty one is valid."""

    title: str
    page: str
    address: str
    entries: Sequence[Entry]
    next: str | None = None

    @property
    def updated(self) -> str:
        return max((entry.updated for entry in self.entries), default="2026-01-01T00:00:00+00:00")


class _Feeds:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.shown = Shown(page)
        self.log = VerdictLog(page.engine)

    # ------------------------------------------------------------------ lists

    def _list(self, request: Request, after: str | None) -> Feed:
        base = str(request.base_url).rstrip("/")
        with refused():
            selection = Selection.read(request.query_params)
            found = self.shown.list(selection, after)
        query = selection.query()
        fallen = self._fallen([paper.slug for paper, *_ in found["shown"] if paper.slug])
        entries = []
        for paper, exhibit, *_ in found["shown"]:
            came = (
                f"{paper.day}T00:00:00+00:00" if paper.day else paper.added_at or "2026-01-01T00:00:00+00:00"
            )
            said = [paper.sentence or paper.abstract or ""]
            if exhibit is not None and exhibit.counts:
                said.append(
                    "Claims: " + ", ".join(f"{count} {kind}" for kind, count in exhibit.counts.items()) + "."
                )
            entries.append(
                Entry(
                    id=_permanent(paper, base),
                    url=base + address(paper),
                    title=paper.title,
                    published=came,
                    updated=max(came, fallen.get(paper.slug or "", "")),
                    text=" ".join(filter(None, said)),
                    authors=paper.author_names,
                    tags=tuple(
                        dict.fromkeys(filter(None, (paper.field, *paper.categories, *paper.keywords)))
                    ),
                )
            )
        following = found["next"] and urlencode({**_pairs(selection), "after": found["next"]})
        return Feed(
            f"assay: {heading(selection)}",
            f"{base}/{'?' if query else ''}{query}",
            str(request.url),
            entries,
            following and f"{base}{request.url.path}?{following}",
        )

    def _fallen(self, slugs: Sequence[str]) -> dict[str, str]:
        """When a verdict of these studies changed last."""
        own = verdict_changes.c.study
        query = sa.select(own, sa.func.max(verdict_changes.c.at)).where(own.in_(slugs)).group_by(own)
        with self.page.engine.connect() as connection:
            return {row.study: row[1] for row in connection.execute(query)}

    def list_atom(self, request: Request, after: str | None = None) -> Response:
        return self._atom(request, self._list(request, after))

    def list_json(self, request: Request, after: str | None = None) -> Response:
        return _json(request, self._list(request, after))

    # ------------------------------------------------------------------ verdicts

    def _changes(self, study: str | None, before: int | None) -> dict[str, Any]:
        changes = self.log.changes(study=study, before=before, limit=SIZE + 1)
        more, changes = len(changes) > SIZE, changes[:SIZE]
        sentences = {
            (exhibit.slug, item.experiment.name, item.claim.name): item.claim.sentence
            for exhibit in (self.page.exhibits.every().values() if changes else ())
            for item in exhibit.claims
        }
        titles = sa.select(papers.c.slug, papers.c.title).where(
            papers.c.slug.in_({change.study for change in changes})
        )
        with self.page.engine.connect() as connection:
            known = {row.slug: row.title for row in connection.execute(titles)}
        return {
            "changes": [
                (
                    change,
                    known.get(change.study, change.study),
                    sentences.get((change.study, change.experiment, change.claim), change.claim),
                )
                for change in changes
            ],
            "study": study,
            "first": before is None,
            "query": urlencode({"study": study}) if study else "",
            "following": more and urlencode(({"study": study} if study else {}) | {"before": changes[-1].id}),
        }

    def verdicts(self, request: Request, study: str | None = None, before: Before = None) -> Response:
        return self.page.html(request, "verdicts.html", self._changes(study, before))

    def verdicts_json(self, study: str | None = None, before: Before = None) -> Response:
        found = self._changes(study, before)
        changes = [
            vars(change) | {"title": title, "sentence": sentence}
            for change, title, sentence in found["changes"]
        ]
        following = f"/verdicts.json?{found['following']}" if found["following"] else None
        return JSONResponse({"changes": changes, "next": following})

    def _verdicts(self, request: Request, study: str | None) -> Feed:
        base = str(request.base_url).rstrip("/")
        found = self._changes(study, None)
        entries = [
            Entry(
                id=f"{base}/verdicts#change-{change.id}",
                url=f"{base}/papers/{change.study}#{change.experiment}-{change.claim}",
                title=f"{became(change)}: {title}",
                published=change.at,
                updated=change.at,
                text=f"The paper claims that the method {sentence}. {weight(change)}",
                tags=(change.after, change.study),
            )
            for change, title, sentence in found["changes"]
        ]
        page = f"{base}/verdicts" + (f"?{found['query']}" if study else "")
        return Feed("assay: changes of verdicts", page, str(request.url), entries)

    def verdicts_atom(self, request: Request, study: str | None = None) -> Response:
        return self._atom(request, self._verdicts(request, study))

    def verdicts_feed(self, request: Request, study: str | None = None) -> Response:
        return _json(request, self._verdicts(request, study))

    def _atom(self, request: Request, feed: Feed) -> Response:
        text = _legal(self.page.render("feed.xml", {"feed": feed}))
        return Response(text, media_type="application/atom+xml")


def became(change: VerdictChange) -> str:
    """What happened to the claim, as a title."""
    before = "" if change.before in (None, "unchecked") else f" (was {change.before})"
    return f"{change.after.capitalize()}{before}"


def weight(change: VerdictChange) -> str:
    """What the verdict rests on."""
    return (
        f"Yes in {change.yes} of {change.answered} trials at {change.scale} scale, evidence {change.origin}."
    )


def _json(request: Request, feed: Feed) -> Response:
    items = [
        {
            "id": entry.id,
            "url": entry.url,
            "title": entry.title,
            "content_text": entry.text,
            "date_published": entry.published,
            "date_modified": entry.updated,
            "authors": [{"name": name} for name in entry.authors],
            "tags": list(entry.tags),
        }
        for entry in feed.entries
    ]
    said = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": feed.title,
        "home_page_url": feed.page,
        "feed_url": feed.address,
        "items": items,
    }
    said |= {"next_url": feed.next} if feed.next else {}
    return JSONResponse(said, media_type="application/feed+json")


def _permanent(paper: Paper, base: str) -> str:
    """What names the paper whatever host serves the feed: readers tell by it what is new."""
    for kind, value in paper.outside_ids:
        if kind in ("arxiv", "doi", "url"):
            return {"arxiv": "https://arxiv.org/abs/", "doi": "https://doi.org/"}.get(kind, "") + value
    return base + address(paper)


def _pairs(selection: Selection) -> dict[str, str]:
    return {name: value for name, value in vars(selection).items() if value}


def _legal(text: str) -> str:
    """The text without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
