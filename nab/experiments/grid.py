"""The grid: all runs of a profile, side by side, each of them once."""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from pathlib import Path
from typing import Any

from nab.data import SOURCES
from nab.errors import ConfigError, NabError
from nab.experiments.config import RunConfig
from nab.experiments.estimates import Estimates
from nab.experiments.executors import Executor
from nab.experiments.result import device_name
from nab.experiments.run import run
from nab.experiments.stages import StageCache
from nab.experiments.store import ResultStore, read_results
from nab.files import write_whole
from nab.progress import silence
from nab.training import resolve_device
from nab.training.memory import release_freed_memory

ATTEMPTS = 2
"""How often a run is started whose worker died; it may have been another run's fault."""


@dataclasses.dataclass
class Cell:
    """One run of the grid and how it stands.

    Attributes:
        config: the run.
        state: ``"waiting"``, ``"running"``, ``"done"``, ``"failed"``, ``"left"`` (no time)
            or ``"stopped"`` (time over).
        was_finished: whether its result was there before.
        metrics: of a run that is done.
        seconds: how long it took here, waiting for shared stages included.
        started: when, by `time.monotonic`.
        message: why it failed.
        attempts: how often it was started.
    """

    config: RunConfig
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
        configs: in the order of importance.
        settings: how they are made.

    Raises:
        ResultError: a stored result is damaged.
    """

    def __init__(self, configs: Iterable[RunConfig], settings: Settings) -> None:
        self.settings = settings
        self.cells = [Cell(config) for config in {config.hash: config for config in configs}.values()]
        self._store = ResultStore(settings.results, settings.profile)
        finished = read_results(self._store.folder) if self._store.folder.exists() else []
        device = resolve_device(settings.device)
        self.estimates = Estimates(finished, device.type, device_name(device))
        results = {result.hash: result for result in finished}
        for cell in self.cells:
            # Where a name does not fix the images, `run` compares them with those of the stored result.
            if cell.config.hash in results and SOURCES[cell.config.dataset].is_fixed:
                result = results[cell.config.hash]
                cell.state, cell.was_finished, cell.metrics = "done", True, result.metrics
                cell.seconds = result.seconds["total"]

    def of_state(self, *states: str) -> list[Cell]:
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
            executor: where.
            jobs: how many runs side by side.
            deadline: by `time.monotonic`. A run is not started if the longest similar one took more time than is left;
                what still runs then is stopped, and its finished stages stay.
            tell: called with every cell whose state changes, and with None now and then.
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

        Those whose worker died come alone, since another run may have been the cause of it.
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
        running[executor.submit(work, cell.config, self.settings)] = cell
        tell(cell)

    def _collect(
        self,
        finished: Iterable[Future[Any]],
        running: dict[Future[Any], Cell],
        executor: Executor,
        tell: Callable[[Cell | None], None],
    ) -> None:
        is_broken = any(isinstance(future.exception(), BrokenExecutor) for future in finished)
        if is_broken:  # when one worker dies, the futures of all fail
            finished, _ = wait(running)
        for future in finished:
            cell = running.pop(future)
            cell.seconds = time.monotonic() - cell.started
            try:
                cell.state, told = future.result()
            except BrokenExecutor as error:
                cell.state, told = "failed", f"its process died ({error})"
            except Exception as error:  # of the cluster; Ray wraps what happened in a long report
                cause = getattr(error, "cause", None) or error
                cell.state, told = "failed", f"{type(cause).__name__}: {cause}"
            if cell.state == "done":
                cell.metrics, seconds, device = told
                self.estimates.add(cell.config, seconds, device)
            else:
                cell.message = " ".join(str(told).split())
                if is_broken and cell.attempts < ATTEMPTS:
                    cell.state = "waiting"
            tell(cell)
        if is_broken:
            executor.renew()


def work(config: RunConfig, settings: Settings) -> tuple[str, Any]:
    """One run, in a worker: ``("done", (metrics, seconds, device))``, or ``("failed", why)``."""
    import torch

    silence()
    torch.set_num_threads(settings.threads)
    try:
        result = run(
            config,
            profile=settings.profile,
            results=settings.results,
            data_root=settings.data_root,
            device=settings.device,
            keeper=StageCache(settings.stages),
        )
    except NabError as error:
        return "failed", str(error)
    except Exception as error:  # the grid goes on; what happened is written down
        return "failed", _report(error, config, settings)
    finally:
        release_freed_memory()  # the worker may wait, or the next run be a small one
    return "done", (result.metrics, result.seconds, result.device["name"])


def _report(error: Exception, config: RunConfig, settings: Settings) -> str:
    """What happened in one line, and where the whole of it can be read."""
    path = ResultStore(settings.results, settings.profile).path(config).with_suffix(".failed.txt")
    last = traceback.extract_tb(error.__traceback__)[-1]
    told = f"{type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})"
    try:
        write_whole(path, "".join(traceback.format_exception(error)).encode())
    except OSError:
        return told
    return f"{told}; all of it in {path}"


def select(configs: Iterable[RunConfig], only: Iterable[tuple[str, Any]]) -> list[RunConfig]:
    """The runs whose fields have the wanted values; several values of one field are alternatives.

    Args:
        configs: of a grid.
        only: pairs of a field of `RunConfig`, methods by name, and a value.

    Raises:
        ConfigError: no run has them.
    """
    wanted: dict[str, list[Any]] = {}
    for field, value in only:
        if field not in RunConfig.model_fields:
            raise ConfigError(f"unknown field {field!r}: expected one of {', '.join(sorted(RunConfig.model_fields))}")
        wanted.setdefault(field, []).append(value)
    every = list(configs)
    chosen = [config for config in every if all(_value(config, key) in values for key, values in wanted.items())]
    if not chosen:
        raise ConfigError(f"none of the grid's {len(every)} runs has {wanted}")
    return chosen


def _value(config: RunConfig, field: str) -> Any:
    value = getattr(config, field)
    return getattr(value, "name", value)
