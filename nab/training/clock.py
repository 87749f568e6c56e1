"""`Clock`: what the parts of a run cost, whether they were computed now or read from the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Clock:
    """Wall time of named parts and of the whole.

    Work that was found in the cache counts with what it cost when it was done, so that the price of a method does not
    depend on what ran before it. What several parts of a run share counts once, in the part that asked for it first.

    Attributes:
        seconds: of every part, in the order in which they began.
        found: names of the stages that were read from the cache.
        makers: what made those; each once.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.found: list[str] = []
        self.makers: list[Mapping[str, Any]] = []
        self._began = time.perf_counter()
        self._credit = 0.0
        self._costs: dict[str, float] = {}  # of every stage so far, without those within it
        self._open: list[dict[str, float]] = []  # one for each stage that is being made: the stages within it

    @property
    def now(self) -> float:
        """Seconds since the clock was made, as if nothing had been in the cache."""
        return self.passed + self._credit

    @property
    def passed(self) -> float:
        """Seconds since the clock was made, as they were."""
        return time.perf_counter() - self._began

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the block's cost to ``seconds[name]``."""
        start = self.now
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.now - start

    def count_as(self, seconds: float, since: float) -> None:
        """Let what passed since ``since``, a value of `now`, count as ``seconds``."""
        self._credit += seconds - (self.now - since)

    @contextmanager
    def making(self) -> Iterator[dict[str, float]]:
        """A block that makes a stage; what it yields fills with the seconds of the stages within, by key."""
        within: dict[str, float] = {}
        self._open.append(within)
        try:
            yield within
        finally:
            self._open.pop()

    @property
    def costs(self) -> float:
        """Seconds of all stages that were counted."""
        return sum(self._costs.values())

    def count(self, stage: str, seconds: float, within: Mapping[str, float], key: str | None = None) -> float:
        """Count a stage and those within it that were not counted before; what they cost.

        Args:
            stage: its name.
            seconds: what it alone cost.
            within: the same of the stages within, by key.
            key: None if nobody else can ask for it.
        """
        costs = {**within, key or f"{stage} {len(self._costs)}": seconds}
        for outer in self._open[-1:]:
            outer.update(costs)
        new = {key: cost for key, cost in costs.items() if key not in self._costs}
        self._costs.update(new)
        return sum(new.values())
