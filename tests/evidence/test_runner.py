"""The runner with real worker processes: what dies, hangs, leaks or is killed."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from assay_toy import toy, toy_broken

from assay.evidence import runner, trial_generator
from assay.evidence.ledger import Ledger, Outcome
from assay.evidence.runner import Ended, Event, Plan, Started, TrialEnded, plan, run
from assay.evidence.study import Experiment
from assay.evidence.verdicts import Verdict
from assay.evidence.workers import Job, LocalWorkers, run_job

COIN = toy.STUDY.experiment("coin")


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalWorkers]:
    workers = LocalWorkers(2)
    yield workers
    workers.close()


def plans(study=toy.STUDY, *names: str, **overrides: str) -> list[Plan]:
    module = f"assay_toy.{study.slug}"
    chosen = [study.experiment(name) for name in names] or study.experiments
    return [plan(study, experiment, module, overrides=overrides) for experiment in chosen]


def ended(events: list[Event]) -> dict[str, Ended]:
    return {event.plan.experiment.name: event for event in events if isinstance(event, Ended)}


def test_a_study_runs_to_its_verdicts(ledger: Ledger, workers: LocalWorkers) -> None:
    events = list(run(plans(), ledger, workers, budget=60))
    assert isinstance(events[0], Started)
    assert {name: end.reason for name, end in ended(events).items()} == {
        "coin": "decided",
        "arithmetic": "decided",
    }
    below, above, sometimes = ended(events)["coin"].tally.claims
    assert (below.verdict, above.verdict, sometimes.verdict) == (Verdict.HOLDS, Verdict.FAILS, Verdict.HOLDS)
    assert (below.decided_at, above.decided_at, sometimes.decided_at) == (7, 7, 7)
    assert sometimes.skipped > 0
    rows = list(ledger.rows("toy"))
    assert len(rows) == sum(isinstance(event, TrialEnded) for event in events)
    assert [row.index for row in rows if row.series.experiment == "arithmetic"] == [0]
    assert all(row.seconds is not None and row.peak_memory and row.machine["cores"] for row in rows)
    assert ledger.running() == set()


def test_the_runner_measures_what_one_measures_by_hand(ledger: Ledger, workers: LocalWorkers) -> None:
    list(run(plans(toy.STUDY, "coin"), ledger, workers, trials=3))
    for row in ledger.rows("toy"):
        assert row.measurements == COIN.trial(COIN.scales["quick"], trial_generator("toy", "coin", row.index))


def test_global_generators_are_seeded_by_the_index_alone() -> None:
    import numpy as np
    import torch

    def trial(settings: object, rng: np.random.Generator) -> dict[str, float]:
        return {"numpy": float(np.random.rand()), "torch": float(torch.rand(())), "own": float(rng.random())}  # noqa: NPY002

    first, again, other = (run_job(Job("s", "e", trial, None, index)).measurements for index in (0, 0, 1))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_what_is_there_is_not_run_again(ledger: Ledger, workers: LocalWorkers) -> None:
    list(run(plans(toy.STUDY, "coin"), ledger, workers, trials=4))
    events = list(run(plans(toy.STUDY, "coin"), ledger, workers, trials=6))
    assert sum(isinstance(event, TrialEnded) for event in events) == 2
    assert list(run(plans(toy.STUDY, "coin"), ledger, workers, trials=5))[-1].reason == "trials"
    assert sorted(row.index for row in ledger.rows("toy")) == list(range(6))


def test_the_budget_ends_what_stays_undecided(ledger: Ledger, workers: LocalWorkers) -> None:
    begun = time.monotonic()
    end = list(run(plans(toy.STUDY, "coin", seconds="0.4"), ledger, workers, budget=0.8))[-1]
    assert (end.reason, len(end.tally.trials) >= 1) == ("budget", True)
    assert time.monotonic() - begun < 30


def test_each_broken_experiment_breaks_alone(
    ledger: Ledger, workers: LocalWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "QUICK_TIMEOUT", 5.0)
    events = list(run(plans(toy_broken.STUDY), ledger, workers, budget=30))
    ends = ended(events)
    assert ends.pop("works").reason == "decided"
    assert {end.reason for end in ends.values()} == {"broken"}
    causes = {name: (end.cause or "").strip().splitlines()[-1] for name, end in ends.items()}
    assert causes["raises"] == "RuntimeError: this trial raises"
    assert "nan" in causes["returns_nan"]
    assert "no 'value', which a claim reads; it returned valve" in causes["returns_something_else"]
    assert causes["exits"] == "SystemExit: 0"
    assert causes["kills_itself"].startswith("its process died")
    assert causes["hangs"] == "not done after 5 s"
    assert "MemoryError" in causes["exhausts_memory"]
    assert ledger.running() == set()

    # A rerun tries deaths and time-outs once more, exceptions never.
    again = list(run(plans(toy_broken.STUDY), ledger, workers, budget=30))
    tried = {event.row.series.experiment for event in again if isinstance(event, TrialEnded)}
    assert tried == {"kills_itself", "hangs"}
    assert {end.reason for name, end in ended(again).items() if name != "works"} == {"broken"}
    third = list(run(plans(toy_broken.STUDY), ledger, workers, budget=30))
    assert not any(isinstance(event, TrialEnded) for event in third)
    assert "this trial raises" in str(ended(third)["raises"].cause)


def test_an_exclusive_experiment_runs_one_trial_at_a_time(ledger: Ledger) -> None:
    class Counting:
        size = 4
        most = 0

        def __init__(self) -> None:
            self.inner = LocalWorkers(2)
            self.now = 0

        def submit(self, job, timeout):
            future = self.inner.submit(job, timeout)
            self.now += 1
            self.most = max(self.most, self.now)
            future.add_done_callback(lambda _: setattr(self, "now", self.now - 1))
            return future

        def close(self) -> None:
            self.inner.close()

    exclusive = dataclasses.replace(COIN, exclusive=True)
    for experiment, most in ((exclusive, 1), (COIN, 4)):
        workers = Counting()
        item = dataclasses.replace(plans(toy.STUDY, "coin", seconds="0.05")[0], experiment=experiment)
        list(run([item], ledger, workers, trials=6 if most == 1 else 12))
        workers.close()
        assert workers.most == most


def test_stopping_gives_everything_back(ledger: Ledger, workers: LocalWorkers) -> None:
    seen = 0

    def stop() -> bool:
        return seen >= 2

    for event in run(plans(toy.STUDY, "coin", seconds="0.1"), ledger, workers, trials=100, should_stop=stop):
        seen += isinstance(event, TrialEnded)
    assert event.reason == "stopped"
    assert 2 <= len(list(ledger.rows("toy"))) < 10
    assert ledger.running() == set()


def test_a_caller_that_gives_up_loses_only_what_is_under_way(ledger: Ledger, workers: LocalWorkers) -> None:
    events = run(plans(toy.STUDY, "coin", seconds="0.1"), ledger, workers, trials=100)
    for event in events:
        if isinstance(event, TrialEnded):
            break
    events.close()
    assert event.row in list(ledger.rows("toy"))
    assert ledger.running() == set()


def check(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "assay.cli", "check", "toy", "--experiment", "coin", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_rows(ledger: Ledger, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(list(ledger.rows("toy"))) < count:
        assert time.monotonic() < deadline, "no trial has ended"
        time.sleep(0.05)


def test_kill_minus_nine_loses_only_trials_under_way(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--trials", "12", "--set", "seconds=0.2", "--jobs", "2"]
    process = check(*arguments)
    wait_for_rows(ledger, 3)
    process.kill()
    process.communicate()
    before = list(ledger.rows("toy"))
    assert ledger.running()
    again = check(*arguments)
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    after = list(ledger.rows("toy"))
    assert after[: len(before)] == before
    assert sorted(row.index for row in after) == list(range(12))
    assert all(row.outcome is Outcome.MEASURED for row in after)


def test_the_workers_of_a_killed_run_end_too(ledger: Ledger) -> None:
    process = check("--trials", "3", "--set", "seconds=0.2")
    wait_for_rows(ledger, 1)
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    )
    pids = children.stdout.split()
    assert pids
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while subprocess.run(["ps", "-p", ",".join(pids), "-o", "pid="], capture_output=True).stdout.strip():
        assert time.monotonic() < deadline, "a worker outlived its runner"
        time.sleep(0.1)


def test_ctrl_c_exits_130_and_the_next_run_goes_on(ledger: Ledger) -> None:
    arguments = ["--trials", "8", "--set", "seconds=0.3"]
    process = check(*arguments)
    wait_for_rows(ledger, 2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "goes on from here" in errors
    assert ledger.running() == set()
    begun = len(list(ledger.rows("toy")))
    assert check(*arguments).wait(timeout=60) == 0
    rows = list(ledger.rows("toy"))
    assert begun < len(rows) == 8


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_two_runs_on_one_ledger_neither_lose_nor_double_a_trial(
    request: pytest.FixtureRequest, database: str
) -> None:
    from assay.database import open_database

    if database == "postgresql":
        request.getfixturevalue("postgresql")
    arguments = ["--trials", "24", "--set", "seconds=0.1"]
    processes = [check(*arguments) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    rows = list(Ledger(open_database()).rows("toy"))
    assert sorted(row.index for row in rows) == list(range(24))


def test_trials_of_a_study_need_not_be_of_this_package() -> None:
    from assay import studies

    assert {"toy", "toy_broken"} <= set(studies.slugs())
    assert studies.load("toy") is toy.STUDY
    assert studies.resolve("Toy-Broken") == "toy_broken"
    with pytest.raises(studies.UnknownStudy, match="did you mean 'toy_broken'"):
        studies.load("toy_brokn")
    assert isinstance(toy.STUDY.experiment("coin"), Experiment)
