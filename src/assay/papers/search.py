"""Search by meaning: words and vectors, fused.

A search ranks the papers three times: by its words (BM25 in SQLite's FTS5, `ts_rank` in PostgreSQL), by the
product of its vector with every paper's, and by names, where all its words are names of a paper's authors.
The rankings are fused by reciprocal rank; where two words or more name an author, the papers found by name go
first. A phrase in quotation marks has to be in the paper as it stands.

Triggers on `papers` mark every paper whose text changes, whoever changes it; `Search.refresh` takes the
marked ones into the index. The vectors lie in the database with one byte a number, and each process holds
them in memory: 100,000 papers are 26 MB and take 2 ms a search.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from numba import njit

from assay.database import among, write
from assay.papers.embedding import Vectors, embedding
from assay.papers.records import metadata, papers

marks = sa.Table(
    "search_marks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("paper_id", sa.Integer, nullable=False),
    # A mark that is taken off while another process reads must not lend its id to a new one.
    sqlite_autoincrement=True,
)
vectors = sa.Table(
    "search_vectors",
    metadata,
    sa.Column("paper_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Index("vectors_by_version", "model", "version"),
)

Quantised = npt.NDArray[np.int8]

_NEWEST = sa.select(sa.func.max(vectors.c.version)).where(vectors.c.model == sa.bindparam("model"))

BATCH = 500
"""How many papers are taken into the index at once."""

COMMON = 500
"""A word in more papers than these tells little, and ranking them all would take a tenth of a second."""

FUSION = 60
"""A paper at place r of a ranking gets 1 / (FUSION + r) (Cormack, Clarke and Buettcher, 2009)."""

NEAR = 1.0
"""By how many standard deviations a paper is nearer to what is searched for than the mean paper, to fit.
Of the labelled papers in tests/papers/retrieval.toml, with their abstracts, 88 % are, of all others 12 %."""

_NAME = "zzby"
"""Put before a name to make it a word of its own, which is in few papers even where the name is a word."""

_FUNCTION_WORDS = frozenset(
    """
    a about all also an and any are as at be been but by can could do does each every few for from get had
    has have how i if in instead into is it its just like make many may might more most much must my no
    not of on only or other our over should so some such than that the their them then there these they
    this those to too under until upon us use used using very was we were what when where which while who
    whose why will with without would you your
    """.split()  # noqa: SIM905
)


class Search:
    """The search index over the records in the database that `engine` opens.

    It finds what `refresh` has taken in; `keep_fresh` does that again and again.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._words = _Words(postgresql=engine.dialect.name == "postgresql")
        self._vectors = _held(engine)

    def rank(
        self, words: str, *, where: sa.ColumnElement[bool] | None = None, limit: int = 500
    ) -> Sequence[int]:
        """The ids of the papers that fit the words, best first; `where` is a condition on `records.papers`.

        Empty where there are no words. A paper may be among them whose record is gone: `records.read` leaves
        it out, and to ask of all that are found whether they are there takes as long as to find them.
        """
        phrases, terms = _read(words)
        if not terms:
            return []
        query = _quantised(embedding().query(words.replace('"', " "))[None])[0]
        with self._engine.connect() as connection:
            nearest = self._vectors.refreshed(connection).fitting(query)
            conditions = [] if where is None else [where]
            if phrases:
                conditions.append(self._words.holds(phrases))
            ranked = self._words.rank(connection, terms, phrases, where, limit)
            named = self._words.rank_by_names(connection, terms, phrases, where, limit)
            near = _those(connection, nearest, conditions, limit) if conditions else nearest.first(limit)
            fused = _fuse([ranked, near, named])
        # Two names are hardly anything but an author, while Adam and Newton are methods as well.
        first = named if len(terms) > 1 else []
        return list(dict.fromkeys([*first, *fused]))[:limit]

    def similar(self, paper_id: int, *, limit: int = 5) -> Sequence[int]:
        """The ids of the papers nearest in meaning to this one, the nearest first."""
        with self._engine.connect() as connection:
            held = self._vectors.refreshed(connection)
            own = held.of(paper_id)
            if own is None:
                return []
            return _those(connection, held.ranking(own), [papers.c.id != paper_id], limit)

    def refresh(self, progress: Callable[[int], object] | None = None) -> int:
        """Index what is new or has changed since; returns how many papers that were.

        `progress` is called with how many are done so far.
        """
        count = 0
        while done := self._take_in():
            count += done
            if progress:
                progress(count)
        return count

    def waiting(self) -> int:
        """How many papers `refresh` would take in."""
        with self._engine.connect() as connection:
            marked = sa.select(sa.func.count(marks.c.paper_id.distinct()))
            return connection.scalar(marked) or len(self._of_another_model(connection, None))

    def keep_fresh(self, stopping: threading.Event, seconds: float = 2.0) -> None:
        """Refresh until `stopping` is set; for a thread of its own."""
        self.rank("papers")  # loads the model and the vectors: better here than in somebody's first search
        while not stopping.is_set():
            done = 0
            with contextlib.suppress(sa.exc.OperationalError):  # a database busy for so long is asked again
                done = self._take_in()
            if not done:
                stopping.wait(seconds)

    def _take_in(self) -> int:
        """Index the papers with the oldest marks, or those whose vectors are of another model."""
        with self._engine.connect() as connection:
            read = connection.execute(sa.select(marks).order_by(marks.c.id).limit(BATCH)).all()
            ids = {mark.paper_id for mark in read} or self._of_another_model(connection, BATCH)
            rows = connection.execute(sa.select(papers).where(papers.c.id.in_(ids))).mappings().all()
        if not ids:
            return 0
        texts = [_text(row) for row in rows]
        # Outside of the transaction: a large model takes seconds, and nobody else could write meanwhile.
        documents = [f"{title}. {text}" for title, _, text in texts]
        made = _quantised(embedding().papers(documents)) if rows else np.empty((0, 0), np.int8)
        with write(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                # A reader asks for what is newer than the version it holds, so they have to come in order.
                connection.execute(sa.text("LOCK TABLE search_vectors IN SHARE ROW EXCLUSIVE MODE"))
            of_model = sa.select(sa.func.max(vectors.c.version)).where(vectors.c.model == embedding().name)
            # Ever higher, even if the latest were deleted.
            version = max((connection.scalar(of_model) or 0) + 1, time.time_ns())
            connection.execute(sa.delete(vectors).where(vectors.c.paper_id.in_(ids)))
            self._words.forget(connection, ids)
            if rows:
                self._words.add(
                    connection, [(row["id"], *text) for row, text in zip(rows, texts, strict=True)]
                )
                new = [
                    {
                        "paper_id": row["id"],
                        "model": embedding().name,
                        "version": version,
                        "vector": vector.tobytes(),
                    }
                    for row, vector in zip(rows, made, strict=True)
                ]
                connection.execute(sa.insert(vectors), new)
            # Only the marks that were read: a paper that changed since has a newer one.
            connection.execute(sa.delete(marks).where(marks.c.id.in_([mark.id for mark in read])))
        return len(ids)

    def _of_another_model(self, connection: sa.Connection, limit: int | None) -> set[int]:
        other = sa.select(vectors.c.paper_id).where(vectors.c.model != embedding().name).limit(limit)
        return set(connection.scalars(other))


def _text(row: sa.RowMapping) -> tuple[str, str, str]:
    """A paper's title, the names of its authors, and all else that it is found by."""
    keywords = ", ".join(json.loads(row["keywords"] or "[]"))
    rest = (row["sentence"], row["abstract"], keywords, row["organisation"])
    names = _folded(" ".join(json.loads(row["author_names"] or "[]")))
    marked = " ".join(_NAME + name for name in re.findall(r"\w+", names.casefold()))
    return _folded(row["title"]), f"{names} {marked}", _folded(" ".join(filter(None, rest)))


def _folded(text: str) -> str:
    """The text with compatibility forms and accents taken off: "Erdős" is found as "Erdos"."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(character for character in decomposed if not unicodedata.combining(character))


def _read(words: str) -> tuple[list[list[str]], list[str]]:
    """The phrases in quotation marks, and the words to rank by: no function words if there are others."""
    text = _folded(words).casefold()
    phrases = [found for quoted in re.findall(r'"([^"]*)"', text) if (found := re.findall(r"\w+", quoted))]
    every = list(dict.fromkeys(re.findall(r"\w+", text)))
    return phrases, [word for word in every if word not in _FUNCTION_WORDS] or every


def _fuse(rankings: Iterable[Sequence[int]]) -> list[int]:
    scores: dict[int, float] = {}
    for ranking in rankings:
        for place, paper_id in enumerate(ranking, 1):
            scores[paper_id] = scores.get(paper_id, 0.0) + 1 / (FUSION + place)
    return sorted(sorted(scores, reverse=True), key=scores.__getitem__, reverse=True)  # of equals, the newest


def _those(
    connection: sa.Connection, ranking: _Ranking, conditions: Iterable[sa.ColumnElement[bool]], limit: int
) -> list[int]:
    """The nearest of the papers that the conditions hold for."""
    known = sa.select(papers.c.id).where(*conditions)
    every = len(ranking.ids)
    for first in (limit, 8 * limit):
        some = ranking.first(first)
        kept = set(connection.scalars(known.where(among(papers.c.id, some))).all())
        if len(kept) >= limit or len(some) == every:
            break
    else:  # the conditions hold for few papers, so to read them all is little
        some = ranking.first(every)
        kept = set(connection.scalars(known))
    return [paper_id for paper_id in some if paper_id in kept][:limit]


# -- words --------------------------------------------------------------------------------------------------


class _Words:
    """The table `search_words`, which SQLite and PostgreSQL have each in its own way."""

    def __init__(self, *, postgresql: bool) -> None:
        self._postgresql = postgresql
        self._id = sa.column("paper_id" if postgresql else "rowid", sa.Integer)
        self._table = sa.table("search_words", self._id)
        self._or, self._and = (" | ", " & ") if postgresql else (" OR ", " AND ")
        self._common: set[str] = set()
        # Built once: to build them takes longer than to run some of them.
        matching = sa.select(self._id).select_from(self._table).where(self._matches(sa.bindparam("query")))
        self._counting = sa.select(sa.func.count()).select_from(matching.limit(COMMON + 1).subquery())
        self._ranking = {newest: self._ranked(None, newest=newest) for newest in (False, True)}

    def rank(
        self,
        connection: sa.Connection,
        terms: Sequence[str],
        phrases: Sequence[Sequence[str]],
        where: sa.ColumnElement[bool] | None,
        limit: int,
    ) -> Sequence[int]:
        """The papers with the phrases and with rare ones among the words, the best first.

        Where all the words are common, the newest papers with all of them, the best of those first.
        """
        written = [self._written([term]) for term in terms]
        rare = [term for term in written if not self._is_common(connection, term)]
        asked = f"({self._or.join(rare)})" if rare else self._and.join(written)
        query = self._and.join([*map(self._written, phrases), asked])
        return self._first(connection, query, where, limit, newest=not rare)

    def rank_by_names(
        self,
        connection: sa.Connection,
        terms: Sequence[str],
        phrases: Sequence[Sequence[str]],
        where: sa.ColumnElement[bool] | None,
        limit: int,
    ) -> Sequence[int]:
        """The papers with the phrases among whose authors' names all the words are."""
        named = [self._written([_NAME + term]) for term in terms]
        query = self._and.join([*map(self._written, phrases), *named])
        return self._first(connection, query, where, limit, newest=True)

    def holds(self, phrases: Sequence[Sequence[str]]) -> sa.ColumnElement[bool]:
        """That a paper has the phrases, as a condition on `papers`."""
        query = sa.literal(self._and.join(map(self._written, phrases)))
        return papers.c.id.in_(sa.select(self._id).select_from(self._table).where(self._matches(query)))

    def add(self, connection: sa.Connection, rows: Sequence[tuple[int, str, str, str]]) -> None:
        given = [dict(zip(("id", "title", "names", "text"), row, strict=True)) for row in rows]
        if self._postgresql:
            words = " || ".join(
                f"setweight(to_tsvector('english', :{part}), '{weight}')"
                for part, weight in (("title", "A"), ("names", "B"), ("text", "D"))
            )
            statement = f"INSERT INTO search_words (paper_id, words) VALUES (:id, {words})"
        else:
            statement = (
                "INSERT INTO search_words (rowid, title, names, text) VALUES (:id, :title, :names, :text)"
            )
        connection.execute(sa.text(statement), given)

    def forget(self, connection: sa.Connection, ids: Iterable[int]) -> None:
        connection.execute(sa.delete(self._table).where(self._id.in_(ids)))

    def _written(self, phrase: Sequence[str]) -> str:
        """Words that have to follow one another, as the database is asked for them."""
        if self._postgresql:
            return "(" + " <-> ".join(f"'{word}'" for word in phrase) + ")"
        return f'"{" ".join(phrase)}"'

    def _matches(self, query: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        if self._postgresql:
            return sa.literal_column("words").op("@@", is_comparison=True)(
                sa.func.to_tsquery("english", query)
            )
        return sa.literal_column("search_words").op("MATCH", is_comparison=True)(query)

    def _is_common(self, connection: sa.Connection, term: str) -> bool:
        """Whether it is in many papers; a word that has once been stays so."""
        if term not in self._common:
            if (connection.scalar(self._counting, {"query": term}) or 0) <= COMMON:
                return False
            self._common.add(term)
        return True

    def _first(
        self,
        connection: sa.Connection,
        query: str,
        where: sa.ColumnElement[bool] | None,
        limit: int,
        *,
        newest: bool,
    ) -> Sequence[int]:
        ranked = self._ranking[newest] if where is None else self._ranked(where, newest=newest)
        ids: Sequence[int] = connection.scalars(ranked, {"query": query, "limit": limit}).all()
        return ids

    def _ranked(self, where: sa.ColumnElement[bool] | None, *, newest: bool) -> sa.Select[int]:
        """So many as `limit` says of the papers that match `query`, the best first."""
        query = sa.bindparam("query", type_=sa.Text)
        if self._postgresql:
            rank: sa.ColumnElement[Any] = -sa.func.ts_rank(
                sa.literal_column("words"), sa.func.to_tsquery("english", query)
            )
        else:
            rank = sa.literal_column("bm25(search_words, 4, 2, 1)")
        matching = sa.select(self._id.label("id"), rank.label("rank")).select_from(self._table)
        matching = matching.where(self._matches(query))
        if where is not None:
            # One look at the papers for each match; a join might go the other way round.
            fits = sa.exists().where(papers.c.id == self._id).where(where)
            matching = matching.where(fits.correlate(self._table))
        if newest:
            matching = sa.select(matching.order_by(self._id.desc()).limit(COMMON).subquery())
        limit = sa.bindparam("limit", type_=sa.Integer)
        return matching.order_by(sa.literal_column("rank"), sa.literal_column("id").desc()).limit(limit)


# -- vectors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """The vectors of one model at one version, one a row."""

    model: str
    version: int
    ids: npt.NDArray[np.int64]
    rows: Quantised
    lengths: npt.NDArray[np.float32]
    """Of each row; 1 for a row of zeros."""

    def of(self, paper_id: int) -> Quantised | None:
        found = np.flatnonzero(self.ids == paper_id)
        return self.rows[found[0]] if len(found) else None

    def fitting(self, query: Quantised) -> _Ranking:
        """The papers that fit."""
        if not len(self.ids) or not query.any():  # no word that the model knows: none is nearer than another
            return _Ranking(self.ids[:0], self.lengths[:0])
        nearness = self._nearness(query)
        least = nearness.mean() + NEAR * nearness.std() * (1 - 1e-6)
        fit = np.flatnonzero(nearness >= least)
        return _Ranking(self.ids[fit], nearness[fit])

    def ranking(self, query: Quantised) -> _Ranking:
        """All papers."""
        return _Ranking(self.ids, self._nearness(query))

    def _nearness(self, query: Quantised) -> npt.NDArray[np.float32]:
        """The cosine of every paper with the query, times the query's length."""
        nearness: npt.NDArray[np.float32] = _products(self.rows, query) / self.lengths
        return nearness


@dataclass(frozen=True)
class _Ranking:
    """Papers in no order, and how near each is: mostly the first few of many are all that is wanted."""

    ids: npt.NDArray[np.int64]
    nearness: npt.NDArray[np.float32]

    def first(self, limit: int) -> list[int]:
        """The ids of the nearest, the nearest first."""
        far = -self.nearness
        if limit < len(far):
            # With all that are as near as the last, so that which of those come does not depend on chance.
            chosen = np.flatnonzero(far <= np.partition(far, limit - 1)[limit - 1])
        else:
            chosen = np.arange(len(far))
        ordered = self.ids[chosen[np.argsort(far[chosen], kind="stable")]]
        ids: list[int] = ordered[:limit].tolist()
        return ids


class _Vectors:
    """The vectors that this process holds, brought up to those in the database before each use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: _Held | None = None

    def refreshed(self, connection: sa.Connection) -> _Held:
        model = embedding().name
        newest = connection.scalar(_NEWEST, {"model": model})
        with self._lock:
            held = self._now
            if held is None or held.model != model:
                held = _Held(
                    model, 0, np.empty(0, np.int64), np.empty((0, 0), np.int8), np.empty(0, np.float32)
                )
            if newest is not None and newest > held.version:
                held = _with_new(connection, held)
            self._now = held
            return held


def _with_new(connection: sa.Connection, held: _Held) -> _Held:
    """What is held, with what is newer in the database."""
    newer = sa.select(vectors.c.paper_id, vectors.c.version, vectors.c.vector).where(
        vectors.c.model == held.model, vectors.c.version > held.version
    )
    read = connection.execute(newer).all()
    if not read:
        return held
    ids = np.array([row.paper_id for row in read], np.int64)
    rows = np.frombuffer(b"".join(row.vector for row in read), np.int8).reshape(len(read), -1).copy()
    lengths = np.sqrt(np.square(rows.astype(np.float32)).sum(axis=1))
    version = max(row.version for row in read)
    if len(held.ids):
        stay = ~np.isin(held.ids, ids)
        ids = np.concatenate([held.ids[stay], ids])
        rows = np.concatenate([held.rows[stay], rows])
        lengths = np.concatenate([held.lengths[stay], lengths])
    return _Held(held.model, version, ids, rows, np.maximum(lengths, 1.0))


_every: WeakKeyDictionary[sa.Engine, _Vectors] = WeakKeyDictionary()
_every_lock = threading.Lock()


def _held(engine: sa.Engine) -> _Vectors:
    """The vectors of this database, once for all that search it through this engine."""
    with _every_lock:
        return _every.setdefault(engine, _Vectors())


def _quantised(made: Vectors) -> Quantised:
    """Each row scaled so that its largest number is 127, and rounded."""
    largest = np.abs(made).max(axis=1, keepdims=True)
    scaled: Quantised = np.rint(made / np.maximum(largest, 1e-30) * 127).astype(np.int8)
    return scaled


@njit("float32[::1](int8[:, ::1], int8[::1])", nogil=True, cache=True)  # compiled once, on import
def _products(rows: Quantised, query: Quantised) -> npt.NDArray[np.float32]:
    """The product of every row with the query: ten times as fast as numpy's, which has none for bytes.

    No number is -128, so that the sum of two products fits into 16 bits, of which a processor has the most
    lanes.
    """
    half, odd = divmod(rows.shape[1], 2)
    wide = query.astype(np.int16)
    products = np.empty(rows.shape[0], np.float32)
    for row in range(rows.shape[0]):
        product = np.int32(0)
        for column in range(half):
            left = np.int16(rows[row, column]) * wide[column]
            right = np.int16(rows[row, column + half]) * wide[column + half]
            product += np.int32(np.int16(left + right))
        if odd:
            product += np.int32(rows[row, 2 * half]) * np.int32(wide[2 * half])
        products[row] = product
    return products
