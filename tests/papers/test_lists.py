"""Lists on both databases: which papers, in which order, and pages that stay put while things happen."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from assay.database import write
from assay.evidence.verdict_log import verdict_changes, verdict_index
from assay.papers import lists as lists_module
from assay.papers import people, records
from assay.papers.lists import HALF_LIFE, WINDOW, Lists
from assay.papers.search import Search
from assay.papers.selection import Selection

NOW = datetime.now(UTC)
TODAY = NOW.date()


def add(engine: sa.Engine, *papers: dict[str, Any]) -> None:
    with write(engine) as connection:
        for paper in papers:
            connection.execute(sa.insert(records.papers).values({"title": f"Paper {paper['id']}"} | paper))


def ago(**time: float) -> str:
    return (NOW - timedelta(**time)).isoformat(timespec="seconds")


def vote(engine: sa.Engine, paper: int, *times: str) -> None:
    with write(engine) as connection:
        for at in times:
            person = connection.execute(
                sa.insert(people.people).values(email=f"{paper}{at}", name="n", role="reader", joined_at=at)
            ).inserted_primary_key
            assert person is not None
            connection.execute(sa.insert(people.votes).values(person_id=person[0], paper_id=paper, at=at))


def walk(lists: Lists, selection: Selection, size: int = 3) -> Iterator[list[int]]:
    after = None
    while True:
        page = lists.page(selection, after, size=size)
        yield [paper.id for paper in page.papers]
        after = page.next
        if after is None:
            return


def ids(engine: sa.Engine, size: int = 3, **selection: str) -> list[int]:
    return [one for page in walk(Lists(engine), Selection(**selection), size) for one in page]


@pytest.fixture
def archive(either_engine: sa.Engine) -> sa.Engine:
    """Ten papers long past; the greater the id, the newer, but for 9 and 10, which have no day."""
    days = [date(2020, 1, day) for day in (1, 1, 2, 3, 10, 10, 10, 31)]
    add(
        either_engine,
        *({"id": number, "day": day, "field": "gating"} for number, day in enumerate(days, 1)),
        {"id": 9, "field": "quantum", "organisation": "Ünï Lab", "submitter": "ann"},
        {"id": 10, "keywords": '["sparse gates", "A\\"B"]', "categories": '["cs.LG"]', "slug": "ten"},
    )
    return either_engine


def test_newest_first_and_those_without_a_day_at_the_end(archive: sa.Engine) -> None:
    for size in (1, 3, 50):
        assert ids(archive, size) == [8, 7, 6, 5, 4, 3, 2, 1, 10, 9]
        assert ids(archive, size, field="gating") == [8, 7, 6, 5, 4, 3, 2, 1]


def test_periods_and_filters(archive: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids(archive, date="2020-01-10") == [7, 6, 5]
    assert ids(archive, week="2020-W01") == [4, 3, 2, 1]
    assert ids(archive, month="2020-01") == [8, 7, 6, 5, 4, 3, 2, 1]
    assert ids(archive, date="2021-01-10") == []
    assert ids(archive, organisation="Ünï Lab") == ids(archive, submitter="ann") == [9]
    for keyword in ("sparse gates", 'A"B', "cs.LG"):
        assert ids(archive, keyword=keyword) == [10]
    assert ids(archive, keyword="gates") == ids(archive, keyword="%") == []
    # Common ones are found in another way.
    monkeypatch.setattr(lists_module, "_COMMON", 1)
    assert ids(archive, keyword="cs.LG") == ids(archive, keyword="cs.LG", sort="trending") == [10]


def test_keywords_follow_the_records(archive: sa.Engine) -> None:
    with write(archive) as connection:
        connection.execute(
            sa.update(records.papers).where(records.papers.c.id == 8).values(keywords='["new"]')
        )
        connection.execute(sa.update(records.papers).where(records.papers.c.id == 10).values(keywords=None))
        connection.execute(sa.delete(records.papers).where(records.papers.c.id == 9))
        kept = connection.execute(sa.select(records.paper_keywords)).all()
    assert sorted(kept) == [("cs.LG", 10), ("new", 8)]


def test_listed_again_it_stays_in_the_earlier_list(archive: sa.Engine) -> None:
    with write(archive) as connection:
        connection.execute(
            sa.insert(records.provenances).values(
                paper_id=8,
                source="page",
                listed=date(2020, 1, 10),
                said="{}",
                digest="d",
                seen_at=ago(days=1),
            )
        )
    assert ids(archive, date="2020-01-10") == [8, 7, 6, 5]
    assert ids(archive, date="2020-01-31") == [8]


def test_verdicts(archive: sa.Engine) -> None:
    line = {"study": "ten", "experiment": "e", "yes": 7, "answered": 7, "scale": "quick", "origin": "here"}
    with write(archive) as connection:
        for claim, kind in (("a", "holds"), ("b", "undecided")):
            connection.execute(
                sa.insert(verdict_index).values(line | {"claim": claim, "kind": kind, "fingerprint": ""})
            )
    for verdict, found in (("holds", [10]), ("undecided", [10]), ("any", [10]), ("fails", [])):
        assert ids(archive, verdict=verdict) == found


def test_what_arrives_moves_nothing_onto_a_page_twice(archive: sa.Engine) -> None:
    pages = walk(Lists(archive), Selection())
    seen = next(pages)
    add(archive, {"id": 20, "day": date(2020, 2, 1)}, {"id": 21, "day": date(2020, 1, 10)}, {"id": 22})
    seen += [one for page in pages for one in page]
    assert [one for one in seen if one < 20] == [8, 7, 6, 5, 4, 3, 2, 1, 10, 9]
    assert len(seen) == len(set(seen))


def test_trending_is_the_sum_of_what_happened_halved_by_age(archive: sa.Engine) -> None:
    lists = Lists(archive)
    vote(archive, 1, ago(hours=1), ago(hours=2), ago(hours=2.5))  # 3 votes just now
    vote(archive, 2, *(ago(days=HALF_LIFE.days, seconds=n) for n in range(5)))  # 5, of which half is left
    vote(archive, 3, ago(days=WINDOW.days + 2))  # too long ago to count
    with write(archive) as connection:
        connection.execute(sa.insert(people.comments).values(paper_id=4, body="b", at=ago(hours=1)))
        change = {"study": "ten", "experiment": "e", "claim": "c", "yes": 7, "answered": 7, "scale": "quick"}
        for after in ("fails", "holds", "holds", "stale"):  # three fell at once: twice the weight of one
            connection.execute(
                sa.insert(verdict_changes).values(
                    change | {"after": after, "origin": "here", "fingerprint": "", "at": ago(hours=4)}
                )
            )
    add(archive, {"id": 11, "day": TODAY, "votes_elsewhere": 1023}, {"id": 12, "day": TODAY - HALF_LIFE})
    order = [one for page in walk(lists, Selection(sort="trending")) for one in page]
    # About 11, 6, 3, 2.5, 2 and 0.5, less the hours that have passed; then the others by date.
    assert order == [11, 10, 1, 2, 4, 12, 8, 7, 6, 5, 3, 9]
    assert ids(archive, sort="trending", field="gating") == [1, 2, 4, 8, 7, 6, 5, 3]
    assert ids(archive, sort="trending", date="2020-01-10") == [7, 6, 5]
    assert ids(archive, sort="trending", month="2020-01") == [1, 2, 4, 8, 7, 6, 5, 3]


@pytest.mark.parametrize("keeps", [True, False])
def test_trending_pages_stay_while_votes_arrive(archive: sa.Engine, keeps: bool) -> None:
    for number in range(1, 11):
        vote(archive, number, *(ago(hours=n) for n in range(1, number + 1)))
    before = ids(archive, sort="trending")
    lists = Lists(archive)
    pages = [lists.page(Selection(sort="trending"), size=3)]
    shown = [paper.id for paper in pages[0].papers]
    while pages[-1].next:
        later = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds")
        vote(archive, 1, *(later.replace("+00:00", f".{len(shown)}{n}+00:00") for n in range(9)))
        # Another process, or one that has started anew, ranks as this one does.
        lists = lists if keeps else Lists(archive)
        pages.append(lists.page(Selection(sort="trending"), pages[-1].next, size=3))
        shown += [paper.id for paper in pages[-1].papers]
    assert shown == before == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


def test_searches_by_relevance_date_and_trend(archive: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [2, 9, 7, 10, 4]
    monkeypatch.setattr(Search, "rank", lambda _self, _words, *, where=None, limit=500: list(found))
    assert ids(archive, 2, q="words") == [2, 9, 7, 10, 4]
    assert ids(archive, 2, q="words", sort="date") == [7, 4, 2, 10, 9]
    vote(archive, 9, ago(hours=1))
    assert ids(archive, 2, q="words", sort="trending") == [9, 7, 4, 2, 10]
    pages = walk(Lists(archive), Selection(q="words"), 2)
    assert next(pages) == [2, 9]
    found.remove(9)
    assert next(pages) == [10, 4]  # its paper is gone: on from the place that it had


def test_pages_by_number(archive: sa.Engine) -> None:
    for sort in ("date", "trending"):
        page = Lists(archive).page(Selection(sort=sort), size=4, skip=4)
        assert [paper.id for paper in page.papers] == [4, 3, 2, 1]
    assert Lists(archive).page(Selection(), size=4, skip=400).papers == ()


def test_what_no_page_has_given_is_refused(archive: sa.Engine) -> None:
    for after in (
        "1",
        "x" * 200,
        "20000101T000000~0.0~2020-01-01~1; DROP",
        "20000101T000000~nan~2020-01-01~1",
        "99999999T000000~0.0~~1",
        "20000101T000000~1e999~~1",
        "20000101T000000~0.0~2020-13-01~1",
        "20000101T000000~0.0~~99999999999999",
    ):
        for sort in ("date", "trending"):
            with pytest.raises(ValueError, match="after is to be what the page before gives"):
                Lists(archive).page(Selection(sort=sort), after)
    # What is well formed is a place, wherever that lies.
    for after in ("10000101T000000~0.0~0001-01-01~1", "99991231T235959~5.0~9999-12-31~999999999"):
        for selection in (
            Selection(),
            Selection(sort="trending"),
            Selection(sort="trending", field="gating"),
        ):
            Lists(archive).page(selection, after)


def test_days_fields_and_attention(archive: sa.Engine) -> None:
    lists = Lists(archive)
    assert lists.fields() == {"gating": 8, "quantum": 1}
    assert lists.newest_day() == date(2020, 1, 31)
    assert lists.newest_day(date(2020, 1, 30)) == date(2020, 1, 10)
    assert lists.days_beside(date(2020, 1, 3), date(2020, 1, 9)) == (date(2020, 1, 2), date(2020, 1, 10))
    assert lists.days_beside(date(2019, 1, 1), date(2021, 1, 1)) == (None, None)
    vote(archive, 3, ago(days=1), ago(days=900))
    assert lists.attention([1, 3]) == {3: (2, 0)}
