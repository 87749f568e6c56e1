"""How long a run will take, from runs that have finished."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

from nab.experiments.config import Method, RunConfig
from nab.experiments.result import RunResult


class Estimates:
    """Seconds of runs by their kind; the most similar ones that have finished decide.

    What a run costs depends on which of its stages others have left in the cache: what counts is what similar ones
    took, not what they would have taken alone.

    Args:
        results: finished runs.
        device: ``"cpu"`` or ``"cuda"``; runs on the other one say nothing. None: all count.
        name: of the processor or GPU; among equally similar runs, those on this one are asked first.
    """

    def __init__(self, results: Iterable[RunResult] = (), device: str | None = None, name: str | None = None) -> None:
        self._seconds: dict[tuple[object, ...], list[float]] = defaultdict(list)
        self._name = name
        for result in results:
            if device in (None, result.device["type"]):
                self.add(result.config, result.seconds, result.device["name"])

    def add(self, config: RunConfig, seconds: Mapping[str, float], name: str | None = None) -> None:
        """Count a finished run, given its result's ``seconds`` and on what it ran; by default, as the next will."""
        for kind in _kinds(config):
            for where in {name or self._name, None}:
                self._seconds[where, kind].append(seconds.get("passed", seconds["total"]))

    def expected(self, config: RunConfig) -> float | None:
        """The mean over the most similar finished runs; None if none is similar."""
        similar = self._similar(config)
        return statistics.mean(similar) if similar else None

    def at_most(self, config: RunConfig) -> float | None:
        """The longest of the most similar finished runs; None if none is similar."""
        return max(self._similar(config), default=None)

    def _similar(self, config: RunConfig) -> list[float]:
        wanted = [(where, kind) for kind in _kinds(config) for where in (self._name, None)]
        return next((self._seconds[key] for key in wanted if key in self._seconds), [])


def _kinds(config: RunConfig) -> list[tuple[object, ...]]:
    """What makes runs take equally long, from narrow to wide."""
    encoder = _spelled(config.encoder)
    training = (config.dataset, config.train_size, config.model, config.width, config.recipe, encoder)
    methods = tuple(_spelled(method) for method in (config.defense, config.detector, config.labeler))
    return [
        (training, methods, _spelled(config.attack), config.poison_rate),
        (training, methods),
        (training, config.defense.name),
    ]


def _spelled(method: Method | None) -> str:
    """With every hyper-parameter: one of them may be the number of epochs."""
    return "" if method is None else method.model_dump_json()
