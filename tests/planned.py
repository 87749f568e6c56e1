"""An executor that runs nothing, in a time that passes only while the grid waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

from helpers import result_of
from upath import UPath

from nab.experiments import Executor, Grid, ResultStore, RunConfig, Settings

Runs = list[tuple[RunConfig, tuple[str, ...]]]


def runs(count: int, *studies: str, **changes: Any) -> Runs:
    return [(RunConfig(seed=seed, **changes), studies) for seed in range(count)]


def finish(how: Settings, config: RunConfig, seconds: float = 10.0, **changes: Any) -> Path | UPath:
    """A stored result that took ``seconds``."""
    result = result_of(config).model_copy(update={"wall_seconds": seconds} | changes)
    return ResultStore(how.results, how.profile).write(result, config)


def states(grid: Grid) -> list[str]:
    return [cell.state for cell in grid.cells]


class Time:
    """A clock, and the futures that it brings to their end."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, futures: Iterable[Planned], timeout: float | None = None, **_: object) -> tuple[set[Planned], ...]:
        """As `concurrent.futures.wait`, for the first one that ends."""
        pending = set(futures)
        end = min(future.end for future in pending)
        self.now = end if timeout is None else min(end, self.now + timeout)
        done = {future for future in pending if future.end <= self.now or future.done()}
        for future in done:
            future.finish()
        return done, pending - done


class Planned(Future):
    """Ends when it was told to."""

    def __init__(self, end: float, outcome: Any) -> None:
        super().__init__()
        self.end, self._outcome = end, outcome

    def finish(self) -> None:
        if self.done():
            return
        if isinstance(self._outcome, BaseException):
            self.set_exception(self._outcome)
        else:
            self.set_result(self._outcome)


class Plan(Executor):
    """Calls nothing; every run takes its planned time and has its planned outcome, by seed.

    A run whose outcome is a `BrokenExecutor` takes all that run with it, as a process pool does.
    """

    def __init__(self, time: Time, seconds: Callable[[int], float], outcomes: dict[int, list[Any]]) -> None:
        self.time, self.seconds, self.outcomes = time, seconds, outcomes
        self.started: list[tuple[float, int]] = []
        self.studies: list[tuple[str, ...]] = []
        self.most = self.renewed = self.stopped = 0
        self._running: list[Planned] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Planned:
        seed = arguments[0].seed
        self._running = [future for future in self._running if not future.done()]
        self.started.append((self.time.now, seed))
        self.studies.append(arguments[1])
        planned = self.outcomes.get(seed, [])
        seconds = self.seconds(seed)
        outcome = planned.pop(0) if planned else ("done", ({"clean_accuracy": float(seed)}, seconds, "this"))
        future = Planned(self.time.now + seconds, outcome)
        if isinstance(outcome, BrokenExecutor):
            future.finish = lambda: self._break(future, outcome)  # type: ignore[method-assign]
        self._running.append(future)
        self.most = max(self.most, len(self._running))
        return future

    def _break(self, first: Planned, error: BrokenExecutor) -> None:
        for future in self._running:
            if not future.done():
                future.end = min(future.end, first.end)
                future.set_exception(error)

    def renew(self) -> None:
        self.renewed += 1

    def stop(self) -> None:
        self.stopped += 1

    @property
    def seeds(self) -> list[int]:
        return [seed for _, seed in self.started]
