"""What every request has to pass and every response carries: hosts, origins and the content policy."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    """Turns away foreign hosts (DNS rebinding) and, where state would change, foreign origins (forgery)."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app = app
        self.hosts = hosts

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
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _is_ours(headers, hosts[0].lower()):
            return _refuse(scope, 403, "This request did not come from a page of this server.")
        return None


def _is_ours(headers: Headers, host: str) -> bool:
    """Whether the request came from a page of this very host, by the best sign that the browser gives."""
    if "origin" in headers:
        return urlsplit(headers["origin"]).netloc.lower() == host
    if "sec-fetch-site" in headers:
        return headers["sec-fetch-site"] == "same-origin"
    return urlsplit(headers.get("referer", "")).netloc.lower() == host


def _refuse(scope: Scope, status: int, sentence: str) -> Response:
    if scope["path"].endswith(".json"):
        return JSONResponse({"error": sentence}, status)
    return PlainTextResponse(f"{sentence}\n", status)
