"""The read API: the routes of the public Daily Papers API with its parameters and fields, so that its client
works against this page (`HfApi(endpoint=…)`), a paper with its evidence in Markdown, and the description of
it all as OpenAPI and as a page."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import JSONResponse, Response

from assay import __version__
from assay.numbers import spread
from assay.papers import FIELDS, Paper
from assay.papers.selection import LONGEST, ORDERS, VERDICTS, Selection
from assay.web.exhibits import Exhibit
from assay.web.lists import Shown
from assay.web.page import Page, Route, key_of, refused

LIMIT = 100
"""Papers of one answer, at most."""

Limit = Annotated[int, Query(ge=1, le=LIMIT)]
At = Annotated[int, Query(ge=0, le=10_000)]


def routes(page: Page) -> list[Route]:
    api = _Api(page)
    return [
        Route("/api", api.description),
        Route("/api/openapi.json", api.openapi),
        Route("/api/daily_papers", api.daily_papers),
        Route("/api/papers/search", api.search),
        Route("/api/papers/{key:path}", api.paper),
        Route("/papers/{key:path}.md", api.markdown),
    ]


class _Api:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.shown = Shown(page)

    def daily_papers(
        self,
        request: Request,
        sort: Literal["publishedAt", "trending"] = "publishedAt",
        p: At = 0,
        limit: Limit = 50,
    ) -> Response:
        order = {"publishedAt": "date", "trending": "trending"}[sort]
        with refused():
            selection = Selection.read({**request.query_params, "sort": order})
            found = self.shown.list(selection, size=limit, skip=p * limit)
        return JSONResponse([_item(*one) for one in found["shown"]])

    def search(self, request: Request, limit: Limit = 50) -> Response:
        named = {name: value for name, value in request.query_params.items() if name != "sort"}
        with refused():
            selection = Selection.read(named)
            found = self.shown.list(selection, size=limit)
        return JSONResponse([_item(*one) for one in found["shown"]])

    def paper(self, key: str) -> Response:
        paper, exhibit = self.page.find(key)
        votes, comments = self.shown.lists.attention([paper.id]).get(paper.id, (0, 0))
        linked: dict[str, list[str]] = {"linkedModels": [], "linkedDatasets": [], "linkedSpaces": []}
        none = {"numTotalModels": 0, "numTotalDatasets": 0}
        said = {"numComments": comments + (paper.comments or 0)}
        return JSONResponse({**_paper(paper, exhibit, votes), **said, **linked, **none})

    def markdown(self, key: str) -> Response:
        paper, exhibit = self.page.find(key)
        return Response(_markdown(paper, exhibit), media_type="text/markdown; charset=utf-8")

    def openapi(self) -> Response:
        return JSONResponse(document())

    def description(self, request: Request) -> Response:
        values = {"document": document(), "base": str(request.base_url).rstrip("/")}
        return self.page.html(request, "api.html", values)


# -- the fields of the public API ----------------------------------------------------------------------------


def _paper(paper: Paper, exhibit: Exhibit | None, votes: int) -> dict[str, Any]:
    """The paper object; what is not known is left out, as there."""
    day = paper.listed or paper.day
    submitter = paper.submitter and {
        "_id": f"submitter-{paper.submitter}",
        "avatarUrl": "",
        "fullname": paper.submitter,
        "name": paper.submitter,
        "user": paper.submitter,
        "type": "user",
        "isPro": False,
    }
    organisation = paper.organisation and {
        "_id": f"organisation-{paper.organisation}",
        "avatarUrl": "",
        "name": paper.organisation,
        "fullname": paper.organisation,
    }
    known = {
        "publishedAt": _time(paper.submitted or paper.day, paper.added_at),
        "submittedOnDailyAt": day and _time(day, None),
        "submittedOnDailyBy": submitter,
        "ai_keywords": list(paper.keywords),
        "githubRepo": paper.repository,
        "githubStars": paper.stars,
        "projectPage": paper.project_page,
        "organization": organisation,
        "field": paper.field,
        "sentence": paper.sentence,
        "evidence": exhibit and exhibit.counts,
    }
    return {
        "id": paper.arxiv_id or key_of(paper),
        "authors": [
            {"_id": f"author-{paper.id}-{place}", "name": name, "hidden": False}
            for place, name in enumerate(paper.author_names)
        ],
        "title": paper.title,
        "summary": paper.abstract or paper.sentence or "",
        "upvotes": votes + (paper.votes_elsewhere or 0),
    } | {name: value for name, value in known.items() if value not in (None, [], "")}


def _item(paper: Paper, exhibit: Exhibit | None, votes: int, comments: int) -> dict[str, Any]:
    """An item of a list: the paper object, and what the list itself says of it."""
    inner = _paper(paper, exhibit, votes)
    item = {
        "paper": inner,
        "publishedAt": inner.get("submittedOnDailyAt") or inner["publishedAt"],
        "title": paper.title,
        "summary": inner["summary"],
        "numComments": comments + (paper.comments or 0),
        "isAuthorParticipating": False,
    }
    if "submittedOnDailyBy" in inner:
        item["submittedBy"] = inner["submittedOnDailyBy"]
    for name in ("organization", "githubRepo", "githubStars", "projectPage", "ai_keywords", "evidence"):
        if name in inner:
            item[name] = inner[name]
    return item


def _time(day: object, at: str | None) -> str:
    """A time as the public API writes it, in UTC to the millisecond."""
    if day is None:
        return f"{(at or '2026-01-01T00:00:00')[:19]}.000Z"
    return f"{day}T00:00:00.000Z"


# -- Markdown ------------------------------------------------------------------------------------------------


def _markdown(paper: Paper, exhibit: Exhibit | None) -> str:
    """The paper with its evidence."""
    lines = [f"# {_plain(paper.title)}", ""]
    facts = {
        "arXiv": paper.arxiv_id and f"<https://arxiv.org/abs/{paper.arxiv_id}>",
        "Authors": _plain(", ".join(paper.author_names)) or paper.authors,
        "Organisation": paper.organisation and _plain(paper.organisation),
        "Submitted": paper.submitted,
        "Listed": paper.listed,
        "Field": paper.field,
        "Keywords": _plain(", ".join(paper.keywords)),
        "Remark": paper.remark and _plain(paper.remark),
    }
    lines += [f"- {name}: {value}" for name, value in facts.items() if value]
    if paper.sentence:
        lines += ["", _plain(paper.sentence)]
    if paper.abstract:
        lines += ["", "## Abstract", "", _plain(paper.abstract)]
    lines += ["", "## Evidence", ""]
    if exhibit is None:
        lines.append("No study tests this paper yet.")
    elif exhibit.study is None:
        lines.append("The study cannot be used.")
    else:
        lines += ["The paper claims that the method …", ""]
        head = ("Claim", "Published", "Measured", "Yes", "Verdict", "Evidence")
        lines += [_row(head), _row(["---"] * len(head))]
        for item in exhibit.claims:
            published = item.claim.published
            for line in item.lines:
                measured = line.standing.tally.measured(item.claim)
                cells = (
                    f"… {item.claim.sentence}",
                    f"{published.value} ({published.where})" if published else "",
                    ", ".join(
                        f"{one.name} {spread(one.median, one.least, one.greatest)}" for one in measured
                    ),
                    f"{line.tally.yes} of {line.tally.answered}",
                    line.kind,
                    f"{line.standing.series.scale}, {line.standing.series.origin}",
                )
                lines.append(_row([_plain(cell) for cell in cells]))
        lines += [
            "",
            "A claim holds if more than half of such trials say yes, and fails if more than half say no; a "
            "verdict is wrong with at most 5 % chance however long one watches. Measured are medians, with "
            "the range over all trials.",
        ]
    return "\n".join(lines) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(text.split()))


# -- the description -----------------------------------------------------------------------------------------


def document() -> dict[str, Any]:
    """The OpenAPI document of all that programs may read."""
    key = {
        "name": "key",
        "in": "path",
        "required": True,
        "description": "A slug, an arXiv id (with or without version) or a title.",
        "schema": {"type": "string"},
    }
    listed = [*_selection(), _query("after", "What the page before gives for the next.", {"type": "string"})]
    public = [*_selection("sort"), _query("limit", f"At most {LIMIT}.", _whole(1, LIMIT, 50))]
    daily = [
        *public,
        _query("sort", "", {"type": "string", "enum": ["publishedAt", "trending"], "default": "publishedAt"}),
        _query("p", "The page, from 0.", _whole(0, 10_000, 0)),
    ]
    log = [_query("study", "The slug of a paper.", {"type": "string"})]
    items = {"type": "array", "items": {"$ref": "#/components/schemas/Item"}}
    thing = {"type": "object"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "assay",
            "version": __version__,
            "description": "Daily papers with their evidence, to be read without signing in.",
        },
        "paths": {
            "/api/daily_papers": _get(
                "Papers as the public Daily Papers API lists them", daily, "application/json", items
            ),
            "/api/papers/search": _get(
                "Papers that fit the words q, best first", public, "application/json", items
            ),
            "/api/papers/{key}": _get(
                "One paper", [key], "application/json", {"$ref": "#/components/schemas/Paper"}, missing=True
            ),
            "/papers/{key}.md": _get(
                "A paper with its evidence in Markdown",
                [key],
                "text/markdown",
                {"type": "string"},
                missing=True,
            ),
            "/papers/{key}.json": _get(
                "A paper with every trial of its evidence", [key], "application/json", thing, missing=True
            ),
            "/papers.json": _get("A list, as the page shows it", listed, "application/json", thing),
            "/feed.atom": _get("A list as an Atom feed", listed, "application/atom+xml", {"type": "string"}),
            "/feed.json": _get("A list as a JSON feed", listed, "application/feed+json", thing),
            "/verdicts.json": _get(
                "The log of verdicts",
                [*log, _query("before", "Changes below this id.", _whole(1, 2**31 - 1))],
                "application/json",
                thing,
            ),
            "/verdicts/feed.atom": _get(
                "The log as an Atom feed", log, "application/atom+xml", {"type": "string"}
            ),
            "/verdicts/feed.json": _get("The log as a JSON feed", log, "application/feed+json", thing),
        },
        "components": {"schemas": _SCHEMAS},
    }


def _selection(*without: str) -> list[dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {
        "field": {"enum": list(FIELDS)},
        "verdict": {"enum": list(VERDICTS)},
        "sort": {"enum": list(ORDERS)},
        "date": {"pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "week": {"pattern": r"^\d{4}-W\d{2}$"},
        "month": {"pattern": r"^\d{4}-\d{2}$"},
    }
    said = {
        "q": 'Words to search by: meaning, words, "exact phrases", names of authors.',
        "verdict": "Only papers with a claim of that verdict; any: one that holds or fails.",
        "date": "The day of the list, as 2026-11-20.",
        "week": "The week of the list, as 2026-W47.",
        "month": "The month of the list, as 2026-11.",
        "submitter": "Who put it on the page that listed it.",
    }
    return [
        _query(
            part.name,
            said.get(part.name, ""),
            {"type": "string", "maxLength": LONGEST} | known.get(part.name, {}),
        )
        for part in fields(Selection)
        if part.name not in without
    ]


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    said = {"description": description} if description else {}
    return {"name": name, "in": "query", "required": False, "schema": schema} | said


def _whole(least: int, greatest: int, default: int | None = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer", "minimum": least, "maximum": greatest}
    return schema if default is None else schema | {"default": default}


def _get(
    summary: str,
    parameters: list[dict[str, Any]],
    media: str,
    schema: dict[str, Any],
    *,
    missing: bool = False,
) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    wrong = {
        "400": {"description": "A parameter is not as it should be."} | error,
        "422": {"description": "A parameter is not of its kind."} | error,
        "429": {"description": "Too many searches in a short time."} | error,
    }
    absent = {"404": {"description": "There is no such paper."} | error} if missing else {}
    good = {"200": {"description": summary, "content": {media: {"schema": schema}}}}
    return {"get": {"summary": summary, "parameters": parameters, "responses": good | absent | wrong}}


def _object(required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required.split(), "properties": properties}


_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_TIME: dict[str, Any] = {"type": "string", "format": "date-time"}
_TEXTS = {"type": "array", "items": _TEXT}
_USER = {"$ref": "#/components/schemas/User"}
_ORGANISATION = {"$ref": "#/components/schemas/Organization"}
_EVIDENCE = {
    "type": "object",
    "description": "How many claims hold, fail, are undecided, …",
    "additionalProperties": _COUNT,
}
_ABOUT = {
    "githubRepo": _TEXT,
    "githubStars": _COUNT,
    "projectPage": _TEXT,
    "ai_keywords": _TEXTS,
    "organization": _ORGANISATION,
    "evidence": _EVIDENCE,
}
_SCHEMAS = {
    "Error": _object("error", error=_TEXT),
    "User": _object("_id name fullname", _id=_TEXT, name=_TEXT, fullname=_TEXT, avatarUrl=_TEXT, user=_TEXT),
    "Organization": _object("_id name fullname", _id=_TEXT, name=_TEXT, fullname=_TEXT, avatarUrl=_TEXT),
    "Author": _object("_id name hidden", _id=_TEXT, name=_TEXT, hidden={"type": "boolean"}),
    "Paper": _object(
        "id authors title summary upvotes publishedAt",
        id=_TEXT
        | {"description": "The arXiv id without version; for papers from elsewhere, the slug or title."},
        authors={"type": "array", "items": {"$ref": "#/components/schemas/Author"}},
        title=_TEXT,
        summary=_TEXT | {"description": "The abstract, or a sentence of ours where there is none."},
        upvotes=_COUNT | {"description": "Votes here, and on the page that listed it."},
        publishedAt=_TIME | {"description": "When it was submitted."},
        submittedOnDailyAt=_TIME | {"description": "The day that lists go by."},
        submittedOnDailyBy=_USER,
        field={"type": "string", "enum": list(FIELDS)},
        sentence=_TEXT,
        **_ABOUT,
    ),
    "Item": _object(
        "paper publishedAt title summary numComments",
        paper={"$ref": "#/components/schemas/Paper"},
        publishedAt=_TIME | {"description": "The day that lists go by."},
        title=_TEXT,
        summary=_TEXT,
        numComments=_COUNT,
        isAuthorParticipating={"type": "boolean"},
        submittedBy=_USER,
        **_ABOUT,
    ),
}
