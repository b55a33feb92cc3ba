"""Fetching from a server on loopback that speaks the documented formats, its faults included."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa
from dbos import DBOSClient

from assay import cli
from assay.papers import records, sources
from assay.papers.catalogue import catalogue
from assay.papers.records import Papers, Told
from assay.papers.saved_page import PageEntry
from assay.papers.sources import SourceError, Sources, is_bibtex, read_bibtex
from assay.web.checks import APPLICATION, workflows_url

PAUSE = 0.01
FIRST = date(2026, 11, 2)

FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"
      xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
  <title>arXiv Query</title><id>https://arxiv.org/api/x</id><updated>2026-11-20T00:00:00Z</updated>
  <opensearch:totalResults>{total}</opensearch:totalResults>
  <opensearch:startIndex>{start}</opensearch:startIndex>
  <opensearch:itemsPerPage>{size}</opensearch:itemsPerPage>
  {entries}
</feed>"""
ENTRY = """<entry>
    <id>http://arxiv.org/abs/{id}v2</id>
    <published>{day}T17:59:46Z</published><updated>{day}T18:00:00Z</updated>
    <title>{title}</title>
    <summary>  We study the matter
  of {id}. </summary>
    <author><name>Ada Kern</name><arxiv:affiliation>Lab</arxiv:affiliation></author>
    <author><name>Bo Li</name></author>
    <category term="stat.ML"/><category term="{category}"/>
    <arxiv:primary_category term="{category}"/>
    <arxiv:comment>12 pages, accepted
  somewhere</arxiv:comment>
    <arxiv:journal_ref>J. Mat. 1 (2026)</arxiv:journal_ref>
    <arxiv:doi>10.1000/{id}</arxiv:doi>
    <link href="http://arxiv.org/abs/{id}v2" rel="alternate" type="text/html"/>
    <link title="pdf" href="http://arxiv.org/pdf/{id}v2" rel="related" type="application/pdf"/>
  </entry>"""
ERROR = """<feed xmlns="http://www.w3.org/2005/Atom"><entry>
    <id>http://arxiv.org/api/errors#bad</id><title>Error</title><summary>start must be
    an integer</summary></entry></feed>"""


@dataclass
class Elsewhere:
    """arXiv and Hugging Face, as far as they are asked for here."""

    url: str = ""
    papers: list[dict[str, str]] = field(default_factory=list)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """What goes wrong with the next requests, "" for nothing."""
    broken: dict[str, Callable[[str], str]] = field(default_factory=dict)
    """What is wrong with the entry of an id."""
    slow: threading.Event | None = None
    """Where it is there, every answer after the first waits for it."""
    asked: list[tuple[float, dict[str, str], str]] = field(default_factory=list)
    """When, with what and by which agent."""

    def fill(self, count: int, *, first: date = FIRST, a_day: int = 5, category: str = "cs.LG") -> list[str]:
        """Add papers of a category; their ids."""
        new = [
            {
                "id": f"{first:%y%m}.{len(self.papers) + number:05}",
                "day": str(first + timedelta(days=number // a_day)),
                "title": f"Paper {len(self.papers) + number}\n  on x &lt; y",
                "category": category,
            }
            for number in range(count)
        ]
        self.papers += new
        return [paper["id"] for paper in new]

    @property
    def starts(self) -> list[int]:
        return [int(asked["start"]) for _, asked, _ in self.asked]

    def gaps(self) -> list[float]:
        times = [at for at, _, _ in self.asked]
        return [later - earlier for earlier, later in itertools.pairwise(times)]

    def query(self, asked: dict[str, str], *, empty: bool = False) -> str:
        found = self.papers
        if asked.get("search_query"):
            category, first, last = re.fullmatch(
                r"cat:(\S+) AND submittedDate:\[(\d{8})0000 TO (\d{8})2359\]", asked["search_query"]
            ).groups()
            found = [
                paper
                for paper in found
                if re.fullmatch(category.replace("*", r"(\..*)?"), paper["category"])
                and first <= paper["day"].replace("-", "") <= last
            ]
            assert (asked["sortBy"], asked["sortOrder"]) == ("submittedDate", "ascending")
        if asked.get("id_list"):
            found = [paper for paper in found if paper["id"] in asked["id_list"].split(",")]
        start, size = int(asked["start"]), int(asked["max_results"])
        entries = [
            self.broken.get(paper["id"], lambda entry: entry)(ENTRY.format(**paper))
            for paper in found[start : start + size]
        ]
        shown = "" if empty else "\n".join(entries)
        return FEED.format(total=len(found), start=start, size=size, entries=shown)


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    there = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path not in ("/api/query", "/api/daily_papers"):
                return self.answer(404, "", {})
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            there.asked.append((time.time(), asked, self.headers["User-Agent"]))
            fault = there.faults.pop(0) if there.faults else ""
            if there.slow is not None and len(there.asked) > 1:
                there.slow.wait(30)
            if fault == "reset":
                self.close_connection = True
                return
            if fault.startswith(("400", "429", "5")):
                status, _, after = fault.partition(" ")
                body = ERROR if status == "400" else "Rate exceeded."
                return self.answer(int(status), body, {"Retry-After": after} if after else {})
            if address.path == "/api/daily_papers":
                papers = there.lists.get(asked["date"], [])
                start = int(asked["p"]) * 3
                body = json.dumps([] if fault == "empty" else papers[start : start + 3])
                if fault == "html":
                    body = "<html>Sign in</html>"
                if fault == "object":
                    body = '{"error": "no"}'
            else:
                body = there.query(asked, empty=fault == "empty")
            self.answer(200, body, {}, cut=fault == "cut")

        def answer(self, status: int, body: str, headers: dict[str, str], *, cut: bool = False) -> None:
            data = body.encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(data))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    there.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield there
    if there.slow is not None:
        there.slow.set()
    server.shutdown()
    server.server_close()


def sources_of(engine: sa.Engine, there: Elsewhere, pause: float = PAUSE) -> Sources:
    return Sources(engine, arxiv_url=f"{there.url}/api/query", huggingface_url=there.url, pause=pause)


@pytest.fixture
def here(engine: sa.Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> Sources:
    monkeypatch.setattr(sources, "PAGE", 10)
    return sources_of(engine, elsewhere)


def known(engine: sa.Engine) -> set[str | None]:
    return {paper.arxiv_id for paper in Papers(engine).list()}


def told_by(engine: sa.Engine, paper_id: int) -> list[str]:
    query = sa.select(records.provenances.c.source).where(records.provenances.c.paper_id == paper_id)
    with engine.connect() as connection:
        return sorted(connection.scalars(query))


# ---------------------------------------------------------------------- arXiv


def test_a_category_is_fetched_by_weeks_and_pages(here, engine, elsewhere):
    ids = elsewhere.fill(60)  # twelve days
    elsewhere.fill(5, category="cs.CV")
    heard = []
    report = here.fetch_arxiv(
        "cs.LG", since=FIRST, until=date(2026, 11, 11), progress=lambda *at: heard.append(at)
    )
    assert (report.new, report.changed, report.unchanged, report.unreadable) == (50, 0, 0, ())
    assert known(engine) == set(ids[:50])
    assert elsewhere.starts == [0, 10, 20, 30, 0, 10]
    assert heard[-1] == (date(2026, 11, 11), 50)
    assert min(elsewhere.gaps()) >= PAUSE
    assert all(agent.startswith("assay/") for _, _, agent in elsewhere.asked)
    paper = Papers(engine).find(ids[3])
    assert paper.title == "Paper 3 on x < y"
    assert paper.abstract == f"We study the matter of {ids[3]}."
    assert paper.author_names == ("Ada Kern", "Bo Li")
    assert (paper.authors, paper.categories) == (2, ("cs.LG", "stat.ML"))
    assert (paper.remark, paper.journal) == ("12 pages, accepted somewhere", "J. Mat. 1 (2026)")
    assert paper.submitted == paper.day == FIRST
    assert paper.outside_ids == (("arxiv", ids[3]), ("doi", f"10.1000/{ids[3]}"))


def test_fetching_again_changes_nothing_and_a_new_version_is_taken_over(here, elsewhere, engine):
    ids = elsewhere.fill(7)
    here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST + timedelta(days=1))
    elsewhere.papers[2]["title"] = "A better title"
    report = here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST + timedelta(days=1))
    assert (report.new, report.changed, report.unchanged) == (0, 1, 6)
    assert Papers(engine).find(ids[2]).title == "A better title"
    elsewhere.papers[2]["title"] = "Paper 2 on x &lt; y"
    here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST + timedelta(days=1))
    assert Papers(engine).find(ids[2]).title == "Paper 2 on x < y"


def test_a_whole_archive_may_be_named(here, elsewhere, engine):
    ids = [*elsewhere.fill(2, category="math.ST"), *elsewhere.fill(2, category="math.PR")]
    here.fetch_arxiv("math", since=FIRST, until=FIRST)
    assert known(engine) == set(ids)


@pytest.mark.parametrize("fault", ["429", "503", "500", "cut", "reset", "empty"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_passing_fault_loses_nothing(here, engine, elsewhere, fault, place):
    ids = elsewhere.fill(25)
    elsewhere.faults = [""] * place + [fault, fault]
    report = here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST + timedelta(days=6))
    assert report.new == 25
    assert known(engine) == set(ids)
    if fault != "empty":
        # It waits longer each time.
        assert elsewhere.gaps()[place + 1] >= 2 * PAUSE


@pytest.mark.parametrize(
    "form", [lambda at: "1", lambda at: format_datetime(at + timedelta(seconds=2), True)]
)
def test_it_waits_as_long_as_it_is_told_to(here, elsewhere, form):
    elsewhere.fill(3)
    elsewhere.faults = [f"503 {form(datetime.now(UTC))}"]
    assert here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST).new == 3
    assert elsewhere.gaps()[0] >= 0.9


def test_it_does_not_wait_for_half_a_day(here, elsewhere):
    elsewhere.faults = ["503 7200"]
    with pytest.raises(SourceError, match="arXiv asks to be left alone for 7200 s"):
        here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST)
    assert len(elsewhere.asked) == 1


def test_a_refusal_is_said_in_the_servers_words_and_not_asked_again(here, elsewhere):
    elsewhere.faults = ["400"]
    with pytest.raises(SourceError, match="arXiv refused the request: start must be an integer"):
        here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST)
    assert len(elsewhere.asked) == 1


def test_after_vain_attempts_the_same_call_goes_on_where_it_was(here, engine, elsewhere):
    ids = elsewhere.fill(48)
    elsewhere.faults = ["", "", *["503"] * 6]
    arguments = {"since": FIRST, "until": FIRST + timedelta(days=9)}
    with pytest.raises(SourceError, match="no answer at 6 attempts; at the last: HTTP status 503"):
        here.fetch_arxiv("cs.LG", **arguments)
    assert known(engine) == set(ids[:20])
    elsewhere.asked.clear()
    elsewhere.faults = ["", "", *["cut"] * 6]
    with pytest.raises(SourceError, match="no answer at 6 attempts"):
        sources_of(engine, elsewhere).fetch_arxiv("cs.LG", **arguments)
    assert elsewhere.starts[:3] == [20, 30, 0]
    elsewhere.asked.clear()
    sources_of(engine, elsewhere).fetch_arxiv("cs.LG", **arguments)
    assert elsewhere.starts == [0, 10]
    assert known(engine) == set(ids)
    elsewhere.asked.clear()
    here.fetch_arxiv("cs.LG", **arguments)  # it was done: the next one begins anew
    assert elsewhere.starts[0] == 0
    assert len(elsewhere.starts) == 6


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda entry: re.sub("<published>.*?</published>", "", entry), "missing <published>"),
        (lambda entry: re.sub("<published>.*?</published>", "<published>soon</published>", entry), "soon"),
        (lambda entry: re.sub("<id>.*?</id>", "", entry), "without <id>"),
        (lambda entry: entry.replace("arxiv.org/abs/", "arxiv.org/nowhere/"), "it has no id"),
        (lambda entry: re.sub("(?s)<title>.*?</title>", "<title> </title>", entry), "it has no title"),
        (lambda entry: re.sub("(?s)<summary>.*?</summary>", "", entry), "it has no abstract"),
    ],
)
@pytest.mark.parametrize("places", [[0], [4, 5], [9, 10], [22, 23], range(10)])
def test_a_malformed_entry_is_named_and_the_rest_is_there(here, engine, elsewhere, damage, reason, places):
    ids = elsewhere.fill(24)
    elsewhere.broken = {ids[place]: damage for place in places}
    report = here.fetch_arxiv("cs.LG", since=FIRST, until=FIRST + timedelta(days=6))
    assert known(engine) == set(ids) - set(elsewhere.broken)
    assert report.new == 24 - len(places)
    assert report.unreadable
    assert all(reason in sentence for _, sentence in report.unreadable)


def test_text_that_no_database_takes_is_named(engine):
    entries = [
        Told("Good", arxiv_id="2401.00001"),
        Told("B\0ad"),
        Told("W\udc80orse"),
        Told(r"A literal \u0000"),
    ]
    report = Papers(engine).take(entries, "page")
    assert (report.new, [number for number, _ in report.unreadable]) == (2, [2, 3])


@pytest.mark.parametrize(
    ("category", "since", "message"),
    [
        ("cs.lg or all", FIRST, "category is to be one of arXiv's"),
        ("cs.LG", date(2999, 1, 1), "since is to be"),
    ],
)
def test_what_cannot_be_asked_is_not_asked(here, elsewhere, category, since, message):
    with pytest.raises(ValueError, match=message):
        here.fetch_arxiv(category, since=since)
    assert elsewhere.asked == []


def test_all_who_share_a_database_take_turns(either_engine, elsewhere):
    ids = elsewhere.fill(12)

    def add(some: list[str]) -> None:
        there = sources_of(either_engine, elsewhere, pause=0.1)
        for one in some:
            there.add([one])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, [ids[0:4], ids[4:8], ids[8:12]]))
    assert known(either_engine) == set(ids)
    assert min(elsewhere.gaps()) >= 0.1


def test_papers_are_added_by_id(here, engine, elsewhere):
    ids = elsewhere.fill(3)
    report = here.add([f"https://arxiv.org/abs/{ids[0]}v1", f"arXiv:{ids[2]}", "2599.00001", "norga", ids[0]])
    assert known(engine) == {ids[0], ids[2]}
    assert report.new == 2
    assert report.unreadable == (
        (3, "arXiv gives no paper 2599.00001"),
        (4, "an arXiv id such as 2310.02895 is expected, got 'norga'"),
    )
    assert here.add(ids).new == 1


# ---------------------------------------------------------------------- Hugging Face


def item(number: int, **more: Any) -> dict[str, Any]:
    return {
        "paper": {
            "id": f"2611.{number:05}",
            "authors": [{"name": "Ada Kern", "hidden": False}, {"name": "Bo Li"}],
            "publishedAt": "2026-11-19T17:59:46.000Z",
            "title": f"Paper {number}",
            "summary": "What the page says.",
            "upvotes": 10 + number,
            "ai_keywords": ["gates"],
            "githubRepo": "https://github.com/lab/x",
            "githubStars": 7,
            "projectPage": "https://lab.example",
        }
        | more,
        "publishedAt": "2026-11-20T02:00:00.000Z",
        "title": f"Paper {number}",
        "numComments": 2,
        "submittedBy": {"name": "reader"},
        "organization": {"name": "lab", "fullname": "The Laboratory"},
    }


DAY = date(2026, 11, 20)


def test_a_days_list_is_fetched_with_all_its_pages(here, engine, elsewhere):
    elsewhere.lists[str(DAY)] = [item(number) for number in range(7)]
    assert here.fetch_huggingface(DAY).new == 7
    paper = Papers(engine).find("2611.00004")
    assert (paper.listed, paper.day, paper.submitted) == (DAY, DAY, date(2026, 11, 19))
    assert (paper.votes_elsewhere, paper.stars, paper.comments) == (14, 7, 2)
    assert (paper.repository, paper.project_page) == ("https://github.com/lab/x", "https://lab.example")
    assert (paper.submitter, paper.organisation, paper.keywords) == ("reader", "The Laboratory", ("gates",))
    assert paper.author_names == ("Ada Kern", "Bo Li")


def test_a_list_that_fills_up_is_fetched_again_and_votes_may_fall(here, engine, elsewhere):
    for votes, count in ((5, 2), (9, 4), (5, 4)):
        elsewhere.lists[str(DAY)] = [item(number, upvotes=votes) for number in range(count)]
        here.fetch_huggingface(DAY)
        assert len(known(engine)) == count
        assert Papers(engine).find("2611.00001").votes_elsewhere == votes
    elsewhere.lists[str(DAY)] = []
    assert here.fetch_huggingface(DAY) == records.ImportReport()
    assert len(known(engine)) == 4


def test_malformed_items_are_named_and_the_rest_is_there(here, engine, elsewhere):
    elsewhere.lists[str(DAY)] = [item(0), 7, {"paper": {"id": "x"}}, item(3, authors="none", ai_keywords=3)]
    report = here.fetch_huggingface(DAY)
    assert known(engine) == {"2611.00000", "2611.00003"}
    assert [number for number, _ in report.unreadable] == [2, 3]
    assert "it has no title" in report.unreadable[1][1]


@pytest.mark.parametrize("fault", ["429", "503", "cut", "reset"])
def test_a_passing_fault_of_the_list_loses_nothing(here, engine, elsewhere, fault):
    elsewhere.lists[str(DAY)] = [item(number) for number in range(5)]
    elsewhere.faults = ["", fault, fault]
    assert here.fetch_huggingface(DAY).new == 5


@pytest.mark.parametrize("fault", ["html", "object", "400"])
def test_an_answer_that_is_no_list_gets_one_sentence(here, elsewhere, fault):
    elsewhere.faults = [fault]
    with pytest.raises(SourceError, match="Hugging Face gave no list of 2026-11-20: ") as caught:
        here.fetch_huggingface(DAY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arxiv_first", [True, False])
def test_a_paper_of_both_is_one_record_with_both_provenances(here, engine, elsewhere, arxiv_first):
    (known_id,) = elsewhere.fill(1)
    elsewhere.papers[0]["title"] = "The title of version two"
    elsewhere.lists[str(DAY)] = [
        item(0, id=known_id, title="The title of version one", authors=[{"name": "A"}])
    ]
    fetches = [lambda: here.add([known_id]), lambda: here.fetch_huggingface(DAY)]
    for fetch in fetches if arxiv_first else reversed(fetches):
        fetch()
    (paper,) = Papers(engine).list()
    assert told_by(engine, paper.id) == ["arxiv", "huggingface"]
    assert paper.title == "The title of version two"
    assert paper.abstract == f"We study the matter of {known_id}."
    assert (paper.author_names, paper.authors) == (("Ada Kern", "Bo Li"), 2)
    assert (paper.listed, paper.votes_elsewhere, paper.keywords) == (DAY, 10, ("gates",))
    assert paper.submitted == FIRST


def test_a_paper_of_the_catalogue_keeps_its_title_and_gains_the_rest(here, engine, elsewhere):
    papers = Papers(engine)
    papers.load_catalogue()
    elsewhere.papers = [{"id": "2405.14124", "day": "2024-05-24", "title": "Other", "category": "cs.LG"}]
    assert here.add(["2405.14124"]).tied == 1
    norga = papers.find("norga")
    assert (norga.title, norga.submitted) == (catalogue()[0].title, catalogue()[0].submitted)
    assert norga.abstract == "We study the matter of 2405.14124."
    assert norga.author_names


# ---------------------------------------------------------------------- bibliographies

BIBLIOGRAPHY = r"""% papers of ours
@string{j = "Journal of Things"}
@article{one, title = {The {G}aussians of M{\"u}ller: 5% of $x_i$}, author = {Gro{\ss}e, Anna and {The Lab}},
  journal = j, year = 2024, eprint = {2405.00001v2}, archivePrefix = {arXiv}, doi = {10.1000/ONE},
  url = {https://lab.example/one}, keywords = {gates; experts}, abstract = {Long -- and
  winding.}}
@misc{two, title = {Second}, journal = {arXiv preprint arXiv:2405.00002}}
@misc{three, title = {Third}, doi = {10.48550/arXiv.2405.00003}, url = {javascript:alert(1)}}
@misc{four, author = {Nobody}}
@misc{five, title = {Fifth}, author = {a, b, c, d, e}}
@misc{five, title = {Fifth again},
@misc{six, title = {Sixth}}
"""


def test_a_bibliography_is_read_as_far_as_it_can_be():
    assert is_bibtex(BIBLIOGRAPHY)
    told, unreadable = read_bibtex(BIBLIOGRAPHY)
    assert told[0] == Told(
        "The Gaussians of Müller: 5% of $x_i$",
        "Long – and winding.",
        arxiv_id="2405.00001",
        authors=2,
        author_names=("Anna Große", "The Lab"),
        keywords=("gates", "experts"),
        doi="10.1000/one",
        url="https://lab.example/one",
        journal="Journal of Things",
    )
    assert told[1] == Told("Second", arxiv_id="2405.00002")
    assert told[2] == Told("Third", arxiv_id="2405.00003")
    assert told[-1] == Told("Sixth")
    lines = BIBLIOGRAPHY.split("\n")
    assert [lines[line - 1].partition(",")[0] for line, _ in unreadable] == [
        "@misc{four",
        "@misc{five",
        "@misc{five",
    ]
    assert all(reason for _, reason in unreadable)


@pytest.mark.parametrize(
    "text", ["Daily Papers\n\nApr 20\n", "<html>@article{x}</html>", "", "@ work, we {do}"]
)
def test_what_is_no_bibliography(text):
    assert not is_bibtex(text)


def test_a_bibliography_fills_gaps_only(engine):
    papers = Papers(engine)
    papers.take([PageEntry("First", "From the page.", arxiv_id="2405.00001", listed=DAY)], "page.html")
    told = [
        Told("1st", "Else.", arxiv_id="2405.00001", journal="J", doi="10.1000/one"),
        Told("By its DOI", doi="10.1000/One"),
    ]
    assert papers.take(told, "my.bib", "bibliography").new == 0
    (paper,) = papers.list()
    assert (paper.title, paper.abstract, paper.journal) == ("First", "From the page.", "J")
    assert told_by(engine, paper.id) == ["my.bib", "my.bib", "page.html"]
    assert papers.take(told, "my.bib", "bibliography").unchanged == 2


# ---------------------------------------------------------------------- many at once


def test_what_is_taken_in_at_once_is_what_one_by_one_gives(tmp_path, monkeypatch, engine):
    """Entries that share ids and titles in all ways, in batches of 7 and of 1."""
    import random

    from assay.database import open_database

    draw = random.Random(5)
    entries = [
        Told(
            f"Title {draw.randrange(24)}",
            arxiv_id=draw.choice([None, f"2401.{draw.randrange(16):05}"]),
            doi=draw.choice([None, None, f"10.1000/{draw.randrange(16)}"]),
            url=draw.choice([None, "https://lab.example"]),
            listed=draw.choice([None, DAY - timedelta(days=draw.randrange(3))]),
            comments=draw.randrange(5),
        )
        for _ in range(60)
    ]

    def contents(engine: sa.Engine, at_once: int) -> object:
        monkeypatch.setattr(records, "_AT_ONCE", at_once)
        papers = Papers(engine)
        heard = []
        report = papers.take(entries, "page", progress=heard.append)
        assert heard[-1] == 60
        again = papers.take(entries, "page")
        assert (again.new, again.changed, again.unchanged) == (0, 0, 60)
        found = [
            ({**paper.as_json(), "id": 0, "added_at": 0}, told_by(engine, paper.id))
            for paper in papers.list()
        ]
        return report, sorted(found, key=str)

    other = open_database(sa.make_url(f"sqlite:///{tmp_path / 'other.sqlite'}"))
    assert contents(engine, 7) == contents(other, 1)
    other.dispose()


def test_records_that_become_one_keep_votes_and_comments(either_engine):
    from assay.papers import people

    papers = Papers(either_engine)
    papers.take([Told("Old"), Told("New", arxiv_id="2401.00001")], "a")
    old, new = (papers.find(key).id for key in ("Old", "New"))
    at = "2026-11-20T00:00:00+00:00"
    with either_engine.begin() as connection:
        connection.execute(
            sa.insert(people.people),
            [
                {"email": f"{name}@x", "name": name, "role": "reader", "joined_at": at}
                for name in ("ada", "bo")
            ],
        )
        ada, bo = connection.scalars(sa.select(people.people.c.id).order_by(people.people.c.id))
        votes = [(ada, old), (ada, new), (bo, old)]
        connection.execute(
            sa.insert(people.votes),
            [{"person_id": person, "paper_id": paper, "at": at} for person, paper in votes],
        )
        connection.execute(sa.insert(people.comments).values(paper_id=old, person_id=bo, body="x", at=at))
    papers.take([Told("Old", arxiv_id="2401.00001")], "b")
    (paper,) = papers.list()
    with either_engine.connect() as connection:
        voters = connection.execute(sa.select(people.votes.c.person_id, people.votes.c.paper_id)).all()
        assert sorted(voters) == [(ada, paper.id), (bo, paper.id)]
        assert connection.scalars(sa.select(people.comments.c.paper_id)).all() == [paper.id]


# ---------------------------------------------------------------------- processes


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def environment_elsewhere(elsewhere: Elsewhere) -> dict[str, str]:
    """For processes: arXiv and Hugging Face are that server."""
    return os.environ | {"ASSAY_ARXIV_URL": f"{elsewhere.url}/api/query", "HF_ENDPOINT": elsewhere.url}


def assay(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "assay.cli", *arguments]


def test_a_killed_fetch_goes_on_where_it_was(engine, elsewhere, environment_elsewhere):
    ids = elsewhere.fill(12, a_day=1)
    elsewhere.slow = threading.Event()
    command = assay("papers", "fetch", "arxiv", "--since", str(FIRST), "--until", "2026-11-13", "--json")
    running = subprocess.Popen(command, env=environment_elsewhere)
    until(lambda: len(elsewhere.asked) == 2)  # the first week is recorded
    running.kill()
    running.wait()
    assert known(engine) >= set(ids[:7])
    elsewhere.slow.set()
    done = subprocess.run(command, env=environment_elsewhere, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["new"] == 5
    assert known(engine) >= set(ids)
    assert len(elsewhere.asked) == 3
    assert min(elsewhere.gaps()) >= sources.PAUSE


def test_the_command_says_what_went_wrong_in_a_sentence(elsewhere, environment_elsewhere, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            assay("papers", *arguments), env=environment_elsewhere, capture_output=True, text=True
        )

    elsewhere.faults = ["400"]
    refused = run("add", "2310.02895")
    assert refused.returncode == 1
    assert refused.stderr == "assay: arXiv refused the request: start must be an integer\n"
    bibliography = tmp_path / "my.bib"
    bibliography.write_text(BIBLIOGRAPHY, "utf-8")
    imported = run("import", str(bibliography))
    assert imported.returncode == 1
    assert imported.stdout.startswith("4 papers: 4 new, ")
    assert f"{bibliography}:11: " in imported.stderr


WORKER = "from assay.web.worker import work; work(sweep=False)"


def test_the_worker_fetches_every_day_and_a_killed_one_is_followed_by_the_next(
    engine, elsewhere, environment_elsewhere
):
    today = datetime.now(UTC).date()
    ids = elsewhere.fill(8, first=today - timedelta(days=7), a_day=1)
    elsewhere.lists = {str(today - timedelta(days=1)): [item(90)], str(today): [item(91)]}
    cli._schedule(["cs.LG"])
    url = workflows_url(engine)
    client = DBOSClient(system_database_url=url, application_name=APPLICATION)
    (daily,) = client.list_schedules(workflow_name=sources.FETCH)
    assert (daily["workflow_name"], daily["schedule"]) == (sources.FETCH, sources.DAILY)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WORKER], env=environment_elsewhere)

    elsewhere.slow = threading.Event()
    worker = start()
    try:
        until(lambda: client.list_application_versions() != [])
        handle = client.trigger_schedule(sources.FETCH)
        until(lambda: len(elsewhere.asked) == 2)
        worker.kill()  # amid a list
        worker.wait()
        elsewhere.slow.set()
        worker = start()
        until(lambda: client.retrieve_workflow(handle.workflow_id).get_status().status == "SUCCESS")
        assert known(engine) >= {*ids, "2611.00090", "2611.00091"}
        assert client.list_workflows(name=sources.FETCH)[0].workflow_id == handle.workflow_id
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        cli._schedule(None)
        assert client.list_schedules(workflow_name=sources.FETCH) == []
    finally:
        worker.kill()
        worker.wait()
        client.destroy()
