"""The grid while it runs, and what became of it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nab.experiments import Cell, Grid
from nab.experiments.comparison import differences
from nab.report.terminal import defense_name, print_table

SHOWN = ("attack", "defense", "detector", "labeler", "seed")
"""Fields of a run that every line about it names."""

NEWEST = 12
"""Finished runs in the live table."""


class GridView:
    """A live table on a terminal; elsewhere a line per run that ends.

    Args:
        grid: what is shown.
        jobs: runs side by side, for the time that is left.
    """

    def __init__(self, grid: Grid, jobs: int) -> None:
        self._grid, self._jobs = grid, jobs
        self._settings = differing_settings(grid)
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
                line = f"{_counts(self._grid)}: {describe(cell, self._settings[cell.config.hash])}"
                self._console.print(line, soft_wrap=True, highlight=False, markup=False)
        if self._console.is_terminal:
            self._live.update(self._render(), refresh=True)

    def _render(self) -> Group:
        table = Table("attack", "defense", "seed", "settings", "state", box=None, pad_edge=False)
        for heading in ("ACC", "ASR", "time"):
            table.add_column(heading, justify="right")
        for cell in [*self._ended[-NEWEST:], *self._grid.of_state("running")]:
            table.add_row(*_row(cell, self._settings[cell.config.hash]))
        left = self._grid.seconds_left(self._jobs)
        ending = "" if left is None else f", about {duration(left)} left"
        return Group(table, Text(_counts(self._grid) + ending))


def differing_settings(grid: Grid, shown: Collection[str] = SHOWN) -> dict[str, str]:
    """For the hash of every run, the settings that tell it from the grid's others, without those in ``shown``."""
    texts = differences([cell.config.settings for cell in grid.cells], shown)
    return {cell.config.hash: text for cell, text in zip(grid.cells, texts, strict=True)}


def print_outcome(grid: Grid) -> None:
    """How many runs ended how, and why some failed; on standard output."""
    before = sum(cell.was_finished for cell in grid.cells)
    settings = differing_settings(grid)
    print(f"{_count_of_runs(len(grid.cells))}: {_counts(grid)}; {before} of them were done before")
    for cell in grid.of_state("failed", "stopped"):
        print(describe(cell, settings[cell.config.hash]))


def print_plan(grid: Grid, jobs: int, threads: int, gpus: float) -> None:
    """What a grid would do, and how long it may take; on standard output.

    Args:
        grid: the runs.
        jobs: how many of them side by side.
        threads: of each run.
        gpus: the share of a GPU that each run takes; 0 on the processor.
    """
    settings = differing_settings(grid, (*SHOWN, "dataset"))
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in grid.cells:
        run = cell.config.settings
        group = (run["dataset"]["name"], run["attack"]["name"], defense_name(run), settings[cell.config.hash])
        groups.setdefault(group, []).append(cell)
    rows = []
    for names, cells in groups.items():
        waiting = [cell for cell in cells if cell.state == "waiting"]
        known, _ = _expected(grid, cells)
        each = duration(sum(known) / len(known)) if known else "unknown"
        counts = (str(len(cells)), str(len(cells) - len(waiting)))
        rows.append((*names, *counts, each, _duration_of(grid, waiting) if waiting else ""))
    counted = ("runs", "done", "each", "to do")
    print_table(("dataset", "attack", "defense", "settings", *counted), rows, right=counted)
    waiting = grid.of_state("waiting")
    known, unknown = _expected(grid, waiting)
    print(
        f"{_count_of_runs(len(waiting))} to do" + (f": {_price(known, unknown, jobs, threads, gpus)}" * bool(waiting))
    )


def _expected(grid: Grid, cells: Iterable[Cell]) -> tuple[list[float], int]:
    """The expected seconds of the runs of which they are known, and how many the others are."""
    seconds = [grid.estimates.expected(cell.config) for cell in cells]
    known = [value for value in seconds if value is not None]
    return known, len(seconds) - len(known)


def _duration_of(grid: Grid, cells: Iterable[Cell]) -> str:
    """How long runs take one after the other."""
    known, unknown = _expected(grid, cells)
    if not unknown:
        return duration(sum(known))
    return f"{duration(sum(known))} + {unknown} unknown" if known else "unknown"


def _price(known: list[float], unknown: int, jobs: int, threads: int, gpus: float) -> str:
    """How long runs take and what they occupy; runs of an unknown length are counted, and not as nothing."""
    rest = f"unknown for {_count_of_runs(unknown)}, since nothing similar has finished"
    if not known:
        return f"time {rest}"
    hours = sum(known) / 3600
    spent = f"{hours * gpus:.2f} GPU-hours" if gpus else f"{hours * threads:.2f} core-hours"
    return f"about {duration(sum(known) / jobs)} with --jobs {jobs}, {spent}" + (f"; {rest}" if unknown else "")


def _count_of_runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def describe(cell: Cell, settings: str = "") -> str:
    """One line about a run; ``settings`` are those that tell it from the grid's others."""
    run = cell.config.settings
    words = [run["attack"]["name"], defense_name(run), f"seed {cell.config.seed}", *([settings] if settings else [])]
    line = f"{' '.join(words)}: {cell.state}"
    if cell.state == "done":
        metrics = f"ACC {_metric(cell, 'clean_accuracy')}, ASR {_metric(cell, 'attack_success_rate')}"
        return f"{line}, {metrics} ({duration(cell.seconds)})"
    return f"{line} ({cell.message})" if cell.message else line


def duration(seconds: float) -> str:
    """``45 s``, ``3:20 min``, ``2:05 h``."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def _row(cell: Cell, settings: str) -> list[str]:
    run = cell.config.settings
    since = time.monotonic() - cell.started if cell.state == "running" else cell.seconds
    metrics = [_metric(cell, name) for name in ("clean_accuracy", "attack_success_rate")]
    names = [run["attack"]["name"], defense_name(run), str(cell.config.seed)]
    return [*(escape(text) for text in (*names, settings)), cell.state, *metrics, duration(since)]


def _metric(cell: Cell, name: str) -> str:
    value = cell.metrics.get(name)
    return "" if value is None else f"{value:.1f}"


def _counts(grid: Grid) -> str:
    counts = Counter(cell.state for cell in grid.cells)
    shown = [f"{counts.pop('done', 0)} of {len(grid.cells)} done"]
    return ", ".join(shown + [f"{counts[state]} {state}" for state in sorted(counts)])
