"""The grid: every run once, the important ones first, and no run's end is the end of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import result_of
from hypothesis import given
from hypothesis import strategies as st

from nab.attacks import ATTACKS
from nab.cli_grid import parse_duration
from nab.defenses import DEFENSES
from nab.errors import ConfigError, NabError, ResultError
from nab.experiments import Cell, Executor, Grid, Profile, ResultStore, RunConfig, Settings, make_executor, select
from nab.experiments.estimates import Estimates
from nab.experiments.grid import work
from nab.report.progress_table import describe, print_outcome, print_plan

# A time that passes only while the grid waits.


class Time:
    """A clock, and the futures that it brings to their end."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, futures: Iterable[Future], timeout: float | None = None, **_: object) -> tuple[set, set]:
        """As `concurrent.futures.wait`, for the first one that ends."""
        pending = set(futures)
        end = min(future.end for future in pending)
        self.now = end if timeout is None else min(end, self.now + timeout)
        done = {future for future in pending if future.end <= self.now or future.done()}
        for future in done:
            future.finish()
        return done, pending - done


class Planned(Future):
    """Ends when it was told to."""

    def __init__(self, end: float, outcome: Any) -> None:
        super().__init__()
        self.end, self._outcome = end, outcome

    def finish(self) -> None:
        if self.done():
            return
        if isinstance(self._outcome, BaseException):
            self.set_exception(self._outcome)
        else:
            self.set_result(self._outcome)


class Plan(Executor):
    """Calls nothing; every run takes its planned time and has its planned outcome, by seed.

    A run whose outcome is a `BrokenExecutor` takes all that run with it, as a process pool does.
    """

    def __init__(self, time: Time, seconds: Callable[[int], float], outcomes: dict[int, list[Any]]) -> None:
        self.time, self.seconds, self.outcomes = time, seconds, outcomes
        self.started: list[tuple[float, int]] = []
        self.most = self.renewed = self.stopped = 0
        self._running: list[Planned] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Planned:
        seed = arguments[0].seed
        self._running = [future for future in self._running if not future.done()]
        self.started.append((self.time.now, seed))
        planned = self.outcomes.get(seed, [])
        seconds = self.seconds(seed)
        outcome = planned.pop(0) if planned else ("done", ({"clean_accuracy": float(seed)}, {"total": seconds}, "this"))
        future = Planned(self.time.now + seconds, outcome)
        if isinstance(outcome, BrokenExecutor):
            future.finish = lambda: self._break(future, outcome)  # type: ignore[method-assign]
        self._running.append(future)
        self.most = max(self.most, len(self._running))
        return future

    def _break(self, first: Planned, error: BrokenExecutor) -> None:
        for future in self._running:
            if not future.done():
                future.end = min(future.end, first.end)
                future.set_exception(error)

    def renew(self) -> None:
        self.renewed += 1

    def stop(self) -> None:
        self.stopped += 1

    @property
    def seeds(self) -> list[int]:
        return [seed for _, seed in self.started]


@pytest.fixture
def time(monkeypatch) -> Time:
    passing = Time()
    monkeypatch.setattr("nab.experiments.grid.time", passing)
    monkeypatch.setattr("nab.experiments.grid.wait", passing.wait)
    return passing


@pytest.fixture
def plan(time) -> Callable[..., Plan]:
    def make(seconds: float | Callable[[int], float] = 10.0, **outcomes: list[Any]) -> Plan:
        by_seed = {int(name.removeprefix("run")): list(planned) for name, planned in outcomes.items()}
        return Plan(time, seconds if callable(seconds) else lambda seed: seconds, by_seed)

    return make


@pytest.fixture
def how(tmp_path) -> Settings:
    return Settings("smoke", str(tmp_path / "results"), str(tmp_path / "stages"), None, "cpu", torch.get_num_threads())


def runs(count: int, **changes: Any) -> list[RunConfig]:
    return [RunConfig(seed=seed, **changes) for seed in range(count)]


def finish(how: Settings, config: RunConfig, seconds: float = 10.0) -> Path:
    result = result_of(config).model_copy(update={"seconds": {"total": seconds}})
    return ResultStore(how.results, how.profile).write(result)


def states(grid: Grid) -> list[str]:
    return [cell.state for cell in grid.cells]


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
    path = finish(how, runs(3)[1])
    before = path.stat().st_mtime_ns
    grid, executor = Grid(runs(3), how), plan()
    assert states(grid) == ["waiting", "done", "waiting"]
    grid.execute(executor, 2)
    assert executor.seeds == [0, 2]
    assert [cell.was_finished for cell in grid.cells] == [False, True, False]
    assert path.stat().st_mtime_ns == before


def test_a_damaged_result_is_told_before_anything_starts(how):
    finish(how, RunConfig()).write_text("{half")
    with pytest.raises(ResultError, match="damaged"):
        Grid(runs(2), how)


def test_a_run_that_fails_is_told_and_the_others_go_on(plan, how, capsys):
    told: list[tuple[int, str]] = []
    grid, executor = Grid(runs(4), how), plan(run1=[("failed", "stamp\n  too  large")], run2=[OSError("node is gone")])
    grid.execute(executor, 2, tell=lambda cell: cell and told.append((cell.config.seed, cell.state)))
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


# The time budget.


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
    finish(how, RunConfig(seed=51, train_size=100), 5.0)
    configs = [*runs(2), *runs(2, train_size=100)]
    grid, executor = Grid(configs, how), plan(5.0)
    grid.execute(executor, 1, deadline=time.now + 12)
    assert states(grid) == ["left", "left", "done", "done"]


def test_a_run_of_which_nothing_is_known_is_tried_and_stopped_when_the_time_is_over(plan, how, time):
    told = []
    grid, executor = Grid(runs(3), how), plan(1e6)
    grid.execute(executor, 2, deadline=time.now + 7.5, tell=lambda cell: cell and told.append(cell.state))
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


# Estimates.


NAB = {"defense": {"name": "nab"}, "detector": {"name": "lga"}, "labeler": {"name": "vd"}}


def total(seconds: float) -> dict[str, float]:
    return {"total": seconds}


def test_the_most_similar_runs_decide():
    known = Estimates()
    assert known.expected(RunConfig()) is None
    assert known.at_most(RunConfig()) is None
    known.add(RunConfig(seed=1, attack={"name": "blend"}), total(100.0))
    assert known.expected(RunConfig()) == 100.0, "another attack is better than nothing"
    for seed, seconds in enumerate((10.0, 11.0, 30.0)):
        known.add(RunConfig(seed=seed), total(seconds))
    assert known.expected(RunConfig(seed=9)) == 17.0
    assert known.at_most(RunConfig(seed=9)) == 30.0
    assert known.expected(RunConfig(seed=9, attack={"name": "wanet"})) == 37.75
    assert known.at_most(RunConfig(seed=9, attack={"name": "wanet"})) == 100.0


@pytest.mark.parametrize(
    "other",
    [NAB, {"train_size": 500}, {"width": 8}, {"model": "resnet9"}, {"recipe": {"epochs": 3}}, {"dataset": "folder"}],
    ids=str,
)
def test_a_run_of_another_kind_says_nothing(other):
    known = Estimates([result_of(RunConfig())])
    assert known.expected(RunConfig(**other)) is None


def test_what_a_method_is_given_may_make_it_longer():
    """Here the encoder's epochs; a detector's are of the wider kind, for some are better than none."""
    known = Estimates([result_of(RunConfig(**NAB | {"labeler": {"name": "nc"}}))])
    longer = NAB | {"labeler": {"name": "nc"}, "encoder": {"name": "simclr", "params": {"epochs": 1000}}}
    assert known.expected(RunConfig(**longer)) is None
    assert known.expected(RunConfig(**NAB)) is None, "nothing is known of runs without an encoder"
    known.add(RunConfig(**NAB), total(5.0))
    known.add(RunConfig(**(NAB | {"detector": {"name": "lga", "params": {"epochs": 90}}})), total(50.0))
    assert known.expected(RunConfig(**NAB)) == 5.0


def test_runs_on_another_kind_of_device_say_nothing():
    results = [result_of(RunConfig())]
    kind = results[0].device["type"]
    assert Estimates(results, kind).expected(RunConfig()) == Estimates(results).expected(RunConfig()) is not None
    assert Estimates(results, "cuda" if kind == "cpu" else "cpu").expected(RunConfig()) is None


def test_runs_on_this_processor_are_asked_before_those_on_another():
    known = Estimates(name="this")
    known.add(RunConfig(), total(60.0), "another")
    assert known.expected(RunConfig()) == 60.0, "better than nothing"
    known.add(RunConfig(attack={"name": "blend"}), total(10.0), "this")
    assert known.expected(RunConfig()) == 60.0, "of the same kind, though elsewhere"
    known.add(RunConfig(seed=1), total(5.0), "this")
    assert known.expected(RunConfig()) == known.at_most(RunConfig()) == 5.0


def test_another_detector_is_wider_than_another_attack():
    known = Estimates()
    known.add(RunConfig(**(NAB | {"detector": {"name": "oracle"}})), total(5.0))
    assert known.expected(RunConfig(**NAB)) == 5.0
    known.add(RunConfig(**NAB, attack={"name": "blend"}), total(50.0))
    assert known.expected(RunConfig(**NAB)) == 50.0


@given(st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9))
def test_the_expected_time_lies_among_those_seen_and_never_above_the_longest(seconds):
    known = Estimates()
    for seed, value in enumerate(seconds):
        known.add(RunConfig(seed=seed), total(value))
    config = RunConfig(seed=99)
    within = known.expected(config)
    assert min(seconds) <= within or within == pytest.approx(min(seconds))
    assert within <= max(seconds) or within == pytest.approx(max(seconds))
    assert known.at_most(config) == max(seconds)


def test_what_stages_in_the_cache_save_is_expected():
    """One of three paid for what all share; were the others' price counted, a short budget would never start them."""
    known = Estimates()
    for seed, passed in enumerate((90.0, 6.0, 6.0)):
        known.add(RunConfig(seed=seed), {"total": 95.0, "passed": passed})
    assert known.expected(RunConfig(seed=9)) == 34.0
    assert known.at_most(RunConfig(seed=9)) == 90.0


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


def test_a_plan_has_a_row_per_kind_of_run_and_the_sum(how, capsys):
    finish(how, RunConfig(seed=0), 120.0)
    finish(how, RunConfig(seed=9), 240.0)
    grid = Grid([*runs(3), *runs(1, **NAB)], how)
    print_plan(grid, jobs=2, threads=3, gpus=0)
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()]
    assert ["digits", "badnets", "none", "3", "1", "3:00", "min", "6:00", "min"] in rows
    assert next(row for row in rows if row[2:3] == ["nab"])[-4:] == ["vd)", "1", "0", "unknown"]
    assert "3 runs to do: about 3:00 min with --jobs 2, 0.30 core-hours" in out
    assert "1 runs of which nothing similar has finished" in out
    print_plan(grid, jobs=2, threads=3, gpus=0.5)
    assert "0.05 GPU-hours" in capsys.readouterr().out


def test_lines_about_cells():
    cell = Cell(RunConfig(seed=3, **NAB), "done", metrics={"clean_accuracy": 91.26}, seconds=200)
    assert describe(cell) == "badnets nab (lga + vd) seed 3: done, ACC 91.3, ASR  (3:20 min)"
    assert describe(Cell(RunConfig(), "stopped")) == "badnets none seed 0: stopped"


# In the worker.


@pytest.fixture
def _loud(monkeypatch) -> None:
    """`work` silences its process, which is the tests' own here."""
    monkeypatch.setattr("nab.progress._is_silent", False)


@pytest.mark.usefixtures("_loud")
def test_a_mistake_is_one_line(how, monkeypatch):
    def fail(*_, **__):
        raise NabError("expected more")

    monkeypatch.setattr("nab.experiments.grid.run", fail)
    assert work(RunConfig(), how) == ("failed", "expected more")
    assert not Path(how.results).exists()


@pytest.mark.usefixtures("_loud")
def test_what_nobody_expected_is_written_down(how, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("something odd")

    monkeypatch.setattr("nab.experiments.grid.run", fail)
    state, told = work(RunConfig(), how)
    (path,) = Path(how.results).rglob("*.failed.txt")
    assert state == "failed"
    assert told.startswith("ZeroDivisionError: something odd (test_grid.py, line ")
    assert told.endswith(f"all of it in {path}")
    assert "Traceback" in path.read_text()
    assert path.name.startswith(ResultStore(how.results, how.profile).path(RunConfig()).stem)


@pytest.mark.usefixtures("_loud")
def test_a_worker_makes_the_run_that_was_asked_for(how, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nab.experiments.grid.run", lambda config, **options: seen.append((config, options)) or result_of(config)
    )
    answer = work(RunConfig(seed=4), dataclasses.replace(how, data_root="here"))
    made = result_of(RunConfig())
    assert answer == ("done", (made.metrics, made.seconds, made.device["name"]))
    ((config, options),) = seen
    assert config.seed == 4
    keeper = options.pop("keeper")
    assert str(keeper.where) == how.stages
    assert options == {"profile": "smoke", "results": how.results, "data_root": "here", "device": "cpu"}


DEADLY = """
import os, signal
from pathlib import Path

def work(config, settings):
    with open(settings.results + ".log", "a") as log:
        log.write(f"{config.seed} {os.environ['OMP_NUM_THREADS']}\\n")
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done", ({}, {"total": 0.1}, "this")
"""


def test_a_real_worker_that_is_killed_is_tried_once_more_and_the_others_are_done(how, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    import deadly  # type: ignore[import-not-found]

    monkeypatch.setattr("nab.experiments.grid.work", deadly.work)
    grid = Grid(runs(3), how)
    grid.execute(make_executor("loky", address=None, jobs=1, threads=3, gpus=0), 1)
    assert states(grid) == ["failed", "done", "done"]
    assert "its process died" in grid.cells[0].message
    log = Path(how.results + ".log").read_text().splitlines()
    assert sorted(log) == ["0 3", "0 3", "1 3", "2 3"]


# Profiles.


def profile(grid: Any, **changes: Any) -> Profile:
    run = {"detector": "lga", "labeler": "vd", "recipe": {"epochs": 2}} | changes
    return Profile(name="mine", summary="of a test", run=run, grid=grid)


def test_all_stands_for_every_registered_name_but_oracles():
    configs = list(profile({"attack": "all", "defense": "all"}).expand())
    assert {(c.attack.name, c.defense.name) for c in configs} == {(a, d) for a in ATTACKS for d in DEFENSES}
    detectors = {c.detector.name for c in profile({"defense": ["nab"], "detector": "all"}).expand()}
    assert "lga" in detectors
    assert "oracle" not in detectors


def test_several_blocks_stand_in_their_order_and_a_run_in_both_is_one():
    blocks = [{"seed": [5]}, {"seed": [1, 5], "attack": ["badnets", "blend"]}, {"recipe.epochs": [7]}]
    found = [(c.seed, c.attack.name, c.recipe.epochs) for c in profile(blocks).expand()]
    assert found == [
        (5, "badnets", 2),
        (1, "badnets", 2),
        (1, "blend", 2),
        (5, "blend", 2),
        (0, "badnets", 7),
    ]


def test_undefended_runs_that_differ_in_the_detector_only_are_one():
    found = list(profile({"defense": ["none", "nab"], "detector": ["lga", "oracle"]}).expand())
    assert len(found) == 3


def test_a_grid_without_axes_is_one_run():
    assert len(list(profile({}).expand())) == 1


def test_all_is_for_methods():
    with pytest.raises(ConfigError, match="grid, seed: expected a list of values, got 'all'"):
        list(profile({"seed": "all"}).expand())


GRID = {"seed": [0, 1], "attack": ["badnets", "blend"], "defense": ["none", "nab"]}


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ([], 8),
        ([("attack", "blend")], 4),
        ([("attack", "blend"), ("attack", "badnets")], 8),
        ([("attack", "blend"), ("defense", "nab")], 2),
        ([("attack", "blend"), ("defense", "nab"), ("seed", 1)], 1),
        ([("detector", "lga")], 4),
        ([("detector", None)], 4),
    ],
)
def test_only_what_has_the_wanted_values_is_left(only, count):
    chosen = select(profile(GRID).expand(), only)
    assert len(chosen) == count
    for field in {field for field, _ in only}:
        values = [value for name, value in only if name == field]
        assert all(getattr(getattr(c, field), "name", getattr(c, field)) in values for c in chosen)


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ([("sead", 1)], "unknown field 'sead'.*seed"),
        ([("seed", 7)], "none of the grid's 8 runs has .*'seed': .7."),
        ([("attack", "blend"), ("seed", 7)], "none of the grid's 8 runs"),
    ],
)
def test_a_choice_that_names_nothing_is_refused(only, told):
    with pytest.raises(ConfigError, match=told):
        select(profile(GRID).expand(), only)


def test_results_on_images_that_their_name_does_not_fix_are_compared_by_the_run(how):
    """A folder may have other images now; `run` hands back the stored result only if they are the same."""
    config = RunConfig(dataset="folder")
    finish(how, config)
    assert Grid([config], how).cells[0].state == "waiting"
