"""Where trials run: in processes of this machine (pebble) or of a cluster (Dask).

The runner needs three things of its workers: submit, results as they end, and kill.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import random
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from assay.evidence.study import Trial, seed_sequence

MEMORY_LIMIT = 4 * 2**30
"""Bytes of data that a worker on this machine may hold: twice what a quick trial may need, so that a trial
that goes astray gets a MemoryError before the machine runs out."""

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """One trial to run: everything a worker needs, sent to it by pickle (the trial by name)."""

    study: str
    experiment: str
    trial: Trial
    settings: Any
    index: int


@dataclass(frozen=True)
class Report:
    """What a worker says of a trial that came to an end there. `cause` is the traceback if it raised."""

    measurements: Any
    cause: str | None
    seconds: float
    peak_memory: int | None
    machine: dict[str, Any]


class Workers(Protocol):
    """A place where trials run. A future fails with TimeoutError when its trial took too long, and with any
    other exception when the process that ran it died."""

    size: int

    def submit(self, job: Job, timeout: float) -> Future[Report]: ...

    def close(self) -> None:
        """Kill what still runs."""


def run_job(job: Job) -> Report:
    """Run the trial in this process, all random number generators seeded from its index."""
    import numpy as np

    _seed_global_generators(job)
    _reset_peak_memory()
    rng = np.random.default_rng(seed_sequence(job.study, job.experiment, job.index))
    measurements = cause = None
    started = time.perf_counter()
    try:
        measurements = job.trial(job.settings, rng)
    except BaseException:  # a trial that calls sys.exit is broken too, and must not end its worker
        cause = traceback.format_exc()
    seconds = time.perf_counter() - started
    return Report(measurements, cause, seconds, _peak_memory(), machine())


def _seed_global_generators(job: Job) -> None:
    """Trials draw from their own generator; this is for libraries that draw from a global one."""
    import numpy as np

    # Children of a sequence of their own: a trial that spawns generators gets the same ones run by hand.
    children = seed_sequence(job.study, job.experiment, job.index).spawn(3)
    for_python, for_numpy, for_torch = (child.generate_state(4) for child in children)
    random.seed(for_python.tobytes())
    np.random.seed(for_numpy)  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        torch.manual_seed(int(for_torch[0]))


@functools.cache
def machine() -> dict[str, Any]:
    """What kind of machine this is; says nothing of whose it is."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _reset_peak_memory() -> None:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _peak_memory() -> int | None:
    """The largest resident size, in bytes, since the last reset; where no reset is possible, ever."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _start(parent: int, memory: int | None) -> None:
    """Runs first in each worker process."""
    # What a trial or a library prints would end up between progress bars or in --json.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    if memory is not None and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

    def follow() -> None:
        # A runner that was killed cannot stop its workers.
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()


class LocalWorkers:
    """`jobs` processes on this machine, each with one thread for BLAS and torch and a limit on memory.

    The death or time-out of one ends only the trial that it ran.
    """

    def __init__(self, jobs: int = 1, *, memory: int | None = MEMORY_LIMIT) -> None:
        self.size = jobs
        self._memory = memory
        # Inherited by the workers, also by those that take the place of dead ones.
        self._environment = {name: os.environ.get(name) for name in _ONE_THREAD}
        os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
        self._pool = self._new_pool()

    def _new_pool(self) -> Any:
        import multiprocessing

        from pebble import ProcessPool

        return ProcessPool(
            self.size,
            initializer=_start,
            initargs=(os.getpid(), self._memory),
            # Forking a process with threads (torch, BLAS, the page) can deadlock.
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, job: Job, timeout: float) -> Future[Report]:
        if not self._pool.active:
            # A process that died between trials takes pebble's whole pool with it.
            self._pool.stop()
            self._pool.join()
            self._pool = self._new_pool()
        future: Future[Report] = self._pool.schedule(run_job, args=(job,), timeout=timeout)
        return future

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class ClusterWorkers:
    """The workers of a Dask cluster, on which assay is installed in the same version.

    A time-out restarts the worker process that ran the trial, which needs a nanny, Dask's default.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError as error:
            raise ImportError("a cluster needs the extra assay[cluster]") from error
        self._client = Client(address, timeout=10)
        self.size = max(1, sum(self._client.nthreads().values()))
        self._closed = threading.Event()

    def submit(self, job: Job, timeout: float) -> Future[Report]:
        future: Future[Report] = Future()
        remote = self._client.submit(run_job, job, pure=False, retries=0)

        def wait() -> None:
            deadline = None
            while not remote.done():
                if self._closed.wait(0.1) or future.cancelled():
                    remote.cancel()
                    future.cancel()
                    return
                places = [worker for worker, keys in self._client.processing().items() if remote.key in keys]
                if places and deadline is None:
                    deadline = time.monotonic() + timeout
                if deadline is not None and time.monotonic() > deadline:
                    remote.cancel()
                    self._client.restart_workers(places, raise_for_error=False)
                    if future.set_running_or_notify_cancel():
                        future.set_exception(TimeoutError())
                    return
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(remote.result())
                except Exception as error:
                    future.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        return future

    def close(self) -> None:
        self._closed.set()
        self._client.close()
