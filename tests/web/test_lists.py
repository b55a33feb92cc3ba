"""Lists, feeds, the API and the exported files, through the application in this process."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa
import uvicorn
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from markdown_it import MarkdownIt

from assay import studies
from assay.database import write
from assay.evidence.verdict_log import IndexedVerdict, VerdictLog
from assay.papers import people, records
from assay.papers.search import Search
from assay.web.api import document
from assay.web.app import create_app
from assay.web.export import ExportError, export
from assay.web.guard import SESSION
from assay.web.lists import SIZE

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture(autouse=True)
def toy_slugs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the toys, so that no test waits for torch."""
    monkeypatch.setattr(studies, "slugs", lambda: ["coins", "crash", "lacking", "slow"])


@pytest.fixture
def client(engine: sa.Engine) -> Iterator[TestClient]:
    with TestClient(create_app(engine), base_url="http://127.0.0.1:8000") as client:
        client.get("/papers/coins")
        yield client


def change(engine: sa.Engine, paper: str, **values: Any) -> int:
    """Write into a paper's record; returns its id."""
    own = records.papers.c.slug == paper
    with write(engine) as connection:
        connection.execute(sa.update(records.papers).where(own).values(**values))
        found = connection.scalar(sa.select(records.papers.c.id).where(own))
    assert found is not None
    return found


def judge(engine: sa.Engine, kind: str) -> None:
    line = IndexedVerdict("coins", "tossing", "beats_old", kind, 7, 7, "quick", "here", "f" * 40, None)
    VerdictLog(engine).update("coins", [line])


# -- lists ---------------------------------------------------------------------------------------------------


def count(engine: sa.Engine) -> int:
    """How many papers there are: more than one page of them."""
    with engine.connect() as connection:
        found = connection.scalar(sa.select(sa.func.count()).select_from(records.papers))
    assert found is not None
    assert found > SIZE
    return found


def test_following_pages_show_every_paper_once(client: TestClient, engine: sa.Engine) -> None:
    for sort in ("date", "trending"):
        seen: list[str] = []
        address: str | None = f"/?sort={sort}"
        while address:
            text = client.get(address).text
            seen += re.findall(r'<h2><a href="([^"]+)"', text)
            following = re.search(r'<a href="([^"]+)" rel="next">Next page', text)
            address = following and following[1].replace("&amp;", "&")
        assert len(seen) == len(set(seen)) == count(engine)


def test_headings_and_periods(client: TestClient) -> None:
    week = client.get("/?week=2001-W49&field=gating").text
    assert "<h1>Papers in gating, week 49 of 2001</h1>" in week
    assert "The toy crash" in week  # 3 December was the Monday
    assert "The toy slow" not in week
    assert "<h1>Trending papers, December 2001</h1>" in client.get("/?month=2001-12&sort=trending").text


def test_a_list_shows_what_is_written_at_once(client: TestClient, engine: sa.Engine) -> None:
    address = "/?field=gating&month=2001-12"
    assert "The toy slow" in client.get(address).text
    change(engine, "slow", title="Renamed <now>")
    assert "Renamed &lt;now&gt;" in client.get(address).text
    assert client.get(address).text == client.get(address).text


def test_what_is_kept_is_nobodys_page(client: TestClient, session: Callable[[str], str]) -> None:
    anonymous = client.get("/").text
    cookie = {"Cookie": f"{SESSION}={session('reader')}"}
    own = client.get("/", headers=cookie)
    assert own.headers["cache-control"] == "private, no-store"
    assert "Sign in" not in own.text
    assert client.get("/").text == anonymous


def test_hostile_records_stay_text(client: TestClient, engine: sa.Engine) -> None:
    evil = "<script>alert(1)</script>\x01]]>\"'"
    change(
        engine,
        "coins",
        organisation=evil,
        author_names=json.dumps([evil]),
        keywords=json.dumps([evil]),
        remark=evil,
        repository="javascript:alert(1)",
    )
    for path in ("/?field=gating", "/papers/coins.md", "/feed.atom?field=gating"):
        text = client.get(path).text
        assert "<script>alert" not in text
        assert "javascript:" not in text
    assert client.get("/", params={"organisation": evil}).text.count("The toy") == 0
    assert client.get("/", params={"keyword": evil}).status_code == 200
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table")
    assert "<script" not in rendered.render(client.get("/papers/coins.md").text)


@pytest.mark.parametrize(
    "query",
    ["sort=relevance", "field=alchemy", "date=2026-02-30", "week=2026-W60", "month=2026", "after=1",
     "verdict=maybe", "date=2026-01-01&week=2026-W01", f"keyword={'x' * 301}"],
)  # fmt: skip
def test_bad_selections_get_one_sentence(client: TestClient, query: str) -> None:
    for path in ("/", "/papers.json", "/feed.atom", "/feed.json", "/events"):
        assert client.get(f"{path}?{query}").status_code == 400
    error = client.get(f"/papers.json?{query}").json()["error"]
    assert error.endswith(".")
    assert error.startswith(query[:4].capitalize()) or query.partition("=")[0] in error


# -- feeds ---------------------------------------------------------------------------------------------------


def test_feeds_of_lists(client: TestClient, engine: sa.Engine, hostile_title: str) -> None:
    judge(engine, "holds")
    change(engine, "coins", title=f"{hostile_title}\x0b", author_names='["A & B"]')
    atom = ElementTree.fromstring(client.get("/feed.atom?field=gating").content)
    entries = {entry.findtext(f"{ATOM}id"): entry for entry in atom.iter(f"{ATOM}entry")}
    entry = entries["https://arxiv.org/abs/cs/0112011"]
    assert entry.findtext(f"{ATOM}title") == hostile_title
    assert entry.findtext(f"{ATOM}author/{ATOM}name") == "A & B"
    assert entry.findtext(f"{ATOM}published") == "2001-12-01T00:00:00+00:00"
    updated = entry.findtext(f"{ATOM}updated")
    assert updated is not None
    assert datetime.fromisoformat(updated).year > 2001  # its verdict is news
    feed = client.get("/feed.json?field=gating")
    assert feed.headers["content-type"] == "application/feed+json"
    assert {item["id"] for item in feed.json()["items"]} == set(entries)
    assert feed.json()["home_page_url"] == "http://127.0.0.1:8000/?field=gating"


def test_empty_feeds_are_valid(client: TestClient) -> None:
    atom = ElementTree.fromstring(client.get("/feed.atom?date=1999-01-01").content)
    assert atom.findtext(f"{ATOM}updated")
    assert client.get("/feed.json?date=1999-01-01").json()["items"] == []
    assert not client.get("/verdicts/feed.json?study=nothing").json()["items"]


def test_feeds_lead_from_page_to_page(client: TestClient, engine: sa.Engine) -> None:
    feed = client.get("/feed.json").json()
    more = client.get(feed["next_url"]).json()
    assert len(feed["items"]) + len(more["items"]) == count(engine)


def test_log_of_verdicts(client: TestClient, engine: sa.Engine, hostile_title: str) -> None:
    for kind in ("undecided", "holds", "fails"):
        judge(engine, kind)
    page = client.get("/verdicts").text
    assert "has &lt;b&gt;fewer&lt;/b&gt; errors" in page
    assert page.index("badge fails") < page.index("badge undecided")
    changes = client.get("/verdicts.json?study=coins").json()["changes"]
    assert [(one["before"], one["after"]) for one in changes][:2] == [
        ("holds", "fails"),
        ("undecided", "holds"),
    ]
    atom = ElementTree.fromstring(client.get("/verdicts/feed.atom").content)
    assert atom.findtext(f"{ATOM}entry/{ATOM}title") == f"Fails (was holds): {hostile_title}"
    assert client.get("/verdicts?before=1").text.count('<li id="change') == 0
    assert client.get("/verdicts?before=0").status_code == 422


# -- the API -------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(engine: sa.Engine) -> Iterator[HfApi]:
    """The public client, unmodified, against the page on a loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = create_app(engine, port=port)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield HfApi(endpoint=f"http://127.0.0.1:{port}")
    server.should_exit = True
    thread.join()


def test_the_public_client_works(hub: HfApi, engine: sa.Engine, hostile_title: str) -> None:
    own = change(
        engine,
        "coins",
        listed=datetime(2026, 11, 20).date(),
        day=datetime(2026, 11, 20).date(),
        author_names='["Ada L."]',
        organisation="Toy Lab",
        submitter="ann",
        votes_elsewhere=5,
        comments=2,
        keywords='["toys"]',
        repository="https://github.com/toy/toy",
        stars=3,
        abstract="An abstract.",
    )
    with write(engine) as connection:
        at = datetime.now(UTC).isoformat(timespec="seconds")
        connection.execute(
            sa.insert(people.people).values(id=1, email="a@b", name="a", role="reader", joined_at=at)
        )
        connection.execute(sa.insert(people.votes).values(person_id=1, paper_id=own, at=at))
        connection.execute(sa.insert(people.comments).values(person_id=1, paper_id=own, body="b", at=at))
    for asked in ({"date": "2026-11-20"}, {"week": "2026-W47"}, {"month": "2026-11"}, {"submitter": "ann"}):
        (paper,) = hub.list_daily_papers(**asked)
        assert (paper.id, paper.title, paper.summary) == ("cs/0112011", hostile_title, "An abstract.")
        assert (paper.upvotes, paper.comments, paper.github_stars) == (6, 3, 3)
        assert paper.published_at == datetime(2001, 12, 1, tzinfo=UTC)
        assert paper.submitted_at == datetime(2026, 11, 20, tzinfo=UTC)
        assert paper.submitted_by is not None
        assert paper.submitted_by.username == "ann"
        assert paper.organization is not None
        assert paper.organization.fullname == "Toy Lab"
        assert [author.name for author in paper.authors or ()] == ["Ada L."]
        assert (paper.ai_keywords, paper.github_repo) == (["toys"], "https://github.com/toy/toy")
    every = [paper.id for p in range(4) for paper in hub.list_daily_papers(p=p, limit=20)]
    assert len(every) == len(set(every)) == count(engine)
    assert next(iter(hub.list_daily_papers(sort="trending"))).id == "cs/0112011"
    assert list(hub.list_daily_papers(p=100)) == []
    Search(engine).refresh()
    assert next(iter(hub.list_papers(query="toy slow", limit=5))).title == "The toy slow"
    info = hub.paper_info("cs/0112011v2")
    assert (info.title, info.upvotes, info.comments, info.num_total_models) == (hostile_title, 6, 3, 0)
    assert hub.read_paper("cs/0112011").startswith("# ")
    with pytest.raises(HfHubHTTPError, match="is to be a day like"):
        list(hub.list_daily_papers(date="2026-13-13"))
    for absent in (hub.paper_info, hub.read_paper):
        with pytest.raises(HfHubHTTPError, match="404"):
            absent("2601.99999")


def test_a_paper_in_markdown_shows_its_evidence(client: TestClient, engine: sa.Engine) -> None:
    answer = client.get("/papers/coins.md")
    assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
    assert "| … is larger than 5 |  |" in answer.text
    assert "| unchecked |" in answer.text
    assert "No study tests this paper yet." in client.get("/papers/norga.md").text


def test_the_description_names_the_routes_that_there_are(client: TestClient) -> None:
    described = document()
    assert client.get("/api/openapi.json").json() == described
    app: Any = client.app
    real = {route.path.replace(":path", "") for route in app.routes if isinstance(route, APIRoute)}
    paths = set(described["paths"])
    assert paths <= real
    assert {path for path in real if path.startswith("/api/")} - paths == {"/api/openapi.json"}
    page = client.get("/api").text
    for path in paths:
        assert f"GET {path}" in page


def test_answers_are_as_described(client: TestClient, engine: sa.Engine) -> None:
    change(engine, "coins", organisation="Toy Lab", submitter="ann", keywords='["toys"]', stars=3)
    schemas = document()["components"]["schemas"]

    def fits(value: Any, schema: dict[str, Any]) -> None:
        schema = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
        assert isinstance(value, kinds[schema["type"]])
        for name in schema.get("required", ()):
            assert name in value
        if "properties" in schema:
            for name, inner in value.items():
                if name in schema["properties"]:
                    fits(inner, schema["properties"][name])
        for one in value if isinstance(value, list) else ():
            fits(one, schema["items"])

    items = client.get("/api/daily_papers?field=gating").json()
    assert any("evidence" in item for item in items)
    fits(items, {"type": "array", "items": {"$ref": "/Item"}})
    fits(client.get("/api/papers/coins").json(), {"$ref": "/Paper"})
    fits(client.get("/api/papers/nothing").json(), {"$ref": "/Error"})
    fits(client.get("/api/daily_papers?limit=1000").json(), {"$ref": "/Error"})


# -- the export ----------------------------------------------------------------------------------------------


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action") and value:
                self.found.append(value)
            if name == "id" and value:
                self.ids.add(value)


def test_the_export_leads_nowhere_but_to_its_files(engine: sa.Engine, tmp_path: Path) -> None:
    judge(engine, "holds")
    folder = tmp_path / "site"
    files = export(engine, folder, site="https://papers.example/lab")
    pages = {path: Links(path.read_text()) for path in folder.rglob("*.html")}
    assert files == sum(1 for path in folder.rglob("*") if path.is_file()) - 1
    assert len([path for path in pages if path.parent.name in ("papers", "cs")]) == count(engine)
    for path, links in pages.items():
        for link in links.found:
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme == "https"
                continue
            assert not link.startswith("/"), f"{path}: {link}"
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path}: {link}"
        assert "<form" not in re.sub(r'<form class="search".*?</form>', "", path.read_text(), flags=re.S)
        assert "data-events" not in path.read_text()
    for path in folder.rglob("*.atom"):
        for link in ElementTree.parse(path).iter(f"{ATOM}link"):
            assert link.get("href", "").startswith("https://papers.example/lab/")
    assert "127.0.0.1" not in (folder / "index.feed.json").read_text()
    for path in folder.rglob("*.json"):
        for found in re.findall(r'"(?:address|next)":"([^"]+)"', path.read_text()):
            assert (path.parent / found).resolve().is_file()
    index = json.loads((folder / "search-index.js").read_text().partition("=")[2].rstrip(";\n"))
    assert len(index) == count(engine)
    assert all((folder / one[1]).is_file() for one in index)
    coins = next(one for one in index if one[1] == "papers/coins.html")
    assert coins[9] == ["unchecked"]  # by the rows of the ledger, which the pages read


def test_an_export_replaces_an_export_and_nothing_else(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ExportError, match="holds something else"):
        export(engine, tmp_path / "mine")
    with pytest.raises(ExportError, match=r"like https://papers\.example/"):
        export(engine, tmp_path / "site", site="papers.example")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / ".assay-export").write_text("")
    (tmp_path / "site" / "old.html").write_text("old")
    export(engine, tmp_path / "site")
    assert not (tmp_path / "site" / "old.html").exists()
    assert not list((tmp_path / "site").rglob("*.atom"))
