"""The digest: its pages, its mails as a reader sees them, and what a killed worker sends."""

from __future__ import annotations

import email
import email.policy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from dbos import DBOSClient
from fastapi.testclient import TestClient

from assay import studies
from assay.database import write
from assay.evidence.verdict_log import verdict_changes, verdict_index
from assay.papers import digest, people, records
from assay.papers.digest import CLOSES, Digests, Subscription, closed
from assay.papers.selection import Selection
from assay.web.app import create_app
from assay.web.checks import APPLICATION, workflows_url
from assay.web.guard import SESSION
from assay.web.mailings import preview, written

if TYPE_CHECKING:
    from conftest import MailServer, Processes

ADDRESS = "http://127.0.0.1:8000"
ORIGIN = {"Origin": ADDRESS}


@pytest.fixture
def client(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(studies, "slugs", list)  # no test here waits for a study
    with TestClient(create_app(engine), base_url=ADDRESS) as client:
        yield client


def mails(outbox: Path) -> list[Any]:
    files = sorted(outbox.glob("*.eml")) if outbox.exists() else []
    return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]


def ask(client: TestClient, **form: str) -> Any:
    return client.post("/digest", data={"email": "ada@example.org"} | form, headers=ORIGIN)


def link(outbox: Path) -> str:
    """The path in the last mail's question."""
    found = re.search(rf"^{ADDRESS}(/digest/\S+)\s*$", mails(outbox)[-1].get_content(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_somebody_asks_confirms_and_ends_it(client: TestClient, engine: sa.Engine, outbox: Path) -> None:
    page = client.get("/digest?field=gating&week=2026-W47")
    assert '<option value="field=gating">papers in gating</option>' in page.text
    answer = ask(client, query="field=gating", pace="weekly")
    assert answer.history[0].status_code == 303
    assert "We have sent a link" in answer.text
    (question,) = mails(outbox)
    assert question["to"] == "ada@example.org"
    assert "weekly digest" in question.get_content()
    assert "gating" not in question.get_content()  # anybody may have typed that in
    path = link(outbox)
    assert "papers in gating, weekly, to ada@example.org" in client.get(path).text.lower()

    # Looking at the page, as programs that look into mail do, confirms nothing.
    assert "Do you want this digest?" in client.get(path).text
    assert client.get(f"{path}.json").json()["confirmed_at"] is None
    assert Digests(engine).of("ada@example.org") == []
    assert "You get this digest" in client.post(f"{path}/confirm", headers=ORIGIN).text
    (held,) = Digests(engine).of("ada@example.org")
    assert (held.query, held.pace, held.site) == ("field=gating", "weekly", ADDRESS)

    assert "has ended" in client.post(path, headers=ORIGIN).text
    gone = client.get(path)
    assert (gone.status_code, "There is no such digest" in gone.text) == (404, True)
    assert client.get(f"{path}.json").json() == {"error": gone_sentence(client, path)}


def gone_sentence(client: TestClient, path: str) -> str:
    found = re.search(r"There is no such digest[^<]*", client.get(path).text)
    assert found is not None
    return found[0]


def test_mail_programs_end_it_by_one_post(client: TestClient, engine: sa.Engine, outbox: Path) -> None:
    ask(client)
    path = link(outbox)
    # From a machine of the mail provider's: no origin, no cookie; and no redirect is followed.
    answer = client.post(path, data={"List-Unsubscribe": "One-Click"}, follow_redirects=False)
    assert answer.status_code == 200
    assert Digests(engine).find(path.rpartition("/")[2]) is None
    again = client.post(path, data={"List-Unsubscribe": "One-Click"}, follow_redirects=False)
    assert again.status_code == 200
    ask(client)
    assert client.post(f"{link(outbox)}/confirm", follow_redirects=False).status_code == 403


@pytest.mark.parametrize(
    ("form", "status", "sentence"),
    [
        ({"email": "ada"}, 400, "An e-mail address is to look like ada@example.org"),
        ({"email": "ada@example.org\nBcc: eve@example.org"}, 400, "An e-mail address is to look like"),
        ({"query": "field=cooking"}, 400, "Field is to be one of"),
        ({"query": "a=1&" * 500}, 303, ""),
        ({"query": f"q={'a' * 301}"}, 400, "Q is to have at most 300 characters"),
        ({"pace": "hourly"}, 400, "Pace is to be one of daily, weekly"),
    ],
)
def test_bad_input_is_one_sentence(
    client: TestClient, outbox: Path, form: dict[str, str], status: int, sentence: str
) -> None:
    answer = client.post(
        "/digest", data={"email": "ada@example.org"} | form, headers=ORIGIN, follow_redirects=False
    )
    assert (answer.status_code, sentence in answer.text) == (status, True)
    assert len(mails(outbox)) == (status == 303)
    assert client.get("/digest?field=cooking").status_code == 400


def test_nobody_can_tell_who_is_subscribed(client: TestClient, engine: sa.Engine, outbox: Path) -> None:
    first = ask(client)
    Digests(engine).confirm(link(outbox).rpartition("/")[2])
    assert ask(client).text == first.text
    assert len(mails(outbox)) == 1


def test_too_many_questions_are_refused(client: TestClient, outbox: Path) -> None:
    answers = [ask(client, email=f"person{number}@example.org").status_code for number in range(25)]
    assert answers.count(200) == 20
    assert answers[-1] == 429


def test_a_mail_server_that_is_away_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_SMTP_URL", "smtp://127.0.0.1:1")
    answer = ask(client)
    assert answer.status_code == 503
    assert "The mail could not be sent" in answer.text


def test_a_reader_sees_her_own_and_her_searches(
    client: TestClient, engine: sa.Engine, outbox: Path, session: Callable[[str], str]
) -> None:
    client.cookies.set(SESSION, session("reader"))
    with write(engine) as connection:
        (person,) = connection.execute(sa.select(people.people)).all()
        connection.execute(
            sa.insert(people.saved_searches).values(person_id=person.id, name="mine", query="q=gates")
        )
    text = client.get("/digest").text
    assert f'value="{person.email}"' in text
    assert "papers on “gates”" in text
    ask(client, email=person.email, query="q=gates")
    path = link(outbox)
    client.post(f"{path}/confirm", headers=ORIGIN)
    assert f'href="{path}"' in client.get("/digest").text
    (held,) = client.get("/digest.json").json()["subscriptions"]
    assert (held["query"], held["pace"]) == ("q=gates", "daily")
    client.cookies.clear()
    assert path not in client.get("/digest").text
    assert client.get("/digest.json").json()["subscriptions"] == []


# ------------------------------------------------------------------------------------ the mail


@pytest.fixture
def issue_mail(engine: sa.Engine, hostile_title: str) -> Any:
    """An issue with the paper of the hostile title, a verdict on it and on another."""
    until = datetime(2026, 11, 24, 6, tzinfo=UTC)
    said = {"experiment": "x", "claim": "is_fast", "yes": 7, "answered": 7, "scale": "quick"}
    said |= {"origin": "here", "fingerprint": "f"}
    with write(engine) as connection:
        old = sa.update(records.papers).values(added_at="2026-01-01T00:00:00+00:00")
        connection.execute(old)
        new = sa.update(records.papers).where(records.papers.c.slug == "coins")
        connection.execute(new.values(added_at="2026-11-23T12:00:00+00:00"))
        for study in ("coins", "slow"):
            connection.execute(sa.insert(verdict_index).values(**said, study=study, kind="holds"))
            connection.execute(
                sa.insert(verdict_changes).values(
                    **said, study=study, at="2026-11-23T13:00:00+00:00", before="undecided", after="holds"
                )
            )
    issue = Digests(engine).issue(Selection(), until - timedelta(days=1), until)
    reader = Subscription(1, "ada@example.org", "", "daily", "https://papers.example.org", "token", "x")
    return email.message_from_bytes(written(issue, reader).as_bytes(), policy=email.policy.default)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_mail_says_the_same_in_text_and_html(issue_mail: Any, hostile_title: str) -> None:
    text = issue_mail.get_body(("plain",)).get_content()
    html = issue_mail.get_body(("html",)).get_content()
    assert issue_mail["subject"].startswith("1 new paper and 2 new verdicts: ")
    assert issue_mail["list-unsubscribe"] == "<https://papers.example.org/digest/token>"
    assert issue_mail["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert " ".join(hostile_title.split()) in " ".join(text.split())
    assert "is fast: holds, yes in 7 of 7 trials at quick scale; it was undecided" in text
    tags = Tags(html)
    assert not {"script", "img", "link", "form"} & set(tags.tags)
    assert all(link.startswith("https://papers.example.org/") for link in tags.links)
    for path in ("/papers/coins", "/papers/slow", "/digest/token"):
        assert f"https://papers.example.org{path}" in tags.links
        assert f"https://papers.example.org{path}" in text.split()


def test_a_preview_is_the_mail_or_none(engine: sa.Engine) -> None:
    with pytest.raises(ValueError, match="pace is to be one of"):
        preview(engine, "", "hourly", None)
    with pytest.raises(ValueError, match="field is to be one of"):
        preview(engine, "field=cooking", "daily", None)
    assert preview(engine, "", "daily", datetime(2020, 1, 1, tzinfo=UTC).date()) is None
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    message = preview(engine, "", "weekly", tomorrow)
    assert message is not None
    assert message["subject"].startswith("more than 25 new papers: ")


def test_mail_fits_narrow_and_wide_programs(issue_mail: Any, browser: Any) -> None:
    page = browser.new_page()
    page.set_content(issue_mail.get_body(("html",)).get_content())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (320, 600, 1200):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            inner = page.evaluate("document.querySelector('h1').closest('table').clientWidth")
            assert min(width - 32, 600) == inner
    page.close()


# ------------------------------------------------------------------------------------ the worker


def test_a_killed_worker_sends_the_rest_and_nothing_twice(
    processes: Processes, engine: sa.Engine, mail_server: MailServer
) -> None:
    processes.environment["ASSAY_SMTP_URL"] = mail_server.url
    until = datetime.combine(closed(datetime.now(UTC) - digest.SETTLES, "daily"), CLOSES)
    addresses = [f"person{number}@example.org" for number in range(5)]
    with write(engine) as connection:
        connection.execute(
            sa.update(records.papers).values(added_at=(until - timedelta(hours=1)).isoformat())
        )
        for address in ["broken@example.org", *addresses]:
            connection.execute(
                sa.insert(digest.subscriptions).values(
                    email=address,
                    query="field=cooking" if "broken" in address else "",
                    pace="daily",
                    site=ADDRESS,
                    token=address,
                    made_at="2026-01-01T00:00:00+00:00",
                    confirmed_at="2026-01-01T00:00:00+00:00",
                )
            )
    struck = ("message", addresses[2])
    reached: list[str] = []

    def holds(*at: str) -> bool:
        if at == struck:
            reached.append(at[1])
        return at == struck

    mail_server.holds = holds
    worker = processes.work()
    client = DBOSClient(system_database_url=workflows_url(engine), application_name=APPLICATION)
    processes.until(lambda: client.get_schedule("digests") is not None)
    client.trigger_schedule("digests")
    processes.until(lambda: reached)
    worker.kill()
    worker.wait()
    mail_server.holds = lambda *at: False
    processes.work()
    processes.until(lambda: len(mail_server.received) >= 5)
    client.trigger_schedule("digests")
    processes.until(lambda: not client.list_workflows(name="mail_digests", status=["ENQUEUED", "PENDING"]))
    client.destroy()
    assert Counter(address for address, _ in mail_server.received) == Counter(addresses)
    assert len(Digests(engine).due(datetime.now(UTC))) == 1  # the one that could not be written
