"""The digest as mail: how an issue is written, and the worker's durable workflow that sends what is due."""

from __future__ import annotations

import textwrap
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import sqlalchemy as sa
from jinja2 import Environment, PackageLoader, select_autoescape

from assay.papers import Paper, mail
from assay.papers.digest import CLOSES, PACES, Digests, Fallen, Issue, Subscription, closed, subscribed
from assay.papers.selection import Selection
from assay.web.page import address

if TYPE_CHECKING:
    from dbos._dbos import ScheduleInput

SCHEDULE = "15,45 * * * *"
"""When the worker looks what is due (UTC): a mail server that was away is asked again half an hour later."""

_templates = Environment(
    loader=PackageLoader("assay.web"),
    autoescape=select_autoescape(["html"]),
    trim_blocks=True,
    lstrip_blocks=True,
)


def described(selection: Selection) -> str:
    """The papers of a selection in words.

    >>> described(Selection(q="sparse gates", field="gating", verdict="any"))
    'papers on “sparse gates” in gating with a verdict'
    """
    verdict = "a verdict" if selection.verdict == "any" else f"the verdict {selection.verdict}"
    parts = (
        (selection.q, f"on “{selection.q}”"),
        (selection.field, f"in {selection.field}"),
        (selection.keyword, f"with the keyword {selection.keyword}"),
        (selection.organisation, f"from {selection.organisation}"),
        (selection.submitter, f"submitted by {selection.submitter}"),
        (selection.verdict, f"with {verdict}"),
    )
    words = " ".join(text for value, text in parts if value)
    return f"papers {words}" if words else "all papers"


def _facts(paper: Paper) -> str:
    """Who wrote it, on what, when: one line."""
    day = f"{paper.day.day} {paper.day:%B %Y}" if paper.day else ""
    return " · ".join(filter(None, (paper.byline, paper.organisation, paper.field, day)))


def _weight(fallen: Fallen) -> str:
    """What a verdict rests on, and what it was before."""
    was = f"; it was {fallen.before}" if fallen.before not in (None, fallen.after) else ""
    return f"yes in {fallen.yes} of {fallen.answered} trials at {fallen.scale} scale{was}"


_templates.filters.update(address=address, facts=_facts, weight=_weight)


def _news(issue: Issue) -> str:
    """What an issue brings, counted."""
    fallen = sum(len(entry.fallen) for entry in (*issue.new, *issue.judged))
    counts = ((len(issue.new), "new paper"), (fallen, "new verdict"))
    told = " and ".join(f"{count} {name}{'s' * (count > 1)}" for count, name in counts if count)
    return f"more than {told}" if issue.more else told


def _days(issue: Issue) -> str:
    first, last = issue.since.date(), issue.until.date()
    month = f" {first:%B}" if first.month != last.month else ""
    return f"{first.day}{month} to {last.day} {last:%B %Y}"


def written(issue: Issue, subscription: Subscription) -> EmailMessage:
    """The mail that tells somebody of an issue, with a header by which mail programs offer to end it."""
    first = (*issue.new, *issue.judged)[0].paper.title
    values: dict[str, Any] = {
        "subject": f"{_news(issue)}: {textwrap.shorten(first, 90, placeholder='…')}",
        "issue": issue,
        "subscription": subscription,
        "described": described(issue.selection),
        "news": _news(issue),
        "period": _days(issue),
        "list": f"{subscription.site}/?{issue.selection.query()}".rstrip("?"),
        "site": subscription.site,
        "end": f"{subscription.site}/digest/{subscription.token}",
    }
    return mail.message(
        to=subscription.email,
        subject=values["subject"],
        text=_templates.get_template("digest_mail.txt").render(values),
        html=_templates.get_template("digest_mail.html").render(values),
        headers={
            "List-Id": f"<digest.{urlsplit(subscription.site).hostname}>",
            "List-Unsubscribe": f"<{values['end']}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
    )


def question(subscription: Subscription) -> EmailMessage:
    """The mail that asks whether the address wants the digest. Anybody may have typed in the address and the
    words to search by, so that those stand on the page only, and nobody can write to others by them."""
    values = {
        "pace": subscription.pace,
        "site": subscription.site,
        "confirm": f"{subscription.site}/digest/{subscription.token}",
    }
    return mail.message(
        to=subscription.email,
        subject=f"Do you want the {subscription.pace} digest?",
        text=_templates.get_template("digest_question.txt").render(values),
    )


def preview(engine: sa.Engine, query: str, pace: str, issue: date | None) -> EmailMessage | None:
    """An issue of a selection as a subscriber would get it, the last one without `issue`; None where nothing
    is new. Raises ValueError for what is no selection or no pace.
    """
    if pace not in PACES:
        raise ValueError(f"pace is to be one of {', '.join(PACES)}, got {pace!r}")
    selection = subscribed(Selection.read(dict(parse_qsl(query))))
    until = datetime.combine(issue or closed(datetime.now(UTC), pace), CLOSES)
    holds = Digests(engine).issue(selection, until - PACES[pace], until)
    reader = Subscription(
        0, "you@example.org", selection.query(), pace, "http://127.0.0.1:8000", "example", None
    )
    return written(holds, reader) if holds else None


def send_due(engine: sa.Engine) -> Iterator[str]:
    """Mail what is due, telling what became of each; ends with a sentence where mail cannot be sent now."""
    digests = Digests(engine)
    for subscription_id, issue in digests.due(datetime.now(UTC)):
        outcome = _send(digests, subscription_id, issue)
        yield outcome
        if outcome not in _DONE:
            return


_DONE = ("sent", "empty", "refused", "unknown", "gone", "broken")


def _send(digests: Digests, subscription_id: int, issue: date) -> str:
    try:
        return digests.send(subscription_id, issue, written)
    except mail.MailError as error:
        return f"not sent: {error}"
    except Exception:  # an issue that cannot be written must not keep others from theirs
        traceback.print_exc()
        return "broken"


def register(DBOS: Any, engine: sa.Engine, stopping: threading.Event) -> ScheduleInput:
    """Make the workflow known, before DBOS is launched; returns when it is to run, to be applied after.

    That a step is repeated after a crash sends nothing twice: see `assay.papers.digest`.
    """
    digests = Digests(engine)

    def send(subscription_id: int, issue: str) -> str:
        return _send(digests, subscription_id, date.fromisoformat(issue))

    @DBOS.workflow(name="mail_digests")
    def mail_digests(at: datetime, _context: Any) -> None:
        due = DBOS.run_step(
            {"name": "due"},
            lambda: [(key, issue.isoformat()) for key, issue in digests.due(datetime.now(UTC))],
        )
        outcomes: Counter[str] = Counter()
        for subscription_id, issue in due:
            if stopping.is_set():  # the others stay due
                break
            outcome = DBOS.run_step({"name": f"{subscription_id}"}, send, subscription_id, issue)
            outcomes[outcome] += 1
            if outcome not in _DONE:
                break
        for outcome, count in outcomes.items():
            print(f"digest  {count} {outcome}", flush=True)

    return {"schedule_name": "digests", "workflow_fn": mail_digests, "schedule": SCHEDULE}
