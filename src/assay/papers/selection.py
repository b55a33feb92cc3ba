"""What a list shows: the one object behind lists, searches, feeds, saved searches and digests."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from urllib.parse import urlencode

from assay.papers.catalogue import FIELDS

ORDERS = ("date", "trending", "relevance")
VERDICTS = ("holds", "fails", "undecided", "any")
LONGEST = 300
"""How many characters each part of a selection may have."""


@dataclass(frozen=True)
class Selection:
    """Which papers, and in which order; the default is all of them, the newest first.

    Every part is a parameter of the same name in an address, and `query()` is the one spelling of it.

    >>> Selection.read({"field": "gating", "week": "2026-W47"}).query()
    'field=gating&week=2026-W47'
    """

    q: str = ""
    """Words to search by: meaning, words, "exact phrases", names of authors."""
    field: str = ""
    keyword: str = ""
    organisation: str = ""
    submitter: str = ""
    verdict: str = ""
    """Only papers with a claim of that verdict; "any" for one that holds or fails."""
    date: str = ""
    """A day as 2026-11-20."""
    week: str = ""
    """A week as 2026-W47."""
    month: str = ""
    """A month as 2026-11."""
    sort: str = ""
    """"date", "trending" or, where there are words, "relevance"; the default is the last that applies."""

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if len(value) > LONGEST or "\x00" in value:
                raise ValueError(f"{part.name} is to have at most {LONGEST} characters, none of them NUL")
        for name, known in (("field", FIELDS), ("verdict", VERDICTS), ("sort", ORDERS)):
            value = getattr(self, name)
            if value and value not in known:
                raise ValueError(f"{name} is to be one of {', '.join(known)}, got {value!r}")
        if self.sort == "relevance" and not self.q:
            raise ValueError("sort=relevance needs words to search by (q)")
        if sum(map(bool, (self.date, self.week, self.month))) > 1:
            raise ValueError("date, week and month exclude each other")
        _ = self.period

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> Selection:
        """The selection that these parameters of an address name; others are left alone.

        Raises ValueError with one sentence for a value that is none.
        """
        return cls(
            **{part.name: parameters[part.name].strip() for part in fields(cls) if part.name in parameters}
        )

    def query(self) -> str:
        """The selection as the query of an address, empty for the default."""
        named = {part.name: getattr(self, part.name) for part in fields(self)}
        return urlencode({name: value for name, value in named.items() if value})

    @property
    def order(self) -> str:
        return self.sort or ("relevance" if self.q else "date")

    @property
    def period(self) -> tuple[datetime.date, datetime.date] | None:
        """The first and the last day, where it is about a day, a week or a month."""
        if self.date:
            day = _day("date", r"\d{4}-\d{2}-\d{2}", self.date, self.date)
            return day, day
        if self.week:
            monday = _day("week", r"\d{4}-W\d{2}", self.week, f"{self.week}-1")
            return monday, monday + timedelta(days=6)
        if self.month:
            first = _day("month", r"\d{4}-\d{2}", self.month, f"{self.month}-01")
            return first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        return None


def week_of(day: datetime.date) -> str:
    """The week of a day, as a selection names it.

    >>> week_of(datetime.date(2026, 11, 20))
    '2026-W47'
    """
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02}"


def _day(name: str, pattern: str, given: str, text: str) -> datetime.date:
    try:
        if re.fullmatch(pattern, given, re.ASCII):
            day = datetime.date.fromisoformat(text)
            if 1000 <= day.year < 9999:  # the end of a period is a day too
                return day
    except ValueError:
        pass
    example = {"date": "2026-11-20", "week": "2026-W47", "month": "2026-11"}[name]
    raise ValueError(f"{name} is to be a {name.replace('date', 'day')} like {example}, got {given!r}")
