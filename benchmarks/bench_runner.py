"""What running trials to a verdict costs beside the trials themselves, and how two processes share them.

A user would run instead: a loop over seeds in one process, which keeps nothing, survives no crash and never
says when enough is enough.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.evidence import Claim, Experiment, Study, at_most, trial_generator


@dataclass(frozen=True)
class Work:
    seconds: float = 0.0


def spin(settings: Work, rng: np.random.Generator) -> dict[str, float]:
    """A trial that keeps its core busy for so long."""
    ends = time.perf_counter() + settings.seconds
    while time.perf_counter() < ends:
        pass
    return {"value": float(rng.random())}


STUDY = Study(
    "bench_runner",
    tuple(
        Experiment(name, spin, {"quick": Work(seconds)}, (Claim("small", "is small", at_most("value", 2.0)),))
        for name, seconds in (("nothing", 0.0), ("second", 1.0))
    ),
)


def run(name: str, trials: int, jobs: int) -> list[float]:
    """When each trial of the experiment ended, in seconds; the workers are up before the clock starts."""
    from assay.database import open_database
    from assay.evidence.ledger import Ledger
    from assay.evidence.runner import TrialEnded, plan
    from assay.evidence.runner import run as run_plans
    from assay.evidence.workers import Job, LocalWorkers

    experiment = STUDY.experiment(name)
    workers = LocalWorkers(jobs)
    for future in [workers.submit(Job("warm", "up", spin, Work(0.5), index), 60) for index in range(jobs)]:
        future.result()
    ledger = Ledger(open_database())
    events = run_plans([plan(STUDY, experiment, "bench_runner")], ledger, workers, trials=trials)
    began = time.perf_counter()
    ended = [time.perf_counter() - began for event in events if isinstance(event, TrialEnded)]
    workers.close()
    return ended


def command(code: list[str]) -> float:
    times = []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, *code], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    folder = tempfile.TemporaryDirectory()
    # Worker processes import this file by its name.
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)

    def fresh(name: str) -> None:
        os.environ["ASSAY_DATABASE_URL"] = f"sqlite:///{folder.name}/{name}.sqlite"

    fresh("nothing")
    ended = run("nothing", 500, 1)
    gaps = [later - earlier for earlier, later in itertools.pairwise(ended)]
    began = time.perf_counter()
    for index in range(500):
        spin(Work(), trial_generator("bench_runner", "nothing", index))
    loop = (time.perf_counter() - began) / 500
    median = statistics.median(gaps)
    print(f"overhead a trial, SQLite: median {median * 1e3:.2f} ms (a bare loop: {loop * 1e3:.2f} ms)")

    seconds = {}
    for jobs in (1, 2):
        fresh(f"second-{jobs}")
        seconds[jobs] = run("second", 12, jobs)[-1]
    print(
        f"12 trials of 1 s: one process {seconds[1]:.2f} s, two {seconds[2]:.2f} s, "
        f"ratio {seconds[1] / seconds[2]:.2f}"
    )

    nothing = command(["-c", "pass"])
    print(f"import assay: {command(['-c', 'import assay']) - nothing:.3f} s beyond Python's own start")
    print(f"assay --help: {command(['-m', 'assay.cli', '--help']):.3f} s in all")


if __name__ == "__main__":
    # So that workers find the trial under the module's own name rather than __main__.
    import bench_runner

    bench_runner.main()
