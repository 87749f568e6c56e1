"""Progress on standard error: bars on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


_is_silent = False


def silence() -> None:
    """No bars from this process from now on, because workers share a terminal."""
    global _is_silent
    _is_silent = True


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=_is_silent or not sys.stderr.isatty(),
    )


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """The items themselves, with a bar that counts them."""
    with _progress() as progress:
        task = progress.add_task(title, total=total, note="")
        for item in items:
            yield item
            progress.advance(task)


class Bar:
    """One bar whose note changes as it advances."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="")

    def advance(self, note: str = "") -> None:
        self._progress.update(self._task, advance=1, note=note)


@contextmanager
def bar(title: str, total: int) -> Iterator[Bar]:
    """A bar of ``total`` steps, gone when the block ends."""
    with _progress() as progress:
        yield Bar(progress, title, total)
