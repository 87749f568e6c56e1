"""The grid on clusters: on Ray with a node that is lost halfway, and on Dask."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import NAB, alive, wait_until

from nab.errors import ConfigError
from nab.experiments import Cell, Grid, RunConfig, Settings, make_executor, read_results
from nab.experiments.grid import work

TINY: dict[str, Any] = {
    "dataset": {"name": "digits", "params": {"train_size": 100}},
    "model": {"name": "resnet9", "params": {"width": 4}},
    "monitor_size": 20,
    "recipe": {"name": "paper", "params": {"epochs": 1}},
}

MANY = {
    "summary": "twenty tiny runs",
    "run": {
        "dataset": {"name": "digits", "train_size": 100},
        "model": {"name": "resnet9", "width": 4},
        "monitor_size": 20,
        "recipe": {"name": "paper", "epochs": 5},
    },
    "grid": [{"name": "many", "runs": {"seed": list(range(20))}}],
}
"""A profile."""


def runs(count: int) -> list[tuple[RunConfig, tuple[str, ...]]]:
    return [(RunConfig(seed=seed, **TINY), ("main",)) for seed in range(count)]


def logged(config: RunConfig, studies: tuple[str, ...], settings: Settings) -> tuple[str, Any]:
    """`work`, with a line for every start: run and node, or process."""
    import ray

    where = ray.get_runtime_context().get_node_id() if ray.is_initialized() else str(os.getpid())
    with Path(settings.results + ".log").open("a") as log:
        log.write(f"{config.seed} {where}\n")
    return work(config, studies, settings)


@pytest.fixture
def how(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setattr("nab.experiments.grid.work", logged)
    return Settings("mine", str(tmp_path / "results"), str(tmp_path / "stages"), None, "cpu", 1)


def starts(how: Settings) -> list[list[str]]:
    return [line.split() for line in Path(how.results + ".log").read_text().splitlines()]


def contents(how: Settings) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(how.results).rglob("*.json")}


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """A Ray cluster on this machine: a head that computes nothing, and two nodes of one processor."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # the path of a socket may not be long
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # so that its workers find `logged`
    import ray
    from ray.cluster_utils import Cluster

    system = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_initial_delay_ms": 0}
    made: Any = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80_000_000, "_system_config": system},
    )
    made.workers = [made.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_ray_refuses_what_no_node_could_ever_take(cluster):
    """Else the tasks would wait for ever. A share of a GPU is for clusters that have one."""
    with pytest.raises(ConfigError, match=r"has 2 processors for a run; the largest has 1 .*--threads"):
        make_executor("ray", address=cluster.address, jobs=2, threads=2, gpus=0.5)


@pytest.mark.slow
def test_ray_finishes_all_runs_although_a_node_is_lost_halfway(cluster, how):
    grid = Grid(runs(6), how)
    finished: dict[Path, tuple[int, bytes]] = {}

    def lose_a_node(cell: Cell | None) -> None:
        if len(grid.of_state("done")) == 2 and not finished:
            finished.update(contents(how))
            cluster.remove_node(cluster.workers[0], allow_graceful=False)

    executor = make_executor("ray", address=cluster.address, jobs=2, threads=1, gpus=0)
    grid.execute(executor, 2, tell=lose_a_node)
    assert [(cell.state, cell.message) for cell in grid.cells] == [("done", "")] * 6
    assert len(read_results(how.results)) == 6
    assert len(finished) >= 2
    assert {path: contents(how)[path] for path in finished} == finished
    began = Counter(seed for seed, _ in starts(how))
    assert sum(began.values()) <= 6 + 1, "at most what the lost node was doing is done again"
    done_before = {path.name.split("-s")[1].split("-")[0] for path in finished}
    assert all(began[seed] == 1 for seed in done_before)
    assert len({node for _, node in starts(how)}) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "is_starting", "code", "told"),
    [
        (signal.SIGKILL, False, -signal.SIGKILL, ""),
        (signal.SIGTERM, False, 128 + signal.SIGTERM, "ended by SIGTERM; finished runs are kept"),
        (signal.SIGKILL, True, -signal.SIGKILL, ""),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGKILL while Ray starts"],
)
def test_a_grid_on_a_local_ray_that_is_ended_leaves_no_process(
    tmp_path, monkeypatch, capfd, number, is_starting, code, told
):
    """Of the command's session, and the process that sees to it, which has one of its own."""
    profile, results = tmp_path / "mine.yaml", tmp_path / "results"
    profile.write_text(yaml.safe_dump(MANY))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    arguments = ["--profile", str(profile), "--results", str(results), "--device", "cpu", "--threads", "1"]
    command = [NAB, "grid", *arguments, "--backend", "ray"]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        enough = 5 if is_starting else 6  # the command, Ray's head, node and agents, a worker
        ready = (
            (lambda: alive(process.pid, column=3) >= enough) if is_starting else (lambda: [*results.rglob("*.json")])
        )
        wait_until(lambda: ready() or process.poll() is not None, 120)
        assert process.poll() is None
        assert alive(process.pid, column=3) >= enough
        assert watchers(process.pid) == 1
        process.send_signal(number)
        wait_until(lambda: not alive(process.pid, column=3) and not watchers(process.pid), 20)
        assert process.wait() == code
    assert told in capfd.readouterr().err
    assert is_starting or 1 <= len(read_results(results)) < 20


def watchers(parent: int) -> int:
    """How many processes wait for the end of another one."""
    count = 0
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError, IndexError):
            arguments = command.read_bytes().split(b"\0")
            count += arguments[1].endswith(b"orphans.py") and arguments[2] == str(parent).encode()
    return count


def test_dask_does_a_grid(how):
    grid = Grid(runs(2), how)
    grid.execute(make_executor("dask", address=None, jobs=2, threads=1, gpus=0), 2)
    assert [(cell.state, cell.message) for cell in grid.cells] == [("done", "")] * 2
    assert len(read_results(how.results)) == 2
    assert str(os.getpid()) not in {process for _, process in starts(how)}, "in processes of its own"
