"""`Clock`: what the parts of a run cost, whether they were computed now or read from the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall time of named parts and of the whole.

    Work that was found in the cache counts with what it cost when it was done, so that the price of a method does not
    depend on what ran before it.

    Attributes:
        seconds: of every part, in the order in which they began.
        found: names of the stages that were read from the cache.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.found: list[str] = []
        self._began = time.perf_counter()
        self._credit = 0.0

    @property
    def now(self) -> float:
        """Seconds since the clock was made, as if nothing had been in the cache."""
        return time.perf_counter() - self._began + self._credit

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
