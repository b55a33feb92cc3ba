"""Lists of papers: what a `Selection` shows, page by page, and how trending papers are ranked.

**Trending** counts what has happened to a paper, and that counts half as much with every `HALF_LIFE`:

    score = sum over events of weight * 2 ** -(age / HALF_LIFE)

The events are each vote and each comment on this page; the verdicts that fell within an hour, since one check
gives many, with log2(1 + their number) of the weight of one (`WEIGHTS`); and the paper's own arrival, on the
day that lists go by, which weighs 1 + log2(1 + its votes on the page that listed it). What is older than
`WINDOW` counts nothing, and papers that nothing counts for follow by date.

**Pages are stable**: a page begins behind the last paper of the one before, wherever that stands by then, so
that no new paper moves others onto a page twice or off it. A trending list is ranked as of the time of its
first page, which every later one repeats: votes, comments and verdicts that arrive meanwhile count in the
next walk through the list. (A vote withdrawn meanwhile may let its own paper sink, and show twice.)
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import sqlalchemy as sa

from assay.database import among
from assay.papers import people
from assay.papers.records import Paper, paper_keywords, papers, provenances, read
from assay.papers.search import Search
from assay.papers.selection import Selection

HALF_LIFE = timedelta(days=3)
WINDOW = 10 * HALF_LIFE
WEIGHTS = {"vote": 1.0, "comment": 2.0, "verdict": 3.0}
STEP = 10
"""Trending lists are ranked anew at every multiple of so many seconds."""
FOUND_AT_MOST = 500
"""How many papers a search finds."""

FALLEN = ("holds", "fails")
"""The kinds of a claim that are verdicts."""
# The evidence's tables, by name alone: papers know of verdicts, and of no experiment.
verdict_index = sa.table("verdict_index", *map(sa.column, ("study", "kind")))
verdict_changes = sa.table(
    "verdict_changes",
    *map(
        sa.column, ("id", "at", "study", "experiment", "claim", "before", "after", "yes", "answered", "scale")
    ),
)

_ATTENTION = sa.union_all(
    *(
        sa.select(sa.literal(place), table.c.paper_id, sa.func.count())
        .where(among(table.c.paper_id))
        .group_by(table.c.paper_id)
        for place, table in enumerate((people.votes, people.comments))
    )
)

_EVER = datetime(2000, 1, 1, tzinfo=UTC)  # in cursors of lists that do not depend on time
_KEPT = 20  # times of which the scores are kept, for those who walk through a trending list
_COMMON = 2000  # papers with a keyword, from which on it is common
_AT_ONCE = 500  # papers looked at together


@dataclass(frozen=True)
class ListPage:
    """One page of a list; `next` is where the following one begins, None at the end."""

    papers: tuple[Paper, ...]
    next: str | None


@dataclass(frozen=True)
class _Place:
    """Where a paper stands in a list."""

    score: float
    """Of a search by relevance: minus how many papers came before."""
    day: date
    id: int


@dataclass(frozen=True)
class _Cursor:
    """The last paper of a page: its place, and for a trending list the time that it is ranked as of."""

    as_of: datetime
    score: float
    day: date
    id: int

    def __str__(self) -> str:
        day = "" if self.day == date.min else self.day.isoformat()
        return f"{self.as_of:%Y%m%dT%H%M%S}~{self.score!r}~{day}~{self.id}"

    @classmethod
    def read(cls, text: str) -> _Cursor:
        try:
            if not re.fullmatch(r"\d{8}T\d{6}~[\d.e+-]{1,30}~[\d-]{0,10}~\d{1,9}", text, re.ASCII):
                raise ValueError
            as_of, score, day, paper_id = text.split("~")
            at = datetime.strptime(as_of, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
            if at.year < 1000 or not math.isfinite(float(score)):
                raise ValueError
            return cls(at, float(score), date.fromisoformat(day) if day else date.min, int(paper_id))
        except ValueError:
            raise ValueError(
                f"after is to be what the page before gives as the next one's, got {text[:100]!r}"
            ) from None


class Lists:
    """The lists over the records in the database that `engine` opens."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._search = Search(engine)
        self._kept: dict[datetime, dict[int, float]] = {}
        self._scoring = threading.Lock()

    def page(
        self,
        selection: Selection,
        after: str | None = None,
        *,
        size: int = 50,
        skip: int = 0,
        condition: sa.ColumnElement[bool] | None = None,
    ) -> ListPage:
        """The papers that follow `after`, the `next` of the page before, and `skip` more.

        `condition`, on `records.papers`, is one more that they have to fulfil.
        Raises ValueError for an `after` that no page has given.
        """
        cursor = _Cursor.read(after) if after else None
        as_of = cursor.as_of if cursor else _step(datetime.now(UTC))
        if selection.order != "trending":
            as_of = _EVER
        wanted = skip + size + 1
        narrow = bool(selection.q or selection.period or selection.keyword or selection.verdict)
        found = None
        with self._engine.connect() as connection:
            where = _conditions(connection, selection)
            if condition is not None:
                where.append(condition)
            if selection.q:
                fits = sa.and_(*where) if where else None
                found = self._search.rank(selection.q, where=fits, limit=FOUND_AT_MOST)
                where = [among(papers.c.id, found)]
            if selection.order == "relevance":
                assert found is not None
                places = _ranked(found, cursor, wanted)
            elif selection.order == "trending":
                scores = self._scores(connection, as_of)
                places = _trending(
                    connection, where, scores, _first_day(as_of), cursor, wanted, narrow=narrow
                )
            else:
                places = _by_date(connection, where, (cursor.day, cursor.id) if cursor else None, wanted)
            shown = places[skip : skip + size]
            read_ones = read(connection, [place.id for place in shown])
        more = len(places) > skip + size
        end = str(_Cursor(as_of, shown[-1].score, shown[-1].day, shown[-1].id)) if more and shown else None
        return ListPage(tuple(read_ones), end)

    def attention(self, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
        """The votes and the comments on this page of those of the papers that have any."""
        counts: dict[int, list[int]] = {}
        with self._engine.connect() as connection:
            for place, paper_id, count in connection.execute(_ATTENTION, {"ids": ids}).all():
                counts.setdefault(paper_id, [0, 0])[place] = count
        return {paper_id: (votes, comments) for paper_id, (votes, comments) in counts.items()}

    def fields(self) -> dict[str, int]:
        """How many papers each field has."""
        count = sa.select(papers.c.field, sa.func.count()).where(papers.c.field.is_not(None))
        with self._engine.connect() as connection:
            return {
                row.field: row[1]
                for row in connection.execute(count.group_by(papers.c.field).order_by(papers.c.field))
            }

    def days_beside(self, first: date, last: date) -> tuple[date | None, date | None]:
        """The nearest days with papers before the first and after the last of a period."""
        before = sa.select(sa.func.max(papers.c.day)).where(papers.c.day < first).scalar_subquery()
        behind = sa.select(sa.func.min(papers.c.day)).where(papers.c.day > last).scalar_subquery()
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(before, behind)).one()
            return row[0], row[1]

    def newest_day(self, until: date | None = None) -> date | None:
        """The latest day with papers, or the latest until that one."""
        query = sa.select(sa.func.max(papers.c.day))
        if until is not None:
            query = query.where(papers.c.day <= until)
        with self._engine.connect() as connection:
            newest: date | None = connection.scalar(query)
        return newest

    def _scores(self, connection: sa.Connection, as_of: datetime) -> dict[int, float]:
        with self._scoring:
            if as_of not in self._kept:
                while len(self._kept) >= _KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[as_of] = _score(connection, as_of)
            return self._kept[as_of]


def _step(now: datetime) -> datetime:
    """The time that a trending list is ranked as of when it is asked for now: a multiple of `STEP`."""
    return datetime.fromtimestamp(now.timestamp() // STEP * STEP, UTC)


def _conditions(connection: sa.Connection, selection: Selection) -> list[sa.ColumnElement[bool]]:
    """What papers have to fulfil, apart from the words."""
    where: list[sa.ColumnElement[bool]] = [
        papers.c[name] == getattr(selection, name)
        for name in ("field", "organisation", "submitter")
        if getattr(selection, name)
    ]
    if selection.keyword:
        told = sa.select(paper_keywords.c.paper_id).where(paper_keywords.c.keyword == selection.keyword)
        # A list of papers to look up, or a question to ask of each paper in turn: 20 times faster or slower.
        if len(connection.scalars(told.limit(_COMMON)).all()) < _COMMON:
            where.append(papers.c.id.in_(told))
        else:
            where.append(told.where(paper_keywords.c.paper_id == papers.c.id).correlate(papers).exists())
    if selection.verdict:
        kinds = FALLEN if selection.verdict == "any" else (selection.verdict,)
        where.append(
            papers.c.slug.in_(sa.select(verdict_index.c.study).where(verdict_index.c.kind.in_(kinds)))
        )
    if period := selection.period:
        # Listed again later, a paper keeps its place in the earlier day's list.
        told = sa.select(provenances.c.paper_id).where(provenances.c.listed.between(*period))
        where.append(papers.c.day.between(*period) | papers.c.id.in_(told))
    return where


def _by_date(
    connection: sa.Connection,
    where: Sequence[sa.ColumnElement[bool]],
    behind: tuple[date, int] | None,
    limit: int,
) -> list[_Place]:
    """The newest first; papers without a day at the end."""
    query = sa.select(papers.c.id, papers.c.day).where(*where).limit(limit)
    found: list[_Place] = []
    if behind is None or behind[0] != date.min:
        dated = query.where(papers.c.day.is_not(None)).order_by(papers.c.day.desc(), papers.c.id.desc())
        if behind is not None:
            place = sa.tuple_(papers.c.day, papers.c.id)
            dated = dated.where(place < sa.tuple_(sa.literal(behind[0]), sa.literal(behind[1])))
        found = [_Place(0.0, row.day, row.id) for row in connection.execute(dated)]
        behind = None
    # Apart from the others: databases do not agree on where they stand in an order.
    if len(found) < limit:
        undated = query.where(papers.c.day.is_(None)).order_by(papers.c.id.desc())
        if behind is not None:
            undated = undated.where(papers.c.id < behind[1])
        found += [
            _Place(0.0, date.min, row.id) for row in connection.execute(undated.limit(limit - len(found)))
        ]
    return found


def _score(connection: sa.Connection, as_of: datetime) -> dict[int, float]:
    """The score of each paper that something counts for, the greatest first; of equals, the latest record."""
    since = (as_of - WINDOW).isoformat(timespec="seconds")
    until = as_of.isoformat(timespec="seconds")
    parts: dict[int, list[float]] = defaultdict(list)
    for weight, paper_id, at, conditions in (
        (WEIGHTS["vote"], people.votes.c.paper_id, people.votes.c.at, []),
        (WEIGHTS["comment"], people.comments.c.paper_id, people.comments.c.at, []),
        (
            WEIGHTS["verdict"],
            papers.c.id,
            verdict_changes.c.at,
            [papers.c.slug == verdict_changes.c.study, verdict_changes.c.after.in_(FALLEN)],
        ),
    ):
        hour = sa.func.substr(at, 1, 13)
        counted = sa.select(paper_id, hour, sa.func.count()).where(*conditions, at >= since, at < until)
        for found, hour_text, count in connection.execute(counted.group_by(paper_id, hour)):
            much = math.log2(1 + count) if at is verdict_changes.c.at else count
            parts[found].append(weight * much * _left(datetime.fromisoformat(hour_text), as_of))
    fresh = sa.select(papers.c.id, papers.c.day, papers.c.votes_elsewhere)
    for found, day, elsewhere in connection.execute(fresh.where(papers.c.day >= _first_day(as_of))):
        arrived = datetime(day.year, day.month, day.day)
        parts[found].append((1 + math.log2(1 + (elsewhere or 0))) * _left(arrived, as_of))
    # fsum: the same whatever the order in which the database gave the parts.
    scores = [(math.fsum(own), found) for found, own in parts.items()]
    return {found: score for score, found in sorted(scores, reverse=True)}


def _trending(
    connection: sa.Connection,
    where: Sequence[sa.ColumnElement[bool]],
    scores: Mapping[int, float],
    first: date,
    cursor: _Cursor | None,
    limit: int,
    *,
    narrow: bool,
) -> list[_Place]:
    """Those that something counts for by score, then the others by date.

    `narrow` says that few papers fit, so that it pays to find them all.
    """
    found: list[_Place] = []
    if cursor is None or cursor.score > 0:
        left = list(scores)
        if cursor is not None:
            last = cursor.score, cursor.id
            left = left[bisect_left(left, True, key=lambda paper_id: (scores[paper_id], paper_id) < last) :]
        if not where:
            found = [_Place(scores[one], date.min, one) for one in left[:limit]]
            left = left[limit:] if len(found) < limit else []
        elif narrow:
            fitting = set(connection.scalars(sa.select(papers.c.id).where(*where)))
            found = [_Place(scores[one], date.min, one) for one in left if one in fitting]
            left = []
        for some in (left[start : start + _AT_ONCE] for start in range(0, len(left), _AT_ONCE)):
            if len(found) >= limit:
                break
            fits = among(papers.c.id, some)
            fitting = set(connection.scalars(sa.select(papers.c.id).where(fits, *where)))
            found += [_Place(scores[one], date.min, one) for one in some if one in fitting]
    # Behind every paper of the window; or behind the cursor, where that is among the papers by date.
    behind = (first, 0) if cursor is None or cursor.score > 0 else (cursor.day, cursor.id)
    while len(found) < limit:
        others = _by_date(connection, where, behind, limit)
        found += [place for place in others if place.id not in scores]
        if len(others) < limit:
            break
        behind = others[-1].day, others[-1].id
    return found[:limit]


def _first_day(as_of: datetime) -> date:
    """The first day that is wholly in the window."""
    return (as_of - WINDOW).date() + timedelta(days=1)


def _left(at: datetime, as_of: datetime) -> float:
    """How much of an event's weight is left; one that has yet to come counts in full."""
    age = max(as_of - at.replace(tzinfo=UTC), timedelta())
    return math.exp2(-(age / HALF_LIFE))


def _ranked(found: Sequence[int], cursor: _Cursor | None, limit: int) -> list[_Place]:
    """The papers of a search behind the cursor: behind its paper or, if that is gone, behind its place."""
    start = 0
    if cursor is not None:
        start = found.index(cursor.id) + 1 if cursor.id in found else int(min(len(found), 1 - cursor.score))
    places = range(start, len(found))[:limit]
    return [_Place(-float(place), date.min, found[place]) for place in places]
