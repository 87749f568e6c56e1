"""How long a run will take, from runs that have finished."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from nab.experiments.config import RunConfig
from nab.experiments.result import RunResult


class Estimates:
    """How many seconds a run will take, from the most similar runs that have finished.

    The time depends on which of a run's stages other runs have left in the cache. So the estimate is the wall time of
    similar runs, not the cost of their stages.

    Args:
        results: finished runs.
        device: ``"cpu"`` or ``"cuda"``; runs on another device are left out. None: all count.
        name: of the processor or GPU; among equally similar runs, those on this one come first.
    """

    def __init__(self, results: Iterable[RunResult] = (), device: str | None = None, name: str | None = None) -> None:
        self._seconds: dict[tuple[object, ...], list[float]] = defaultdict(list)
        self._name = name
        for result in results:
            if device in (None, result.device["type"]):
                self.add(result.settings, result.wall_seconds, result.device["name"])

    def add(self, settings: Mapping[str, Any], seconds: float, name: str | None = None) -> None:
        """Count a finished run.

        Args:
            settings: `RunConfig.settings`.
            seconds: its wall time.
            name: of the processor or GPU that it ran on; by default the one that was named to this object.
        """
        for kind in _kinds(settings):
            for where in {name or self._name, None}:
                self._seconds[where, kind].append(seconds)

    def expected(self, config: RunConfig) -> float | None:
        """The mean over the most similar finished runs; None if none is similar."""
        similar = self._similar(config)
        return statistics.mean(similar) if similar else None

    def at_most(self, config: RunConfig) -> float | None:
        """The longest of the most similar finished runs; None if none is similar."""
        return max(self._similar(config), default=None)

    def _similar(self, config: RunConfig) -> list[float]:
        wanted = [(where, kind) for kind in _kinds(config.settings) for where in (self._name, None)]
        return next((self._seconds[key] for key in wanted if key in self._seconds), [])


def _kinds(settings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Keys of a run, from narrow to wide; runs with a common key take about equally long."""
    said = {name: json.dumps(value, sort_keys=True) for name, value in settings.items()}
    training = tuple(said[name] for name in ("dataset", "model", "recipe", "encoder"))
    methods = tuple(said[name] for name in ("defense", "detector", "labeler"))
    return [
        (*training, *methods, said["attack"], said["poison_rate"]),
        (*training, *methods),
        (*training, str(settings["defense"]["name"])),
    ]
