"""The pages of the digest: ask for it, confirm it, end it.

Asking takes an address and sends it a link; the page behind that link confirms and ends, by a button each,
since programs that look into mail open links too. Ending is one POST that mail programs send by themselves
(RFC 8058), from anywhere and without a redirect.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from fastapi import Form, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from assay.papers import mail
from assay.papers.digest import PACES, Digests, Subscription, subscribed
from assay.papers.people import saved_searches
from assay.papers.selection import Selection
from assay.web.mailings import described, question
from assay.web.page import Page, Route, sentence


def routes(page: Page) -> list[Route]:
    digest = _Digest(page)
    return [
        Route("/digest", digest.form),
        Route("/digest.json", digest.form_json),
        Route("/digest", digest.ask, method="POST", limit="20/hour"),
        Route("/digest/{token}.json", digest.one_json),
        Route("/digest/{token}", digest.one),
        Route("/digest/{token}", digest.end, method="POST", from_anywhere=True),
        Route("/digest/{token}/confirm", digest.confirm, method="POST"),
    ]


class _Digest:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.digests = Digests(page.engine)

    def _form(self, request: Request) -> dict[str, Any]:
        """What can be asked for: the selection in the address, all papers, and the searches one has saved."""
        selection = _read(dict(request.query_params))
        person = request.state.person
        queries = [selection.query(), ""]
        if person is not None:
            own = sa.select(saved_searches.c.query).where(saved_searches.c.person_id == person.id)
            with self.page.engine.connect() as connection:
                saved = [*connection.scalars(own.order_by(saved_searches.c.name))]
            queries += [_read(dict(parse_qsl(query))).query() for query in saved]
        return {
            "choices": {query: described(_read(dict(parse_qsl(query)))) for query in queries},
            "paces": list(PACES),
            "asked": "asked" in request.query_params,
            "subscriptions": self.digests.of(person.email) if person else [],
            "described": described,
        }

    def form(self, request: Request) -> Response:
        return self.page.html(request, "digest.html", self._form(request))

    def form_json(self, request: Request) -> JSONResponse:
        found = self._form(request)
        choices = [{"query": query, "described": text} for query, text in found["choices"].items()]
        held = [_as_json(subscription) for subscription in found["subscriptions"]]
        return JSONResponse({"choices": choices, "paces": found["paces"], "subscriptions": held})

    def ask(
        self,
        request: Request,
        email: Annotated[str, Form()] = "",
        query: Annotated[str, Form()] = "",
        pace: Annotated[str, Form()] = "daily",
    ) -> Response:
        selection = _read(dict(parse_qsl(query)))
        try:
            self.digests.subscribe(email, selection, pace, str(request.base_url).rstrip("/"), question)
        except ValueError as error:
            raise HTTPException(400, sentence(str(error))) from error
        except mail.MailError as error:
            print(f"digest  {error}", flush=True)
            raise HTTPException(503, "The mail could not be sent; please try again later.") from error
        return RedirectResponse("/digest?asked", 303)

    def _one(self, token: str) -> Subscription:
        found = self.digests.find(token)
        if found is None:
            raise HTTPException(404, "There is no such digest: it has ended, or nobody confirmed it in time.")
        return found

    def one(self, request: Request, token: str) -> Response:
        found = self._one(token)
        values = {"subscription": found, "described": described(found.selection)}
        return self.page.html(request, "digest_one.html", values)

    def one_json(self, token: str) -> JSONResponse:
        return JSONResponse(_as_json(self._one(token)))

    def confirm(self, token: str) -> Response:
        if not self.digests.confirm(token):
            self._one(token)
        return RedirectResponse(f"/digest/{token}", 303)

    def end(self, request: Request, token: str) -> Response:
        self.digests.end(token)
        return self.page.html(request, "digest_one.html", {"subscription": None})


def _read(parameters: dict[str, str]) -> Selection:
    try:
        return subscribed(Selection.read(parameters))
    except ValueError as error:
        raise HTTPException(400, sentence(str(error))) from error


def _as_json(subscription: Subscription) -> dict[str, Any]:
    told = {name: value for name, value in asdict(subscription).items() if name not in ("id", "site")}
    return told | {"described": described(subscription.selection)}
