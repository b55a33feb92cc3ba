"""The worker: runs the checks that the page asks for and, when there are none, every study in turn."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing

import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from assay import studies
from assay.database import open_database
from assay.evidence.ledger import Ledger, Outcome
from assay.evidence.runner import Ended, Plan, Started, TrialEnded, plan, run
from assay.evidence.standing import cost, recorded_rows
from assay.evidence.study import Study
from assay.evidence.verdict_log import VerdictLog
from assay.evidence.verdicts import Tally, Verdict
from assay.evidence.workers import LocalWorkers
from assay.papers import people, sources
from assay.web import mailings
from assay.web.checks import APPLICATION, EXECUTOR, QUEUE, VERSION, WORKFLOW, Controls, workflows_url

NICENESS = 10


class _Stopping(BaseException):
    """The worker ends, or somebody has cancelled the check. Not an Exception: DBOS is to leave the check as
    it is, pending for the next worker or cancelled."""


def work(*, sweep: bool = True) -> None:
    """Check papers until SIGINT or SIGTERM, one trial at a time and behind everything else on this machine.

    Checks that the page asks for go first; with `sweep`, every installed study gets its turn besides.

    A check that was asked for outlives the worker: whatever ends it, the next one takes the check up, and
    the ledger holds the trials that were done.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    _Worker(open_database(), stopping).work(sweep)


class _Worker:
    def __init__(self, engine: sa.Engine, stopping: threading.Event) -> None:
        self.engine = engine
        self.ledger = Ledger(engine)
        self.controls = Controls(engine)
        self.log = VerdictLog(engine)
        self.stopping = stopping
        self.paused = self.controls.paused
        self.doing: str | None = None
        self.asked = threading.Event()
        """A check waits for the sweep to make way."""
        self.check: str | None = None
        """The workflow of the check that runs."""
        self.cancelled: str | None = None
        """The last workflow that was cancelled while it ran."""
        self.turn = threading.Lock()
        self.swept: set[str] = set()
        """The studies that have had their time in this process; what stayed undecided is not run again."""
        self.seconds: dict[tuple[str, str], float] = {}
        """What the sweep has spent on an experiment that it had to leave."""

    def work(self, sweep: bool) -> None:
        from dbos import DBOS

        watch = threading.Thread(target=self._watch, daemon=True)
        watch.start()
        DBOS(
            config={
                "name": APPLICATION,
                "system_database_url": workflows_url(self.engine),
                "executor_id": EXECUTOR,
                "application_version": VERSION,
                "enable_otlp": False,
                "log_level": "ERROR",
            }
        )

        @DBOS.workflow(name=WORKFLOW)
        def check(slug: str) -> str:
            return self._check(slug)

        sources.register(DBOS, self.engine, self.stopping)
        people.register(DBOS, self.engine, self.stopping)
        mailing = mailings.register(DBOS, self.engine, self.stopping)
        DBOS.launch()
        DBOS.apply_schedules([mailing])
        DBOS.register_queue(sources.QUEUE, global_concurrency=1)
        DBOS.register_queue(QUEUE, global_concurrency=1, polling_interval_sec=0.5)
        _say("worker", "ready" if not self.paused else "paused")
        try:
            while not self.stopping.is_set():
                if not sweep or self.paused or self.asked.is_set() or not self._sweep():
                    self.stopping.wait(0.2)
        finally:
            self.stopping.set()
            watch.join()
            with self.turn:  # a check that runs gives its trials back first
                self.controls.leave()
                DBOS.destroy()

    def _watch(self) -> None:
        """Read the pause button, see whether the check is cancelled, and give a sign of life."""
        from dbos import DBOS

        beats = 0
        while not self.stopping.is_set():
            try:
                self.paused = self.controls.paused
                if (check := self.check) is not None:
                    status = DBOS.get_workflow_status(check)
                    if status is not None and status.status == "CANCELLED":
                        self.cancelled = check
                if beats % 4 == 0:
                    self.controls.report(self.doing)
            except OperationalError:
                pass  # a database busy for so long is busy with more important things
            beats += 1
            self.stopping.wait(0.5)

    # ------------------------------------------------------------------ checks that were asked for

    def _check(self, slug: str) -> str:
        """The durable workflow: every experiment of the study is a step that is not taken twice."""
        from dbos import DBOS

        self.asked.set()
        try:
            with self.turn:
                if self.stopping.is_set():
                    raise _Stopping
                study = self._load(slug)
                if study is None:
                    return "broken"
                self._now(slug)
                self.check = DBOS.workflow_id
                self.swept.add(slug)  # a check that is cancelled is not for the sweep to go on with either
                with closing(LocalWorkers(1)) as workers:
                    for experiment in study.experiments:
                        item = plan(study, experiment, studies.module_of(slug))
                        DBOS.run_step({"name": experiment.name}, self._step, item, workers)
        finally:
            self.check = None
            self.asked.clear()
            self._now(None)
        return "done"

    def _step(self, item: Plan, workers: LocalWorkers) -> str:
        def cancelled() -> bool:
            return self.cancelled is not None and self.cancelled == self.check

        spent = 0.0
        self.paused = self.controls.paused  # a pause just before the check holds it, read by then or not
        while True:
            while self.paused and not self.stopping.is_set() and not cancelled():
                self.stopping.wait(0.2)
            if self.stopping.is_set() or cancelled():
                raise _Stopping
            reason, seconds = self._run(item, workers, spent, lambda: self.paused or cancelled())
            spent += seconds
            if reason != "stopped":
                return reason

    # ------------------------------------------------------------------ the sweep

    def _sweep(self) -> bool:
        """Run the next study, cheapest recorded time first; False where there is none left."""
        left = [slug for slug in studies.slugs() if slug not in self.swept]
        if not left:
            return False
        slug = min(left, key=lambda slug: cost(recorded_rows(studies.module_of(slug))))
        with self.turn:
            study = self._load(slug)
            if study is not None:
                self._now(slug)
                with closing(LocalWorkers(1)) as workers:
                    for experiment in study.experiments:
                        item = plan(study, experiment, studies.module_of(slug))
                        key = slug, experiment.name
                        reason, seconds = self._run(
                            item,
                            workers,
                            self.seconds.get(key, 0.0),
                            lambda: self.paused or self.asked.is_set(),
                        )
                        self.seconds[key] = self.seconds.get(key, 0.0) + seconds
                        if reason == "stopped":
                            self._now(None)
                            return True
            self.swept.add(slug)
            self._now(None)
        return True

    # ------------------------------------------------------------------ both

    def _load(self, slug: str) -> Study | None:
        try:
            return studies.load(slug)
        except Exception as error:  # a study is other people's code
            _say(slug, f"cannot be imported: {error}")
            return None

    def _run(
        self, item: Plan, workers: LocalWorkers, spent: float, should_stop: Callable[[], bool]
    ) -> tuple[str, float]:
        """Run one experiment, saying each verdict as it lands; the reason why it ended, and its seconds."""
        began = time.monotonic()
        budget = None if item.budget is None else max(0.0, item.budget - spent)
        decided: set[str] = set()
        reason = "stopped"
        for event in run(
            [item],
            self.ledger,
            workers,
            budget=budget,
            should_stop=lambda: self.stopping.is_set() or should_stop(),
        ):
            if isinstance(event, Started):
                decided = set(_decided(event.tally))
            elif isinstance(event, TrialEnded):
                for name, text in _decided(event.tally).items():
                    if name not in decided:
                        decided.add(name)
                        _say(item.study, f"{item.experiment.name}/{name}  {text}")
                if event.row.outcome is not Outcome.MEASURED:
                    last = (event.row.cause or "").strip().rpartition("\n")[2]
                    _say(item.study, f"{item.experiment.name}  broken  {last}")
            elif isinstance(event, Ended):
                reason = event.reason
        self.log.refresh(studies.load(item.study), studies.module_of(item.study))
        return reason, time.monotonic() - began

    def _now(self, slug: str | None) -> None:
        self.doing = slug
        if not self.stopping.is_set():
            self.controls.report(slug)


def _decided(tally: Tally) -> dict[str, str]:
    return {
        claim.claim.name: f"{claim.verdict}  {claim.yes} of {claim.answered}"
        for claim in tally.claims
        if claim.verdict is not Verdict.UNDECIDED
    }


def _say(subject: str, text: str) -> None:
    print(f"{subject}  {text}", flush=True)
