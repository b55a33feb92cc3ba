"""Search, on both databases: what is found, in which order, and that the index follows the records."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from assay.cli import app
from assay.database import open_database, write
from assay.papers import Papers, catalogue
from assay.papers import embedding as embeddings
from assay.papers import search as searching
from assay.papers.embedding import StaticEmbedding, embedding
from assay.papers.lists import Lists
from assay.papers.records import papers
from assay.papers.search import Search
from assay.papers.selection import Selection

RETRIEVAL = Path(__file__).with_name("retrieval.toml")

Add = Callable[..., int]


@pytest.fixture
def add(either_engine: sa.Engine) -> Add:
    """Records a paper as any writer might, and gives its id."""

    def added(title: str, **known: object) -> int:
        for name in ("author_names", "keywords"):
            if name in known:
                known[name] = json.dumps(known[name])
        with write(either_engine) as connection:
            key = connection.execute(sa.insert(papers).values(title=title, **known)).inserted_primary_key
        assert key is not None
        return int(key[0])

    return added


@pytest.fixture
def search(either_engine: sa.Engine) -> Search:
    return Search(either_engine)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Search]:
    """The catalogue's papers, indexed."""
    path = tmp_path_factory.mktemp("library") / "assay.sqlite"
    engine = open_database(sa.URL.create("sqlite", database=str(path)))
    Papers(engine).load_catalogue()
    search = Search(engine)
    search.refresh()
    yield search
    engine.dispose()


@pytest.fixture(scope="module")
def slugs(library: Search) -> dict[int, str]:
    return {paper.id: paper.slug or "" for paper in Papers(library._engine).list()}


# ------------------------------------------------------------------------------------------- what is found


def test_meaning_is_found_where_no_word_is_shared(add: Add, search: Search) -> None:
    cats = add("Kittens and their mothers", abstract="How young felines learn to hunt mice.")
    add("Bond markets", abstract="Interest rates and the price of government debt.")
    add("Bridge building", abstract="Steel girders under load.")
    search.refresh()
    assert search.rank("cats") == [cats]


def test_a_phrase_in_quotation_marks_has_to_stand_there(add: Add, search: Search) -> None:
    exact = add("On deep sparse learning", abstract="We study it.")
    add("Sparse and deep methods of learning", abstract="Deep, then sparse.")
    search.refresh()
    assert search.rank('"deep sparse learning"') == [exact]
    assert search.rank('"deep sparse" methods') == [exact]
    assert search.rank('"sparse deep nothing of that kind"') == []
    assert len(search.rank("deep sparse learning")) == 2


def test_papers_of_an_author_come_first(add: Add, search: Search) -> None:
    theirs = [
        add("Graph colourings", author_names=["Paul Erdős", "Will Do"]),
        add("A census of primes", author_names=["Ann Lee", "Paul Erdős"]),
    ]
    for title in ("Paul's law", "Primes and graphs", "Erdos numbers of computer scientists"):
        add(title, abstract="About paul, primes and graphs.")
    search.refresh()
    for asked in ("Paul Erdős", "erdos paul", '"Paul Erdos"'):
        assert set(search.rank(asked)[:2]) == set(theirs)
    assert search.rank("Will Do")[0] == theirs[0]  # both are function words elsewhere


def test_a_condition_holds_for_all_that_is_found(add: Add, search: Search) -> None:
    ids = [
        add(f"Learning number {number}", field="gating" if number % 2 else "control") for number in range(9)
    ]
    search.refresh()
    found = search.rank("learning", where=papers.c.field == "gating")
    assert found
    assert set(found) <= set(ids[1::2])
    assert search.rank('"learning number"', where=papers.c.id == ids[3]) == [ids[3]]
    assert search.rank("learning", where=sa.false()) == []


def test_no_more_than_the_limit(add: Add, search: Search) -> None:
    for number in range(8):
        add(f"Paper {number} about bandits")
    search.refresh()
    assert len(search.rank("bandits", limit=3)) == 3
    assert len(search.rank("bandits")) == 8


def test_any_text_may_be_searched_for(add: Add, search: Search) -> None:
    add("Paper about bandits", author_names=["Ann Lee"])
    search.refresh()
    odd = """' " "" !? * \\ & | ; % _ "_" '_' ² NOT( title: a'OR'b x"OR"y a&!b a:b<->c %s %(a)s {} :x 日"""
    for words in ["", " ", "the of and", "é" * 300, "; DROP TABLE papers", odd, *odd.split()]:
        search.rank(words)
        search.rank(words, where=papers.c.id > 0)


def test_a_word_that_most_papers_have_is_still_found(
    add: Add, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "COMMON", 3)
    ids = [add(f"Networks and learning, part {number}") for number in range(9)]
    rare = add("Learning to hum")
    search.refresh()
    assert search.rank("learning hum")[0] == rare
    assert set(search.rank("networks learning")) & set(ids)


def test_similar_papers_are_the_nearest_and_not_the_paper_itself(
    library: Search, slugs: dict[int, str]
) -> None:
    ids = {slug: paper_id for paper_id, slug in slugs.items()}
    found = [slugs[paper_id] for paper_id in library.similar(ids["gui_g1"])]
    assert len(found) == 5
    assert found[0] == "gui_g2"
    assert "gui_g1" not in found
    assert slugs[library.similar(ids["online_cbf"], limit=1)[0]] == "v_ocbf"
    assert library.similar(10**6) == []


# ------------------------------------------------------------------------- the index follows the records


def test_every_change_is_taken_in_whoever_makes_it(
    add: Add, search: Search, either_engine: sa.Engine
) -> None:
    paper = add("On bandits")
    other = add("On volcanoes")
    assert search.rank("bandits") == []
    assert search.waiting() == 2
    assert search.refresh() == 2
    assert (search.waiting(), search.refresh()) == (0, 0)
    with write(either_engine) as connection:
        connection.execute(sa.update(papers).where(papers.c.id == other).values(comments=3))
    assert search.waiting() == 0  # nothing that it is found by
    with write(either_engine) as connection:
        connection.execute(sa.update(papers).where(papers.c.id == paper).values(title="On glaciers"))
    assert search.refresh() == 1
    assert search.rank('"glaciers"') == [paper]
    assert search.rank('"bandits"') == []
    with write(either_engine) as connection:
        connection.execute(sa.delete(papers).where(papers.c.id == paper))
    assert paper not in search.similar(other)
    found = Lists(either_engine).page(Selection(q="glaciers")).papers
    assert paper not in [one.id for one in found]  # at once, even before the index knows
    assert search.refresh() == 1
    with either_engine.connect() as connection:
        assert connection.scalars(sa.select(searching.vectors.c.paper_id)).all() == [other]


def test_a_paper_that_changes_while_it_is_indexed_is_indexed_again(
    add: Add, search: Search, either_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    paper = add("On bandits")
    model = embedding()
    changed = []

    def papers_meanwhile(texts: list[str]) -> embeddings.Vectors:
        if not changed:
            changed.append(paper)
            with write(either_engine) as connection:
                connection.execute(sa.update(papers).where(papers.c.id == paper).values(title="On glaciers"))
        return StaticEmbedding.papers(model, texts)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "papers", papers_meanwhile)
    search.refresh()
    assert search.rank('"glaciers"') == [paper]


def test_what_another_process_has_indexed_is_found(add: Add, search: Search) -> None:
    first = add("On bandits")
    search.refresh()
    assert search.rank("bandits") == [first]
    elsewhere = open_database()
    second = add("More about bandits")
    Search(elsewhere).refresh()
    elsewhere.dispose()
    assert set(search.rank("bandits")) == {first, second}


def test_searches_go_on_while_papers_are_indexed(
    add: Add, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "BATCH", 5)
    ids = [add(f"Bandits, part {number}") for number in range(60)]
    errors: list[BaseException] = []
    closing = threading.Event()

    def read() -> None:
        try:
            while not closing.is_set():
                assert set(search.rank("bandits")) <= set(ids)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=search.refresh) for _ in range(2)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    closing.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert set(search.rank("bandits")) == set(ids)


def test_a_thread_keeps_the_index_fresh(add: Add, search: Search) -> None:
    closing = threading.Event()
    thread = threading.Thread(target=search.keep_fresh, args=(closing, 0.01))
    thread.start()
    paper = add("On bandits")
    try:
        for _ in range(1000):
            if search.rank("bandits") == [paper]:
                break
            closing.wait(0.01)
        else:
            pytest.fail("never found")
    finally:
        closing.set()
        thread.join(10)
    assert not thread.is_alive()


# ----------------------------------------------------------------------------------------------- embeddings


def test_the_default_model_loads_without_network_and_leaves_logging_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = logging.getLogger().level, list(logging.getLogger().handlers)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wordllama"]:
        monkeypatch.delitem(sys.modules, name)
    model = StaticEmbedding()
    assert (logging.getLogger().level, logging.getLogger().handlers) == before
    assert model.query("gradient descent").shape == (256,)


def test_texts_get_the_vectors_that_wordllama_gives() -> None:
    import wordllama

    folder = Path(wordllama.__file__).parent
    theirs = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    texts = [f"{entry.title}. {entry.sentence}" for entry in catalogue.catalogue()]
    np.testing.assert_allclose(
        StaticEmbedding().papers(texts), theirs.embed(texts, norm=True), rtol=0, atol=1e-5
    )
    assert not StaticEmbedding().query("").any()


class _Letters:
    """Stands for a model of sentence-transformers: counts letters."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode_document(self, texts: list[str]) -> np.ndarray:
        return np.array([[text.lower().count(letter) for letter in "abcdefghij"] for text in texts], float)

    def encode_query(self, text: str) -> np.ndarray:
        return self.encode_document([text])[0]


def test_a_model_by_name_replaces_the_vectors_of_the_one_before(
    add: Add, search: Search, either_engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [add("Bees"), add("A jig"), add("Dice")]
    search.refresh()
    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = _Letters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    monkeypatch.setenv("ASSAY_EMBEDDING", "some/model")
    assert search.waiting() == 3
    assert search.refresh() == 3
    assert search.waiting() == 0
    assert search.rank("gijijgj") == [ids[1]]
    with either_engine.connect() as connection:
        assert set(connection.scalars(sa.select(searching.vectors.c.model))) == {"some/model"}


def test_a_model_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setenv("ASSAY_EMBEDDING", "other/model")
    with pytest.raises(ImportError, match=r"'other/model'.*sentence-transformers"):
        embedding()


# ------------------------------------------------------------------------------------- the labelled queries


def _queries() -> list[dict[str, object]]:
    return tomllib.loads(RETRIEVAL.read_text("utf-8"))["query"]


def _content(text: str) -> set[str]:
    """The words of a text, roughly stemmed."""
    words = re.findall(r"[a-z]{3,}", text.lower())
    return {word[:5].rstrip("s") for word in words if word not in searching._FUNCTION_WORDS}


def test_the_labelled_queries_are_what_they_say() -> None:
    queries = _queries()
    titles = {entry.slug: entry.title for entry in catalogue.catalogue()}
    assert len(queries) >= 60
    assert len({query["text"] for query in queries}) == len(queries)
    assert {slug for query in queries for slug in query["papers"]} <= titles.keys()
    shared = {
        (query["text"], slug): _content(query["text"]) & _content(titles[slug])
        for query in queries
        if query["kind"] == "paraphrase"
        for slug in query["papers"]
    }
    assert {key: words for key, words in shared.items() if words} == {}


def test_search_finds_what_the_labelled_queries_are_about(library: Search, slugs: dict[int, str]) -> None:
    found = {"paraphrase": [], "acronym": [], "keywords": []}
    for query in _queries():
        first = {slugs[paper_id] for paper_id in library.rank(query["text"])[:5]}
        found[query["kind"]].append(len(first & set(query["papers"])) / len(query["papers"]))
    # From titles and sentences alone: acronyms that stand in abstracts only cannot be found by them.
    assert np.mean(found["paraphrase"]) > 0.75
    assert np.mean(found["keywords"]) > 0.8
    assert np.mean(found["acronym"]) > 0.4


# ----------------------------------------------------------------------------------------------- the command


def test_the_command_finds_and_compares_papers() -> None:
    answer = CliRunner().invoke(app, ["papers", "search", "robots", "that", "never", "collide", "--json"])
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)[0]["slug"] == "online_cbf"
    answer = CliRunner().invoke(app, ["papers", "similar", "gui-g1", "--limit", "1"])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.split()[0] == "gui_g2"


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 12))
def test_the_first_of_a_ranking_are_those_of_the_whole(nearness: list[int], limit: int) -> None:
    ids = np.arange(len(nearness), dtype=np.int64)
    ranking = searching._Ranking(ids, np.array(nearness, np.float32))
    whole = sorted(range(len(nearness)), key=lambda one: (-nearness[one], one))
    assert ranking.first(limit) == whole[:limit]


@pytest.mark.parametrize("columns", [1, 2, 255, 256])
def test_products_are_exact_up_to_the_largest_numbers(columns: int) -> None:
    rows = np.random.default_rng(0).integers(-127, 128, (50, columns)).astype(np.int8)
    rows[0], rows[1] = 127, -127
    for query in (*rows[:3], np.zeros(columns, np.int8)):
        expected = rows.astype(np.int64) @ query.astype(np.int64)
        assert np.array_equal(searching._products(rows, query), expected)
