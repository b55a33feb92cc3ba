"""Who may call what, signing in, and what people do on the page, through the application in this process."""

from __future__ import annotations

import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from assay import studies
from assay.papers import Papers, mail
from assay.papers.digest import Digests, subscriptions
from assay.papers.people import LONGEST_TEXT, Contributions
from assay.papers.selection import Selection
from assay.web import paper
from assay.web.app import create_app, routes
from assay.web.contributions import markdown
from assay.web.guard import LARGEST_BODY, SESSION, local
from assay.web.page import Page, Who

if TYPE_CHECKING:
    from conftest import Processes

HERE = "http://127.0.0.1:8000"


@pytest.fixture
def make_client(
    engine: sa.Engine, toys: Path, session: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., TestClient]]:
    """Clients of one application, each with somebody of a role signed in, or nobody."""
    monkeypatch.setattr(studies, "slugs", lambda: ["coins", "crash"])
    monkeypatch.delenv("ASSAY_SMTP_URL", raising=False)
    stopping = threading.Event()
    stopping.set()  # so that streams end
    app = create_app(engine, stopping=stopping)

    def make(role: str | None = None) -> TestClient:
        client = TestClient(app, base_url=HERE, headers={"Origin": HERE}, raise_server_exceptions=False)
        if role:
            client.cookies.set(SESSION, session(role))
        return client

    with make() as client:
        client.get("/papers/coins")
        yield make


def outbox(engine: sa.Engine) -> list[str]:
    """The links in the mails that were sent, the newest last."""
    folder = Path(str(engine.url.database)).with_name("outbox")
    return [link for path in sorted(folder.glob("*.eml")) for link in links_in(path.read_bytes())]


def links_in(mail: bytes) -> list[str]:
    body = message_from_bytes(mail, policy=policy.default).get_body(("plain",))
    assert body is not None
    return re.findall(r"http://\S+/sign-in/\S+", body.get_content())


@pytest.mark.parametrize("role", [None, "reader", "curator", "admin"])
def test_every_route_lets_in_who_may(
    make_client: Callable[..., TestClient], engine: sa.Engine, session: Callable[[str], str], role: str | None
) -> None:
    client = make_client()
    may = Who[role.upper()] if role else Who.ANYONE
    page = Page(engine, threading.Event())
    for route in routes(page):
        if role:  # anew each time: one of the routes signs out
            client.cookies.set(SESSION, session(role))
        path = re.sub(r"{(\w+)(?::\w+)?}", lambda part: "coins" if part[1] == "key" else "1", route.path)
        answer = client.request(route.method, path, follow_redirects=False)
        where = f"{route.method} {path} as {role}: {answer.status_code}"
        if may >= route.who:
            assert answer.status_code not in (401, 403), where
            assert answer.status_code < 500, where
        elif role is None:
            assert answer.status_code == 401, where
            browser = client.request(
                route.method, path, follow_redirects=False, headers={"Accept": "text/html"}
            )
            assert browser.status_code == 303, where
            assert browser.headers["location"].startswith("/sign-in?next=%2F"), where
        else:
            assert answer.status_code == 403, where
        if route.method != "GET" and not route.from_anywhere:
            foreign = client.request(route.method, path, headers={"Origin": "http://evil.example"})
            assert foreign.status_code == 403, where


def test_everything_that_changes_is_a_route_with_a_person(engine: sa.Engine) -> None:
    page = Page(engine, threading.Event())
    open_to_all = {route.path for route in routes(page) if route.method != "GET" and route.who is Who.ANYONE}
    # Signing in, and the digest, whose links in mails are the permission.
    assert {path for path in open_to_all if not path.startswith(("/sign-in", "/digest"))} == set()


def test_signing_in(
    make_client: Callable[..., TestClient], engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    client = make_client()
    form = {"email": "Ada@Example.org", "next": "//evil.example/papers/coins?a=1"}
    sent = client.post("/sign-in", data=form)
    assert "The link is in the terminal" in sent.text
    (link,) = outbox(engine)
    assert f"sign in  ada@example.org  {link}\n" == capsys.readouterr().out
    assert link.startswith(f"{HERE}/sign-in/")

    # Programs that look into mail use no link up, and need not be who asked for it.
    other = make_client()
    for _ in range(2):
        welcome = other.get(link)
        assert "You sign in as <b>ada@example.org</b>" in welcome.text
        assert welcome.headers["cache-control"] == "no-store"
    assert "a name is to have" in client.post(link, data={"name": " "}).text.lower()
    done = client.post(link, data={"name": "<b>Ada</b>"}, follow_redirects=False)
    assert (done.status_code, done.headers["location"]) == (303, "/papers/coins?a=1")
    cookie = done.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie  # over plain HTTP on this machine
    shown = client.get("/papers/coins")
    assert "&lt;b&gt;Ada&lt;/b&gt;" in shown.text
    assert shown.headers["cache-control"] == "private, no-store"
    assert client.post(link).status_code == 404
    assert client.get("/account.json").json()["role"] == "admin"  # alone with the server

    other.cookies.set(SESSION, client.cookies[SESSION])
    client.post("/sign-out", data={"everywhere": "true"})
    assert SESSION not in client.cookies
    assert other.get("/account").status_code == 401


def test_links_go_by_mail_alone_where_there_is_a_server(
    make_client: Callable[..., TestClient],
    engine: sa.Engine,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    client = make_client()
    server = request.getfixturevalue("mail_server")
    assert "by e-mail" in client.post("/sign-in", data={"email": "ada@example.org"}).text
    assert capsys.readouterr().out == ""
    assert outbox(engine) == []
    ((address, content),) = server.received
    assert address == "ada@example.org"
    (link,) = links_in(content)
    client.post(link, data={"name": "Ada"})
    assert client.get("/account.json").json()["role"] == "reader"
    server.stop()
    assert client.post("/sign-in", data={"email": "bob@example.org"}).status_code == 502


def test_what_is_no_address_gets_no_mail(make_client: Callable[..., TestClient], engine: sa.Engine) -> None:
    client = make_client()
    forged = "ada@example.org\r\nBcc: eve@example.org"
    for email in ("", "ada", "a@b@c", forged, "a\x00@b.org", "x" * 300 + "@b.c"):
        assert client.post("/sign-in", data={"email": email}).status_code in (400, 422), email
    assert outbox(engine) == []


def test_links_are_rationed(make_client: Callable[..., TestClient], engine: sa.Engine) -> None:
    client = make_client()
    statuses = [client.post("/sign-in", data={"email": "ada@example.org"}).status_code for _ in range(8)]
    assert statuses == [200] * 6 + [429] * 2
    assert len(outbox(engine)) == 6
    assert client.post("/sign-in", data={"email": "bob@example.org"}).status_code == 200


def test_searches_are_rationed(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, engine: sa.Engine
) -> None:
    monkeypatch.setenv("ASSAY_SEARCH_LIMIT", "2/minute")
    client = TestClient(create_app(engine), base_url=HERE)
    assert [client.get("/", params={"q": "gates"}).status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/").status_code == 200
    monkeypatch.setenv("ASSAY_SEARCH_LIMIT", "often")
    with pytest.raises(OSError, match="ASSAY_SEARCH_LIMIT is to be like 120/minute, got 'often'"):
        create_app(engine)


@pytest.mark.parametrize(
    "where",
    [
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "http://evil.example",
        "http:evil",
        "javascript:alert(1)",
        "/\r\nSet-Cookie: a=b",
        "//[",
        "/\t/evil.example",
    ],
)
def test_no_redirect_leads_elsewhere(where: str) -> None:
    led = local(where)
    assert led.startswith("/")
    assert not led.startswith("//")
    assert led.isprintable()
    assert urllib.parse.urljoin(f"{HERE}/sign-in", led.replace("\\", "/")).startswith(f"{HERE}/")


def test_bodies_are_bounded(make_client: Callable[..., TestClient]) -> None:
    client = make_client("reader")
    large = {"body": "x" * LARGEST_BODY}
    assert client.post("/papers/coins/comments", data=large).status_code == 413
    assert client.post("/papers/coins/comments", content=iter([b"body=", b"a"])).status_code == 411
    assert client.post("/papers/coins/comments", data={"body": "x" * (LONGEST_TEXT + 1)}).status_code == 400
    assert client.get("/papers/coi%00ns").status_code == 400
    assert client.post(f"/comments/{2**31}/delete").status_code == 422


def test_votes_and_comments(make_client: Callable[..., TestClient], engine: sa.Engine) -> None:
    client, curator = make_client("reader"), make_client("curator")
    for _ in range(2):
        page = client.post("/papers/coins/vote").text
    assert "1 vote," in page
    assert "Voted" in page
    assert "0 votes," in client.post("/papers/coins/vote", data={"withdraw": "true"}).text
    comment = "*Neat* <img src=x onerror=alert(1)> [see](javascript:alert(1)) [this](https://example.org)"
    page = client.post("/papers/coins/comments", data={"body": comment}).text
    assert "<em>Neat</em> &lt;img src=x" in page
    assert 'href="https://example.org" rel="nofollow noopener noreferrer ugc"' in page
    assert 'href="javascript' not in page
    (kept,) = client.get("/papers/coins.json").json()["conversation"]
    assert (kept["name"], kept["body"]) == ("reader", comment)
    assert "@" not in client.get("/papers/coins.json").text.replace(comment, "")
    assert "reader@example.org" not in make_client().get("/papers/coins").text
    assert "/delete" not in make_client("admin").get("/papers/crash").text
    (shown,) = Contributions(engine).comments(Papers(engine).find("coins").id)
    assert curator.post(f"/comments/{shown.id}/delete", follow_redirects=False).status_code == 303
    assert client.post(f"/comments/{shown.id}/delete").status_code == 404


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<a href='javascript:alert(1)'>x</a>",
        "[x](data:text/html,<script>alert(1)</script>)",
        "![x](https://example.org/track.png)",
        "[x](<javascript:alert(1)>)",
        "<svg/onload=alert(1)>",
        "[a](https://example.org 'x\" onmouseover=\"alert(1)')",
        "`` <b onclick=alert(1)> ``",
        "<style>*{display:none}</style>",
        "[x](//evil.example)",
    ],
)
def test_markdown_is_harmless(text: str) -> None:
    shown = str(markdown(text))
    tags = re.findall(r"<[^>]*>", shown)
    allowed = r'</?(?:p|em|strong|code|pre)>|<a(?: href="(?:https?:)?//[^"<>]*")? rel="[a-z ]+">|</a>'
    assert all(re.fullmatch(allowed, tag) for tag in tags), shown


def test_an_author_answers_beside_the_verdict(
    make_client: Callable[..., TestClient], engine: sa.Engine
) -> None:
    author, curator = make_client("reader"), make_client("curator")
    answer = {"claim": "tossing/is_large", "kind": "setting", "body": "5 is *ours*"}
    assert author.post("/papers/coins/answers", data=answer).status_code == 403
    author.post("/papers/coins/authorship", data={"note": "see https://example.org/me"})
    assert "A curator has yet to confirm it" in author.get("/papers/coins").text
    (waiting,) = curator.get("/desk.json").json()["authorships"]
    assert waiting["paper"] == "/papers/coins.json"
    assert "see https://example.org/me" in curator.get("/desk").text
    assert curator.post(f"/authorships/{waiting['id']}", data={"confirmed": "true"}).status_code == 200
    assert author.post("/papers/coins/answers", data=answer | {"claim": "tossing/none"}).status_code == 404
    assert author.post("/papers/coins/answers", data=answer | {"kind": "lie"}).status_code == 400
    page = author.post("/papers/coins/answers", data=answer).text
    claims, _, rest = page.partition('class="answer"')
    assert 'id="tossing-is_large"' in claims
    assert "a setting disputed" in rest
    assert "5 is <em>ours</em>" in rest
    (kept,) = make_client().get("/papers/coins.json").json()["answers"]
    assert (kept["claim"], kept["kind"]) == ("is_large", "setting")
    assert len(make_client().get("/papers/coins.json").json()["study"]["experiments"]) == 1


def test_checks_have_a_quota(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch, engine: sa.Engine
) -> None:
    monkeypatch.setattr(paper, "CHECKS_A_DAY", 1)
    reader, curator = make_client("reader"), make_client("curator")
    assert "A check is queued" in reader.post("/papers/coins/check").text
    assert reader.post("/papers/coins/check").status_code == 200  # the same one
    refused = reader.post("/papers/crash/check")
    assert (refused.status_code, "1 checks within a day" in refused.text) == (429, True)
    assert curator.post("/papers/coins/cancel").status_code == 200
    assert curator.get("/papers/coins.json").json()["check"] is None
    assert curator.post("/papers/coins/cancel").status_code == 404
    assert reader.post("/papers/coins/check").status_code == 429  # cancelled, but asked for
    for _ in range(2):
        assert curator.post("/papers/coins/check").status_code == 200
        assert curator.post("/papers/coins/cancel").status_code == 200


def test_submitting(make_client: Callable[..., TestClient], engine: sa.Engine) -> None:
    client = make_client("reader")
    known = client.post("/submit", data={"paper": "https://arxiv.org/abs/cs/0112011v2"})
    assert known.url.path == "/papers/coins"
    for _ in range(2):
        new = client.post("/submit", data={"paper": "https://huggingface.co/papers/2405.99999"})
        assert new.text.count("arXiv 2405.99999: the worker will fetch it") == 1
    wrong = client.post("/submit", data={"paper": "http://169.254.169.254/latest"})
    assert wrong.status_code == 400
    assert "such as 2310.02895" in wrong.text


def test_the_worker_fetches_what_was_submitted(
    processes: Processes, engine: sa.Engine, session: Callable[[str], str]
) -> None:
    class Archive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            feed = FEED.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(feed)))
            self.end_headers()
            self.wfile.write(feed)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Archive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        processes.environment["ASSAY_ARXIV_URL"] = f"http://127.0.0.1:{server.server_port}/api/query"
        processes.serve()
        client = httpx.Client(
            base_url=processes.address, headers={"Origin": processes.address}, follow_redirects=True
        )
        client.cookies.set(SESSION, session("reader"))
        assert "will fetch it" in client.post("/submit", data={"paper": "2405.99999"}).text
        processes.work()
        processes.until(lambda: "will fetch it" not in client.get("/account").text)
        server.shutdown()
    assert ">A new paper</a>" in client.get("/account").text
    assert client.get("/papers/2405.99999.json").json()["submitter"] == "reader"


FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
<title>arXiv Query</title><id>https://arxiv.org/api/x</id><updated>2026-11-20T00:00:00Z</updated>
<opensearch:totalResults>1</opensearch:totalResults>
<entry><id>http://arxiv.org/abs/2405.99999v1</id><title>A new paper</title>
<published>2024-05-01T00:00:00Z</published><updated>2024-05-01T00:00:00Z</updated>
<summary>On something.</summary><author><name>Ada</name></author><category term="cs.LG"/></entry></feed>"""


def test_an_account_and_its_end(make_client: Callable[..., TestClient], engine: sa.Engine) -> None:
    client = make_client("reader")
    client.post("/searches", data={"name": "sparse", "query": Selection(q="sparse gates").query()})
    assert client.post("/searches", data={"name": "x", "query": "field=alchemy"}).status_code == 400
    page = client.post("/account/name", data={"name": "Rita"}).text
    assert 'href="/?q=sparse+gates">sparse</a>' in page
    client.post("/papers/coins/comments", data={"body": "hello"})
    own = client.get("/account.json").json()
    assert (own["email"], own["name"]) == ("reader@example.org", "Rita")
    assert [item["body"] for item in own["comments"]] == ["hello"]
    question = mail.message(to="reader@example.org", subject="?", text="?")
    Digests(engine).subscribe("reader@example.org", Selection(), "daily", HERE, lambda _: question)
    with engine.connect() as connection:
        (asked,) = connection.scalars(sa.select(subscriptions.c.token))
    assert client.post("/account/delete", data={"email": "other@example.org"}).status_code == 400
    client.post("/account/delete", data={"email": "Reader@example.org"})
    assert client.get("/account").status_code == 401
    assert Digests(engine).find(asked) is None
    assert "Somebody who has left" in client.get("/papers/coins").text


def test_an_admin_gives_roles(make_client: Callable[..., TestClient], engine: sa.Engine) -> None:
    admin, reader = make_client("admin"), make_client("reader")
    admin.post("/people", data={"email": "reader@example.org", "role": "curator"})
    assert reader.get("/desk").status_code == 200
    listed = {one["email"]: one["role"] for one in admin.get("/people.json").json()["people"]}
    assert listed == {"admin@example.org": "admin", "reader@example.org": "curator"}
    assert admin.post("/people", data={"email": "Admin@example.org", "role": "reader"}).status_code == 400
    assert admin.post("/people", data={"email": "reader@example.org", "role": "king"}).status_code == 400
    assert "reader@example.org" in admin.get("/people").text
