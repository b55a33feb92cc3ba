"""Routes, JSON twins, policies and escaping, through the application in this process."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from assay import studies
from assay.evidence.ledger import Ledger, Outcome, Row, Series
from assay.evidence.runner import plan
from assay.web import source
from assay.web.app import create_app
from assay.web.checks import Controls
from assay.web.guard import SESSION

ORIGIN = {"Origin": "http://127.0.0.1:8000"}


@pytest.fixture
def toy_slugs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the toys, so that no test waits for torch."""
    monkeypatch.setattr(studies, "slugs", lambda: ["coins", "crash", "lacking", "slow"])


@pytest.fixture
def client(engine: sa.Engine, toy_slugs: None) -> Iterator[TestClient]:
    app = create_app(engine)
    with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        client.get("/papers/coins"), client.get("/papers/crash"), client.get("/papers/lacking")
        yield client


@pytest.fixture
def curator(client: TestClient, session: Callable[[str], str]) -> TestClient:
    """The client with a curator signed in."""
    client.cookies.set(SESSION, session("curator"))
    return client


def record(engine: sa.Engine, slug: str, count: int, *, origin: str = "here", code: str = "") -> Series:
    """Rows of the toy study, each new = 1.5 and old = 3 + index."""
    study = studies.load(slug)
    present = plan(study, study.experiments[0], studies.module_of(slug)).series
    series = Series(slug, "tossing", "quick", present.settings, code or present.fingerprint, origin)
    for index in range(count):
        measurements = {"new": 1.5, "old": 3.0 + index, "odd": None}
        row = Row(series, index, 0, Outcome.MEASURED, measurements, None, 0.5, 1, {"processor": "p"}, {})
        Ledger(engine).record(row, "test")
    return series


def break_it(engine: sa.Engine, cause: str) -> None:
    series = record(engine, "crash", 0)
    Ledger(engine).record(Row(series, 0, 0, Outcome.RAISED, None, cause, 0.1, 1, {}, {}), "test")


def test_list_shows_the_catalogue(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    for text in ("CoLiDE", "gating", "no study yet", "No verdict given yet."):
        assert text in page.text
    for text in ("The toy slow", "2001-12-01"):
        assert text in client.get("/?field=gating").text
    chosen = client.get("/?field=quantum").text
    assert "The toy slow" not in chosen
    assert 'href="/papers.json?field=quantum"' in chosen


def test_list_twin(client: TestClient, engine: sa.Engine, hostile_title: str) -> None:
    record(engine, "coins", 7)
    twin = client.get("/papers.json?field=gating").json()
    toys = {paper["slug"]: paper for paper in twin["papers"]}
    assert toys["coins"]["title"] == hostile_title
    assert toys["coins"]["study"] == {"counts": {"holds": 1, "fails": 1}, "running": False}
    assert toys["lacking"]["study"]["counts"] == {"broken": 1}
    assert twin["verdicts_given"] == 2
    assert twin["expected_wrong"] == pytest.approx(0.1)
    assert twin["worker"] == {"running": False, "paused": False, "study": None}
    assert client.get(toys["coins"]["address"]).json()["slug"] == "coins"


def test_paper_shows_its_claims(curator: TestClient, engine: sa.Engine) -> None:
    record(engine, "coins", 7)
    page = curator.get("/papers/coins").text
    for text in (
        "new × 1.2 &lt; old",
        "half <span",
        "(table 1)",
        "6 (3 to 9)",
        "7 of 7",
        "0 of 7",
        "quick, here, checked",
        "2 verdicts given; by chance alone, expect at most 0.1",
        'href="https://arxiv.org/abs/cs/0112011"',
        'action="/papers/coins/check"',
    ):
        assert text in page, text
    assert page.count('<svg class="plot"') == 2
    assert page.count('class="mark yes"') == 7
    assert page.count('class="mark no"') == 7
    assert "trial 6: yes; new 1.5, old 9" in page


def test_paper_twin(client: TestClient, engine: sa.Engine) -> None:
    record(engine, "coins", 7)
    twin = client.get("/papers/coins.json").json()
    claims = twin["study"]["experiments"][0]["claims"]
    assert [claim["verdict"] for claim in claims] == ["holds", "fails"]
    assert claims[0]["measured"][1] == {"name": "old", "median": 6.0, "least": 3.0, "greatest": 9.0}
    assert twin["check"] is None


def test_evidence_from_here_stands_before_the_recorded(client: TestClient, engine: sa.Engine) -> None:
    record(engine, "coins", 7, origin="recorded")
    record(engine, "coins", 2)
    page = client.get("/papers/coins").text
    assert page.index("quick, here, checked") < page.index("quick, recorded, checked")
    assert 'rowspan="2"' in page
    # The recorded verdict counts while there is none from here.
    assert client.get("/papers.json?field=gating").json()["verdicts_given"] == 2


def test_stale_verdicts_do_not_count(client: TestClient, engine: sa.Engine) -> None:
    record(engine, "coins", 7, code="earlier")
    page = client.get("/papers/coins").text
    assert '<tr role="row" class="old">' in page
    assert "badge stale" in page
    assert "No verdict given yet." in page


def test_broken_experiment_shows_its_cause(client: TestClient, engine: sa.Engine) -> None:
    break_it(engine, "Traceback: <b>no</b> luck")
    page = client.get("/papers/crash").text
    assert "Traceback: &lt;b&gt;no&lt;/b&gt; luck" in page
    assert "<details" in page
    assert "badge broken" in page


def test_study_that_cannot_be_imported(curator: TestClient) -> None:
    page = curator.get("/papers/lacking").text
    assert "ImportError: lacking needs the extra assay[lucky] &lt;b&gt;" in page
    assert "Check now" not in page
    assert curator.post("/papers/lacking/check", headers=ORIGIN).status_code == 404
    assert curator.get("/papers/lacking.json").json()["study"]["state"] == "broken"


def test_everything_is_escaped(client: TestClient, engine: sa.Engine) -> None:
    record(engine, "coins", 7)
    for path in ("/?field=gating", "/papers/coins"):
        text = client.get(path).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "<b>fewer" not in text
        assert "<i>study" not in text
        assert "&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;" in text
    assert "<img" not in client.get("/papers/%3Cimg%20src=x%3E").text


def test_old_arxiv_ids_hold_a_slash(client: TestClient) -> None:
    answer = client.get("/papers/cs/0112011", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/papers/coins")
    assert client.get("/papers/cs/0112011.json").json()["slug"] == "coins"
    assert client.get("/papers/cs.AI/0112011").url.path == "/papers/coins"


def test_paper_without_a_slug_is_at_its_arxiv_id(engine: sa.Engine, client: TestClient) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO papers (id, title, field) VALUES "
                "(900, 'Old one', NULL), (901, 'A/B: 50% ?', 'gating')"
            )
        )
        connection.execute(
            sa.text("INSERT INTO paper_ids VALUES ('arxiv', 'math/0112018', 900), ('title', 'ab50', 901)")
        )
    assert "No study tests this paper yet." in client.get("/papers/math/0112018").text
    assert client.get("/papers/math/0112018.json").json()["title"] == "Old one"
    assert client.get("/papers/math/0112018/events").status_code == 404
    assert 'href="/papers/A/B%3A%2050%25%20%3F"' in client.get("/?field=gating").text
    assert "A/B: 50% ?" in client.get("/papers/A/B%3A%2050%25%20%3F").text


def test_unknown_paths(curator: TestClient) -> None:
    page = curator.get("/papers/coinz")
    assert page.status_code == 404
    assert "did you mean &#39;coins&#39;?" in page.text
    error = "No paper is called 'coinz'; did you mean 'coins'?"
    assert curator.get("/papers/coinz.json").json() == {"error": error}
    assert curator.get("/nothing").status_code == 404
    assert curator.get("/nothing.json").json()["error"]
    assert curator.get("/?field=alchemy").status_code == 400
    assert curator.get("/events?field=alchemy").status_code == 400
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert curator.get(path).status_code == 404
    assert curator.post("/worker/dance", headers=ORIGIN).status_code == 404


def test_source_shows_methods_and_studies_only(client: TestClient) -> None:
    page = client.get("/source/assay.inference.colide")
    assert page.status_code == 200
    assert 'id="L1"' in page.text
    assert client.get("/source/assay.inference.colide.json").json()["source"].startswith('"""CoLiDE')
    assert client.get("/source/toystudies.coins").status_code == 200
    for module in (
        "assay.web.app",
        "assay.database",
        "assay.inference",
        "os",
        "..%2F..%2Fpyproject",
        "assay.studies",
    ):
        assert client.get(f"/source/{module}").status_code == 404, module


def test_use_it_comes_from_the_docstring(client: TestClient) -> None:
    page = client.get("/papers/colide").text
    assert "from assay.inference import CoLiDE, simulate_linear_sem, structure_metrics" in page
    assert "&gt;&gt;&gt;" not in page
    twin = client.get("/papers/colide.json").json()
    assert twin["method"] == "assay.inference.colide"
    compile(twin["use_it"], "use_it", "exec")


@pytest.mark.parametrize("slug", [name for name in studies.slugs() if source.method_module(name)])
def test_example_names_all_that_it_uses(slug: str) -> None:
    module = source.method_module(slug)
    assert module is not None
    example = source.example(module)
    assert example is not None, f"{module} has no docstring with an example"
    tree = ast.parse(example.code)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    known = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.arg):
            known.add(node.arg)
    assert {node.id for node in names} <= known


def test_figures(client: TestClient, engine: sa.Engine) -> None:
    assert client.get("/papers/coins/figures/tossing.svg").status_code == 404
    record(engine, "coins", 3)
    record(engine, "crash", 3)
    figure = client.get("/papers/coins/figures/tossing.svg")
    assert figure.headers["content-type"] == "image/svg+xml"
    assert figure.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert figure.content == client.get("/papers/coins/figures/tossing.svg").content
    broken = client.get("/papers/crash/figures/tossing.svg")
    assert broken.status_code == 500
    assert "ZeroDivisionError" in broken.text
    assert client.get("/papers/coins/figures/other.svg").status_code == 404


@pytest.mark.parametrize("path", ["/", "/papers/coins", "/papers.json", "/static/page.css", "/nothing"])
def test_policy(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    if not path.endswith(".json"):
        assert not re.search(r"<[^>]+\s(?:style|on[a-z]+)=|<style|<script>", answer.text)
    assert not re.search(r'(?:src|href)="https?://(?!arxiv\.org/abs/)', answer.text)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1:9", "127.0.0.1", ""])
def test_foreign_hosts_are_turned_away(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 421
    assert client.get("/static/page.css", headers={"Host": host}).status_code == 421
    assert "error" in client.get("/papers.json", headers={"Host": host}).json()


def test_more_hosts(engine: sa.Engine, toy_slugs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_HOSTS", "papers.example, Other.example:81")
    with TestClient(create_app(engine)) as client:
        for host in ("papers.example", "other.example:81", "LOCALHOST:8000", "[::1]:8000"):
            assert client.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:8000"}, 303),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://127.0.0.1:8000.evil.example"}, 403),
        ({"Origin": "http://localhost:8000"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Referer": "http://127.0.0.1:8000/papers/coins"}, 303),
        ({"Referer": "http://evil.example/"}, 403),
        ({}, 403),
    ],
)
def test_forged_requests_change_nothing(
    curator: TestClient, engine: sa.Engine, headers: dict[str, str], status: int
) -> None:
    for path in ("/worker/pause", "/papers/coins/check"):
        assert curator.post(path, headers=headers, follow_redirects=False).status_code == status
    assert Controls(engine).paused is (status == 303)
    assert curator.get("/papers/coins.json").json()["check"] == ("queued" if status == 303 else None)


def test_pause_leads_back_to_the_page_and_nowhere_else(curator: TestClient) -> None:
    for referer, location in (
        ("http://127.0.0.1:8000/papers/coins", "/papers/coins"),
        ("http://127.0.0.1:8000/?field=gating", "/?field=gating"),
        ("http://127.0.0.1:8000//evil.example/", "/evil.example/"),
    ):
        answer = curator.post("/worker/pause", headers=ORIGIN | {"Referer": referer}, follow_redirects=False)
        assert answer.headers["location"] == location
    assert "The worker is paused" not in curator.get("/").text  # there is none
    assert "Resume" in curator.get("/").text


def test_check_is_queued_once(curator: TestClient) -> None:
    for _ in range(2):
        page = curator.post("/papers/coins/check", headers=ORIGIN)
        assert page.url.path == "/papers/coins"
        assert "A check is queued. No worker is running" in page.text
        assert "Check now" not in page.text
    assert curator.get("/papers/coins").status_code == 200
    assert "Check now" in curator.get("/papers/crash").text
