import multiprocessing
import time
from collections.abc import Iterator

import pytest
from assay_toy import toy, toy_broken

from assay.evidence import runner
from assay.evidence.ledger import Ledger
from assay.evidence.runner import plan, run
from assay.evidence.workers import ClusterWorkers, Job, LocalWorkers


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="needs the extra assay[cluster]")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, protocol="tcp"
    )
    yield cluster.scheduler_address
    cluster.close()


@pytest.fixture
def cluster(address: str) -> Iterator[ClusterWorkers]:
    workers = ClusterWorkers(address)
    yield workers
    workers.close()


def test_a_worker_that_dies_between_trials_is_replaced() -> None:
    workers = LocalWorkers(2)
    try:
        jobs = [Job("toy", "coin", toy.coin, toy.Coin(seconds=0.1), index) for index in range(4)]
        first = [future.result() for future in [workers.submit(job, 60) for job in jobs]]
        for victim in multiprocessing.active_children():
            victim.kill()
            victim.join()
        time.sleep(0.5)
        again = [future.result() for future in [workers.submit(job, 60) for job in jobs]]
        assert [report.measurements for report in again] == [report.measurements for report in first]
    finally:
        workers.close()


def test_trials_run_on_a_cluster(ledger: Ledger, cluster: ClusterWorkers) -> None:
    assert cluster.size == 2
    item = plan(toy.STUDY, toy.STUDY.experiment("coin"), "assay_toy.toy")
    end = list(run([item], ledger, cluster, budget=60))[-1]
    assert end.reason == "decided"
    assert len({row.index for row in ledger.rows("toy")}) == len(list(ledger.rows("toy")))


def test_a_trial_that_hangs_on_a_cluster_breaks_alone(
    ledger: Ledger, cluster: ClusterWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "QUICK_TIMEOUT", 1.0)
    names = ("raises", "hangs", "works")
    plans = [
        plan(toy_broken.STUDY, toy_broken.STUDY.experiment(name), "assay_toy.toy_broken") for name in names
    ]
    reasons = [
        event.reason for event in run(plans, ledger, cluster, budget=60) if isinstance(event, runner.Ended)
    ]
    assert reasons == ["broken", "broken", "decided"]


def test_a_cluster_that_is_not_there_is_said() -> None:
    begun = time.monotonic()
    with pytest.raises(OSError):
        ClusterWorkers("tcp://127.0.0.1:1")
    assert time.monotonic() - begun < 30
