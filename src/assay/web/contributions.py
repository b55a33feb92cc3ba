"""What people say of papers on the page: votes, comments, papers they hand in, authors' answers, searches."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qsl

import nh3
from fastapi import Form, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, RedirectResponse, Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from assay.papers import Paper
from assay.papers.identity import arxiv_id
from assay.papers.people import ANSWERS, LONGEST_TEXT, Authorship, Person
from assay.papers.selection import Selection
from assay.web.page import Page, Route, Who, address, refused

if TYPE_CHECKING:
    from assay.web.exhibits import Exhibit

Id = Annotated[int, InPath(ge=1, lt=2**31)]
"""The id of a row: more than the databases can hold is none."""


def routes(page: Page) -> list[Route]:
    said = _Contributions(page)
    page.templates.filters["markdown"] = markdown
    page.templates.globals.update(answer_kinds=ANSWERS, longest_text=LONGEST_TEXT)
    return [
        Route("/papers/{key:path}/vote", said.vote, Who.READER, "POST", limit="60/minute"),
        Route("/papers/{key:path}/comments", said.comment, Who.READER, "POST", limit="20/hour"),
        Route("/comments/{id_}/delete", said.delete_comment, Who.READER, "POST"),
        Route("/papers/{key:path}/authorship", said.claim_authorship, Who.READER, "POST", limit="10/hour"),
        Route("/papers/{key:path}/answers", said.answer, Who.READER, "POST", limit="20/hour"),
        Route("/answers/{id_}/delete", said.delete_answer, Who.READER, "POST"),
        Route("/desk", said.desk, Who.CURATOR),
        Route("/desk.json", said.desk_json, Who.CURATOR),
        Route("/authorships/{id_}", said.decide, Who.CURATOR, "POST"),
        Route("/submit", said.submit_form, Who.READER),
        Route("/submit", said.submit, Who.READER, "POST", limit="20/hour"),
        Route("/searches", said.save_search, Who.READER, "POST", limit="60/hour"),
        Route("/searches/{id_}/delete", said.forget_search, Who.READER, "POST"),
    ]


def conversation(page: Page, paper: Paper, person: Person | None) -> dict[str, Any]:
    """What people say of a paper, as its page shows it to the person."""
    said = page.contributions
    return {
        "votes": said.votes(paper.id),
        "voted": person is not None and said.has_voted(person, paper.id),
        "comments": said.comments(paper.id),
        "authorship": said.authorship(person, paper.id) if person else None,
    }


def conversation_json(page: Page, paper: Paper) -> dict[str, Any]:
    """The same for everybody, as plain data; names, but no ids of people."""
    said = page.contributions
    shown = [
        {"name": item.name, "author": item.is_author, "body": item.body, "at": item.at}
        for item in said.comments(paper.id)
    ]
    answers = [
        {name: getattr(item, name) for name in ("name", "experiment", "claim", "kind", "body", "at")}
        for item in said.answers(paper.id)
    ]
    return {"votes": said.votes(paper.id), "conversation": shown, "answers": answers}


_MARKDOWN = MarkdownIt("commonmark", {"html": False})
_TAGS = {"a", "blockquote", "br", "code", "em", "hr", "li", "ol", "p", "pre", "strong", "ul"}


@functools.lru_cache(maxsize=2000)
def markdown(text: str) -> Markup:
    """Somebody's Markdown as HTML that is safe to show: prose, lists, code and links, and nothing else.

    >>> markdown("*so* <script>alert(1)</script> [it](javascript:alert(1))")
    Markup('<p><em>so</em> &lt;script&gt;alert(1)&lt;/script&gt; [it](javascript:alert(1))</p>\\n')
    """
    return Markup(
        nh3.clean(
            _MARKDOWN.render(text),
            tags=_TAGS,
            attributes={"*": set(), "a": {"href"}},
            url_schemes={"http", "https", "mailto"},
            link_rel="nofollow noopener noreferrer ugc",
        )
    )


class _Contributions:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.said = page.contributions

    # ------------------------------------------------------------------ votes and comments

    def vote(self, request: Request, key: str, withdraw: Annotated[bool, Form()] = False) -> Response:
        paper, _ = self.page.find(key)
        (self.said.withdraw if withdraw else self.said.vote)(request.state.person, paper.id)
        return RedirectResponse(address(paper), 303)

    def comment(self, request: Request, key: str, body: Annotated[str, Form()]) -> Response:
        paper, _ = self.page.find(key)
        with refused():
            made = self.said.comment(request.state.person, paper.id, body)
        return RedirectResponse(f"{address(paper)}#comment-{made}", 303)

    def delete_comment(self, request: Request, id_: Id) -> Response:
        return self._back_to(self.said.delete_comment(request.state.person, id_), "comments")

    # ------------------------------------------------------------------ authors

    def claim_authorship(self, request: Request, key: str, note: Annotated[str, Form()]) -> Response:
        paper, _ = self.page.find(key)
        with refused():
            self.said.claim_authorship(request.state.person, paper.id, note)
        return RedirectResponse(f"{address(paper)}#authors", 303)

    def answer(
        self,
        request: Request,
        key: str,
        claim: Annotated[str, Form()],
        kind: Annotated[str, Form()],
        body: Annotated[str, Form()],
    ) -> Response:
        paper, exhibit = self.page.find(key)
        experiment, _, name = claim.partition("/")
        if (experiment, name) not in _claims(exhibit):
            raise HTTPException(404, "The paper's study has no claim of that name.")
        with refused():
            self.said.answer(
                request.state.person, paper.id, experiment=experiment, claim=name, kind=kind, body=body
            )
        return RedirectResponse(f"{address(paper)}#{experiment}-{name}", 303)

    def delete_answer(self, request: Request, id_: Id) -> Response:
        return self._back_to(self.said.delete_answer(request.state.person, id_), "claims")

    def desk(self, request: Request) -> Response:
        waiting = self.said.authorships(state="waiting")
        papers = self.page.papers([item.paper_id for item in waiting])
        return self.page.html(request, "desk.html", {"waiting": waiting, "papers": papers})

    def desk_json(self) -> Response:
        waiting = self.said.authorships(state="waiting")
        papers = self.page.papers([item.paper_id for item in waiting])

        def plain(item: Authorship) -> dict[str, Any]:
            shown = {name: getattr(item, name) for name in ("id", "name", "email", "note", "at")}
            return shown | {"paper": f"{address(papers[item.paper_id])}.json"}

        return JSONResponse(
            {"authorships": [plain(item) for item in waiting]}, headers={"Cache-Control": "no-store"}
        )

    def decide(self, id_: Id, confirmed: Annotated[bool, Form()]) -> Response:
        if not self.said.decide_authorship(id_, confirmed=confirmed):
            raise HTTPException(404, "There is no such claim of authorship; it may have been withdrawn.")
        return RedirectResponse("/desk", 303)

    # ------------------------------------------------------------------ submissions and searches

    def submit_form(self, request: Request) -> Response:
        return self.page.html(request, "submit.html", {})

    def submit(self, request: Request, paper: Annotated[str, Form()]) -> Response:
        named = arxiv_id(paper)
        if named is None:
            raise HTTPException(
                400,
                "A paper is to be named by its arXiv id or the address of its page at arXiv or Hugging Face, "
                f"such as 2310.02895, got {paper[:80]!r}.",
            )
        if (known := self.said.known(named)) is not None:
            return RedirectResponse(address(self.page.papers([known])[known]), 303)
        self.page.checks.take_in(self.said.submit(request.state.person, named))
        return RedirectResponse("/account#submissions", 303)

    def save_search(
        self, request: Request, name: Annotated[str, Form()], query: Annotated[str, Form()] = ""
    ) -> Response:
        with refused():
            selection = Selection.read(dict(parse_qsl(query)))
            self.said.save_search(request.state.person, name, selection)
        return RedirectResponse("/account#searches", 303)

    def forget_search(self, request: Request, id_: Id) -> Response:
        if not self.said.forget_search(request.state.person, id_):
            raise HTTPException(404, "You keep no such search.")
        return RedirectResponse("/account#searches", 303)

    def _back_to(self, paper_id: int | None, place: str) -> Response:
        if paper_id is None:
            raise HTTPException(404, "There is no such text of yours; it may be deleted already.")
        return RedirectResponse(f"{address(self.page.papers([paper_id])[paper_id])}#{place}", 303)


def _claims(exhibit: Exhibit | None) -> list[tuple[str, str]]:
    return [(item.experiment.name, item.claim.name) for item in exhibit.claims] if exhibit else []
