"""The records: what they take from the catalogue and from pages, and that nothing is doubled or lost."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa

from assay.papers import records
from assay.papers.catalogue import CatalogueEntry, catalogue
from assay.papers.records import ImportReport, Papers, UnknownPaper
from assay.papers.saved_page import PageEntry, SavedPage

DAY = date(2026, 4, 20)


@pytest.fixture
def papers(engine):
    return Papers(engine)


def contents(engine):
    with engine.connect() as connection:
        return {
            table.name: connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all()
            for table in records.metadata.sorted_tables
        }


def page(*entries: PageEntry, listed: date | None = DAY) -> SavedPage:
    return SavedPage(listed, tuple(replace(entry, listed=listed) for entry in entries), ())


def told(title="Another paper", **more) -> PageEntry:
    return PageEntry(title, **({"abstract": "It says this."} | more))


def test_the_migration_makes_the_tables_that_are_used(engine):
    inspector = sa.inspect(engine)
    for table in records.metadata.sorted_tables:
        columns = {(column["name"], column["nullable"]) for column in inspector.get_columns(table.name)}
        assert columns == {(column.name, column.nullable) for column in table.columns}


def test_the_catalogue_is_loaded_once(papers, engine):
    assert papers.load_catalogue() == len(catalogue())
    before = contents(engine)
    assert papers.load_catalogue() == 0
    assert contents(engine) == before
    listed = papers.list()
    assert [paper.slug for paper in listed] == [entry.slug for entry in catalogue()]
    norga = papers.find("norga")
    assert norga == listed[0]
    assert (norga.arxiv_id, norga.field, norga.authors) == ("2405.14124", "gating", 7)
    assert norga.submitted == date(2024, 5, 23)
    assert norga.abstract is norga.listed is norga.comments is None


def test_papers_meet_their_entries_by_arxiv_id_else_by_title(papers):
    report = papers.import_page(
        page(
            told("mixture of experts meets prompt based CONTINUAL learning", authors=99, comments=3),
            told("A title of the second version", arxiv_id="2310.02895", organisation="Lab"),
            told("CoLiDE: Concomitant Linear DAG Estimation", arxiv_id="2101.99999"),  # another paper's title
            told(),
        ),
        "page.txt",
    )
    assert report == ImportReport(new=4, changed=0, unchanged=0, tied=2, unreadable=())
    norga = papers.find("norga")
    assert norga.title == "Mixture of Experts Meets Prompt-Based Continual Learning"
    assert (norga.abstract, norga.authors, norga.comments, norga.listed) == ("It says this.", 7, 3, DAY)
    colide = papers.find("A title of the second version")
    assert (colide.slug, colide.organisation) == ("colide", "Lab")
    assert papers.find("2101.99999").slug is None
    assert papers.find("Another paper").slug is None
    assert len(papers.list()) == len(catalogue()) + 2
    assert {paper.slug for paper in papers.list(field="inference")} >= {"colide", "batch_predictive"}


def test_importing_twice_changes_nothing(either_engine):
    engine, papers = either_engine, Papers(either_engine)
    first = page(told(), told("norga's title"), told("CoLiDE: Concomitant Linear DAG Estimation", comments=2))
    papers.import_page(first, "page.txt")
    before = contents(engine)
    report = papers.import_page(first, "page.txt")
    assert report == ImportReport(new=0, changed=0, unchanged=3, tied=1, unreadable=())
    assert contents(engine) == before


def test_a_later_page_goes_before_an_earlier_one_in_any_order(papers, engine):
    early = page(told(comments=1, authors=3, organisation="Lab"), listed=date(2026, 4, 20))
    late = page(told(comments=5, abstract="It says that.", upvotes=7), listed=date(2026, 4, 25))
    papers.import_page(late, "late.html")
    assert papers.import_page(early, "early.txt").changed == 1  # it fills gaps
    paper = papers.find("Another paper")
    assert (paper.comments, paper.abstract, paper.authors) == (5, "It says that.", 3)
    assert (paper.organisation, paper.listed) == ("Lab", date(2026, 4, 25))
    before = contents(engine)
    for again, name in ((late, "late.html"), (early, "early.txt"), (late, "late.html")):
        assert papers.import_page(again, name).unchanged == 1
    assert contents(engine) == before
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(records.provenances).where(records.provenances.c.paper_id == paper.id)
        ).all()
    assert {row.source: row.listed for row in rows} == {"late.html": date(2026, 4, 25), "early.txt": DAY}
    said = {row.source: json.loads(row.said) for row in rows}
    assert said["late.html"]["upvotes"] == 7
    assert said["early.txt"]["abstract"] == "It says this."


def test_nothing_known_is_replaced_by_nothing(papers):
    papers.import_page(page(told(comments=1, authors=3, submitted=DAY, arxiv_id="hep-th/9901001")), "a")
    papers.import_page(page(PageEntry("Another paper"), listed=date(2026, 5, 1)), "b")
    papers.import_page(page(PageEntry("Another paper"), listed=None), "c")
    paper = papers.find("hep-th/9901001v2")
    assert (paper.abstract, paper.comments, paper.authors) == ("It says this.", 1, 3)
    assert (paper.submitted, paper.listed) == (DAY, date(2026, 5, 1))


def test_a_page_never_overwrites_an_abstract_from_arxiv(papers, engine):
    papers.import_page(page(told()), "a")
    with engine.begin() as connection:
        connection.execute(
            sa.update(records.papers)
            .where(records.papers.c.title == "Another paper")
            .values(abstract="From arXiv.", abstract_source="arxiv")
        )
    papers.import_page(page(told(abstract="From a later page."), listed=date(2027, 1, 1)), "b")
    assert papers.find("Another paper").abstract == "From arXiv."


def test_records_that_prove_to_be_one_paper_become_one(papers, engine):
    papers.import_page(page(told("Old title", comments=4), told("New title", arxiv_id="2401.00001")), "a")
    assert len(papers.list()) == len(catalogue()) + 2
    papers.import_page(page(told("Old title", arxiv_id="2401.00001"), listed=date(2026, 5, 1)), "b")
    assert len(papers.list()) == len(catalogue()) + 1
    assert papers.find("old title") == papers.find("new title") == papers.find("2401.00001")
    assert papers.find("2401.00001").comments == 4
    with engine.connect() as connection:
        sources = connection.scalars(
            sa.select(records.provenances.c.source).where(records.provenances.c.source != "catalogue")
        ).all()
    assert sorted(sources) == ["a", "a", "b"]


ELSEWHERE = CatalogueEntry(
    "elsewhere", "Another paper", "2401.00001", date(2024, 1, 2), 2, "quantum", "Shows something."
)


def test_a_paper_that_enters_the_catalogue_later_keeps_what_pages_said(papers, monkeypatch):
    papers.import_page(page(told(comments=4, authors=9), told("Its first title", arxiv_id="2401.00001")), "a")
    monkeypatch.setattr(records, "catalogue", lambda: (ELSEWHERE,))
    assert papers.load_catalogue() == 1
    paper = papers.find("elsewhere")
    assert (paper.title, paper.comments, paper.authors) == ("Another paper", 4, 2)
    assert paper == papers.find("Its first title")


def test_a_corrected_catalogue_moves_ids_and_slugs(papers, engine, monkeypatch):
    monkeypatch.setattr(records, "catalogue", lambda: (ELSEWHERE,))
    papers.load_catalogue()
    corrected = replace(ELSEWHERE, arxiv_id="2401.00002")
    other = replace(ELSEWHERE, slug="other", title="The other paper")
    monkeypatch.setattr(records, "catalogue", lambda: (corrected, other))
    assert papers.load_catalogue() == 2
    assert papers.find("2401.00001").slug == "other"
    assert papers.find("2401.00002").slug == "elsewhere"
    before = contents(engine)
    assert papers.load_catalogue() == 0
    monkeypatch.setattr(records, "catalogue", lambda: (replace(corrected, slug="renamed"), other))
    assert papers.load_catalogue() == 1
    assert papers.find("renamed").id == before["papers"][0].id


@pytest.mark.parametrize(
    "key",
    [
        "gui_g2",
        "GUI-G2",
        " gui-g2 ",
        "2507.15846",
        "arXiv:2507.15846v3",
        "https://arxiv.org/pdf/2507.15846v1.pdf",
        "https://huggingface.co/papers/2507.15846",
        "gui-g²: gaussian reward modeling for GUI grounding",
    ],
)
def test_keys_that_find_a_paper(papers, key):
    papers.load_catalogue()
    assert papers.find(key).slug == "gui_g2"


def test_other_outside_ids_find_a_paper(papers, engine):
    papers.import_page(page(told()), "a")
    paper = papers.find("Another paper")
    ids = (("doi", "10.1000/x"), ("url", "https://example.org/paper"))
    with engine.begin() as connection:
        for kind, value in ids:
            connection.execute(sa.insert(records.paper_ids).values(kind=kind, value=value, paper_id=paper.id))
    found = papers.find("10.1000/X")
    assert found == papers.find("https://example.org/paper") == replace(paper, outside_ids=ids)
    assert found.as_json()["outside_ids"] == {"doi": ["10.1000/x"], "url": ["https://example.org/paper"]}


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("norg", "did you mean 'norga'"),
        ("2405.1412", "did you mean '2405.14124'"),
        ("Mixture of Experts Meets Continual Prompts", "did you mean 'Mixture of Experts Meets Prompt-Based"),
        ("zzz", "neither slug"),
    ],
)
def test_unknown_keys_are_answered_by_the_nearest(papers, key, hint):
    papers.load_catalogue()
    with pytest.raises(UnknownPaper, match=f"no paper is called '{key}'.*{hint}"):
        papers.find(key)


def test_a_field_that_is_none_of_the_house_is_refused(papers):
    with pytest.raises(ValueError, match=r"field is to be one of gating, .*, got 'astrology'"):
        papers.list(field="astrology")


def test_a_paper_is_plain_json(papers):
    papers.import_page(page(told("CoLiDE: Concomitant Linear DAG Estimation")), "a")
    known = json.loads(json.dumps(papers.find("colide").as_json()))
    assert known["submitted"] == "2023-10-04"
    assert known["listed"] == "2026-04-20"
    assert known["outside_ids"] == {"arxiv": ["2310.02895"]}


IMPORT = """
import sys
from assay.database import open_database
from assay.papers.records import Papers
from assay.papers.saved_page import parse
page = parse(sys.stdin.read())
print(Papers(open_database()).import_page(page, "page.txt").new)
"""


def test_imports_at_once_double_nothing(either_engine):
    text = "Daily Papers\nApr 20\n" + "".join(
        f"Title {number}\nWe study it.\n• 2 authors\n·\nMay 1, 2025\n" for number in range(30)
    )

    def run(_):
        command = [sys.executable, "-c", IMPORT]
        return subprocess.run(command, input=text, text=True, capture_output=True, check=True).stdout

    with ThreadPoolExecutor(2) as pool:
        assert sorted(int(new) for new in pool.map(run, range(2))) == [0, 30]
    assert len(Papers(either_engine).list()) == len(catalogue()) + 30
    assert len(contents(either_engine)["provenances"]) == len(catalogue()) + 30


@pytest.mark.parametrize(
    ("names", "count", "line"),
    [
        (["A. One"], None, "A. One"),
        (["A. One", "B. Two", "C. Three", "D. Four"], None, "A. One, B. Two, C. Three and 1 more"),
        (["A. One"], 5, "A. One and 4 more"),  # a source may name fewer than it counts
        ([], 1, "1 author"),
        ([], 7, "7 authors"),
        ([], None, ""),
    ],
)
def test_the_line_of_authors(papers, names, count, line):
    papers.load_catalogue()
    paper = dataclasses.replace(papers.find("colide"), author_names=tuple(names), authors=count)
    assert paper.byline == line
