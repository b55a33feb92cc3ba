"""The records of papers in the database: one for each paper, whatever it was called by whoever told of it.

A record has an id of its own and any number of outside ids (`paper_ids`: arXiv, DOI, URL; the letters of its
titles are kept there too, since a text page names its papers by nothing else). Every source's words stay in
`provenances`; `papers` holds what is taken from them:

- the catalogue's title, day of submission, number of authors, field and sentence go before a page's;
- among pages, the one with the latest listing day goes before, and gaps are filled from any;
- an abstract from arXiv goes before a page's;
- nothing known is ever replaced by nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from assay.database import write
from assay.papers.catalogue import FIELDS, CatalogueEntry, catalogue
from assay.papers.identity import arxiv_id, title_key
from assay.papers.saved_page import PageEntry, SavedPage

metadata = sa.MetaData()

papers = sa.Table(
    "papers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("slug", sa.Text),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("abstract", sa.Text),
    sa.Column("abstract_source", sa.Text),
    sa.Column("submitted", sa.Date),
    sa.Column("listed", sa.Date),
    sa.Column("authors", sa.Integer),
    sa.Column("organisation", sa.Text),
    sa.Column("comments", sa.Integer),
    sa.Column("field", sa.Text),
    sa.Column("sentence", sa.Text),
    sa.UniqueConstraint("slug", name="one_paper_a_slug"),
)
paper_ids = sa.Table(
    "paper_ids",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("value", sa.Text, primary_key=True),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
    sa.Index("ids_by_paper", "paper_id"),
)
provenances = sa.Table(
    "provenances",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("listed", sa.Date),
    sa.Column("said", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("seen_at", sa.Text, nullable=False),
    sa.UniqueConstraint("paper_id", "source", "digest", name="told_once_a_source"),
)

_CATALOGUE = "catalogue"
_TITLE = "title"  # the kind of id that is no outside id


class UnknownPaper(LookupError):
    """No paper goes by that key; the message suggests the nearest one."""


@dataclass(frozen=True)
class Paper:
    """What is known of a paper; None where no source has told."""

    id: int
    slug: str | None
    title: str
    abstract: str | None
    arxiv_id: str | None
    submitted: date | None
    listed: date | None
    """The latest day on which a page listed it."""
    authors: int | None
    organisation: str | None
    comments: int | None
    field: str | None
    sentence: str | None
    outside_ids: tuple[tuple[str, str], ...]
    """Kind (arxiv, doi, url) and value of every outside id."""

    def as_json(self) -> dict[str, Any]:
        """The paper as an object of JSON: days in ISO form, outside ids as lists by kind."""
        known = dataclasses.asdict(self)
        known["submitted"] = self.submitted and self.submitted.isoformat()
        known["listed"] = self.listed and self.listed.isoformat()
        ids: dict[str, list[str]] = {}
        for kind, value in self.outside_ids:
            ids.setdefault(kind, []).append(value)
        return known | {"outside_ids": ids}


@dataclass(frozen=True)
class ImportReport:
    """What an import did: new + changed + unchanged are the papers of the page."""

    new: int
    """Papers that no page had told of before."""
    changed: int
    """Papers of earlier pages of which more, or something else, is known now."""
    unchanged: int
    tied: int
    """Papers of this page that are tied to an entry of the catalogue."""
    unreadable: tuple[tuple[int, str], ...]
    """Line number and what was wrong there, as the page was read."""


class Papers:
    """The paper records in the database that `engine` opens.

    >>> from assay.database import open_database
    >>> papers = Papers(open_database())  # doctest: +SKIP
    >>> papers.load_catalogue(), papers.find("norga").arxiv_id  # doctest: +SKIP
    (47, '2405.14124')
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def load_catalogue(self) -> int:
        """Bring the records up to the installed catalogue; returns how many were added or changed."""
        entries = catalogue()
        with self._writing() as connection:
            return _load(connection, entries)

    def import_page(self, page: SavedPage, source_name: str) -> ImportReport:
        """Record the papers of a page that was read from `source_name`, each tied to its catalogue entry.

        The catalogue is loaded first. Importing the same page again changes nothing.
        """
        entries = catalogue()
        new = changed = tied = 0
        with self._writing() as connection:
            _load(connection, entries)
            for entry in page.entries:
                paper, told_before, differs = _tell(connection, entry, source_name)
                new += not told_before
                changed += told_before and differs
                tied += paper["slug"] is not None
        return ImportReport(new, changed, len(page.entries) - new - changed, tied, page.unreadable)

    def list(self, *, field: str | None = None) -> Sequence[Paper]:
        """All papers, or those of one field, in the order in which they came."""
        if field is not None and field not in FIELDS:
            raise ValueError(f"field is to be one of {', '.join(FIELDS)}, got {field!r}")
        query = sa.select(papers).order_by(papers.c.id)
        if field is not None:
            query = query.where(papers.c.field == field)
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
            ids: dict[int, Any] = {}
            for kind, value, paper_id in connection.execute(sa.select(paper_ids)):
                ids.setdefault(paper_id, []).append((kind, value))
        return [_paper(dict(row), ids.get(row["id"], [])) for row in rows]

    def find(self, key: str) -> Paper:
        """The paper with that slug (hyphens are taken for underscores), arXiv id or address, DOI or title.

        Raises `UnknownPaper`, which suggests the nearest key.
        """
        key = key.strip()
        slug = key.lower().replace("-", "_")
        values = (
            ("arxiv", arxiv_id(key) or key),
            ("doi", key.lower()),
            ("url", key),
            (_TITLE, title_key(key)),
        )
        with self._engine.connect() as connection:
            found = connection.scalar(sa.select(papers.c.id).where(papers.c.slug == slug))
            for kind, value in values:
                if found is None:
                    found = _holder(connection, kind, value)
            if found is not None:
                return _paper(_row(connection, found), _ids(connection, found))
            known = [*connection.scalars(sa.select(papers.c.slug).where(papers.c.slug.is_not(None)))]
            known += connection.scalars(sa.select(paper_ids.c.value).where(paper_ids.c.kind == "arxiv"))
            titles = [*connection.scalars(sa.select(papers.c.title))]
        nearest = difflib.get_close_matches(slug, known, n=1, cutoff=0.5)
        nearest = nearest or difflib.get_close_matches(key, titles, n=1, cutoff=0.5)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ", neither slug nor arXiv id nor title"
        raise UnknownPaper(f"no paper is called {key!r}{hint}")

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with write(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                # SQLite has taken its write lock by now. Here two imports at once would both find a paper
                # missing, and the slower one would fail on the unique ids of the other.
                connection.execute(sa.text("LOCK TABLE papers IN SHARE ROW EXCLUSIVE MODE"))
            yield connection


def _load(connection: sa.Connection, entries: Sequence[CatalogueEntry]) -> int:
    """Make the records agree with the catalogue; returns how many did not."""
    slugs = {entry.slug for entry in entries}
    count = 0
    for entry in entries:
        key = title_key(entry.title)
        known = dataclasses.asdict(entry)
        del known["arxiv_id"]
        paper_id = _same_paper(connection, entry.arxiv_id, key, slug=entry.slug, taken=slugs - {entry.slug})
        differs = paper_id is None
        if paper_id is None:
            paper_id = _insert(connection, known)
        else:
            differs = _update(connection, paper_id, known)
        for kind, value in (("arxiv", entry.arxiv_id), (_TITLE, key)):
            holder = _holder(connection, kind, value)
            if holder not in (None, paper_id):  # the catalogue knows better whose id this is
                connection.execute(
                    sa.delete(paper_ids).where(paper_ids.c.kind == kind, paper_ids.c.value == value)
                )
                holder = None
            if holder is None:
                connection.execute(sa.insert(paper_ids).values(kind=kind, value=value, paper_id=paper_id))
                differs = True
        _record(connection, paper_id, _CATALOGUE, dataclasses.asdict(entry), None)
        count += differs
    return count


def _tell(connection: sa.Connection, entry: PageEntry, source: str) -> tuple[Mapping[str, Any], bool, bool]:
    """Take in what a page says of a paper: its row, whether a page told of it before, whether it changed."""
    key = title_key(entry.title)
    paper_id = _same_paper(connection, entry.arxiv_id, key)
    if paper_id is None:
        paper_id = _insert(connection, {"title": entry.title})
    earlier = connection.execute(
        sa.select(provenances.c.digest, provenances.c.listed).where(
            provenances.c.paper_id == paper_id, provenances.c.source != _CATALOGUE
        )
    ).all()
    row = _row(connection, paper_id)
    differs = False
    said = dataclasses.asdict(entry)
    # What a page has said once does not count again: an old page read anew takes nothing from a later one.
    if _digest(said) not in {told.digest for told in earlier}:
        ids = {"arxiv": entry.arxiv_id, _TITLE: key}
        for kind, value in ids.items():
            if value is not None and _holder(connection, kind, value) is None:
                connection.execute(sa.insert(paper_ids).values(kind=kind, value=value, paper_id=paper_id))
                differs = True
        listed = row["listed"]
        late = entry.listed is None or listed is None or entry.listed >= listed
        heard = {
            "title": entry.title,
            "submitted": entry.submitted,
            "authors": entry.authors,
            "organisation": entry.organisation,
            "comments": entry.comments,
        }
        if row["abstract_source"] in (None, "page"):
            heard["abstract"] = entry.abstract
        held = ("title", "submitted", "authors") if row["slug"] is not None else ()
        known = {
            name: value
            for name, value in heard.items()
            if value is not None and (row[name] is None or (late and name not in held))
        }
        if "abstract" in known:
            known["abstract_source"] = "page"
        if late and entry.listed is not None:
            known["listed"] = entry.listed
        differs |= _update(connection, paper_id, known)
    _record(connection, paper_id, source, said, entry.listed)
    return row, bool(earlier), differs


def _same_paper(
    connection: sa.Connection,
    arxiv: str | None,
    title: str,
    *,
    slug: str | None = None,
    taken: frozenset[str] | set[str] = frozenset(),
) -> int | None:
    """The record of a paper with that slug, arXiv id or title, in this order; those found beside it join it.

    A title is no sign between papers that have different arXiv ids, and records whose slug is in `taken` are
    other papers for certain.
    """
    candidates = [_holder(connection, "arxiv", arxiv)] if arxiv is not None else []
    by_title = _holder(connection, _TITLE, title)
    if by_title is not None:
        theirs = {value for kind, value in _ids(connection, by_title) if kind == "arxiv"}
        if arxiv is None or not theirs or arxiv in theirs:
            candidates.append(by_title)
    if slug is not None:
        candidates.insert(0, connection.scalar(sa.select(papers.c.id).where(papers.c.slug == slug)))
    same = [
        candidate
        for candidate in dict.fromkeys(candidates)
        if candidate is not None and _row(connection, candidate)["slug"] not in taken
    ]
    for other in same[1:]:
        _join(connection, same[0], other)
    return same[0] if same else None


def _join(connection: sa.Connection, keep: int, other: int) -> None:
    """Turn two records that proved to be one paper into one."""
    kept, gone = _row(connection, keep), _row(connection, other)
    connection.execute(sa.update(paper_ids).where(paper_ids.c.paper_id == other).values(paper_id=keep))
    told = {
        (row.source, row.digest)
        for row in connection.execute(sa.select(provenances).where(provenances.c.paper_id == keep))
    }
    for row in connection.execute(sa.select(provenances).where(provenances.c.paper_id == other)).all():
        this = provenances.c.id == row.id
        if (row.source, row.digest) in told:
            connection.execute(sa.delete(provenances).where(this))
        else:
            connection.execute(sa.update(provenances).where(this).values(paper_id=keep))
    connection.execute(sa.delete(papers).where(papers.c.id == other))
    _update(connection, keep, {name: value for name, value in gone.items() if kept[name] is None})


def _insert(connection: sa.Connection, known: Mapping[str, Any]) -> int:
    key = connection.execute(sa.insert(papers).values(**known)).inserted_primary_key
    assert key is not None
    return int(key[0])


def _update(connection: sa.Connection, paper_id: int, known: Mapping[str, Any]) -> bool:
    """Set what differs, and tell whether anything did."""
    row = _row(connection, paper_id)
    differing = {name: value for name, value in known.items() if row[name] != value}
    if differing:
        connection.execute(sa.update(papers).where(papers.c.id == paper_id).values(**differing))
    return bool(differing)


def _record(
    connection: sa.Connection, paper_id: int, source: str, said: Mapping[str, Any], listed: date | None
) -> None:
    """Keep a source's words, once."""
    digest = _digest(said)
    same = sa.and_(
        provenances.c.paper_id == paper_id, provenances.c.source == source, provenances.c.digest == digest
    )
    if connection.scalar(sa.select(provenances.c.id).where(same)) is None:
        connection.execute(
            sa.insert(provenances).values(
                paper_id=paper_id,
                source=source,
                listed=listed,
                said=_canonical(said),
                digest=digest,
                seen_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )


def _canonical(said: Mapping[str, Any]) -> str:
    told = {name: value for name, value in said.items() if value is not None}
    return json.dumps(told, ensure_ascii=False, sort_keys=True, default=date.isoformat)


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(said).encode()).hexdigest()


def _holder(connection: sa.Connection, kind: str, value: str) -> int | None:
    return connection.scalar(
        sa.select(paper_ids.c.paper_id).where(paper_ids.c.kind == kind, paper_ids.c.value == value)
    )


def _ids(connection: sa.Connection, paper_id: int) -> Sequence[tuple[str, str]]:
    rows = connection.execute(
        sa.select(paper_ids.c.kind, paper_ids.c.value).where(paper_ids.c.paper_id == paper_id)
    )
    return [(row.kind, row.value) for row in rows]


def _row(connection: sa.Connection, paper_id: int) -> Mapping[str, Any]:
    row = connection.execute(sa.select(papers).where(papers.c.id == paper_id)).mappings().one()
    return dict(row)


def _paper(row: Mapping[str, Any], ids: Sequence[tuple[str, str]]) -> Paper:
    outside = tuple(sorted((kind, value) for kind, value in ids if kind != _TITLE))
    known = {name: value for name, value in row.items() if name != "abstract_source"}
    first = next((value for kind, value in outside if kind == "arxiv"), None)
    return Paper(**known, arxiv_id=first, outside_ids=outside)
