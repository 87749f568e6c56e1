"""How long a run will take, from runs that have finished."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

from nab.experiments.config import RunConfig
from nab.experiments.result import RunResult


class Estimates:
    """Seconds of runs by their kind; the most similar ones that have finished decide.

    Args:
        results: finished runs.
    """

    def __init__(self, results: Iterable[RunResult] = ()) -> None:
        self._seconds: dict[tuple[object, ...], list[float]] = defaultdict(list)
        for result in results:
            self.add(result.config, result.seconds["total"])

    def add(self, config: RunConfig, seconds: float) -> None:
        """Count a finished run."""
        for kind in _kinds(config):
            self._seconds[kind].append(seconds)

    def expected(self, config: RunConfig) -> float | None:
        """The median over the most similar finished runs; None if none is similar."""
        similar = self._similar(config)
        return statistics.median(similar) if similar else None

    def at_most(self, config: RunConfig) -> float | None:
        """The longest of the most similar finished runs; None if none is similar."""
        return max(self._similar(config), default=None)

    def _similar(self, config: RunConfig) -> list[float]:
        return next((self._seconds[kind] for kind in _kinds(config) if kind in self._seconds), [])


def _kinds(config: RunConfig) -> list[tuple[object, ...]]:
    """What makes runs take equally long, from narrow to wide."""
    training = (config.dataset, config.train_size, config.model, config.width, config.recipe)
    methods = tuple(method and method.name for method in (config.defense, config.detector, config.labeler))
    return [
        (training, methods, config.attack.name),
        (training, methods),
        (training, config.defense.name),
    ]
