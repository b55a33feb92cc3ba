"""The page of one paper: its evidence, the check that can be asked for, the source behind it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from assay.papers import Paper, records
from assay.papers.search import Search
from assay.web import source
from assay.web.checks import QuotaSpent
from assay.web.contributions import conversation, conversation_json
from assay.web.exhibits import Exhibit, wrong_verdicts
from assay.web.guard import FIGURE_POLICY, local
from assay.web.page import Page, Route, Who, address, key_of

CHECKS_A_DAY = 20
"""How many checks a reader may ask for within a day; curators and admins as many as they like."""


def routes(page: Page) -> list[Route]:
    paper = _PaperPage(page)
    return [
        Route("/source/{module}.json", paper.source_json),
        Route("/source/{module}", paper.source),
        # A key may hold slashes (cs/0112017): what follows it has to be tried first.
        Route("/papers/{key:path}/figures/{experiment}.svg", paper.figure),
        Route("/papers/{key:path}/events", paper.paper_events),
        Route("/papers/{key:path}/check", paper.check, Who.READER, "POST", limit="30/minute"),
        Route("/papers/{key:path}/cancel", paper.cancel, Who.CURATOR, "POST"),
        Route("/papers/{key:path}.json", paper.paper_json),
        Route("/papers/{key:path}", paper.paper),
        Route("/worker/{wish}", paper.pause, Who.CURATOR, "POST"),
    ]


class _PaperPage:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.search = Search(page.engine)

    def _shown(self, paper: Paper, exhibit: Exhibit | None) -> dict[str, Any]:
        given, wrong = wrong_verdicts([exhibit] if exhibit else [])
        check = self.page.checks.under_way().get(exhibit.slug) if exhibit else None
        return {
            "paper": paper,
            "exhibit": exhibit,
            "check": check,
            "under_way": check is not None or (exhibit is not None and exhibit.running),
            "answers": self.page.contributions.answers(paper.id),
            "given": given,
            "wrong": wrong,
            "worker": self.page.controls.as_json(),
        }

    def _similar(self, paper: Paper) -> list[Paper]:
        ids = self.search.similar(paper.id)
        with self.page.engine.connect() as connection:
            return records.read(connection, ids)

    def paper(self, request: Request, key: str) -> Response:
        paper, exhibit = self.page.find(key)
        if key != key_of(paper):
            return RedirectResponse(address(paper), 307)
        said = conversation(self.page, paper, request.state.person)
        shown = self._shown(paper, exhibit) | _code(paper, exhibit) | said | {"similar": self._similar(paper)}
        return self.page.html(request, "paper.html", shown)

    def paper_json(self, key: str) -> Response:
        paper, exhibit = self.page.find(key)
        shown = self._shown(paper, exhibit)
        code = _code(paper, exhibit)
        return JSONResponse(
            paper.as_json()
            | {
                "method": code["method"],
                "use_it": code["example"] and code["example"].code,
                "study": exhibit and exhibit.as_json(),
                "similar": [
                    {"title": other.title, "address": f"{address(other)}.json"}
                    for other in self._similar(paper)
                ],
                "check": shown["check"],
                "verdicts_given": shown["given"],
                "expected_wrong": shown["wrong"],
                "worker": shown["worker"],
            }
            | conversation_json(self.page, paper)
        )

    async def paper_events(self, request: Request, key: str) -> Response:
        _, exhibit = await asyncio.to_thread(self.page.find, key)
        if exhibit is None:
            raise HTTPException(404, "No study tests this paper yet.")

        return self.page.stream(request, "_evidence.html", lambda: self._shown(*self.page.find(key)))

    def figure(self, key: str, experiment: str) -> Response:
        _, exhibit = self.page.find(key)
        try:
            drawn = self.page.exhibits.figure(exhibit, experiment) if exhibit else None
        except (Exception, SystemExit) as error:  # the figure is the study's code
            raise HTTPException(
                500, f"The figure cannot be drawn: {type(error).__name__}: {error}"
            ) from error
        if drawn is None:
            raise HTTPException(404, "There is no such figure, or no trial to draw yet.")
        headers = {"Content-Security-Policy": FIGURE_POLICY, "Cache-Control": "no-cache"}
        return Response(drawn, media_type="image/svg+xml", headers=headers)

    def check(self, request: Request, key: str) -> Response:
        paper, exhibit = self.page.find(key)
        if exhibit is None or exhibit.study is None:
            raise HTTPException(404, "There is no study to check.")
        person = request.state.person
        try:
            self.page.checks.start(exhibit.slug, person.id, quota=None if person.curates else CHECKS_A_DAY)
        except QuotaSpent as error:
            raise HTTPException(
                429, f"You have asked for {CHECKS_A_DAY} checks within a day, as many as a reader may."
            ) from error
        return RedirectResponse(address(paper), 303)

    def cancel(self, key: str) -> Response:
        paper, exhibit = self.page.find(key)
        if exhibit is None or not self.page.checks.cancel(exhibit.slug):
            raise HTTPException(404, "No check of this paper is queued or running; it may have ended.")
        return RedirectResponse(address(paper), 303)

    def pause(self, request: Request, wish: str) -> Response:
        if wish not in ("pause", "resume"):
            raise HTTPException(404, "A worker can be paused and resumed.")
        self.page.controls.paused = wish == "pause"
        return RedirectResponse(local(request.headers.get("referer", "")), 303)  # to where the button was

    # ------------------------------------------------------------------ source

    def _source(self, module: str) -> str:
        path = source.modules().get(module)
        if path is None:
            raise HTTPException(
                404, "The page shows the source of methods and of studies, and of nothing else."
            )
        return path.read_text("utf-8")

    def source(self, request: Request, module: str) -> Response:
        return self.page.html(
            request, "source.html", {"module": module, "lines": self._source(module).splitlines()}
        )

    def source_json(self, module: str) -> Response:
        return JSONResponse({"module": module, "source": self._source(module)})


def _code(paper: Paper, exhibit: Exhibit | None) -> dict[str, Any]:
    """The modules of the method and of the study, and the method's example; None for what there is not."""
    method = source.method_module(paper.slug) if paper.slug else None
    return {
        "method": method,
        "study_source": exhibit.module if exhibit and exhibit.module in source.modules() else None,
        "example": source.example(method) if method else None,
    }
