"""What is measured of a network after every epoch, out of the reach of the method that trains it.

The runner opens a `monitored` block, and `Trainer.train` looks for it. A method only names what is to be deployed. It
is never handed the monitor, and so it never sees the test set. What it names does see test images, as all that is
deployed does; a class that learned from them would cheat.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

from nab.errors import ConfigError
from nab.training.predictor import Predictor


class Monitor(Protocol):
    """Measures whatever a `Watch` makes of a network."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Everything that the measurements depend on besides the network; see `nab.digest.describe`."""
        ...

    def __call__(self, deployed: Any) -> dict[str, float]:
        """The measurements by name, for the curve and the progress bar."""
        ...


Watch = Callable[[Predictor], Any]
"""Makes of the network what would be deployed: a class of `nab.defenses.deployed`, or a ``functools.partial``."""

_monitor: ContextVar[Monitor | None] = ContextVar("monitor", default=None)


Log = dict[str, list[dict[str, float]]]
"""The curves of all watched trainings, measurements included, by what the training is for."""

_log: ContextVar[Log | None] = ContextVar("log", default=None)


@contextlib.contextmanager
def monitored(monitor: Monitor | None) -> Iterator[Log]:
    """A block in which ``monitor`` measures every training that has a `Watch`; None measures nothing.

    What is measured stands in the log that the block is given, and in no curve that a method is handed: a method that
    could read it would choose its settings by the test set.
    """
    log: Log = {}
    monitor_token, log_token = _monitor.set(monitor), _log.set(log)
    try:
        yield log
    finally:
        _monitor.reset(monitor_token)
        _log.reset(log_token)


def current_monitor() -> Monitor | None:
    """The monitor of the innermost `monitored` block; None outside of any. For the trainer alone."""
    return _monitor.get()


def note_curve(purpose: str, curve: list[dict[str, float]]) -> None:
    """Put a watched training's curve into the log of the innermost `monitored` block. For the trainer alone.

    Raises:
        ConfigError: another training, with another curve, has the same purpose.
    """
    log = _log.get()
    if log is None:
        return
    rows = [dict(row) for row in curve]
    if log.setdefault(purpose, rows) != rows:
        raise ConfigError(f"two watched trainings are for {purpose!r}: give each a purpose of its own")
