"""Reading a saved Daily Papers page, as the text a reader copies or as the HTML that a browser saves.

**Text.** After a head comes, for each paper, a line with its title and a line with its abstract. Only where
a lone ``·`` follows, the paper has metadata: before the dot ``7 authors`` or an organisation's handle and
name (``facebook AI at Meta``), behind it the day of submission and, after a space, the number of comments if
there are any (``May 10, 2025 1``). Blank lines mean nothing. The day in the head (``Apr 20``) is that of the
listing.

**The year of a day without one.** The page prints the year of a day unless it is the year in which the page
was saved. So all days without a year, the listing's included, lie in one year Y; no printed year is Y; and
since no day of the page can lie after its saving, Y is later than every printed year. The earliest Y that
this leaves, and in which each of those days exists (29 February needs a leap year), is taken: a page saved
long ago reads the same for ever. That papers are submitted before they are listed narrows it no further,
because the listing's day either lies in Y too or has a printed year. A page that prints no year at all leaves
Y open; its days stay unknown, and that is told among what could not be read.

**HTML.** The page carries its papers as JSON in the attribute ``data-props`` of the element with
``data-target="DailyPapers"``; where that is missing, they are read from its ``article`` elements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import takewhile
from typing import Any

from assay.papers.identity import arxiv_id

_DOT = "·"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(?P<month>Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?"
    r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
)
_DAY = re.compile(
    _MONTH + r" (?P<day>\d{1,2})(?:, (?P<year>(?:19|20)\d{2}))?(?: (?P<comments>\d+))?", re.IGNORECASE
)
_AUTHORS = re.compile(r"(\d[\d,]*) authors?", re.IGNORECASE)
# fmt: off
_FOOTER = {
    "previous", "next", "company", "tos", "privacy", "about", "careers", "website", "models", "datasets",
    "spaces", "pricing", "docs", "system theme", "© hugging face",
}
# fmt: on

# Longer lines are no titles and no organisations.
_TITLE_AT_MOST = 300
_ORGANISATION_AT_MOST = 150
# A shorter line is an abstract only if it ends like a sentence.
_ABSTRACT_AT_LEAST = 60
_PARAGRAPHS_AT_MOST = 6
_STRAY = "neither a title with an abstract behind it nor the abstract of a title"


class NotASavedPage(ValueError):
    """The text is no saved Daily Papers page; the message says what was looked for."""


@dataclass(frozen=True)
class PageEntry:
    """One paper as a page tells of it; None where the page says nothing."""

    title: str
    abstract: str | None = None
    arxiv_id: str | None = None
    submitted: date | None = None
    listed: date | None = None
    authors: int | None = None
    organisation: str | None = None
    organisation_handle: str | None = None
    comments: int | None = None
    upvotes: int | None = None
    author_names: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    project_page: str | None = None
    repository: str | None = None
    stars: int | None = None
    submitter: str | None = None
    """The handle of who put it on the page."""


@dataclass(frozen=True)
class SavedPage:
    """What a saved page holds: its listing day, its papers in order, and the lines that could not be read."""

    listed: date | None
    entries: tuple[PageEntry, ...]
    unreadable: tuple[tuple[int, str], ...]
    """Line number (from 1) and what was wrong there."""


def parse(text: str) -> SavedPage:
    """Read a saved page, text or HTML, with any line ends.

    What cannot be read is named by line in the result, and the rest is there. Raises `NotASavedPage` when
    nothing marks the text as such a page.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return _parse_html(text) if text.lstrip().startswith("<") else _parse_text(text)


@dataclass(frozen=True)
class _Line:
    number: int
    text: str


@dataclass(frozen=True)
class _Day:
    """A day as it is printed, with or without its year."""

    month: int
    day: int
    year: int | None
    comments: int | None

    def in_year(self, year: int | None) -> date | None:
        year = self.year or year
        return date(year, self.month, self.day) if year else None

    def exists_in(self, year: int) -> bool:
        try:
            date(year, self.month, self.day)
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class _Metadata:
    submitted: _Day | None = None
    authors: int | None = None
    organisation: str | None = None
    handle: str | None = None


def _read_day(text: str) -> _Day | None:
    found = _DAY.fullmatch(text)
    if found is None:
        return None
    year = int(found["year"]) if found["year"] else None
    comments = int(found["comments"]) if found["comments"] else None
    day = _Day(_MONTHS.index(found["month"][:3].lower()) + 1, int(found["day"]), year, comments)
    # Without its year, a day exists if it exists in a leap year.
    return day if day.exists_in(2000 if year is None else year) else None


def _year_of_saving(days: Sequence[_Day]) -> int | None:
    """The year of the days that print none, as the head of this module derives it."""
    years = [day.year for day in days if day.year is not None]
    yearless = [day for day in days if day.year is None]
    if not years:
        return None
    # The longest wait for a 29 February is eight years, over a century that is no leap year.
    later = range(max(years) + 1, max(years) + 9)
    return next(year for year in later if all(day.exists_in(year) for day in yearless))


# -- text ---------------------------------------------------------------------------------------------------


def _parse_text(text: str) -> SavedPage:
    numbered = (
        _Line(number, " ".join(line.split())) for number, line in enumerate(text.split("\n"), start=1)
    )
    lines = [line for line in numbered if line.text]
    first_dot = next((place for place, line in enumerate(lines) if line.text == _DOT), len(lines))
    head, certain = _length_of_head(lines[:first_dot])
    listing = next(((line, day) for line in lines[:head] if (day := _read_day(line.text))), None)

    papers: list[tuple[_Line, str, _Metadata | None]] = []
    unreadable: list[tuple[int, str]] = []
    days = [listing[1]] if listing is not None else []
    pending: list[_Line] = []  # titles and abstracts since the last metadata
    place = head
    while place < len(lines):
        if lines[place].text != _DOT:
            pending.append(lines[place])
            place += 1
            continue
        dot = lines[place]
        who = _read_who(pending[-1].text) if pending else None
        if who is not None:
            before = pending.pop()
        else:
            before = pending[-1] if pending else dot
        day, problem, place = _read_submitted(lines, place)
        if day is not None:
            days.append(day)
        found, stray = _pair(pending)
        pending = []
        unreadable += [(line.number, _STRAY) for line in stray]
        papers += [(title, abstract, None) for title, abstract in found]
        if stray and (not found or stray[-1].number > found[-1][0].number):
            continue  # the metadata are those of the stray line, which is reported
        if not found:
            unreadable.append((dot.number, "metadata without a title and an abstract before them"))
        elif problem is not None:
            papers.pop()
            unreadable.append(problem)
        elif who is None or day is None:
            papers.pop()
            unreadable.append((before.number, "'N authors' or an organisation is to stand before '·'"))
        else:
            papers[-1] = (*found[-1], replace(who, submitted=day))
    if not certain and not any(metadata for *_, metadata in papers):
        raise NotASavedPage(
            "this is no saved Daily Papers page: looked for a line 'Daily Papers' or a lone '·' between "
            "'N authors' and a date, and in HTML for data-target=\"DailyPapers\""
        )

    found, stray = _pair(list(takewhile(lambda line: line.text.lower() not in _FOOTER, pending)))
    for title, abstract in found:
        # Behind the last metadata a page may go on with lines that are no papers: an abstract is a sentence.
        if len(abstract) >= _ABSTRACT_AT_LEAST or _like_an_abstract(abstract):
            papers.append((title, abstract, None))
        else:
            stray.append(title)
    unreadable += [(line.number, _STRAY) for line in stray]

    year = _year_of_saving(days)
    if year is None and days:
        where = listing[0] if listing is not None else lines[first_dot + 1]
        unreadable.append((where.number, "no date of the page has a year, so its dates cannot be placed"))
    listed = listing[1].in_year(year) if listing is not None else None
    return SavedPage(
        listed,
        tuple(_entry(title.text, abstract, metadata, year, listed) for title, abstract, metadata in papers),
        tuple(sorted(unreadable)),
    )


def _entry(
    title: str, abstract: str, metadata: _Metadata | None, year: int | None, listed: date | None
) -> PageEntry:
    if metadata is None or metadata.submitted is None:
        return PageEntry(title, abstract, listed=listed)
    return PageEntry(
        title,
        abstract,
        submitted=metadata.submitted.in_year(year),
        listed=listed,
        authors=metadata.authors,
        organisation=metadata.organisation,
        organisation_handle=metadata.handle,
        comments=metadata.submitted.comments,
    )


def _length_of_head(lines: Sequence[_Line]) -> tuple[int, bool]:
    """How many lines go before the first title, and whether they are the head of such a page for certain."""
    length, certain = 0, False
    for place, line in enumerate(lines, start=1):
        text = line.text.lower()
        if len(text) > _TITLE_AT_MOST:
            break  # the first abstract: without metadata on the page, only this ends the search
        if text in ("daily papers", "trending papers") or text.endswith("and the research community"):
            length, certain = place, True
        elif text in ("new", "subscribe") or text.startswith("get trending papers") or _read_day(line.text):
            length = place
    return length, certain


def _read_who(text: str) -> _Metadata | None:
    """What the line before the dot says: the number of authors, or an organisation's handle and name."""
    text = text.removeprefix("•").strip()
    if found := _AUTHORS.fullmatch(text):
        return _Metadata(authors=int(found[1].replace(",", "")))
    if not text or len(text) > _ORGANISATION_AT_MOST:
        return None
    handle, _, name = text.partition(" ")
    return _Metadata(organisation=name or handle, handle=handle)


def _read_submitted(lines: Sequence[_Line], dot: int) -> tuple[_Day | None, tuple[int, str] | None, int]:
    """The day behind the dot, or what is wrong on which line; and the place where reading goes on."""
    behind = dot + 1
    if behind == len(lines):
        return None, (lines[dot].number, "the page ends where a date is to follow '·'"), behind
    line = lines[behind]
    if day := _read_day(line.text):
        return day, None, behind + 1
    # Titles and abstracts come in pairs. If an even number of lines follows before the next paper's metadata,
    # this line stands where the date should; else it is a title and the date is missing.
    following = sum(1 for _ in takewhile(lambda line: line.text != _DOT, lines[behind + 1 :]))
    if behind + 1 + following < len(lines):
        following -= 1  # the line before the next dot
    problem = (line.number, f"a date such as 'May 10, 2025' is to follow '·', got {_shortened(line.text)!r}")
    return None, problem, behind + 1 if following % 2 == 0 else behind


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _pair(lines: Sequence[_Line]) -> tuple[list[tuple[_Line, str]], list[_Line]]:
    """Split lines into titles with their abstracts, and the lines that fit nowhere.

    Titles and abstracts alternate. Where they cannot (a line is missing, or an abstract has paragraphs), the
    split with the fewest irregularities is taken, and among those the one whose titles and abstracts look
    most like such: an abstract ends like a sentence or is long, a title is neither.
    """
    # best[i]: the least cost of lines[i:] (irregularities, doubts), and how many lines go with its first.
    best: list[tuple[tuple[int, int], int]] = [((0, 0), 0)] * (len(lines) + 1)
    for start in range(len(lines) - 1, -1, -1):
        rest = best[start + 1][0]
        options = [((1 + rest[0], rest[1]), 1)]
        title = lines[start].text
        # Rather two stray lines than a title as long as an abstract.
        irregular, doubts = 3 * (len(title) > _TITLE_AT_MOST), int(title.endswith("."))
        for end in range(start + 2, min(start + 1 + _PARAGRAPHS_AT_MOST, len(lines)) + 1):
            doubts += not _like_an_abstract(lines[end - 1].text)
            rest = best[end][0]
            options.append(((irregular + end - start - 2 + rest[0], doubts + rest[1]), end - start))
        # Of equals, the one that keeps most lines together.
        best[start] = min(options, key=lambda option: (option[0], -option[1]))
    papers: list[tuple[_Line, str]] = []
    stray: list[_Line] = []
    start = 0
    while start < len(lines):
        length = best[start][1]
        if length == 1:
            stray.append(lines[start])
        else:
            abstract = "\n".join(line.text for line in lines[start + 1 : start + length])
            papers.append((lines[start], abstract))
        start += length
    return papers, stray


def _like_an_abstract(text: str) -> bool:
    return len(text) > _TITLE_AT_MOST or text.endswith(".") or "://" in text


# -- HTML ---------------------------------------------------------------------------------------------------


def _parse_html(text: str) -> SavedPage:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(text, "html.parser")
    element = soup.select_one('[data-target="DailyPapers"]')
    if element is not None:
        try:
            props = json.loads(str(element.get("data-props")))
        except json.JSONDecodeError:
            props = None
        papers = props.get("dailyPapers", props.get("papers")) if isinstance(props, dict) else None
        if isinstance(papers, list):
            return _from_items(papers, _iso_day(props.get("dateString")), element.sourceline or 1)
    return _from_markup(soup, marked=element is not None)


def _from_items(items: Sequence[Any], listed: date | None, line: int) -> SavedPage:
    """The papers of the page's JSON: items ``{"paper": {...}, ...}`` or papers themselves."""
    entries = []
    unreadable = []
    for number, item in enumerate(items, start=1):
        try:
            entries.append(read_item(item, listed))
        except ValueError as error:
            unreadable.append((line, f"paper {number} of {len(items)}: {error}"))
    return SavedPage(listed, tuple(entries), tuple(unreadable))


def read_item(item: Any, listed: date | None) -> PageEntry:
    """A paper as the page's JSON and its API give it; `listed` is the day of the list, where that is known.

    Raises ValueError, which says what is wrong with it.
    """
    if not isinstance(item, dict):
        raise ValueError(f"is to be an object, got {_shortened(json.dumps(item))}")
    inner = item.get("paper")
    paper = inner if isinstance(inner, dict) else item
    title = _text(paper.get("title")) or _text(item.get("title"))
    if title is None:
        raise ValueError("it has no title")
    listed_day = _iso_day(paper.get("submittedOnDailyAt"))
    if listed_day is None and paper is not item:
        # The time of an item is that of its listing; the time of a paper is arXiv's.
        listed_day = _iso_day(item.get("publishedAt"))
    organisation = item.get("organization") or paper.get("organization")
    named = organisation if isinstance(organisation, dict) else {}
    authors = paper.get("authors")
    names = [_text(author.get("name")) for author in _objects(authors)]

    def either(name: str) -> Any:
        """Newer answers say inside of the paper what older ones said beside it."""
        return paper.get(name, item.get(name))

    by = item.get("submittedBy") or paper.get("submittedOnDailyBy")
    keywords = either("ai_keywords")
    return PageEntry(
        title,
        _text(paper.get("summary")) or _text(item.get("summary")),
        arxiv_id=arxiv_id(str(paper.get("id", ""))),
        submitted=_iso_day(paper.get("publishedAt")),
        listed=listed or listed_day,
        authors=len(authors) if isinstance(authors, list) and authors else None,
        organisation=_text(named.get("fullname")) or _text(named.get("name")),
        organisation_handle=_text(named.get("name")),
        comments=_count(item.get("numComments", paper.get("numComments"))),
        upvotes=_count(either("upvotes")),
        author_names=tuple(name for name in names if name),
        keywords=tuple(filter(None, map(_text, keywords))) if isinstance(keywords, list) else (),
        project_page=web_address(either("projectPage")),
        repository=web_address(either("githubRepo")),
        stars=_count(either("githubStars")),
        submitter=_text(by.get("name")) if isinstance(by, dict) else None,
    )


def _from_markup(soup: Any, *, marked: bool) -> SavedPage:
    """The papers of the page's articles: a linked heading, and around it what the card shows."""
    found = []
    unreadable = []
    articles = [
        article for article in soup.find_all("article") if article.select_one('h3 a[href*="/papers/"]')
    ]
    if not articles and not marked:
        raise NotASavedPage(
            'this HTML is no saved Daily Papers page: looked for an element with data-target="DailyPapers" '
            "and for articles whose heading links to /papers/"
        )
    for article in articles:
        link = article.select_one('h3 a[href*="/papers/"]')
        title = _text(link.get_text(" "))
        if title is None:
            unreadable.append((article.sourceline or 1, "an article without a title"))
            continue
        strings = [" ".join(string.split()) for string in article.stripped_strings]
        authors = next(filter(None, (_AUTHORS.fullmatch(string.lstrip("•· ")) for string in strings)), None)
        paragraph = article.find("p")
        talk = article.select_one('a[href$="#community"]')
        found.append(
            (
                next(filter(None, (_read_day(string.lstrip("•· ")) for string in strings)), None),
                PageEntry(
                    title,
                    _text(paragraph.get_text(" ")) if paragraph else None,
                    arxiv_id=arxiv_id(str(link["href"])),
                    authors=int(authors[1].replace(",", "")) if authors else None,
                    comments=_count(talk.get_text()) if talk else None,
                ),
            )
        )
    if not found and not unreadable:
        unreadable.append((1, "neither data-props nor articles tell of any paper"))
    year = _year_of_saving([day for day, _ in found if day])
    address = soup.select_one('link[rel="canonical"], meta[property="og:url"]')
    listed = None
    if address is not None:
        listed = _iso_day(str(address.get("href") or address.get("content")).rpartition("/papers/date/")[2])
    entries = []
    for day, entry in found:
        submitted = day.in_year(year) if day else None
        comments = entry.comments if entry.comments is not None else (day.comments if day else None)
        entries.append(replace(entry, submitted=submitted, listed=listed, comments=comments))
    return SavedPage(listed, tuple(entries), tuple(unreadable))


def _text(value: object) -> str | None:
    """A string with its white space collapsed; None when there is nothing in it."""
    return (" ".join(value.split()) or None) if isinstance(value, str) else None


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def web_address(value: object) -> str | None:
    """A text that may stand as a link: an http(s) address without white space, not endlessly long."""
    if isinstance(value, str) and re.fullmatch(r"https?://[^\s<>\"]{1,1000}", value.strip(), re.IGNORECASE):
        return value.strip()
    return None


def _count(value: object) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if type(value) is int and value >= 0 else None


def _iso_day(value: object) -> date | None:
    """The day (UTC) of a time such as ``2026-04-20T08:00:00.000Z``."""
    # `date.fromisoformat` alone would take a week (2026-W17) for its Monday.
    if not isinstance(value, str) or not re.match(r"\d{4}-\d{2}-\d{2}", value):
        return None
    try:
        return date.fromisoformat(value[:10])
    except ValueError:
        return None
