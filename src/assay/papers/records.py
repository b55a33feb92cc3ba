"""The records of papers in the database: one for each paper, whatever it was called by whoever told of it.

A record has an id of its own and any number of outside ids (`paper_ids`: arXiv, DOI, URL; the letters of its
titles are kept there too, since a text page names its papers by nothing else). Every source's words stay in
`provenances`; `papers` holds what is taken from them:

- the catalogue's title, day of submission, number of authors, field and sentence go before all others';
- what arXiv says of title, abstract, authors, day of submission, categories, remark and journal goes before
  a page's;
- among pages, the one with the latest listing day goes before, and gaps are filled from any;
- a bibliography fills gaps only;
- nothing known is ever replaced by nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal

import sqlalchemy as sa

from assay.database import among, write
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
    sa.Column("author_names", sa.Text),
    sa.Column("categories", sa.Text),
    sa.Column("keywords", sa.Text),
    sa.Column("remark", sa.Text),
    sa.Column("journal", sa.Text),
    sa.Column("project_page", sa.Text),
    sa.Column("repository", sa.Text),
    sa.Column("stars", sa.Integer),
    sa.Column("votes_elsewhere", sa.Integer),
    sa.Column("submitter", sa.Text),
    sa.Column("day", sa.Date),
    sa.Column("added_at", sa.Text),
    sa.UniqueConstraint("slug", name="one_paper_a_slug"),
    sa.Index("papers_by_day", "day", "id"),
    sa.Index("papers_by_field", "field", "day", "id"),
    sa.Index("papers_by_organisation", "organisation", "day", "id"),
    sa.Index("papers_by_submitter", "submitter", "day", "id"),
)
paper_keywords = sa.Table(  # what stands in the keywords and categories of papers; triggers keep it so
    "paper_keywords",
    metadata,
    sa.Column("keyword", sa.Text, primary_key=True),
    sa.Column("paper_id", sa.Integer, primary_key=True),
    sa.Index("keywords_by_paper", "paper_id"),
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
    sa.Index("told_on", "listed", "paper_id"),
)

Origin = Literal["arxiv", "page", "bibliography"]
"""Whose words go before whose."""

_CATALOGUE = "catalogue"
_TITLE = "title"  # the kind of id that is no outside id
_AT_ONCE = 500  # rows of one statement; SQLite has a limit on its parameters

_NO_TEXT = re.compile(r"(?<!\\)(?:\\\\)*\\u0000|[\ud800-\udfff]")
"""In JSON: a NUL, or half of a surrogate pair. No database takes them as text."""

_LISTS = ("author_names", "categories", "keywords")  # kept as JSON
_ARXIV_KNOWS = frozenset(
    ("title", "abstract", "submitted", "authors", "author_names", "categories", "remark", "journal")
)
_HEARD = (
    *sorted(_ARXIV_KNOWS),
    *("organisation", "comments", "keywords", "project_page", "repository", "stars", "submitter"),
)
_NOTHING: Mapping[str, Any] = {column.name: None for column in papers.columns}

# Built once: what every list asks takes about as long to build as to run.
_BY_ID = sa.select(papers).where(among(papers.c.id))
_IDS_OF = sa.select(paper_ids).where(among(paper_ids.c.paper_id), paper_ids.c.kind != _TITLE)


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
    author_names: tuple[str, ...]
    categories: tuple[str, ...]
    """The categories of arXiv, the primary one first."""
    keywords: tuple[str, ...]
    remark: str | None
    """The authors' remark on arXiv ("12 pages, accepted at …")."""
    journal: str | None
    project_page: str | None
    repository: str | None
    stars: int | None
    """Stars of the repository, as the source read them."""
    votes_elsewhere: int | None
    """Votes on the page that listed it."""
    submitter: str | None
    """Who put it on that page."""
    day: date | None
    """The day that lists go by: when it was listed, else submitted."""
    added_at: str | None
    """When the record was made, ISO date and time in UTC."""
    outside_ids: tuple[tuple[str, str], ...]
    """Kind (arxiv, doi, url) and value of every outside id."""

    @property
    def byline(self) -> str:
        """The first three authors and how many more; without names, how many; empty where nobody has told."""
        names, count = self.author_names[:3], self.authors or len(self.author_names)
        if not names:
            return f"{count} author{'s' * (count > 1)}" if count else ""
        return ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")

    def as_json(self) -> dict[str, Any]:
        """The paper as an object of JSON: days in ISO form, outside ids as lists by kind."""
        known = dataclasses.asdict(self)
        known["submitted"] = self.submitted and self.submitted.isoformat()
        known["listed"] = self.listed and self.listed.isoformat()
        known["day"] = self.day and self.day.isoformat()
        ids: dict[str, list[str]] = {}
        for kind, value in self.outside_ids:
            ids.setdefault(kind, []).append(value)
        return known | {"outside_ids": ids}


@dataclass(frozen=True)
class Told(PageEntry):
    """What a source tells of a paper: what a page would, and what only arXiv or a bibliography knows."""

    doi: str | None = None
    url: str | None = None
    categories: tuple[str, ...] = ()
    remark: str | None = None
    journal: str | None = None


@dataclass(frozen=True)
class ImportReport:
    """What an import did: new + changed + unchanged are the papers that could be read."""

    new: int = 0
    """Papers that no source but the catalogue had told of before."""
    changed: int = 0
    """Papers told of before of which more, or something else, is known now."""
    unchanged: int = 0
    tied: int = 0
    """Papers that are tied to an entry of the catalogue."""
    unreadable: tuple[tuple[int, str], ...] = ()
    """Number of the line, or of the entry where there are no lines, and what was wrong there."""

    def __add__(self, other: ImportReport) -> ImportReport:
        return ImportReport(
            self.new + other.new,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
            self.tied + other.tied,
            self.unreadable + other.unreadable,
        )


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

    def import_page(
        self, page: SavedPage, source_name: str, *, progress: Callable[[int], object] = lambda done: None
    ) -> ImportReport:
        """Record the papers of a page that was read from `source_name`, each tied to its catalogue entry.

        The catalogue is loaded first. Importing the same page again changes nothing.
        """
        self.load_catalogue()
        report = self.take(page.entries, source_name, progress=progress)
        return report + ImportReport(unreadable=page.unreadable)

    def take(
        self,
        entries: Sequence[PageEntry],
        source: str,
        origin: Origin = "page",
        *,
        live: bool = False,
        progress: Callable[[int], object] = lambda done: None,
    ) -> ImportReport:
        """Record what `source` tells; `progress` hears how many of the entries are done.

        A file that is read anew says nothing new, and takes nothing from what was said after it. A `live`
        source says how things stand now, even in words that it has used before.

        What is done is committed in batches, so that others can write in between; after an interruption the
        same call goes on, since it changes nothing where it has been.
        """
        report = ImportReport()
        for start in range(0, len(entries), _AT_ONCE):
            with self._writing() as connection:
                batch = _Batch(connection, entries[start : start + _AT_ONCE], source, origin, live)
                report += batch.take(start)
            progress(min(start + _AT_ONCE, len(entries)))
        return report

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
            # Comparing with all of a hundred thousand papers would take minutes: those that begin alike.
            known += connection.scalars(_beginning(paper_ids.c.value, "arxiv", key[:5]))
            titles = [*connection.scalars(_beginning(papers.c.title, _TITLE, title_key(key)[:4]))]
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


def read(connection: sa.Connection, ids: Sequence[int]) -> list[Paper]:
    """The papers with these ids, in this order; ids that no paper has are left out."""
    known = connection.execute(_BY_ID, {"ids": ids}).all()
    rows = {row.id: dict(zip(_NOTHING, row, strict=True)) for row in known}
    outside: dict[int, list[tuple[str, str]]] = {}
    for kind, value, paper_id in connection.execute(_IDS_OF, {"ids": ids}).all():
        outside.setdefault(paper_id, []).append((kind, value))
    return [_paper(rows[paper_id], outside.get(paper_id, [])) for paper_id in ids if paper_id in rows]


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
        _record(connection, paper_id, _CATALOGUE, _canonical(dataclasses.asdict(entry)), None)
        count += differs
    return count


class _Batch:
    """Some entries of one source, taken in with few statements: most papers of a large import are new."""

    def __init__(
        self,
        connection: sa.Connection,
        entries: Sequence[PageEntry],
        source: str,
        origin: Origin,
        live: bool,
    ) -> None:
        self.connection = connection
        self.entries = entries
        self.source, self.origin, self.live = source, origin, live

    def take(self, before: int) -> ImportReport:
        """Record the entries; `before` of the source's entries came before these."""
        unreadable = []
        readable: list[tuple[PageEntry, str]] = []
        for number, entry in enumerate(self.entries, start=before + 1):
            said = _canonical(vars(entry))
            if _NO_TEXT.search(said):
                unreadable.append((number, "it has characters that are none (NUL or half a surrogate pair)"))
            else:
                readable.append((entry, said))
        held = _holders(self.connection, [key for entry, _ in readable for key in _keys(entry)])
        fresh: list[tuple[PageEntry, str]] = []
        others: list[tuple[PageEntry, str]] = []
        claimed: set[tuple[str, str]] = set()
        for entry, said in readable:
            keys = [key for key in _keys(entry) if key[0] != "url"]
            if claimed.isdisjoint(keys) and not any(key in held for key in keys):
                fresh.append((entry, said))
            else:
                others.append((entry, said))
            claimed.update(keys)
        self._add(fresh, held)
        repeated = set() if self.live else self._repeated(held)
        new, changed, tied = len(fresh), 0, 0
        for entry, said in others:
            paper_id = held.get(_keys(entry)[0])
            if (paper_id, _digest(said)) in repeated:
                slug = self.connection.scalar(sa.select(papers.c.slug).where(papers.c.id == paper_id))
                told_before, differs = True, False
            else:
                slug, told_before, differs = self._tell(entry, said)
            new += not told_before
            changed += told_before and differs
            tied += slug is not None
        return ImportReport(new, changed, len(readable) - new - changed, tied, tuple(unreadable))

    def _add(self, told: Sequence[tuple[PageEntry, str]], held: Mapping[tuple[str, str], int]) -> None:
        """Make a record of each of these papers, which nobody has told of before."""
        if not told:
            return
        rows = [_new_row(_heard(_NOTHING, entry, self.origin)) for entry, _ in told]
        made = sa.insert(papers).returning(papers.c.id, sort_by_parameter_order=True)
        ids = self.connection.scalars(made, rows).all()
        taken = {key: paper_id for key, paper_id in held.items() if key[0] == "url"}
        for (entry, _), paper_id in zip(told, ids, strict=True):
            for key in _keys(entry):
                taken.setdefault(key, paper_id)
        theirs = set(ids)
        self.connection.execute(
            sa.insert(paper_ids),
            [
                {"kind": kind, "value": value, "paper_id": paper_id}
                for (kind, value), paper_id in taken.items()
                if paper_id in theirs
            ],
        )
        self.connection.execute(
            sa.insert(provenances),
            [
                _provenance(paper_id, self.source, said, entry.listed)
                for (entry, said), paper_id in zip(told, ids, strict=True)
            ],
        )

    def _repeated(self, held: Mapping[tuple[str, str], int]) -> set[tuple[int, str]]:
        """Paper and digest of all that this source has said before of the papers of this batch."""
        told = sa.select(provenances.c.paper_id, provenances.c.digest)
        ids = list(set(held.values()))
        repeated: set[tuple[int, str]] = set()
        for start in range(0, len(ids), _AT_ONCE):
            these = provenances.c.paper_id.in_(ids[start : start + _AT_ONCE])
            rows = self.connection.execute(told.where(these, provenances.c.source == self.source))
            repeated.update((paper_id, digest) for paper_id, digest in rows)
        return repeated

    def _tell(self, entry: PageEntry, said: str) -> tuple[str | None, bool, bool]:
        """Take in one entry: its paper's slug, whether it was told of before, whether it changed."""
        connection = self.connection
        keys = dict(_keys(entry))
        paper_id = _same_paper(connection, keys.get("arxiv"), keys[_TITLE], doi=keys.get("doi"))
        if paper_id is None:
            paper_id = _insert(connection, {"title": entry.title})
        earlier = connection.scalars(
            sa.select(provenances.c.digest).where(
                provenances.c.paper_id == paper_id, provenances.c.source != _CATALOGUE
            )
        ).all()
        row = _row(connection, paper_id)
        differs = False
        if self.live or _digest(said) not in earlier:
            for kind, value in keys.items():
                if _holder(connection, kind, value) is None:
                    connection.execute(sa.insert(paper_ids).values(kind=kind, value=value, paper_id=paper_id))
                    differs = True
            differs |= _update(connection, paper_id, _heard(row, entry, self.origin))
        _record(connection, paper_id, self.source, said, entry.listed)
        return row["slug"], bool(earlier), differs


def _keys(entry: PageEntry) -> list[tuple[str, str]]:
    """Every id of the paper, kind and value, the surest first."""
    outside = [("arxiv", entry.arxiv_id)]
    if isinstance(entry, Told):
        outside += [("doi", entry.doi and entry.doi.lower()), ("url", entry.url)]
    known = [(kind, value) for kind, value in outside if value]
    return [*known[:1], (_TITLE, title_key(entry.title)), *known[1:]]


def _heard(row: Mapping[str, Any], entry: PageEntry, origin: Origin) -> dict[str, Any]:
    """The columns that change when `origin` says this of the paper of that row."""
    late = entry.listed is None or row["listed"] is None or entry.listed >= row["listed"]
    goes_before = {"arxiv": True, "page": late, "bibliography": False}[origin]
    held: set[str] = set()
    if row["slug"] is not None:
        held |= {"title", "submitted", "authors"}
    if row["abstract_source"] == "arxiv" and origin != "arxiv":
        held |= _ARXIV_KNOWS
    said = vars(entry)
    told = {name: said.get(name) for name in _HEARD} | {"votes_elsewhere": entry.upvotes}
    known = {
        name: json.dumps(value, ensure_ascii=False) if name in _LISTS else value
        for name, value in told.items()
        if value not in (None, ()) and (row[name] is None or (goes_before and name not in held))
    }
    if "abstract" in known:
        known["abstract_source"] = origin
    if late and entry.listed is not None:
        known["listed"] = entry.listed
    return known


def _same_paper(
    connection: sa.Connection,
    arxiv: str | None,
    title: str,
    *,
    doi: str | None = None,
    slug: str | None = None,
    taken: frozenset[str] | set[str] = frozenset(),
) -> int | None:
    """The record of a paper with that slug, arXiv id, DOI or title, in this order; others like it join it.

    DOI and title are no sign between papers that have different arXiv ids, and records whose slug is in
    `taken` are other papers for certain.
    """
    candidates = [_holder(connection, "arxiv", arxiv)] if arxiv is not None else []
    for kind, value in (("doi", doi), (_TITLE, title)):
        found = _holder(connection, kind, value) if value is not None else None
        if found is not None:
            theirs = {value for kind, value in _ids(connection, found) if kind == "arxiv"}
            if arxiv is None or not theirs or arxiv in theirs:
                candidates.append(found)
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
    """Turn two records that proved to be one paper into one, with all that any table says of either."""
    kept, gone = _row(connection, keep), _row(connection, other)
    inspector = sa.inspect(connection)
    about = [
        name
        for name in inspector.get_table_names()
        if any(key["referred_table"] == papers.name for key in inspector.get_foreign_keys(name))
    ]
    described = sa.MetaData()
    described.reflect(connection, only=about)
    for table in (described.tables[name] for name in about):
        for column in table.columns:
            if not any(key.target_fullname == f"{papers.name}.id" for key in column.foreign_keys):
                continue
            for unique in table.constraints:
                if isinstance(unique, sa.PrimaryKeyConstraint | sa.UniqueConstraint) and column in list(
                    unique.columns
                ):
                    # What both have once, such as one person's vote, the joint record has once.
                    twin = table.alias()
                    both = [twin.c[column.name] == keep]
                    both += [twin.c[part.name] == part for part in unique.columns if part is not column]
                    connection.execute(
                        sa.delete(table).where(column == other, sa.exists().select_from(twin).where(*both))
                    )
            connection.execute(sa.update(table).where(column == other).values({column: keep}))
    connection.execute(sa.delete(papers).where(papers.c.id == other))
    _update(connection, keep, {name: value for name, value in gone.items() if kept[name] is None})


def _new_row(known: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: value for name, value in _NOTHING.items() if name != "id"} | dict(known)
    return made | {"added_at": _now(), "day": made["listed"] or made["submitted"]}


def _insert(connection: sa.Connection, known: Mapping[str, Any]) -> int:
    key = connection.execute(sa.insert(papers).values(**_new_row(known))).inserted_primary_key
    assert key is not None
    return int(key[0])


def _update(connection: sa.Connection, paper_id: int, known: Mapping[str, Any]) -> bool:
    """Set what differs, and tell whether anything did."""
    row = _row(connection, paper_id)
    listed, submitted = ({**row, **known}[name] for name in ("listed", "submitted"))
    known = {**known, "day": listed or submitted}
    differing = {name: value for name, value in known.items() if row[name] != value}
    if differing:
        connection.execute(sa.update(papers).where(papers.c.id == paper_id).values(**differing))
    return bool(differing)


def _record(connection: sa.Connection, paper_id: int, source: str, said: str, listed: date | None) -> None:
    """Keep a source's words, once."""
    row = _provenance(paper_id, source, said, listed)
    same = [provenances.c[name] == row[name] for name in ("paper_id", "source", "digest")]
    if connection.scalar(sa.select(provenances.c.id).where(*same)) is None:
        connection.execute(sa.insert(provenances).values(**row))


def _provenance(paper_id: int, source: str, said: str, listed: date | None) -> dict[str, Any]:
    return {
        "paper_id": paper_id,
        "source": source,
        "listed": listed,
        "said": said,
        "digest": _digest(said),
        "seen_at": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _canonical(said: Mapping[str, Any]) -> str:
    told = {name: value for name, value in said.items() if value not in (None, ())}
    return json.dumps(told, ensure_ascii=False, sort_keys=True, default=date.isoformat)


def _digest(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()


def _holder(connection: sa.Connection, kind: str, value: str) -> int | None:
    return connection.scalar(
        sa.select(paper_ids.c.paper_id).where(paper_ids.c.kind == kind, paper_ids.c.value == value)
    )


def _holders(connection: sa.Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Which paper has which of these ids."""
    values: dict[str, list[str]] = {}
    for kind, value in dict.fromkeys(keys):
        values.setdefault(kind, []).append(value)
    found = {}
    for kind, those in values.items():
        held = sa.select(paper_ids).where(paper_ids.c.kind == kind, paper_ids.c.value.in_(those))
        for row in connection.execute(held):
            found[row.kind, row.value] = row.paper_id
    return found


def _beginning(column: sa.ColumnElement[str], kind: str, start: str) -> sa.Select[str]:
    """That column of some papers whose id of that kind begins so."""
    alike = sa.and_(paper_ids.c.kind == kind, paper_ids.c.value.startswith(start, autoescape=True))
    joined = paper_ids.join(papers, papers.c.id == paper_ids.c.paper_id)
    return sa.select(column).select_from(joined).where(alike).limit(_AT_ONCE)


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
    known = {**row}
    del known["abstract_source"]
    for name in _LISTS:
        known[name] = tuple(json.loads(known[name])) if known[name] else ()
    first = next((value for kind, value in outside if kind == "arxiv"), None)
    return Paper(**known, arxiv_id=first, outside_ids=outside)
