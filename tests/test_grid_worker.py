"""What a worker of the grid does, and what becomes of one that dies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers import result_of

from nab.errors import NabError
from nab.experiments import Grid, ResultStore, RunConfig, Settings, make_executor
from nab.experiments.grid import work


@pytest.fixture
def how(tmp_path) -> Settings:
    return Settings("smoke", str(tmp_path / "results"), str(tmp_path / "stages"), None, "cpu", torch.get_num_threads())


@pytest.fixture
def _loud(monkeypatch) -> None:
    """`work` silences its process, which is the tests' own here."""
    monkeypatch.setattr("nab.progress._is_silent", False)


@pytest.mark.usefixtures("_loud")
def test_a_mistake_is_one_line(how, monkeypatch):
    def fail(*_, **__):
        raise NabError("expected more")

    monkeypatch.setattr("nab.experiments.grid.run", fail)
    assert work(RunConfig(), (), how) == ("failed", "expected more")
    assert not Path(how.results).exists()


@pytest.mark.usefixtures("_loud")
def test_what_nobody_expected_is_written_down(how, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("something odd")

    monkeypatch.setattr("nab.experiments.grid.run", fail)
    state, told = work(RunConfig(), (), how)
    (path,) = Path(how.results).rglob("*.failed.txt")
    assert state == "failed"
    assert told.startswith("ZeroDivisionError: something odd (test_grid_worker.py, line ")
    assert told.endswith(f"traceback in {path}")
    assert "Traceback" in path.read_text()
    assert path.name.startswith(ResultStore(how.results, how.profile).path(RunConfig()).stem)


@pytest.mark.usefixtures("_loud")
def test_a_worker_makes_the_run_that_was_asked_for(how, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nab.experiments.grid.run",
        lambda config, **options: (
            seen.append((config, options)) or result_of(config).model_copy(update={"wall_seconds": 7.0})
        ),
    )
    answer = work(RunConfig(seed=4), ("main", "rates"), dataclasses.replace(how, data_root="here"))
    made = result_of(RunConfig()).metrics
    assert answer == ("done", (made, 7.0, "a processor"))
    ((config, options),) = seen
    assert config.seed == 4
    keeper = options.pop("keeper")
    assert str(keeper.where) == how.stages
    assert options.pop("studies") == ("main", "rates")
    assert options == {"profile": "smoke", "results": how.results, "data_root": "here", "device": "cpu"}


@pytest.mark.usefixtures("_loud")
def test_a_worker_keeps_freed_memory_for_the_run_and_gives_it_back(how, monkeypatch):
    seen = []
    monkeypatch.setattr("nab.experiments.grid.keep_freed_memory", lambda: seen.append("kept"))
    monkeypatch.setattr("nab.experiments.grid.run", lambda config, **_: seen.append("run") or result_of(config))
    monkeypatch.setattr("nab.experiments.grid.release_freed_memory", lambda: seen.append("released"))
    work(RunConfig(), (), how)
    assert seen == ["kept", "run", "released"]


DEADLY = """
import os, signal
from pathlib import Path

def work(config, studies, settings):
    with open(settings.results + ".log", "a") as log:
        log.write(f"{config.seed} {os.environ['OMP_NUM_THREADS']} {os.environ['MKL_NUM_THREADS']}\\n")
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return "done", ({}, 0.1, "this")
"""


def test_a_real_worker_that_is_killed_is_tried_once_more_and_the_others_are_done(how, tmp_path, monkeypatch):
    """What the user says about threads in the environment stays as it is."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    import deadly  # type: ignore[import-not-found]

    monkeypatch.setattr("nab.experiments.grid.work", deadly.work)
    grid = Grid([(RunConfig(seed=seed), ()) for seed in range(3)], how)
    grid.execute(make_executor("loky", address=None, jobs=1, threads=3, gpus=0), 1)
    assert [cell.state for cell in grid.cells] == ["failed", "done", "done"]
    assert "its process died" in grid.cells[0].message
    log = Path(how.results + ".log").read_text().splitlines()
    assert sorted(log) == ["0 2 3", "0 2 3", "1 2 3", "2 2 3"]
