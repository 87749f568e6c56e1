"""What the grid says about its runs, before, while and after they are made."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from helpers import result_of
from rich.table import Table

from nab.experiments import Cell, Grid, ResultStore, RunConfig, Settings
from nab.report.progress_table import GridView, describe, print_outcome, print_plan

NAB: dict[str, Any] = {"defense": {"name": "nab"}, "detector": {"name": "lga"}, "labeler": {"name": "vd"}}


@pytest.fixture
def how(tmp_path) -> Settings:
    return Settings("smoke", str(tmp_path / "results"), str(tmp_path / "stages"), None, "cpu", 1)


def blend(alpha: float) -> dict[str, Any]:
    return {"attack": {"name": "blend", "params": {"alpha": alpha}}}


def grid_of(how: Settings, *runs: dict[str, Any]) -> Grid:
    return Grid([(RunConfig(**run), ()) for run in runs], how)


def finish(how: Settings, seconds: float, **run: Any) -> None:
    config = RunConfig(**run)
    ResultStore(how.results, how.profile).write(result_of(config).model_copy(update={"wall_seconds": seconds}), config)


def test_a_plan_has_a_row_per_kind_of_run_and_the_sum(how, capsys):
    finish(how, 120.0, seed=0)
    finish(how, 240.0, seed=9)
    grid = grid_of(how, {"seed": 0}, {"seed": 1}, {"seed": 2}, NAB)
    print_plan(grid, jobs=2, threads=3, gpus=0)
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["digits", "badnets", "none", "3", "1", "3:00", "min", "6:00", "min"] in rows
    assert ["digits", "badnets", "nab", "(lga", "+", "vd)", "1", "0", "unknown", "unknown"] in rows
    assert out.splitlines()[-1] == (
        "3 runs to do: about 3:00 min with --jobs 2, 0.30 core-hours; "
        "unknown for 1 run, since nothing similar has finished"
    )
    print_plan(grid, jobs=2, threads=3, gpus=0.5)
    assert "0.05 GPU-hours" in capsys.readouterr().out


def test_a_plan_never_takes_the_unknown_for_nothing(how, capsys):
    print_plan(grid_of(how, {"seed": 0}, {"seed": 1}), jobs=1, threads=1, gpus=0)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "2 runs to do: time unknown for 2 runs, since nothing similar has finished"
    )


def test_a_plan_has_rows_for_runs_that_differ_in_a_setting_only(how, capsys):
    runs = [blend(alpha) | {"seed": seed} for alpha in (0.2, 0.5) for seed in (0, 1, 2)]
    print_plan(grid_of(how, *runs), jobs=1, threads=1, gpus=0)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["digits", "blend", "none", "attack.alpha=0.2", "3", "0", "unknown", "unknown"] in rows
    assert ["digits", "blend", "none", "attack.alpha=0.5", "3", "0", "unknown", "unknown"] in rows


def test_lines_about_cells():
    cell = Cell(RunConfig(seed=3, **NAB), state="done", metrics={"clean_accuracy": 91.26}, seconds=200)
    assert describe(cell) == "badnets nab (lga + vd) seed 3: done, ACC 91.3, ASR  (3:20 min)"
    assert describe(Cell(RunConfig(), state="stopped")) == "badnets none seed 0: stopped"
    assert describe(Cell(RunConfig(), state="stopped"), "recipe.lr=1") == "badnets none seed 0 recipe.lr=1: stopped"


def test_every_line_about_a_run_has_what_tells_it_from_the_others(how, capsys):
    """Whatever is in it is printed as it is, though rich takes words in brackets for styles."""
    grid = grid_of(how, blend(0.2), blend(0.5))
    with GridView(grid, 1) as view:
        for cell in grid.cells:
            cell.state, cell.message = "failed", "got [/bold] and [1, 2]"
            view.tell(cell)
    print_outcome(grid)
    out, err = capsys.readouterr()
    lines = [f"blend none seed 0 attack.alpha={alpha}: failed (got [/bold] and [1, 2])" for alpha in (0.2, 0.5)]
    assert err.splitlines() == [
        f"0 of 2 done, 1 failed, 1 waiting: {lines[0]}",
        f"0 of 2 done, 2 failed: {lines[1]}",
    ]
    assert out.splitlines() == ["2 runs: 0 of 2 done, 2 failed; 0 of them were done before", *lines]


def test_a_terminal_shows_the_newest_runs_and_those_that_run(how, monkeypatch):
    grid = grid_of(how, blend(0.2), blend(0.5))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    view = GridView(grid, 1)
    grid.cells[0].state, grid.cells[1].state = "done", "running"
    view.tell(grid.cells[0])
    shown, counts = view._render().renderables
    assert str(counts) == "1 of 2 done, 1 running"
    assert isinstance(shown, Table)
    cells = {column.header: list(column.cells) for column in shown.columns}
    assert cells["settings"] == ["attack.alpha=0.2", "attack.alpha=0.5"]
    assert cells["state"] == ["done", "running"]
