"""The catalogue's data, and what is said of a catalogue that is wrong."""

from __future__ import annotations

import re
from datetime import date, timedelta
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from assay.papers import catalogue as module
from assay.papers.catalogue import FIELDS, catalogue
from assay.papers.identity import arxiv_id, title_key


@pytest.fixture(autouse=True)
def fresh():
    catalogue.cache_clear()
    yield
    catalogue.cache_clear()


def built_in():
    return [entry for _, entry in module._read(Path(module.__file__).parent / "catalogue.toml")]


def test_it_holds_47_papers_each_once():
    entries = built_in()
    assert len(entries) == 47
    for name in ("slug", "arxiv_id", "sentence"):
        assert len({getattr(entry, name) for entry in entries}) == 47
    assert len({title_key(entry.title) for entry in entries}) == 47
    assert {entry.field for entry in entries} == set(FIELDS)


@pytest.mark.parametrize("entry", built_in(), ids=lambda entry: entry.slug)
def test_each_entry_is_well_formed(entry):
    assert re.fullmatch(r"\d{4}\.\d{4,5}", entry.arxiv_id)
    # An id carries the month in which arXiv announced the paper: that of its submission or some days later.
    month = date(2000 + int(entry.arxiv_id[:2]), int(entry.arxiv_id[2:4]), 1)
    assert month - timedelta(days=7) <= entry.submitted < month + timedelta(days=31)
    assert entry.sentence.endswith(".")
    assert ". " not in entry.sentence


VALID = """[[paper]]
slug = "elsewhere"
title = "A paper from elsewhere"
arxiv_id = "cs/0112017"
submitted = 2001-12-11
authors = 2
field = "quantum"
sentence = "Shows something."
"""


def install(monkeypatch, folder: Path, content: str):
    package = folder / "other_papers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "catalogue.toml").write_text(content, "utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(__import__("sys").modules, "other_papers", raising=False)
    point = EntryPoint("other", "other_papers", "assay.catalogues")
    monkeypatch.setattr(module, "entry_points", lambda *, group: [point] if group == point.group else [])


def test_other_distributions_add_theirs(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, VALID)
    assert len(catalogue()) == 48
    assert catalogue()[-1].slug == "elsewhere"
    assert catalogue()[-1].submitted == date(2001, 12, 11)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'slug = "elsewhere"',
            'slug = "else-where"',
            "slug is to be a lower-case module name, got 'else-where'",
        ),
        ("cs/0112017", "2405.14124v2", "arXiv id without version, got '2405.14124v2'"),
        ("2001-12-11", '"2001-12-11"', "submitted is to be a date, got '2001-12-11'"),
        ("authors = 2", "authors = 0", "authors is to be 1 or more, got 0"),
        ("quantum", "astrology", "field is to be one of gating, .*, got 'astrology'"),
        ("Shows something.", "x" * 201, "1 to 200 characters, got 201"),
        ("authors = 2\n", "", "missing or unknown: authors"),
        ("authors", "author", "missing or unknown: author, authors"),
        ("elsewhere", "norga", "repeats 'norga' of .*catalogue.toml, entry 1"),
    ],
)
def test_a_bad_entry_is_named_with_its_file(monkeypatch, tmp_path, old, new, message):
    install(monkeypatch, tmp_path, VALID.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"other_papers.catalogue\.toml, entry 1 .*" + message):
        catalogue()


@pytest.mark.parametrize("content", ["[[paper", "[papers]\nslug = 'a'\n"])
def test_a_file_that_is_no_catalogue_is_named(monkeypatch, tmp_path, content):
    install(monkeypatch, tmp_path, content)
    with pytest.raises(ValueError, match=r"other_papers.catalogue\.toml: is to"):
        catalogue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2405.14124", "2405.14124"),
        (" 2405.14124v12 ", "2405.14124"),
        ("arXiv:0704.0001v1", "0704.0001"),
        ("https://arxiv.org/abs/2405.14124v2", "2405.14124"),
        ("https://arxiv.org/pdf/2405.14124v2.pdf", "2405.14124"),
        ("http://export.arxiv.org/abs/cs/0112017v1", "cs/0112017"),
        ("https://huggingface.co/papers/2405.14124#community", "2405.14124"),
        ("/papers/2405.14124", "2405.14124"),
        ("cs/0112017", "cs/0112017"),
        ("math.GT/0309136v3", "math/0309136"),
        ("cond-mat/9601001", "cond-mat/9601001"),
        ("norga", None),
        ("2405.141", None),
        ("https://example.org/2405.14124", None),
        ("", None),
    ],
)
def test_arxiv_ids(text, expected):
    assert arxiv_id(text) == expected


def test_titles_are_compared_by_letters_and_digits():
    assert title_key("GUI-G²: A  Straße") == title_key("gui g2 a STRASSE!") == "guig2astrasse"
    assert title_key("Café") == title_key("Cafe\u0301") == "cafe"
    assert title_key("???") != title_key("!!!")
