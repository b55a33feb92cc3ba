"""Who reads the page: signing in by a one-time link, the own account, and the roles that an admin gives."""

from __future__ import annotations

import os
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Form, HTTPException, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from assay.papers import mail, people
from assay.papers.digest import Digests
from assay.web.guard import SESSION, local
from assay.web.page import Page, Route, Who, refused


def routes(page: Page) -> list[Route]:
    who = _People(page)
    return [
        Route("/sign-in", who.sign_in),
        Route("/sign-in", who.send_link, method="POST", limit="60/hour"),
        Route("/sign-in/sent", who.sent),
        Route("/sign-in/{secret}", who.link),
        Route("/sign-in/{secret}", who.use_link, method="POST", limit="60/hour"),
        Route("/sign-out", who.sign_out, Who.READER, "POST"),
        Route("/account", who.account, Who.READER),
        Route("/account.json", who.account_json, Who.READER),
        Route("/account/name", who.rename, Who.READER, "POST", limit="30/hour"),
        Route("/account/delete", who.delete, Who.READER, "POST"),
        Route("/people", who.people, Who.ADMIN),
        Route("/people.json", who.people_json, Who.ADMIN),
        Route("/people", who.set_role, Who.ADMIN, "POST"),
    ]


class _People:
    def __init__(self, page: Page) -> None:
        self.page = page
        self.accounts = page.accounts

    # ------------------------------------------------------------------ signing in and out

    def sign_in(self, request: Request, next: str = "/") -> Response:
        return self.page.html(request, "sign_in.html", {"next": local(next)})

    def send_link(
        self, request: Request, email: Annotated[str, Form()], next: Annotated[str, Form()] = "/"
    ) -> Response:
        with refused():
            email = mail.address(email)
        self.page.limits.spend("6/hour", "links", email)
        here = _mail_stays_here()
        secret = self.accounts.make_link(email, local(next), may_found=here)
        # The host is one of those that the server answers to: see the guard.
        link = f"{request.url.scheme}://{request.headers['host']}/sign-in/{secret}"
        if here:
            print(f"sign in  {email}  {link}", flush=True)
        try:
            mail.send(
                mail.message(
                    to=email,
                    subject="Sign in to assay",
                    text=(
                        f"This link signs you in to assay, once, within {people.LINK_MINUTES} minutes:\n\n"
                        f"{link}\n\nIf you did not ask for it, leave it alone: nobody else can use it.\n"
                    ),
                )
            )
        except mail.MailError as error:
            if not here:  # the terminal has the link
                raise HTTPException(502, f"The mail could not be sent: {error}.") from error
        return RedirectResponse("/sign-in/sent", 303)

    def sent(self, request: Request) -> Response:
        return self.page.html(
            request,
            "sign_in.html",
            {"next": "/", "sent": True, "minutes": people.LINK_MINUTES, "stays_here": _mail_stays_here()},
        )

    def link(self, request: Request, secret: str) -> Response:
        # A GET signs nobody in: programs that look at mail open the links in it.
        link = self.accounts.link(secret)
        if link is None:
            raise HTTPException(404, _NO_LINK)
        answer = self.page.html(request, "welcome.html", {"link": link, "secret": secret})
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def use_link(self, request: Request, secret: str, name: Annotated[str, Form()] = "") -> Response:
        link = self.accounts.link(secret)
        with refused():
            session = self.accounts.sign_in(secret, name)
        if link is None or session is None:
            raise HTTPException(404, _NO_LINK)
        answer = RedirectResponse(link.leads_to, 303)
        answer.set_cookie(
            SESSION,
            session,
            max_age=people.SESSION_DAYS * 24 * 3600,
            httponly=True,
            samesite="lax",  # not strict: links in mails lead here
            secure=request.url.scheme == "https",
        )
        return answer

    def sign_out(self, request: Request, everywhere: Annotated[bool, Form()] = False) -> Response:
        if everywhere:
            self.accounts.sign_out_everywhere(request.state.person)
        else:
            self.accounts.sign_out(request.cookies[SESSION])
        return _signed_out()

    # ------------------------------------------------------------------ the own account

    def account(self, request: Request) -> Response:
        person = request.state.person
        contributions = self.page.contributions
        handed_in = contributions.submissions(person)
        claimed = contributions.authorships(person=person)
        about = [item.paper_id for item in handed_in] + [item.paper_id for item in claimed]
        return self.page.html(
            request,
            "account.html",
            {
                "searches": contributions.searches(person),
                "submissions": handed_in,
                "authorships": claimed,
                "papers": self.page.papers(about),
            },
        )

    def account_json(self, request: Request) -> Response:
        """All that is kept of somebody, for themselves."""
        person = request.state.person
        digests = [
            {"query": one.query, "pace": one.pace} for one in Digests(self.page.engine).of(person.email)
        ]
        kept = _as_json(person) | self.page.contributions.words(person) | {"digests": digests}
        return JSONResponse(kept, headers={"Cache-Control": "no-store"})

    def rename(self, request: Request, name: Annotated[str, Form()]) -> Response:
        with refused():
            self.accounts.rename(request.state.person, name)
        return RedirectResponse("/account", 303)

    def delete(
        self, request: Request, email: Annotated[str, Form()], words: Annotated[bool, Form()] = False
    ) -> Response:
        if email.strip().lower() != request.state.person.email:
            raise HTTPException(400, "To delete your account, write its e-mail address into the field.")
        self.accounts.delete(request.state.person, words_too=words)
        return _signed_out()

    # ------------------------------------------------------------------ roles

    def people(self, request: Request) -> Response:
        return self.page.html(request, "people.html", {"people": self.accounts.list(), "roles": people.ROLES})

    def people_json(self) -> Response:
        listed: list[dict[str, Any]] = [_as_json(person) for person in self.accounts.list()]
        return JSONResponse({"people": listed}, headers={"Cache-Control": "no-store"})

    def set_role(
        self, request: Request, email: Annotated[str, Form()], role: Annotated[str, Form()]
    ) -> Response:
        with refused():
            if mail.address(email) == request.state.person.email:
                raise ValueError("your own role is for another admin to change")
            self.accounts.set_role(email, role)
        return RedirectResponse("/people", 303)


_NO_LINK = "This sign-in link works no more: it was used, or is too old. Ask for another one."


def _mail_stays_here() -> bool:
    """Whether mail goes to a folder on this machine, so that only who runs the server sees the links."""
    return urlsplit(os.environ.get("ASSAY_SMTP_URL", "").strip()).scheme in ("", "file")


def _as_json(person: people.Person) -> dict[str, Any]:
    return {"email": person.email, "name": person.name, "role": person.role}


def _signed_out() -> Response:
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(SESSION, httponly=True, samesite="lax")
    return answer
