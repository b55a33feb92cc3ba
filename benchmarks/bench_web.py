"""The page beside its figure: the paper list from a warm server, in milliseconds.

    python benchmarks/bench_web.py [REQUESTS]

The catalogue and every installed study; each experiment gets 20 trials in the ledger of a temporary folder.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from fastapi.testclient import TestClient

from assay import studies
from assay.database import open_database
from assay.evidence.ledger import Ledger, Outcome, Row
from assay.evidence.runner import plan
from assay.papers import Papers
from assay.web.app import create_app

TRIALS = 20


def fill(engine: sa.Engine) -> int:
    """Give every experiment its trials; returns how many experiments there are."""
    ledger = Ledger(engine)
    count = 0
    for slug in studies.slugs():
        study = studies.load(slug)
        for experiment in study.experiments:
            series = plan(study, experiment, studies.module_of(slug)).series
            names = {name for claim in experiment.claims for name in claim.asks.names}
            for index in range(TRIALS):
                measurements = dict.fromkeys(names, 1.0 + index % 3)
                ledger.record(Row(series, index, 0, Outcome.MEASURED, measurements, None, 1.0, 1, {}, {}), "")
            count += 1
    return count


def measure(client: TestClient, path: str, requests: int) -> list[float]:
    """Milliseconds of each request, after ten that do not count."""
    took = []
    for number in range(requests + 10):
        began = time.perf_counter()
        assert client.get(path).status_code == 200
        if number >= 10:
            took.append(1000 * (time.perf_counter() - began))
    return took


def main() -> None:
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder:
        engine = open_database(sa.URL.create("sqlite", database=str(Path(folder) / "assay.sqlite")))
        Papers(engine).load_catalogue()
        experiments = fill(engine)
        papers = len(Papers(engine).list())
        print(f"{papers} papers, {experiments} experiments with {TRIALS} trials each")
        with TestClient(create_app(engine), base_url="http://127.0.0.1:8000") as client:
            paths = ["/", "/papers.json", *(f"/papers/{slug}" for slug in studies.slugs())]
            for path in paths:
                took = sorted(measure(client, path, requests))
                slow = took[-requests // 20]
                print(f"{path:<28} median {statistics.median(took):6.1f} ms   95 % {slow:6.1f} ms")
        engine.dispose()


if __name__ == "__main__":
    main()
