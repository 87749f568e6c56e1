"""The grid while it runs, and what became of it."""

from __future__ import annotations

import sys
import time
from collections import Counter

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nab.experiments import Cell, Grid

SHOWN = 12
"""Finished runs in the live table; the newest ones."""


class GridView:
    """A live table on a terminal; elsewhere a line per run that ends.

    Args:
        grid: what is shown.
        jobs: runs side by side, for the time that is left.
    """

    def __init__(self, grid: Grid, jobs: int) -> None:
        self._grid, self._jobs = grid, jobs
        self._console = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 160)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._ended: list[Cell] = []

    def __enter__(self) -> GridView:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def tell(self, cell: Cell | None) -> None:
        """What `Grid.execute` calls."""
        if cell is not None and cell.state not in ("running", "waiting"):
            self._ended.append(cell)
            if not self._console.is_terminal:
                self._console.print(f"{_counts(self._grid)}: {describe(cell)}", soft_wrap=True, highlight=False)
        if self._console.is_terminal:
            self._live.update(self._render(), refresh=True)

    def _render(self) -> Group:
        table = Table("attack", "defense", "seed", "state", box=None, pad_edge=False)
        for heading in ("ACC", "ASR", "time"):
            table.add_column(heading, justify="right")
        for cell in [*self._ended[-SHOWN:], *self._grid.of_state("running")]:
            table.add_row(*_row(cell))
        left = self._grid.seconds_left(self._jobs)
        ending = "" if left is None else f", about {duration(left)} left"
        return Group(table, Text(_counts(self._grid) + ending))


def print_outcome(grid: Grid) -> None:
    """How many runs ended how, and why some failed; on standard output."""
    before = sum(cell.was_finished for cell in grid.cells)
    print(f"{len(grid.cells)} runs: {_counts(grid)}; {before} of them were done before")
    for cell in grid.of_state("failed", "stopped"):
        print(describe(cell))


def print_plan(grid: Grid, jobs: int, threads: int, gpus: float) -> None:
    """What a grid would do, and how long it may take; on standard output."""
    table = Table("dataset", "attack", "defense", box=None, pad_edge=False)
    for heading in ("runs", "done", "each", "to do"):
        table.add_column(heading, justify="right")
    total, unknown = 0.0, 0
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in grid.cells:
        groups.setdefault((cell.config.dataset, cell.config.attack.name, defense_name(cell)), []).append(cell)
    for names, cells in groups.items():
        waiting = [cell for cell in cells if cell.state == "waiting"]
        known = [grid.estimates.expected(cell.config) for cell in cells]
        each = [seconds for seconds in known if seconds is not None]
        to_do = [grid.estimates.expected(cell.config) for cell in waiting]
        unknown += sum(seconds is None for seconds in to_do)
        rest = sum(seconds for seconds in to_do if seconds is not None)
        total += rest
        shown = duration(sum(each) / len(each)) if each else "unknown"
        table.add_row(*names, str(len(cells)), str(len(cells) - len(waiting)), shown, duration(rest) if rest else "")
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    spent = f"{total * gpus / 3600:.2f} GPU-hours" if gpus else f"{total * threads / 3600:.2f} core-hours"
    more = f", and {unknown} runs of which nothing similar has finished" if unknown else ""
    print(
        f"{len(grid.of_state('waiting'))} runs to do: about {duration(total / jobs)} with --jobs {jobs}, {spent}{more}"
    )


def describe(cell: Cell) -> str:
    """One line."""
    words = f"{cell.config.attack.name} {defense_name(cell)} seed {cell.config.seed}: {cell.state}"
    if cell.state == "done":
        return f"{words}, ACC {_metric(cell, 'clean_accuracy')}, ASR {_metric(cell, 'attack_success_rate')}" + (
            f" ({duration(cell.seconds)})"
        )
    return f"{words} ({cell.message})" if cell.message else words


def defense_name(cell: Cell) -> str:
    """The defence, with its detector and labeler."""
    config = cell.config
    if config.detector is None or config.labeler is None:
        return config.defense.name
    return f"{config.defense.name} ({config.detector.name} + {config.labeler.name})"


def duration(seconds: float) -> str:
    """``45 s``, ``3:20 min``, ``2:05 h``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _row(cell: Cell) -> list[str]:
    since = time.monotonic() - cell.started if cell.state == "running" else cell.seconds
    metrics = [_metric(cell, name) for name in ("clean_accuracy", "attack_success_rate")]
    return [cell.config.attack.name, defense_name(cell), str(cell.config.seed), cell.state, *metrics, duration(since)]


def _metric(cell: Cell, name: str) -> str:
    value = cell.metrics.get(name)
    return "" if value is None else f"{value:.1f}"


def _counts(grid: Grid) -> str:
    counts = Counter(cell.state for cell in grid.cells)
    shown = [f"{counts.pop('done', 0)} of {len(grid.cells)} done"]
    return ", ".join(shown + [f"{counts[state]} {state}" for state in sorted(counts)])
