"""Reading saved pages: pages of our own in the form of the real ones."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.papers.saved_page import NotASavedPage, PageEntry, parse

HEAD = (
    "new\n\nGet trending papers in your email inbox!\n\nSubscribe\n\nDaily Papers\n\n"
    "byAK and the research community\n\nApr 20\n\n"
)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def abstract(number: int) -> str:
    return (
        f"We study the matter of number {number}, which nobody has studied, and find that it is as expected."
    )


def block(title: str, text: str, *metadata: str) -> str:
    return f"{title}\n\n{text}\n\n" + "".join(f"{line}\n" for line in metadata) + "\n" * bool(metadata)


PAGE = HEAD + "".join(
    [
        block("First Things", abstract(1), "  • 7 authors", "·", "May 22, 2024"),
        block("Second: Thoughts", abstract(2), "  • 1 authors", "·", "Mar 11 3"),
        block("Third Without Metadata", abstract(3)),
        block("Fourth Without Metadata?", abstract(4)),
        block("Fifth of an Organisation", abstract(5), "facebook AI at Meta", "·", "Dec 7, 2025 12"),
        block(
            "Sixth With Damaged TeX",
            r"Rates of {O}(1/log(n)) and ^{-1}$ with mathbb{R}^d.",
            "• 2 authors",
            "·",
            "Jan 2",
        ),
    ]
)
ENTRIES = (
    PageEntry("First Things", abstract(1), submitted=date(2024, 5, 22), listed=date(2026, 4, 20), authors=7),
    PageEntry(
        "Second: Thoughts",
        abstract(2),
        submitted=date(2026, 3, 11),
        listed=date(2026, 4, 20),
        authors=1,
        comments=3,
    ),
    PageEntry("Third Without Metadata", abstract(3), listed=date(2026, 4, 20)),
    PageEntry("Fourth Without Metadata?", abstract(4), listed=date(2026, 4, 20)),
    PageEntry(
        "Fifth of an Organisation",
        abstract(5),
        submitted=date(2025, 12, 7),
        listed=date(2026, 4, 20),
        organisation="AI at Meta",
        organisation_handle="facebook",
        comments=12,
    ),
    PageEntry(
        "Sixth With Damaged TeX",
        r"Rates of {O}(1/log(n)) and ^{-1}$ with mathbb{R}^d.",
        submitted=date(2026, 1, 2),
        listed=date(2026, 4, 20),
        authors=2,
    ),
)


@pytest.mark.parametrize(
    "form",
    [
        lambda page: page,
        lambda page: page.replace("\n", "\r\n"),
        lambda page: page.replace("\n", "\r"),
        lambda page: page.replace("\n\n", "\n"),
        lambda page: page.replace("\n\n", "\n \t\n\u00a0\n"),
        lambda page: "\ufeff" + page,
        lambda page: page.removeprefix("new\n\nGet trending papers in your email inbox!\n\nSubscribe\n\n"),
        lambda page: page.rstrip("\n"),
        lambda page: page + "\nPrevious\n\nNext\n\nCompany\n\nTOS\n\nPrivacy\n",
    ],
    ids=["plain", "CRLF", "CR", "no blanks", "white space", "BOM", "short head", "no end", "footer"],
)
def test_the_text_form(form):
    page = parse(form(PAGE))
    assert page.listed == date(2026, 4, 20)
    assert page.entries == ENTRIES
    assert page.unreadable == ()


def test_a_page_without_its_head_is_known_by_its_metadata():
    page = parse(PAGE.removeprefix(HEAD))
    assert page.listed is None
    assert page.entries == tuple(replace(entry, listed=None) for entry in ENTRIES)


words = (
    st.text("abc XYZ019-:$\\{}_^é", min_size=1, max_size=40)
    .map(lambda text: " ".join(text.split()))
    .filter(bool)
)
metadata = st.one_of(
    st.none(),
    st.tuples(
        st.one_of(st.integers(1, 2000), words),
        st.dates(date(1992, 1, 1), date(2024, 12, 31)) | st.dates(date(2025, 1, 1), date(2025, 4, 20)),
        st.one_of(st.none(), st.integers(0, 999)),
    ),
)


@given(st.lists(st.tuples(words, words, metadata), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_what_is_written_in_the_text_form_is_read_back(drawn, line_end):
    listed = date(2025, 4, 20)
    expected = [
        PageEntry(
            "The first", "It prints the last year.", submitted=date(2024, 12, 31), listed=listed, authors=3
        )
    ]
    text = HEAD + block("The first", "It prints the last year.", "  • 3 authors", "·", "Dec 31, 2024")
    for title, words, told in drawn:
        entry = PageEntry(
            f"T {title}", f"We show {words}, as told at length in what follows here.", listed=listed
        )
        lines = []
        if told is not None:
            who, day, comments = told
            entry = replace(entry, submitted=day, comments=comments)
            if isinstance(who, int):
                entry = replace(entry, authors=who)
                lines = [f"  • {who} authors"]
            else:
                entry = replace(entry, organisation=who, organisation_handle="lab")
                lines = [f"lab {who}"]
            year = f", {day.year}" if day.year != listed.year else ""
            lines += [
                "·",
                f"{MONTHS[day.month - 1]} {day.day}{year}" + (f" {comments}" if comments is not None else ""),
            ]
        expected.append(entry)
        text += block(entry.title, entry.abstract, *lines)
    page = parse(text.replace("\n", line_end))
    assert page.entries == tuple(expected)
    assert page.unreadable == ()
    assert page.listed == listed


def dated(*days: str, head: str = "Apr 20") -> str:
    return HEAD.replace("Apr 20", head) + "".join(
        block(f"Title {number}", abstract(number), "• 2 authors", "·", day) for number, day in enumerate(days)
    )


@pytest.mark.parametrize(
    ("head", "days", "listed", "submitted"),
    [
        ("Apr 20", ["May 1, 2013"], date(2014, 4, 20), [date(2013, 5, 1)]),
        ("Apr 20", ["Apr 19", "Dec 31, 2025"], date(2026, 4, 20), [date(2026, 4, 19), date(2025, 12, 31)]),
        # A year that is printed is not the year of saving, not even where the days would fit it.
        ("Dec 31", ["Jan 1, 2020", "Dec 30"], date(2021, 12, 31), [date(2020, 1, 1), date(2021, 12, 30)]),
        # 29 February waits for a leap year, over 2100 for eight years.
        ("Mar 2", ["Feb 29", "May 1, 2020"], date(2024, 3, 2), [date(2024, 2, 29), date(2020, 5, 1)]),
        ("Feb 29", ["May 1, 2096"], date(2104, 2, 29), [date(2096, 5, 1)]),
        ("Mar 2", ["Feb 29, 2024", "Feb 28"], date(2025, 3, 2), [date(2024, 2, 29), date(2025, 2, 28)]),
        # The listing's own year counts when it is printed.
        ("Apr 20, 2025", ["May 1, 2013"], date(2025, 4, 20), [date(2013, 5, 1)]),
        ("April 20", ["June 1, 2019", "Sept 2"], date(2020, 4, 20), [date(2019, 6, 1), date(2020, 9, 2)]),
    ],
)  # fmt: skip
def test_the_year_of_days_without_one(head, days, listed, submitted):
    page = parse(dated(*days, head=head))
    assert page.listed == listed
    assert [entry.submitted for entry in page.entries] == submitted
    assert page.unreadable == ()


def test_without_any_year_the_days_stay_unknown():
    page = parse(dated("Apr 19", "Apr 18 2"))
    assert page.listed is None
    assert [(entry.submitted, entry.comments) for entry in page.entries] == [(None, None), (None, 2)]
    assert page.unreadable == ((11, "no date of the page has a year, so its dates cannot be placed"),)


@pytest.mark.parametrize(
    ("old", "new", "lost", "where", "message"),
    [
        (
            "May 22, 2024",
            "May 32, 2024",
            0,
            "May 32, 2024",
            "a date such as 'May 10, 2025' is to follow '·', got",
        ),
        ("May 22, 2024", "Feb 29, 2023", 0, "Feb 29, 2023", "got 'Feb 29, 2023'"),
        ("May 22, 2024", "some time ago", 0, "some time ago", "got 'some time ago'"),
        ("May 22, 2024\n", "\n", 0, "Second: Thoughts", "got 'Second: Thoughts'"),
        (abstract(1) + "\n", "\n", 0, "First Things", "neither a title"),
        ("First Things\n", "\n", 0, abstract(1), "neither a title"),
        (abstract(4) + "\n", "\n", 3, "Fourth Without Metadata?", "neither a title"),
        ("facebook AI at Meta", "x" * 400, 4, "x" * 400, "'N authors' or an organisation"),
        ("Jan 2", "Jan 77", 5, "Jan 77", "got 'Jan 77'"),
        ("Jan 2\n", "", 5, "·", "the page ends where a date is to follow"),
    ],
)
def test_an_entry_that_cannot_be_read_is_named_by_line_and_the_rest_is_read(old, new, lost, where, message):
    text = PAGE.replace(old, new, 1)
    page = parse(text)
    assert page.entries == ENTRIES[:lost] + ENTRIES[lost + 1 :]
    ((line, reason),) = page.unreadable
    assert text.split("\n")[line - 1] == where
    assert message in reason


def test_an_abstract_of_paragraphs_stays_one():
    assert parse(PAGE.replace("Fourth Without Metadata?\n", "\n")).entries[2].abstract == (
        f"{abstract(3)}\n{abstract(4)}"
    )
    text = PAGE.replace(abstract(2), "First paragraph, as it stands.\n\nSecond paragraph, and the last.")
    page = parse(text)
    assert page.unreadable == ()
    assert page.entries[1].abstract == "First paragraph, as it stands.\nSecond paragraph, and the last."
    assert page.entries[2:] == ENTRIES[2:]


@pytest.mark.parametrize("keep", range(len(HEAD) + 1, len(PAGE), 7))
def test_a_page_that_is_cut_off_keeps_what_is_whole(keep):
    page = parse(PAGE[:keep])
    titles = [entry.title for entry in page.entries]
    assert titles[:-1] == [entry.title for entry in ENTRIES[: max(len(titles) - 1, 0)]]
    whole = sum(PAGE.index(entry.abstract) + len(entry.abstract) <= keep for entry in ENTRIES)
    assert len(titles) >= whole - 1  # the last one may have lost its date


def test_lines_behind_the_last_paper_are_no_papers():
    page = parse(PAGE + "Some button\n\nAnother button\n\nA third\n")
    assert page.entries == ENTRIES
    assert page.unreadable


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Dear diary,\n\ntoday I read a paper.\n",
        "Subscribe\n\nApr 20\n\nA letter that is about nothing in particular, and long.\n\nYours.\n",
        "One\n·\nTwo\n",
        "<html><body><p>Daily Papers</p></body></html>",
        '<html><article><h3><a href="/models/x">A model</a></h3></article></html>',
        '{"paper": 1}',
    ],
)
def test_another_file_gets_one_sentence(text):
    with pytest.raises(NotASavedPage, match="no saved Daily Papers page: looked for") as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def item(number: int, **more):
    return {
        "paper": {
            "id": f"2401.0000{number}",
            "authors": [{"name": "A"}, {"name": "B"}],
            "publishedAt": "2024-01-28T23:59:00.000Z",
            "title": f"Title\n  {number}",
            "summary": abstract(number).replace(" and ", "\nand "),
            "upvotes": 40 + number,
            "submittedOnDailyAt": "2024-01-30T01:00:00.000Z",
            "submittedOnDailyBy": {"name": "reader"},
            "ai_keywords": ["gates", " experts ", "", 3],
            "projectPage": f"https://example.org/{number}",
            "githubRepo": f"https://github.com/lab/{number}",
            "githubStars": 9,
        },
        "publishedAt": "2024-01-31T01:00:00.000Z",
        "title": f"Title {number}",
        "numComments": number,
        "organization": {"name": "lab", "fullname": "The Laboratory"},
    } | more


def json_page(papers, **more) -> str:
    props = html.escape(json.dumps({"periodType": "day", "dailyPapers": papers} | more))
    return (
        '<!DOCTYPE html>\n<html><body>\n<div class="contents" data-target="DailyPapers"\n'
        f'data-props="{props}"><article><h3><a href="/papers/1">hidden</a></h3></article></div></html>'
    )


EXPECTED = PageEntry(
    "Title 1",
    abstract(1),
    arxiv_id="2401.00001",
    submitted=date(2024, 1, 28),
    listed=date(2024, 1, 30),
    authors=2,
    organisation="The Laboratory",
    organisation_handle="lab",
    comments=1,
    upvotes=41,
    author_names=("A", "B"),
    keywords=("gates", "experts"),
    project_page="https://example.org/1",
    repository="https://github.com/lab/1",
    stars=9,
    submitter="reader",
)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_html_is_read_from_the_json_of_the_page(line_end):
    page = parse(json_page([item(1)]).replace("\n", line_end))
    assert page.entries == (EXPECTED,)
    assert page.listed is None
    page = parse(json_page([item(1)], dateString="2024-01-29"))
    assert page.listed == page.entries[0].listed == date(2024, 1, 29)
    assert parse(json_page([item(1)], dateString="2024-W05")).listed is None


def test_html_items_may_be_papers_themselves_and_sparse():
    flat = item(1)["paper"] | {"organization": {"name": "lab"}}
    bare = {"paper": {"id": "cs/0112017", "title": "Old", "publishedAt": "2001-12-11T00:00:00Z"}}
    page = parse(json_page([flat, bare, {"paper": {"id": "2401.00003"}}, 7]))
    assert page.entries[0] == replace(EXPECTED, organisation="lab", comments=None)
    assert page.entries[1] == PageEntry("Old", arxiv_id="cs/0112017", submitted=date(2001, 12, 11))
    assert page.unreadable == (
        (3, "paper 3 of 4: it has no title"),
        (3, "paper 4 of 4: is to be an object, got 7"),
    )


@pytest.mark.parametrize("target", ["", '<div data-target="DailyPapers" data-props="{broken"></div>'])
def test_html_without_its_json_is_read_from_the_markup(target):
    page = parse(
        f"""<html><head><link rel="canonical" href="https://huggingface.co/papers/date/2026-04-20"></head>{target}
        <article><h3><a href="https://huggingface.co/papers/2401.00001">Title
        1</a></h3><p>{abstract(1)}</p><ul><li>·  7 authors</li></ul><span>· <b>Mar 11</b></span>
        <a href="/papers/2401.00001#community">4</a></article>
        <article><h3><a href="/papers/2401.00002v2">Title 2</a></h3><div>May 10, 2025 1</div></article>
        <article><h3><a href="/blog/3">No paper</a></h3></article></html>"""
    )
    listed = date(2026, 4, 20)
    assert page.entries == (
        PageEntry("Title 1", abstract(1), "2401.00001", date(2026, 3, 11), listed, authors=7, comments=4),
        PageEntry("Title 2", None, "2401.00002", date(2025, 5, 10), listed, comments=1),
    )
    assert page.unreadable == ()


@pytest.mark.parametrize("address", ["javascript:alert(1)", "https://", "https://a b", "ftp://x/y", 3, None])
def test_what_is_no_web_address_is_no_link(address):
    entry = parse(json_page([item(1) | {"paper": item(1)["paper"] | {"githubRepo": address}}])).entries[0]
    assert entry.repository is None
