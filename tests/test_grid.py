"""The grid: every run once, the important ones first, and no run's end is the end of the others."""

from __future__ import annotations

import json
from concurrent.futures import BrokenExecutor
from typing import Any

import pytest
from planned import finish, runs, states

from nab.experiments import Cell, Grid, Method, RunConfig
from nab.report.progress_table import print_outcome


def test_runs_start_in_their_order_and_no_more_than_there_are_jobs(plan, how):
    grid, executor = Grid(runs(7), how), plan(lambda seed: 10.0 + seed)
    grid.execute(executor, 3)
    assert executor.seeds == list(range(7))
    assert executor.most == 3
    assert states(grid) == ["done"] * 7
    assert executor.stopped == 1
    assert [cell.metrics["clean_accuracy"] for cell in grid.cells] == list(range(7))
    assert [cell.seconds for cell in grid.cells] == [10.0 + seed for seed in range(7)]


def test_a_run_that_is_named_twice_is_made_once(plan, how):
    executor = plan()
    Grid([*runs(3), *runs(2)], how).execute(executor, 2)
    assert executor.seeds == [0, 1, 2]


def test_what_is_finished_is_not_started_again(plan, how):
    path = finish(how, RunConfig(seed=1), cost={"training": 30.0, "evaluation": 1.0})
    before = path.stat().st_mtime_ns
    grid, executor = Grid(runs(3), how), plan()
    assert states(grid) == ["waiting", "done", "waiting"]
    assert grid.cells[1].seconds == 31.0
    grid.execute(executor, 2)
    assert executor.seeds == [0, 2]
    assert [cell.was_finished for cell in grid.cells] == [False, True, False]
    assert path.stat().st_mtime_ns == before


def test_results_that_cannot_be_read_are_told_and_block_nothing(plan, how):
    finish(how, RunConfig(seed=0))
    finish(how, RunConfig(seed=1)).write_text("{half")
    grid, executor = Grid(runs(3), how), plan()
    assert states(grid) == ["done", "waiting", "waiting"]
    (problem,) = grid.found.problems
    assert "damaged" in problem
    grid.execute(executor, 2)
    assert executor.seeds == [1, 2]


def test_what_was_done_for_one_study_is_noted_for_others(how):
    first, second = (finish(how, RunConfig(seed=seed), studies=["older"]) for seed in (0, 1))
    untouched = second.stat().st_mtime_ns
    grid = Grid([*runs(1, "main"), *runs(2, "older")], how)
    assert [cell.studies for cell in grid.cells] == [("main", "older"), ("older",)]
    assert json.loads(first.read_text())["studies"] == ["older"], "looking writes nothing"
    grid.note_studies()
    assert json.loads(first.read_text())["studies"] == ["main", "older"]
    assert second.stat().st_mtime_ns == untouched


def test_a_run_is_made_for_all_its_studies(plan, how):
    executor = plan()
    Grid([*runs(2, "main"), *runs(1, "rates")], how).execute(executor, 1)
    assert executor.studies == [("main", "rates"), ("main",)]


def test_a_run_that_fails_is_told_and_the_others_go_on(plan, how, capsys):
    told: list[tuple[int, str]] = []
    grid, executor = Grid(runs(4), how), plan(run1=[("failed", "stamp\n  too  large")], run2=[OSError("node is gone")])

    def tell(cell: Cell | None) -> None:
        if cell is not None:
            told.append((cell.config.seed, cell.state))

    grid.execute(executor, 2, tell=tell)
    assert states(grid) == ["done", "failed", "failed", "done"]
    assert executor.seeds == [0, 1, 2, 3], "what fails by itself is not tried again"
    assert {(1, "running"), (1, "failed"), (2, "failed"), (3, "done")} <= set(told)
    print_outcome(grid)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 runs: 2 of 4 done, 2 failed")
    assert lines[1:] == [
        "badnets none seed 1: failed (stamp too large)",
        "badnets none seed 2: failed (OSError: node is gone)",
    ]


class DeadError(BrokenExecutor):
    """A process pool lost a worker."""


def test_a_run_whose_worker_died_is_tried_once_more(plan, how):
    grid, executor = Grid(runs(4), how), plan(run1=[DeadError("killed")])
    grid.execute(executor, 1)
    assert states(grid) == ["done"] * 4
    assert sorted(executor.seeds) == [0, 1, 1, 2, 3]
    assert executor.renewed == 1


def test_a_run_whose_worker_dies_again_has_failed(plan, how):
    grid, executor = Grid(runs(4), how), plan(run1=[DeadError("killed")] * 5)
    grid.execute(executor, 1)
    assert states(grid) == ["done", "failed", "done", "done"]
    assert executor.seeds.count(1) == 2
    assert executor.renewed == 2
    assert "its process died" in grid.cells[1].message


def test_a_pool_that_broke_while_nothing_ran_is_renewed(plan, how, monkeypatch):
    executor = plan()
    submit, broken = executor.submit, [DeadError("killed")]

    def once_broken(*call: Any) -> Any:
        if broken:
            raise broken.pop()
        return submit(*call)

    monkeypatch.setattr(executor, "submit", once_broken)
    grid = Grid(runs(2), how)
    grid.execute(executor, 1)
    assert states(grid) == ["done"] * 2
    assert (executor.renewed, [cell.attempts for cell in grid.cells]) == (1, [1, 1])


@pytest.mark.parametrize("jobs", [2, 3, 4])
def test_a_run_that_always_dies_takes_nobody_with_it(plan, how, jobs):
    """The others run longer than it takes to die; it is not their fault."""
    grid = Grid(runs(5), how)
    executor = plan(lambda seed: 1.0 if seed == 1 else 100.0, run1=[DeadError("killed")] * 9)
    grid.execute(executor, jobs)
    assert states(grid) == ["done", "failed", "done", "done", "done"]


def test_whatever_happens_everything_is_ended(plan, how):
    def interrupt(cell: Cell | None) -> None:
        if cell is not None and cell.state == "done":
            raise KeyboardInterrupt

    grid, executor = Grid(runs(4), how), plan()
    with pytest.raises(KeyboardInterrupt):
        grid.execute(executor, 1, tell=interrupt)
    assert executor.stopped == 1
    assert states(grid) == ["done", "left", "left", "left"]


def test_results_on_images_that_their_name_does_not_fix_are_compared_by_the_run(how):
    """A folder may have other images now; `run` hands back the stored result only if they are the same."""
    config = RunConfig(dataset=Method(name="folder"))
    finish(how, config)
    assert Grid([(config, ())], how).cells[0].state == "waiting"
