"""The grid: all runs of a profile, side by side, each of them once."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nab.errors import NabError
from nab.experiments.config import RunConfig
from nab.experiments.estimates import Estimates
from nab.experiments.executors import Executor
from nab.experiments.provenance import device_name
from nab.experiments.runner import run
from nab.experiments.stages import StageCache
from nab.experiments.store import Found, ResultStore, find_results
from nab.files import write_whole
from nab.progress import silence
from nab.training import resolve_device
from nab.training.memory import keep_freed_memory, release_freed_memory

if TYPE_CHECKING:
    from nab.experiments.comparison import Run

ATTEMPTS = 2
"""How often a run is started whose worker died. The first time, another run may have been the cause."""


@dataclasses.dataclass
class Cell:
    """One run of the grid and how it stands.

    Attributes:
        config: the run.
        studies: the studies for which it is made.
        state: ``"waiting"``, ``"running"``, ``"done"``, ``"failed"``, ``"left"`` (it was not started, for lack of time)
            or ``"stopped"`` (it was ended when the time was over).
        was_finished: whether its result was there before.
        metrics: of a run that is done, in percent.
        seconds: wall time of a run that ended here, waiting for shared stages included; of a run that was finished
            before, what its stages cost.
        started: when it was started, by `time.monotonic`.
        message: why it failed.
        attempts: how often it was started.
    """

    config: RunConfig
    studies: tuple[str, ...] = ()
    state: str = "waiting"
    was_finished: bool = False
    metrics: dict[str, float | None] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0
    message: str = ""
    attempts: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """How every run of a grid is made; see `nab.experiments.run`."""

    profile: str
    results: str
    stages: str
    data_root: str | None
    device: str
    threads: int


class Grid:
    """The runs of a profile that are finished, running and to come.

    Args:
        runs: configs and the studies for which they are made, in the order of importance. A run that is named twice is
            made once, for the studies of both.
        settings: how they are made.

    Attributes:
        cells: every run and how it stands.
        found: what lies in the profile's folder of results. A file that cannot be read counts as no result.
        estimates: how long runs take.
    """

    def __init__(self, runs: Iterable[Run], settings: Settings) -> None:
        self.settings = settings
        wanted: dict[str, Cell] = {}
        for config, studies in runs:
            cell = wanted.setdefault(config.hash, Cell(config))
            cell.studies = tuple(dict.fromkeys((*cell.studies, *studies)))
        self.cells = list(wanted.values())
        self._store = ResultStore(settings.results, settings.profile)
        self.found = find_results(self._store.folder) if self._store.folder.exists() else Found([], [])
        device = resolve_device(settings.device)
        self.estimates = Estimates(self.found.results, device.type, device_name(device))
        self._results = {result.hash: result for result in self.found.results}
        for cell in self.cells:
            result = self._results.get(cell.config.hash)
            # Where a name does not fix the images, `run` compares them with those of the stored result.
            if result is not None and cell.config.make_source().fixes(str(result.data.get("provenance"))):
                cell.state, cell.was_finished = "done", True
                cell.metrics, cell.seconds = result.metrics, result.seconds

    def note_studies(self) -> None:
        """Write into the results that were there before for which studies they are used now.

        Raises:
            ResultError: a result cannot be written.
        """
        for cell in self.cells:
            if cell.was_finished:
                self._store.join(self._results[cell.config.hash], cell.config, cell.studies)

    def of_state(self, *states: str) -> list[Cell]:
        """The cells that stand so."""
        return [cell for cell in self.cells if cell.state in states]

    def seconds_left(self, jobs: int) -> float | None:
        """Expected seconds until all is done, or None where nothing similar has finished."""
        expected = [self.estimates.expected(cell.config) for cell in self.of_state("waiting")]
        if any(seconds is None for seconds in expected):
            return None
        now = time.monotonic()
        for cell in self.of_state("running"):
            known = self.estimates.expected(cell.config)
            if known is None:
                return None
            expected.append(max(known - (now - cell.started), 0.0))
        return sum(seconds for seconds in expected if seconds is not None) / jobs

    def execute(
        self,
        executor: Executor,
        jobs: int,
        *,
        deadline: float | None = None,
        tell: Callable[[Cell | None], None] = lambda cell: None,
    ) -> None:
        """Do what is waiting, the most important first, and keep going when a run fails.

        Args:
            executor: does the runs. It is stopped at the end, whatever happens.
            jobs: how many runs side by side.
            deadline: by `time.monotonic`. A run is not started if the longest similar one took more time than is left.
                What still runs at the deadline is stopped, and its finished stages stay.
            tell: called with every cell whose state changes, and with None about once a second.

        Raises:
            ResultError: the folder of results cannot be written to.
        """
        self._store.check_writable()
        running: dict[Future[Any], Cell] = {}
        try:
            while True:
                for cell in self._next(jobs - len(running), deadline):
                    self._start(cell, executor, running, tell)
                if not running:
                    return
                pause = 1.0 if deadline is None else min(1.0, max(deadline - time.monotonic(), 0.0))
                finished, _ = wait(running, timeout=pause, return_when=FIRST_COMPLETED)
                self._collect(finished, running, executor, tell)
                tell(None)
                if deadline is not None and time.monotonic() >= deadline:
                    for cell in running.values():
                        cell.state = "stopped"
                        tell(cell)
                    return
        finally:
            for cell in self.of_state("waiting"):
                cell.state = "left"
            executor.stop()

    def _next(self, count: int, deadline: float | None) -> Iterator[Cell]:
        """Up to ``count`` waiting cells that can finish in time.

        A run whose worker died runs alone the second time, so that it harms no other run and no other harms it.
        """
        fresh = [cell for cell in self.of_state("waiting") if not cell.attempts]
        suspects = [cell for cell in self.of_state("waiting") if cell.attempts]
        if any(cell.attempts > 1 for cell in self.of_state("running")):
            return
        if not fresh:
            count = 0 if self.of_state("running") else min(count, 1)
        for cell in fresh or suspects:
            if count <= 0:
                return
            longest = self.estimates.at_most(cell.config) or 0.0
            if deadline is None or time.monotonic() + longest < deadline:
                count -= 1
                yield cell

    def _start(
        self, cell: Cell, executor: Executor, running: dict[Future[Any], Cell], tell: Callable[[Cell | None], None]
    ) -> None:
        cell.state, cell.started, cell.attempts = "running", time.monotonic(), cell.attempts + 1
        call = (work, cell.config, cell.studies, self.settings)
        try:
            future = executor.submit(*call)
        except BrokenExecutor:  # a worker died while it had nothing to do
            executor.renew()
            future = executor.submit(*call)
        running[future] = cell
        tell(cell)

    def _collect(
        self,
        finished: Iterable[Future[Any]],
        running: dict[Future[Any], Cell],
        executor: Executor,
        tell: Callable[[Cell | None], None],
    ) -> None:
        is_broken = any(isinstance(future.exception(), BrokenExecutor) for future in finished)
        if is_broken:  # when one worker dies, the futures of all workers fail
            finished, _ = wait(running)
        for future in finished:
            cell = running.pop(future)
            cell.seconds = time.monotonic() - cell.started
            try:
                cell.state, told = future.result()
            except BrokenExecutor as error:
                cell.state, told = "failed", f"its process died ({error})"
            except Exception as error:  # raised by a cluster; Ray wraps what happened in a long report
                cause = getattr(error, "cause", None) or error
                cell.state, told = "failed", f"{type(cause).__name__}: {cause}"
            if cell.state == "done":
                cell.metrics, seconds, device = told
                self.estimates.add(cell.config.settings, seconds, device)
            else:
                cell.message = " ".join(str(told).split())
                if is_broken and cell.attempts < ATTEMPTS:
                    cell.state = "waiting"
            tell(cell)
        if is_broken:
            executor.renew()


def work(config: RunConfig, studies: tuple[str, ...], settings: Settings) -> tuple[str, Any]:
    """One run, in a worker: ``("done", (metrics, wall seconds, device))``, or ``("failed", why)``."""
    import torch

    silence()
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    try:
        result = run(
            config,
            profile=settings.profile,
            studies=studies,
            results=settings.results,
            data_root=settings.data_root,
            device=settings.device,
            keeper=StageCache(settings.stages),
        )
    except NabError as error:
        return "failed", str(error)
    except Exception as error:  # the grid goes on, and the traceback is kept in a file
        return "failed", _report(error, config, settings)
    finally:
        release_freed_memory()  # the worker may have to wait, or its next run may be smaller
    return "done", (result.metrics, result.wall_seconds, result.device["name"])


def _report(error: Exception, config: RunConfig, settings: Settings) -> str:
    """One line about the error, and the file that holds its traceback."""
    path = ResultStore(settings.results, settings.profile).path(config).with_suffix(".failed.txt")
    last = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
    try:
        write_whole(path, "".join(traceback.format_exception(error)).encode())
    except OSError:
        return told
    return f"{told}; traceback in {path}"
