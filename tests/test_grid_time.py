"""The grid's time: what starts within a budget, what is stopped, and how long the rest will take."""

from __future__ import annotations

from typing import Any

import pytest
from planned import finish, runs, states

from nab.cli.grid import parse_duration
from nab.errors import ConfigError
from nab.experiments import Cell, Grid, RunConfig

SMALL: dict[str, Any] = {"dataset": {"name": "digits", "params": {"train_size": 100}}}
"""The run on a part of the digits, of which others say nothing."""


def test_nothing_starts_that_cannot_finish_in_time(plan, how, time):
    """Similar runs took 8, 9 and 10 seconds; the longest counts."""
    for seed, seconds in ((100, 8.0), (101, 9.0), (102, 10.0)):
        finish(how, RunConfig(seed=seed), seconds)
    grid, executor = Grid(runs(9), how), plan(10.0)
    grid.execute(executor, 2, deadline=time.now + 35)
    assert states(grid) == ["done"] * 6 + ["left"] * 3
    assert time.now <= 1035
    assert [start - 1000 for start, _ in executor.started] == [0, 0, 10, 10, 20, 20]


def test_a_shorter_run_further_down_takes_the_time_that_is_left(plan, how, time):
    finish(how, RunConfig(seed=50), 100.0)
    finish(how, RunConfig(seed=51, **SMALL), 5.0)
    grid, executor = Grid([*runs(2), *runs(2, **SMALL)], how), plan(5.0)
    grid.execute(executor, 1, deadline=time.now + 12)
    assert states(grid) == ["left", "left", "done", "done"]


def test_a_run_of_which_nothing_is_known_is_tried_and_stopped_when_the_time_is_over(plan, how, time):
    told = []
    grid, executor = Grid(runs(3), how), plan(1e6)

    def tell(cell: Cell | None) -> None:
        if cell is not None:
            told.append(cell.state)

    grid.execute(executor, 2, deadline=time.now + 7.5, tell=tell)
    assert states(grid) == ["stopped", "stopped", "left"]
    assert time.now == 1007.5
    assert executor.stopped == 1
    assert told == ["running", "running", "stopped", "stopped"]


def test_what_finishes_while_the_grid_runs_is_learned_from(plan, how, time):
    grid, executor = Grid(runs(4), how), plan(10.0)
    grid.execute(executor, 1, deadline=time.now + 29)
    assert states(grid) == ["done", "done", "left", "left"]


def test_a_time_that_is_over_starts_nothing(plan, how, time):
    grid, executor = Grid(runs(2), how), plan()
    grid.execute(executor, 2, deadline=time.now - 1)
    assert (executor.seeds, states(grid)) == ([], ["left", "left"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400), ("45", 45), (" 2 m ", 120), ("0.5s", 0.5)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "nine minutes", "-3m", "0", "0s", "9 d", "1h30m", "1e3s", "nan"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected a time such as 90s, 9m or 1\.5h"):
        parse_duration(text)


def test_the_time_left_is_what_waits_and_what_is_left_of_what_runs(how, time):
    grid = Grid(runs(4), how)
    assert grid.seconds_left(2) is None, "nothing similar has finished"
    finish(how, RunConfig(seed=9), 10.0)
    grid = Grid(runs(4), how)
    assert grid.seconds_left(1) == 40.0
    assert grid.seconds_left(2) == 20.0
    grid.cells[0].state, grid.cells[0].started = "running", time.now - 4
    grid.cells[1].state, grid.cells[1].started = "running", time.now - 400
    assert grid.seconds_left(2) == (20.0 + 6.0) / 2
