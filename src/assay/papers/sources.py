"""Where papers come from: arXiv, Hugging Face's list of daily papers, and bibliographies in BibTeX.

arXiv's terms allow one request each three seconds and one connection, over all machines of a user. So each
request takes its turn in the database (`turns`), and whoever shares that database waits for the same turns,
also for the time that the server asks to be left alone.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from assay import __version__
from assay.database import write
from assay.papers.identity import arxiv_id
from assay.papers.records import ImportReport, Papers, Told, metadata
from assay.papers.saved_page import PageEntry, read_item, web_address

if TYPE_CHECKING:
    import arxiv  # type: ignore[import-untyped]
    from dbos import DBOS, DBOSClient

ARXIV = "https://export.arxiv.org/api/query"
"""Where arXiv is asked, unless `ASSAY_ARXIV_URL` names a mirror of it."""
PAUSE = 3.0
"""Seconds between two requests to arXiv."""
PAGE = 500
"""How many papers one request to arXiv asks for; it gives 2000 at most."""

FETCH = "fetch_papers"
"""The durable workflow of `register`, and its schedule."""
QUEUE = "sources"
"""The queue of all that asks sources; one at a time."""
DAILY = "30 4 * * *"
"""When papers are fetched each day, in UTC: arXiv's new ones are there, and yesterday's list is full."""

_AGENT = f"assay/{__version__} (a page of papers)"
_TIMEOUT = 30.0
_ATTEMPTS = 6
_MAY_PASS = (429, 500, 502, 503, 504)
_LONGEST_WAIT = 1800.0
_TURN_AT_MOST = 3  # pauses
_WINDOW = timedelta(days=7)
_IDS_AT_ONCE = 100
_CATEGORY = re.compile(r"[a-z]+(-[a-z]+)*(\.([A-Z]{2}|[a-z]+(-[a-z]+)*))?")

turns = sa.Table(
    "turns",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("free_at", sa.Float, nullable=False),
)
fetches = sa.Table(
    "fetches",
    metadata,
    sa.Column("query", sa.Text, primary_key=True),
    sa.Column("day", sa.Date, nullable=False),
    sa.Column("start", sa.Integer, nullable=False),
)


class SourceError(OSError):
    """A source gave no usable answer, not on repeated asking either; the message says which and why."""


class Interrupted(BaseException):
    """The process ends. Not an Exception: DBOS is to leave the fetch pending, for the next worker."""


class Sources:
    """Fetches papers into the records in the database that `engine` opens.

    Whatever interrupts a fetch, the same call goes on where it was. Waiting ends, with `Interrupted`, when
    `stopping` is set.
    """

    def __init__(
        self,
        engine: sa.Engine,
        *,
        arxiv_url: str | None = None,
        huggingface_url: str | None = None,
        pause: float = PAUSE,
        stopping: threading.Event | None = None,
    ) -> None:
        self._engine = engine
        self._papers = Papers(engine)
        self._arxiv_url = arxiv_url or os.environ.get("ASSAY_ARXIV_URL") or ARXIV
        self._huggingface_url = huggingface_url
        self._pause = pause
        self._stopping = stopping or threading.Event()
        self._client: arxiv.Client | None = None

    def fetch_arxiv(
        self,
        category: str,
        *,
        since: date,
        until: date | None = None,
        progress: Callable[[date, int], object] = lambda day, papers: None,
    ) -> ImportReport:
        """Fetch the papers of a category of arXiv by their day of submission, both days included.

        `progress` hears to which day all is there, and how many papers that were. Entries that cannot be
        read are in the report.
        """
        import arxiv

        end = until or datetime.now(UTC).date()
        if not _CATEGORY.fullmatch(category):
            raise ValueError(f"category is to be one of arXiv's, such as cs.LG, got {category!r}")
        if since > end:
            raise ValueError(f"since is to be a day up to {end}, got {since}")
        query = f"arxiv {category} {since} {until or ''}".strip()
        whole = category if "." in category else f"{category}*"
        first, start = self._reached(query) or (since, 0)
        report = ImportReport()
        # By weeks: one answer of arXiv, however it is paged, is limited in length.
        while first <= end:
            last = min(first + _WINDOW - timedelta(days=1), end)
            search = arxiv.Search(
                f"cat:{whole} AND submittedDate:[{first:%Y%m%d}0000 TO {last:%Y%m%d}2359]",
                sort_by=arxiv.SortCriterion.SubmittedDate,
                sort_order=arxiv.SortOrder.Ascending,
            )
            found = PAGE
            while found >= PAGE:
                told, unreadable, found = self._page(search, start, PAGE)
                report += self._papers.take(told, "arxiv", "arxiv", live=True)
                report += ImportReport(unreadable=tuple(unreadable))
                start += found
                self._reach(query, first, start)
                progress(last, report.new + report.changed + report.unchanged)
            first, start = last + timedelta(days=1), 0
            self._reach(query, first, start)
        with write(self._engine) as connection:
            connection.execute(sa.delete(fetches).where(fetches.c.query == query))
        return report

    def add(self, ids: Sequence[str]) -> ImportReport:
        """Fetch the papers with these arXiv ids, or addresses of their pages; what is none is reported."""
        import arxiv

        numbers: dict[str, int] = {}
        unreadable: list[tuple[int, str]] = []
        for number, text in enumerate(ids, start=1):
            known = arxiv_id(text)
            if known is None:
                unreadable.append((number, f"an arXiv id such as 2310.02895 is expected, got {text!r}"))
            else:
                numbers.setdefault(known, number)
        report = ImportReport()
        wanted = list(numbers)
        for begin in range(0, len(wanted), _IDS_AT_ONCE):
            batch = wanted[begin : begin + _IDS_AT_ONCE]
            told, problems, _ = self._page(arxiv.Search(id_list=batch), 0, len(batch))
            report += self._papers.take(told, "arxiv", "arxiv", live=True)
            there = {entry.arxiv_id for entry in told}
            why = f": {problems[0][1]}" if problems else ""
            unreadable += [
                (numbers[missing], f"arXiv gives no paper {missing}{why}")
                for missing in batch
                if missing not in there
            ]
        return report + ImportReport(unreadable=tuple(sorted(unreadable)))

    def fetch_huggingface(self, day: date) -> ImportReport:
        """Fetch Hugging Face's list of a day. It fills up during the day, so it may be fetched repeatedly."""
        entries: list[PageEntry] = []
        unreadable: list[tuple[int, str]] = []
        before: list[Any] = []
        number = page = 0
        # A list ends with an empty page. A server that does not page gives the same one again.
        while (items := self._listed(day, page)) and items != before:
            for item in items:
                number += 1
                try:
                    entries.append(read_item(item, day))
                except ValueError as error:
                    unreadable.append((number, f"Hugging Face's list of {day}: {error}"))
            before, page = items, page + 1
        report = self._papers.take(entries, "huggingface", "page", live=True)
        return report + ImportReport(unreadable=tuple(unreadable))

    # ------------------------------------------------------------------ arXiv

    def _page(
        self, search: arxiv.Search, start: int, size: int
    ) -> tuple[list[Told], list[tuple[int, str]], int]:
        """The papers from `start` on, at most `size`; what could not be read; how many places that takes,
        which is less than `size` at the end only.
        """
        import arxiv

        client = self._arxiv_client()
        search = arxiv.Search(search.query, search.id_list, start + size, search.sort_by, search.sort_order)
        found: list[arxiv.Result] = []
        skipped: list[str] = []
        for _ in range(3):  # now and then arXiv gives an empty page by mistake
            client.page_size = size
            try:
                with _warnings(skipped):
                    # Where the package leaves out entries, it goes on to as many that it has given before.
                    found.extend(client.results(search, offset=start))  # keeps what came before an error
                places = len(found)
            except arxiv.UnexpectedEmptyPageError as error:
                if not skipped:
                    raise SourceError("arXiv counts more papers than it gives, again and again") from error
                places = size  # those left out were the last ones
            except ValueError as error:
                # One malformed day, and the package reads none of the page: find out whose it is.
                if size == 1:
                    return [], [(start + 1, f"arXiv's entry {start + 1} cannot be read: {error}")], 1
                half = size // 2
                told, problems, places = self._page(search, start, half)
                if places == half:
                    more, further, behind = self._page(search, start + half, size - half)
                    told, problems, places = told + more, problems + further, places + behind
                return told, problems, places
            if skipped and not found:
                places = size  # the package takes a page of which it reads nothing for the end
            if found or skipped:
                break
        told, problems = [], [(start + 1, text) for text in dict.fromkeys(skipped)]
        for entry_id, result in {result.entry_id: result for result in found}.items():
            try:
                told.append(_read_result(result))
            except ValueError as error:
                problems.append((start + 1, f"{entry_id}: {error}"))
        return told, problems, places

    def _arxiv_client(self) -> arxiv.Client:
        if self._client is None:
            import arxiv

            # The pauses are ours: they hold for other processes too.
            self._client = arxiv.Client(page_size=PAGE, delay_seconds=0.0, num_retries=3)
            self._client.query_url_format = f"{self._arxiv_url}?{{}}"
            adapter = _polite(self._take_turn, self._give_back, self._pause)
            self._client._session.mount("https://", adapter)
            self._client._session.mount("http://", adapter)
        return self._client

    def _take_turn(self) -> None:
        """Wait until arXiv may be asked, and keep others from it until the turn is given back."""
        while True:
            with self._turns() as (connection, free_at):
                now = time.time()
                if free_at <= now:
                    # Who dies amid a request never gives it back.
                    _set_free_at(connection, now + _TURN_AT_MOST * self._pause)
                    return
            if self._stopping.wait(min(free_at - now, self._pause)):
                raise Interrupted

    def _give_back(self, seconds: float) -> None:
        """Let the next request wait for so many seconds, and no less than the pause."""
        with self._turns() as (connection, _):
            _set_free_at(connection, time.time() + max(seconds, self._pause))

    @contextmanager
    def _turns(self) -> Iterator[tuple[sa.Connection, float]]:
        with write(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("LOCK TABLE turns IN EXCLUSIVE MODE"))
            free_at = connection.scalar(sa.select(turns.c.free_at).where(turns.c.source == "arxiv")) or 0.0
            # What is farther off than any wait comes from a clock that was wrong.
            yield connection, free_at if free_at <= time.time() + 2 * _LONGEST_WAIT else 0.0

    def _reached(self, query: str) -> tuple[date, int] | None:
        """Where an earlier fetch of the same was interrupted."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(fetches).where(fetches.c.query == query)).one_or_none()
        return (row.day, row.start) if row else None

    def _reach(self, query: str, day: date, start: int) -> None:
        with write(self._engine) as connection:
            update = sa.update(fetches).where(fetches.c.query == query).values(day=day, start=start)
            if connection.execute(update).rowcount == 0:
                connection.execute(sa.insert(fetches).values(query=query, day=day, start=start))

    # ------------------------------------------------------------------ Hugging Face

    def _listed(self, day: date, page: int) -> list[Any]:
        from huggingface_hub import constants, utils

        if self._stopping.is_set():
            raise Interrupted
        endpoint = self._huggingface_url or constants.ENDPOINT
        try:
            # `HfApi.list_daily_papers` neither tries again nor keeps what is said inside of `paper`:
            # keywords, repository and its stars, project page.
            response = utils.http_backoff(  # type: ignore[attr-defined]
                "GET",
                f"{endpoint}/api/daily_papers",
                params={"date": day.isoformat(), "p": page, "limit": 100},
                headers={"User-Agent": _AGENT},
                base_wait_time=min(self._pause, 1.0),
                timeout=_TIMEOUT,
            )
            utils.hf_raise_for_status(response)  # type: ignore[attr-defined]
            items = response.json()
        except Exception as error:  # those of whichever HTTP package is beneath
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise SourceError(f"Hugging Face gave no list of {day}: {reason}") from error
        if not isinstance(items, list):
            raise SourceError(f"Hugging Face gave no list of {day}: got {json.dumps(items)[:100]}")
        return items


def _set_free_at(connection: sa.Connection, free_at: float) -> None:
    update = sa.update(turns).where(turns.c.source == "arxiv").values(free_at=free_at)
    if connection.execute(update).rowcount == 0:
        connection.execute(sa.insert(turns).values(source="arxiv", free_at=free_at))


def _polite(take_turn: Callable[[], None], give_back: Callable[[float], None], pause: float) -> Any:
    """What sends requests to arXiv: each in its turn and with our name, and again where that may help."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    class Polite(HTTPAdapter):
        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            request.headers["User-Agent"] = _AGENT
            options["timeout"] = _TIMEOUT
            for attempt in range(_ATTEMPTS):
                take_turn()
                wait = 0.0
                try:
                    response = super().send(request, *args, **options)
                    problem = _problem(response)  # reads the answer: a cut connection fails here, not later
                    if problem is None:
                        return response
                    if response.status_code in _MAY_PASS:
                        with suppress(InvalidHeader):
                            wait = Retry().get_retry_after(response.raw) or 0.0
                        if wait > _LONGEST_WAIT:
                            raise SourceError(f"arXiv asks to be left alone for {wait:.0f} s")
                        wait = max(wait, pause * 2 ** (attempt + 1))
                    else:
                        raise SourceError(f"arXiv refused the request: {problem}")
                except requests.RequestException as error:
                    problem, wait = str(error), pause * 2 ** (attempt + 1)
                finally:
                    give_back(wait)
            raise SourceError(f"arXiv gave no answer at {_ATTEMPTS} attempts; at the last: {problem}")

    return Polite()


def _problem(response: Any) -> str | None:
    """What is wrong with an answer. arXiv complains by a feed whose one entry is the error."""
    found = re.search(rb"/api/errors.*?<summary>(.*?)</summary>", response.content[:5000], re.DOTALL)
    if found:
        return " ".join(found[1].decode("utf-8", "replace").split())
    return None if response.status_code == 200 else f"HTTP status {response.status_code}"


@contextmanager
def _warnings(texts: list[str]) -> Iterator[None]:
    """Collect what the package `arxiv` says of entries that it leaves out."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING and threading.get_ident() == record.thread:
                texts.append(record.getMessage())

    logger, collector = logging.getLogger("arxiv"), Collector()
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)


def _read_result(result: arxiv.Result) -> Told:
    known = arxiv_id(result.entry_id)
    title, abstract = " ".join(result.title.split()), " ".join(result.summary.split())
    if known is None or not title or not abstract:
        missing = "id" if known is None else "abstract" if title else "title"
        raise ValueError(f"it has no {missing}")
    names = tuple(name for name in (" ".join(author.name.split()) for author in result.authors) if name)
    categories = dict.fromkeys([result.primary_category, *result.categories])
    return Told(
        title,
        abstract,
        arxiv_id=known,
        submitted=result.published.date(),
        authors=len(names) or None,
        author_names=names,
        doi=_doi(result.doi),
        categories=tuple(filter(None, categories)),
        remark=" ".join((result.comment or "").split()) or None,
        journal=" ".join((result.journal_ref or "").split()) or None,
    )


def _doi(text: str | None) -> str | None:
    found = re.search(r"\b10\.\d{4,9}/\S+", text or "")
    return found[0].lower() if found else None


# ---------------------------------------------------------------------- BibTeX


def is_bibtex(text: str) -> bool:
    """Whether the text looks like a bibliography: its first line that is no remark opens an entry."""
    return re.match(r"\ufeff?(\s*%[^\n]*\n)*\s*@\w+\s*[{(]", text) is not None


def read_bibtex(text: str) -> tuple[list[Told], tuple[tuple[int, str], ...]]:
    """The papers of a bibliography, and line and problem of the entries that cannot be read."""
    from bibtexparser import middlewares
    from bibtexparser.entrypoint import parse_string

    logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)  # what it says there is reported here
    library = parse_string(
        text.removeprefix("\ufeff"),
        append_middleware=[
            middlewares.SeparateCoAuthors(),
            middlewares.SplitNameParts(),
            middlewares.MergeNameParts("first"),
        ],
    )
    told = []
    unreadable = [
        (
            (block.start_line or 0) + 1,
            str(block.error or "").split("Note:")[0].strip() or "no entry of BibTeX",
        )
        for block in library.failed_blocks
    ]
    for entry in library.entries:
        fields = {field.key.lower(): field.value for field in entry.fields}
        line = (entry.start_line or 0) + 1
        title = _plain(fields.get("title"))
        if title is None:
            unreadable.append((line, f"{entry.key!r} has no title"))
            continue
        doi, journal, names = (fields.get(name) for name in ("doi", "journal", "author"))
        if "arxiv" in str(journal).lower():  # a preprint's own name, not a journal's
            journal = None
        authors = tuple(filter(None, map(_plain, names))) if isinstance(names, list) else ()
        told.append(
            Told(
                title,
                _plain(fields.get("abstract")),
                arxiv_id=_arxiv_of(fields),
                authors=len(authors) or None,
                author_names=authors,
                doi=None if "arxiv" in str(doi).lower() else _doi(_plain(doi)),
                url=web_address(fields.get("url")),
                keywords=tuple(filter(None, map(_plain, re.split(r"[,;]", str(fields.get("keywords", "")))))),
                journal=_plain(journal) or _plain(fields.get("booktitle")),
            )
        )
    return told, tuple(sorted(unreadable))


def _plain(value: object) -> str | None:
    """What LaTeX spells, as text with its white space collapsed; mathematics stays as it is."""
    if not isinstance(value, str):
        return None
    text = value
    if re.search(r"[\\{}~$]|--|``|''", text):  # else there is nothing to decode, which takes its time
        # A bare % is a percent sign here, not the beginning of a remark.
        text = str(_latex().latex_to_text(re.sub(r"(?<!\\)%", r"\\%", text)))
    return " ".join(text.split()) or None


@functools.cache
def _latex() -> Any:
    from pylatexenc.latex2text import LatexNodes2Text  # type: ignore[import-untyped]

    return LatexNodes2Text(math_mode="verbatim")


def _arxiv_of(fields: dict[str, Any]) -> str | None:
    """The arXiv id of an entry, wherever its author has put it."""
    archive = str(fields.get("archiveprefix") or fields.get("eprinttype") or "arxiv").lower()
    if archive == "arxiv" and (known := arxiv_id(str(fields.get("eprint", "")))):
        return known
    if known := arxiv_id(str(fields.get("url", ""))):
        return known
    said = " ".join(str(fields.get(name, "")) for name in ("doi", "journal", "note", "howpublished"))
    found = re.search(r"arxiv[.:]\s*([\w.-]+/\d{7}|\d{4}\.\d{4,5})", said, re.IGNORECASE)
    return arxiv_id(found[1]) if found else None


# ---------------------------------------------------------------------- durable fetches


def schedule(client: DBOSClient, categories: Sequence[str]) -> None:
    """Have the worker fetch Hugging Face's list and these categories of arXiv every day from now on."""
    for category in categories:
        if not _CATEGORY.fullmatch(category):
            raise ValueError(f"category is to be one of arXiv's, such as cs.LG, got {category!r}")
    client.apply_schedules(
        [
            {
                "schedule_name": FETCH,
                "workflow_name": FETCH,
                "schedule": DAILY,
                "context": list(categories),
                "automatic_backfill": True,  # a worker that was away fetches what it missed
                "queue_name": QUEUE,
            }
        ]
    )


def unschedule(client: DBOSClient) -> None:
    """End the daily fetches."""
    client.delete_schedule(FETCH)


def register(dbos: type[DBOS], engine: sa.Engine, stopping: threading.Event) -> None:
    """Let this worker run the daily fetches."""
    sources = Sources(engine, stopping=stopping)

    def step(name: str, fetch: Callable[[], ImportReport]) -> None:
        # What a source does not give today it gives tomorrow: the days that are asked for overlap.
        def attempt() -> str:
            try:
                report = fetch()
            except SourceError as error:
                said = str(error)
            else:
                said = f"{report.new} new, {report.changed} changed, {report.unchanged} unchanged"
            print(f"{name}  {said}", flush=True)
            return said

        dbos.run_step({"name": name}, attempt)

    @dbos.workflow(name=FETCH)
    def fetch(at: datetime, categories: list[str]) -> None:
        for back in (2, 1, 0):
            day = at.date() - timedelta(days=back)
            step(f"huggingface {day}", functools.partial(sources.fetch_huggingface, day))
        for category in categories:
            since = at.date() - _WINDOW
            step(
                f"arxiv {category}",
                functools.partial(sources.fetch_arxiv, category, since=since, until=at.date()),
            )
