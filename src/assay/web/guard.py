"""What every request has to pass and every response carries: hosts, origins, sizes, who may call what, how
often, and the content policy."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlencode, urlsplit

import anyio.to_thread
from fastapi import HTTPException, Request
from limits import parse
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.papers.people import Accounts, Person
from assay.web.page import Limits, Route, Who

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of every page: nothing inline, nothing from elsewhere."""

FIGURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The policy of an SVG figure, whose styles matplotlib writes inline. It is a document of its own."""

SESSION = "assay_session"
"""The cookie that says who is signed in."""

LARGEST_BODY = 64 * 1024
"""Bytes of a form; the longest text that one may hold is a fourth of it."""

LONGEST_WAY_BACK = 2000

SEARCH_LIMIT = "120/minute"
"""How often one person, or one address, may search, by whichever route; `ASSAY_SEARCH_LIMIT` says otherwise,
as where all readers come from one address."""

_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    # With "no-referrer" browsers send "Origin: null" with a form, which could not be told from a forgery.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def served_hosts(port: int, extra: Iterable[str] = ()) -> frozenset[str]:
    """The Host headers to answer to: the loopback names at the port, and `extra` as written."""
    names = ("127.0.0.1", "localhost", "[::1]")
    hosts = {f"{name}:{port}" for name in names} | {host.strip().lower() for host in extra}
    if port == 80:  # browsers leave out the default port
        hosts.update(names)
    return frozenset(hosts - {""})


class Guard:
    """Turns away foreign hosts (DNS rebinding) and, where state would change, foreign origins (forgery) and
    bodies that no form of ours has. `from_anywhere` are the paths that other origins may post to."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], from_anywhere: Iterable[re.Pattern[str]]) -> None:
        self.app = app
        self.hosts = hosts
        self.from_anywhere = tuple(from_anywhere)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        respond = self._refusal(scope) or self.app
        await respond(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return _refuse(scope, 421, "This server does not answer to that host name; ASSAY_HOSTS adds one.")
        if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
            return _refuse(scope, 400, "An address may hold no NUL character.")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        if not _is_ours(headers, hosts[0].lower()) and not any(
            path.fullmatch(scope["path"]) for path in self.from_anywhere
        ):
            return _refuse(scope, 403, "This request did not come from a page of this server.")
        if "transfer-encoding" in headers:  # without a length there is nothing to hold it to
            return _refuse(scope, 411, "A request with a body has to say its Content-Length.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return _refuse(scope, 413, f"A request may have at most {LARGEST_BODY} bytes.")
        return None


class SignedIn:
    """Puts the `Person` who is signed in, or None, into `request.state.person`."""

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self.app = app
        self.accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            token = HTTPConnection(scope).cookies.get(SESSION)
            person = await anyio.to_thread.run_sync(self.accounts.signed_in, token) if token else None
            scope.setdefault("state", {})["person"] = person
        await self.app(scope, receive, send)


def admission(route: Route, limits: Limits) -> Callable[[Request], Awaitable[None]]:
    """What lets a request through to the route: who asks, and how often."""

    search = os.environ.get("ASSAY_SEARCH_LIMIT", "").strip() or SEARCH_LIMIT
    try:
        parse(search)
    except ValueError as error:
        raise OSError(f"ASSAY_SEARCH_LIMIT is to be like {SEARCH_LIMIT}, got {search!r}") from error

    async def admit(request: Request) -> None:
        person: Person | None = request.state.person
        if person is None and route.who > Who.ANYONE:
            raise _sign_in_first(request)
        if person is not None and Who[person.role.upper()] < route.who:
            raise HTTPException(403, f"Only {_PLURAL[route.who]} may do this, and you are a {person.role}.")
        asker = f"person {person.id}" if person else f"at {request.client.host if request.client else ''}"
        if route.limit:
            limits.spend(route.limit, route.path, asker)
        if request.query_params.get("q"):
            limits.spend(search, "search", asker)

    return admit


_PLURAL = {Who.READER: "signed-in readers", Who.CURATOR: "curators", Who.ADMIN: "admins"}


def local(address: str) -> str:
    """The path and query of an address: what remains leads to this server, whatever host was named.

    >>> local("https://evil.example/papers/colide?a=1"), local("//evil.example"), local("/\\\\evil.example")
    ('/papers/colide?a=1', '/', '/evil.example')
    """
    try:
        parts = urlsplit(address)
    except ValueError:  # such as half an IPv6 address
        return "/"
    # A browser takes a backslash for a slash, and two of them for the start of a host.
    path = "/" + parts.path.replace("\\", "/").lstrip("/")
    whole = f"{path}?{parts.query}" if parts.query else path
    return "".join(filter(str.isprintable, whole))[:LONGEST_WAY_BACK]


def _sign_in_first(request: Request) -> HTTPException:
    if "text/html" not in request.headers.get("accept", ""):
        return HTTPException(401, "Sign in first: this needs a person whose browser is signed in.")
    back = str(request.url) if request.method == "GET" else request.headers.get("referer", "")
    return HTTPException(
        303, "Sign in first.", headers={"Location": f"/sign-in?{urlencode({'next': local(back)})}"}
    )


def _is_ours(headers: Headers, host: str) -> bool:
    """Whether the request came from a page of this very host, by the best sign that the browser gives."""
    if "origin" not in headers and "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] == "same-origin"
    try:
        return urlsplit(headers.get("origin", headers.get("referer", ""))).netloc.lower() == host
    except ValueError:  # such as half an IPv6 address
        return False


def in_json(path: str) -> bool:
    """Whether it is a program that calls this path, and errors are to be told in JSON."""
    return path.endswith((".json", ".atom", ".md")) or path.startswith("/api/")


def _refuse(scope: Scope, status: int, sentence: str) -> Response:
    if in_json(scope["path"]):
        return JSONResponse({"error": sentence}, status)
    return PlainTextResponse(f"{sentence}\n", status)
