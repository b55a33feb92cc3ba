"""What finds the right papers: words, vectors of meaning, or both fused, on the tests' labelled queries.

    python benchmarks/bench_retrieval.py [PAGE]

nDCG@10 and recall@5 over the 47 papers of the catalogue, by their titles and our sentences about them and,
with PAGE (a saved Daily Papers page that has them), by their abstracts as well. "Search" is the search of the
page, which leaves out papers that do not fit. The default model is beside latent semantic analysis, fitted to
these papers, and beside the sentence-transformers model that ASSAY_EMBEDDING names, if it is set.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from assay.database import open_database
from assay.papers import Papers, saved_page
from assay.papers.embedding import SentenceEmbedding, StaticEmbedding
from assay.papers.search import Search, _fuse, _read, _text, papers

QUERIES = Path(__file__).parents[1] / "tests" / "papers" / "retrieval.toml"
KINDS = ("paraphrase", "acronym", "keywords")

Ranking = list[int]
Embed = Callable[[Sequence[str]], npt.NDArray[np.float64]]


def scores(ranking: Ranking, wanted: set[int]) -> tuple[float, float]:
    """nDCG@10 and recall@5."""
    discounts = 1 / np.log2(np.arange(2, 12))
    gain = sum(discounts[place] for place, paper in enumerate(ranking[:10]) if paper in wanted)
    return gain / discounts[: len(wanted)].sum(), len(wanted.intersection(ranking[:5])) / len(wanted)


def report(name: str, rankings: list[Ranking], queries: list[dict], ids: dict[str, int]) -> None:
    columns = []
    for kind in (*KINDS, None):
        chosen = [
            scores(ranking, {ids[slug] for slug in query["papers"]})
            for ranking, query in zip(rankings, queries, strict=True)
            if kind in (None, query["kind"])
        ]
        ndcg, recall = np.mean(chosen, axis=0)
        columns.append(f"{ndcg:.3f} {recall:.3f}")
    print(f"{name:<34}" + "    ".join(columns), flush=True)


def dense(embed: Embed, texts: list[str], order: Sequence[int], asked: list[str]) -> list[Ranking]:
    def unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)

    cosines = unit(embed(asked)) @ unit(embed(texts)).T
    return [[order[place] for place in np.argsort(-row, kind="stable")] for row in cosines]


def latent(texts: list[str], size: int) -> Embed:
    """Latent semantic analysis, fitted to the texts."""
    counts = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    reduced = TruncatedSVD(size, random_state=0).fit(counts.fit_transform(texts))
    return lambda texts: reduced.transform(counts.transform(texts))


def measure(folder: Path, page: Path | None) -> None:
    engine = open_database(sa.URL.create("sqlite", database=str(folder / "assay.sqlite")))
    records = Papers(engine)
    records.load_catalogue()
    known = {paper.slug: paper.id for paper in records.list() if paper.slug}
    if page is not None:
        records.import_page(saved_page.parse(page.read_text("utf-8")), page.name)
    search = Search(engine)
    search.refresh()  # by the model that ASSAY_EMBEDDING names, where there is one
    queries = tomllib.loads(QUERIES.read_text("utf-8"))["query"]
    asked = [query["text"] for query in queries]
    with engine.connect() as connection:
        rows = connection.execute(sa.select(papers).order_by(papers.c.id)).mappings().all()
        order = [row["id"] for row in rows]
        texts = [f"{title}. {text}" for title, _, text in map(_text, rows)]
        words = [
            search._words.rank(connection, _read(text)[1], [], sa.true(), len(order)) if text else []
            for text in asked
        ]

    print("title, sentence, abstract" if page else "title, sentence")
    print(f"{'nDCG@10 recall@5':<34}" + "".join(f"{kind:<15}" for kind in KINDS) + "all")
    report("words (BM25)", words, queries, known)
    static = StaticEmbedding()
    models: dict[str, Embed] = {
        "static vectors (default)": lambda texts: np.array([static.query(text) for text in texts]),
        "latent semantic analysis, 20": latent(texts, 20),
        "latent semantic analysis, 40": latent(texts, 40),
    }
    if name := os.environ.get("ASSAY_EMBEDDING"):
        model = SentenceEmbedding(name)
        models[f"model {Path(name).name}"[:33]] = lambda texts: (
            model.papers(texts)
            if len(texts) == len(order)
            else np.array([model.query(text) for text in texts])
        )
    for name, embed in models.items():
        found = dense(embed, texts, order, asked)
        report(name, found, queries, known)
        report("  fused with words", [_fuse(pair) for pair in zip(words, found, strict=True)], queries, known)
    report("search, as on the page", [list(search.rank(text)) for text in asked], queries, known)
    began = time.perf_counter()
    static.papers(texts * 10)
    print(f"static vectors: {10 * len(texts) / (time.perf_counter() - began):.0f} papers a second\n")
    engine.dispose()


def main() -> None:
    queries = tomllib.loads(QUERIES.read_text("utf-8"))["query"]
    print(f"{len(queries)} queries")
    for page in [None, *map(Path, sys.argv[1:2])]:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), page)


if __name__ == "__main__":
    main()
