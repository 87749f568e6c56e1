"""Where the grid's runs are executed: processes of this machine, or a cluster.

The engines schedule; each of them has `submit`, in the manner of `concurrent.futures`.
"""

from __future__ import annotations

import abc
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from nab.errors import ConfigError

BACKENDS = ("loky", "ray", "dask")
CLUSTER_EXTRA = "pip install 'nab-defense[cluster]'"

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""By these a user says how many threads a process may have."""

PR_SET_PDEATHSIG = 1
"""Of Linux's ``sys/prctl.h``: the signal that a process gets when its parent dies."""


class Executor(abc.ABC):
    """Takes calls and hands back futures."""

    @abc.abstractmethod
    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call ``work`` somewhere else."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End everything, calls that are running too."""

    def renew(self) -> None:  # noqa: B027 - clusters renew themselves
        """Be usable again after a worker died."""


class Processes(Executor):
    """Processes of this machine (loky, the engine of joblib).

    joblib's own interface has no deadline, and gives up when a worker is killed; loky's has and does not.

    Args:
        jobs: how many processes.
        threads: of each of them. Where the user's environment says how many (`THREAD_VARIABLES`), it stays as it is.
    """

    def __init__(self, jobs: int, threads: int) -> None:
        self._jobs = jobs
        # In the environment, since the libraries under torch count their threads when they are loaded.
        self._environment = {name: str(threads) for name in THREAD_VARIABLES if name not in os.environ}
        self.renew()

    def renew(self) -> None:
        from loky import ProcessPoolExecutor

        self._pool = ProcessPoolExecutor(
            self._jobs, env=self._environment, initializer=end_with_parent, initargs=(os.getpid(),)
        )

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = self._pool.submit(work, *arguments)
        return future

    def stop(self) -> None:
        self._pool.shutdown(wait=True, kill_workers=True)


def end_with_parent(parent: int) -> None:
    """Make this process, a worker, end when the process ``parent``, which started it, ends in whatever way.

    The kernel of Linux sees to it at once; elsewhere a thread looks once a second. Ctrl-C is left to the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    is_told = sys.platform == "linux" and ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    if not is_told:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    elif os.getppid() != parent:  # it ended before the kernel knew
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class Ray(Executor):
    """Tasks of a Ray cluster, which starts those of a lost node again on another one.

    Args:
        address: of the cluster. If None, the environment's (``RAY_ADDRESS``), else a fresh local one.
        threads: processors per task.
        gpus: share of a GPU per task, if the cluster has any; 0 for none.

    Raises:
        ConfigError: no node could ever take a task.
    """

    def __init__(self, address: str | None, threads: int, gpus: float) -> None:
        try:
            import ray

            from nab.experiments.orphans import ending_with_parent
        except ImportError:
            raise ConfigError(f"backend 'ray' needs ray and psutil: {CLUSTER_EXTRA}") from None
        self._ray: Any = ray
        if not ray.is_initialized():
            with ending_with_parent():  # a fresh local cluster: Ray's own agents outlive a kill by a minute
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("GPU", 0) for node in nodes):
            gpus = 0.0
        if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= gpus for node in nodes):
            most = max((node.get("CPU", 0) for node in nodes), default=0)
            raise ConfigError(
                f"no node of the ray cluster has {threads} processors{f' and {gpus:g} of a GPU' if gpus else ''} for a "
                f"run; the largest has {most:g} processors: pass fewer --threads"
            )
        self._resources = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 3}
        self._references: list[Any] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        reference = self._ray.remote(**self._resources)(work).remote(*arguments)
        self._references.append(reference)
        future: Future[Any] = reference.future()
        return future

    def stop(self) -> None:
        for reference in self._references:
            self._ray.cancel(reference, force=True)


class Dask(Executor):
    """Tasks of a Dask cluster.

    Dask cannot interrupt a task. At the end of a time budget the tasks of a local cluster end with it; those of another
    cluster run on, and nobody waits for their results.

    Args:
        address: of the scheduler. If None, a fresh local cluster of ``jobs`` processes is started.
    """

    def __init__(self, address: str | None, jobs: int) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise ConfigError(f"backend 'dask' needs distributed: {CLUSTER_EXTRA}") from None
        local = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": None}
        self._client = Client(address) if address else Client(**local)
        self._futures = self._client.get_executor(pure=False)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = self._futures.submit(work, *arguments)
        return future

    def stop(self) -> None:
        self._futures.shutdown(wait=False)
        self._client.close()  # and with it a local cluster


def usable_cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usual_threads(jobs: int) -> int:
    """Threads for each of ``jobs`` runs: as the user's environment says (`THREAD_VARIABLES`), else a fair share of the
    processors."""
    for name in THREAD_VARIABLES:
        outermost = os.environ.get(name, "").partition(",")[0].strip()  # OpenMP takes a list, one number a level
        if outermost.isdecimal() and int(outermost) > 0:
            return int(outermost)
    return max(1, usable_cores() // jobs)


def make_executor(backend: str, *, address: str | None, jobs: int, threads: int, gpus: float) -> Executor:
    """The executor ``backend``.

    Args:
        backend: one of `BACKENDS`.
        address: of the cluster; see the classes.
        jobs: how many runs side by side.
        threads: of each of them.
        gpus: share of a GPU that each of them takes.

    Raises:
        ConfigError: what it needs is not installed, or cannot be reached.
    """
    try:
        if backend == "ray":
            return Ray(address, threads, gpus)
        return Dask(address, jobs) if backend == "dask" else Processes(jobs, threads)
    except (OSError, ConnectionError) as error:
        raise ConfigError(f"backend {backend!r} cannot be reached: {error}") from None
