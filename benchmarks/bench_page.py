"""Lists and search of the page with many papers: milliseconds of each request, with readers at once.

    python benchmarks/bench_page.py [--papers 100000] [--readers 8] [--requests 200] [--makers 2]
                                    [--folder FOLDER]
                                    [--arxiv-sanity-lite CHECKOUT]

Generated papers of five years in an SQLite database, a tenth of them with votes or comments; the real server
in a process of its own, and each reader on a connection that stays open. "usual" are the 25 lists that
readers open most; "mixed" and "search" ask for another address every time, so that no kept answer serves.

With a checkout of https://github.com/karpathy/arxiv-sanity-lite (and flask and sqlitedict installed) its
server is given the same papers, started as its README says, and asked for its lists by time and the same
searches; the last lines are how many times its requests a second ours answers. It shows 25 papers a page,
ours 50. Take --papers 20000 for that: it reads all of them for every request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import sqlalchemy as sa

from assay import studies
from assay.database import open_database, write
from assay.papers import FIELDS, Papers
from assay.papers.people import comments, people, votes
from assay.papers.records import paper_ids, papers
from assay.papers.search import Search

LAST = date(2026, 11, 20)
DAYS = 5 * 365
PEOPLE = 200


def vocabulary(draw: random.Random) -> list[str]:
    """Pronounceable words that no embedding knows, and words of the trade that it does."""
    trade = """
        attention transformer diffusion gradient descent bayesian causal graph network reward policy language
        model expert gating quantum circuit optimal control robust inference sampling regression kernel
        variational latent token prompt retrieval reasoning agent vision image speech protein molecule
        federated private sparse dense quantised pruning distillation continual transfer meta few-shot
    """.split()  # noqa: SIM905
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    return trade * 10 + ["".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(4000)]


def generated(count: int, seed: int = 0) -> Iterator[dict[str, object]]:
    draw = random.Random(seed)
    words = vocabulary(draw)
    names = [f"{draw.choice(words).title()} {draw.choice(words).title()}" for _ in range(20_000)]
    organisations = [f"{draw.choice(words).title()} University" for _ in range(400)]
    for number in range(count):
        day = LAST - timedelta(days=draw.randrange(DAYS))
        by = draw.choices(names, k=draw.randint(1, 8))
        yield {
            "title": " ".join(draw.choices(words, k=draw.randint(5, 12))).capitalize(),
            "abstract": " ".join(draw.choices(words, k=140)) + ".",
            "abstract_source": "arxiv",
            "submitted": day,
            "listed": day if number % 3 else None,
            "authors": len(by),
            "organisation": draw.choice(organisations) if number % 2 else None,
            "field": draw.choice(FIELDS) if number % 4 else None,
            "author_names": json.dumps(by),
            "categories": json.dumps(draw.choices(("cs.LG", "cs.CL", "stat.ML", "quant-ph", "math.OC"), k=2)),
            "keywords": json.dumps(draw.choices(words, k=4)) if number % 3 else None,
            "votes_elsewhere": draw.randrange(200) if number % 3 else None,
            "submitter": f"reader{draw.randrange(500)}",
            "day": day,
            "added_at": f"{day}T06:00:00+00:00",
        }


def fill(engine: sa.Engine, count: int) -> None:
    """The catalogue, and generated papers with their ids, votes and comments."""
    Papers(engine).load_catalogue()
    draw = random.Random(1)
    now = datetime.now(UTC)
    with write(engine) as connection:
        first = connection.scalar(sa.select(sa.func.max(papers.c.id))) or 0
        made = [{"id": first + 1 + number, **paper} for number, paper in enumerate(generated(count))]
        for start in range(0, count, 5000):
            some = made[start : start + 5000]
            connection.execute(sa.insert(papers), some)
            ids = [
                ("arxiv", f"{paper['id'] // 100_000 + 1000:04}.{paper['id'] % 100_000:05}", paper["id"])
                for paper in some
            ]
            ids += [("title", f"{paper['title']}{paper['id']}", paper["id"]) for paper in some]
            rows = [{"kind": kind, "value": value, "paper_id": paper_id} for kind, value, paper_id in ids]
            connection.execute(sa.insert(paper_ids), rows)
        readers = [
            {"email": f"r{n}@lab.example", "name": f"reader {n}", "role": "reader", "joined_at": "2026-01-01"}
            for n in range(PEOPLE)
        ]
        connection.execute(sa.insert(people), readers)
        ages = (timedelta(days=draw.expovariate(1 / 60)) for _ in iter(int, 1))
        cast = {
            (draw.randrange(1, PEOPLE + 1), draw.randrange(1, count + 1)): next(ages)
            for _ in range(count // 5)
        }
        said = [
            {"person_id": person, "paper_id": paper, "at": (now - age).isoformat(timespec="seconds")}
            for (person, paper), age in cast.items()
        ]
        connection.execute(sa.insert(votes), said)
        connection.execute(sa.insert(comments), [row | {"body": "read it"} for row in said[::10]])


def list_addresses(draw: random.Random) -> Iterator[str]:
    """Lists as readers walk through them, no two the same."""
    words = vocabulary(random.Random(0))
    number = 0
    while True:
        number += 1
        day = LAST - timedelta(days=draw.randrange(DAYS))
        chosen = draw.choice(
            (
                {"date": day.isoformat()},
                {"week": "{}-W{:02}".format(*day.isocalendar()[:2])},
                {"month": day.isoformat()[:7], "sort": draw.choice(("date", "trending"))},
                {"sort": "trending"},
                {"field": draw.choice(FIELDS)},
                {"field": draw.choice(FIELDS), "sort": "trending"},
                {"keyword": draw.choice(words)},
                {"verdict": "any"},
                {},
            )
        )
        yield f"/?{urlencode(chosen | {'n': number})}"


def search_addresses(draw: random.Random) -> Iterator[str]:
    words = vocabulary(random.Random(0))
    while True:
        yield f"/?{urlencode({'q': ' '.join(draw.choices(words, k=draw.randint(1, 4)))})}"


def usual_addresses(draw: random.Random) -> Iterator[str]:
    """The lists that readers open in the morning: the front page, what trends, a field, the day, the week."""
    usual = ["/", "/?sort=trending", f"/?date={LAST}", f"/?week={LAST:%G-W%V}", f"/?month={LAST:%Y-%m}"]
    usual += [f"/?field={field}{sort}" for field in FIELDS for sort in ("", "&sort=trending")]
    while True:
        yield draw.choice(usual)


def sanity_addresses(draw: random.Random) -> Iterator[str]:
    """The lists of arxiv-sanity-lite: the papers by time, of some last days or all, page by page."""
    while True:
        days, page = draw.choice(("", "1", "7", "30")), draw.randint(1, 20)
        yield f"/?{urlencode({'rank': 'time', 'time_filter': days, 'page_number': page})}"


def fill_sanity(folder: Path, count: int) -> None:
    """The same generated papers where arxiv-sanity-lite keeps its own, as its daemon stores them."""
    from sqlitedict import SqliteDict

    (folder / "data").mkdir(exist_ok=True)
    sys.path.insert(0, str(folder))
    from aslite.db import CompressedSqliteDict

    file = str(folder / "data" / "papers.db")
    held, seconds = {}, {}
    for number, paper in enumerate(generated(count)):
        key, day = f"{number // 100_000 + 1000:04}.{number % 100_000:05}", paper["day"]
        seconds[key] = {"_time": datetime(day.year, day.month, day.day).timestamp()}
        held[key] = seconds[key] | {
            "_id": key,
            "_time_str": f"{day:%b %d %Y}",
            "title": paper["title"],
            "summary": paper["abstract"],
            "authors": [{"name": name} for name in json.loads(paper["author_names"])],
            "tags": [{"term": term} for term in json.loads(paper["categories"])],
        }
    # One after the other: the two tables lie in one file, and each would wait for the other's transaction.
    for kind, name, flag, rows in (
        (CompressedSqliteDict, "papers", "n", held),
        (SqliteDict, "metas", "c", seconds),
    ):
        with kind(file, tablename=name, flag=flag) as table:
            table.update(rows)
            table.commit()


def measure(
    port: int,
    kind: Callable[[random.Random], Iterator[str]],
    readers: int,
    requests: int,
    warm: int = 10,
) -> tuple[list[float], float]:
    """Seconds of every request, and requests a second, after `warm` of each reader that do not count."""
    took: list[float] = []
    barrier = threading.Barrier(readers + 1)

    def read(seed: int) -> None:
        addresses = kind(random.Random(seed))
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for number in range(requests + warm):
            if number == warm:
                barrier.wait()
            began = time.perf_counter()
            connection.request("GET", next(addresses))
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"status {answer.status}")
            if number >= warm:
                took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(readers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sorted(took), len(took) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--papers", type=int, default=100_000)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200, help="of each reader")
    parser.add_argument("--makers", type=int, default=2, help="of the server")
    parser.add_argument("--folder", type=Path, help="where the database is made, or is from an earlier run")
    parser.add_argument("--arxiv-sanity-lite", type=Path, metavar="CHECKOUT", help="measure that as well")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        database = (chosen.folder or Path(temporary)) / "assay.sqlite"
        filled = database.exists()
        engine = open_database(sa.URL.create("sqlite", database=str(database)))
        if not filled:
            began = time.perf_counter()
            fill(engine, chosen.papers)
            print(f"{chosen.papers} papers made in {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        print(f"{Search(engine).refresh()} papers indexed in {time.perf_counter() - began:.0f} s")
        engine.dispose()
        ours = {}
        settings = {
            "ASSAY_DATABASE_URL": f"sqlite:///{database}",
            "ASSAY_SEARCH_LIMIT": "1000000/minute",
        }
        command = [sys.executable, "-m", "assay.cli", "serve", "--makers", str(chosen.makers), "--port"]
        with serving(command, **settings) as port:
            # All studies are imported, and the vectors are in memory.
            wait_for(port, *(f"/papers/{slug}" for slug in studies.slugs()), "/?q=warm")
            time.sleep(10 * chosen.makers)  # in the makers as well
            for name, kind in {
                "usual": usual_addresses,
                "mixed": list_addresses,
                "search": search_addresses,
            }.items():
                for readers in (1, chosen.readers):
                    ours[name] = told(name, readers, *measure(port, kind, readers, chosen.requests))
    if chosen.arxiv_sanity_lite:
        fill_sanity(chosen.arxiv_sanity_lite, chosen.papers)
        command = [sys.executable, "-m", "flask", "--app", "serve", "run", "--port"]
        with serving(command, folder=chosen.arxiv_sanity_lite) as port:
            wait_for(port, "/about")
            for name, kind in {"mixed": sanity_addresses, "search": search_addresses}.items():
                requests = max(1, chosen.requests // (10 if name == "mixed" else 50))
                rate = told(name, chosen.readers, *measure(port, kind, chosen.readers, requests, warm=1))
                print(f"{name}: {ours[name] / rate:.0f} times the requests a second of arxiv-sanity-lite")


def told(name: str, readers: int, took: list[float], rate: float) -> float:
    """Says what was measured; gives the requests a second."""
    slow = took[-max(1, len(took) // 20)]
    print(
        f"{name:<7} {readers} at once  median {1000 * statistics.median(took):6.1f} ms   "
        f"95 % {1000 * slow:6.1f} ms   {rate:6.0f} requests/s"
    )
    return rate


@contextmanager
def serving(command: list[str], folder: Path | None = None, **settings: str) -> Iterator[int]:
    """The server, and the port that it listens at, which is the last word of its command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = subprocess.Popen(
        [*command, str(port)],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if folder else None,  # Flask's development server tells of every request
    )
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


def wait_for(port: int, *paths: str) -> None:
    """Until the server has answered all of these."""
    ends = time.monotonic() + 120
    for path in paths:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", path)
                connection.getresponse().read()
                break
            except OSError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.2)


if __name__ == "__main__":
    main()
