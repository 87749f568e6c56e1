"""Killed at any moment: nothing lost, nothing broken, nothing done twice that was finished, and nobody left over."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers import NAB, alive, wait_until

from nab.experiments import RunResult, load_profile, read_results

KILLS = 10

PROFILE = {
    "summary": "four runs of a second",
    "run": {
        "dataset": {"name": "digits", "train_size": 200},
        "attack": "badnets",
        "defense": "none",
        "detector": "lga",
        "labeler": "vd",
        "detection_rate": 0.1,
        "verified_rate": 0.2,
        "model": {"name": "resnet9", "width": 4},
        "monitor_size": 40,
        "recipe": {"name": "paper", "epochs": 2, "batch_size": 32, "schedule": "one-cycle", "precision": "float32"},
    },
    "params": {"detector": {"lga": {"epochs": 2}}, "labeler": {"vd": {"epochs": 2}}},
    "grid": [{"name": "few", "runs": {"seed": [0, 1], "defense": ["none", "nab"]}}],
}

NURSERY = """
# Imports the library once; for every folder it is told, a grid in a process group of its own, with two workers.
import os, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import sklearn.datasets
from nab.experiments import Executor, Grid, Settings, load_profile

class Forks(Executor):
    def __init__(self):
        self.pool = ProcessPoolExecutor(2, mp_context=get_context("fork"))
    def submit(self, work, *arguments):
        return self.pool.submit(work, *arguments)
    def stop(self):
        self.pool.shutdown(wait=True, cancel_futures=True)

for folder in map(str.strip, sys.stdin):
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        settings = Settings("mine", f"{folder}/results", f"{folder}/stages", None, "cpu", 1)
        grid = Grid(load_profile(sys.argv[1]).expand(), settings)
        grid.execute(Forks(), 2)
        os._exit(len(grid.of_state("failed", "left")))
    os.setpgid(child, child)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


ORPHAN = """
# Starts a worker and waits for it.
import os, subprocess, sys
WORKER = "import sys, time; sys.platform = 'elsewhere'; "
WORKER += "from nab.experiments.executors import end_with_parent; end_with_parent(int(sys.argv[1])); "
WORKER += "open(sys.argv[2], 'w'); time.sleep(600)"
subprocess.run([sys.executable, "-c", WORKER, str(os.getpid()), sys.argv[1]])
"""


@pytest.fixture
def profile(tmp_path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(PROFILE))
    return path


class Nursery:
    """Starts grids that can be killed, without the seconds that importing takes."""

    def __init__(self, profile: Path, errors: Path) -> None:
        self.errors = errors
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", NURSERY, str(profile)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors.open("w"),
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def grid(self, folder: Path, seconds: float | None = None) -> bool:
        """Run the grid in ``folder``, and kill it after ``seconds``; whether it came to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(folder, file=self._process.stdin, flush=True)
        group = int(self._process.stdout.readline())
        if seconds is not None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and alive(group):
                time.sleep(0.03)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        status = int(self._process.stdout.readline())
        assert status in (0, signal.SIGKILL), self.errors.read_text()
        if status:
            give_up = time.monotonic() + 20
            while alive(group):  # the workers
                assert time.monotonic() < give_up
                time.sleep(0.01)
        return status == 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def nursery(profile, tmp_path) -> Iterator[Nursery]:
    made = Nursery(profile, tmp_path / "errors")
    yield made
    made.close()


def visible(folder: Path, pattern: str) -> list[Path]:
    return [path for path in folder.rglob(pattern) if not path.name.startswith(".")]


def what_is_kept(folder: Path) -> dict[Path, bytes]:
    """Results and records of stages with their content, which tells when and in how many seconds they were made."""
    for path in visible(folder / "results", "*"):
        assert path.is_dir() or path.suffix == ".json", path
    return {path: path.read_bytes() for path in visible(folder, "*.json")}


def comparable(results: list[RunResult]) -> dict[str, dict]:
    """What does not depend on when and how fast."""
    parts = {"settings", "metrics", "curves", "detection_curve", "examples", "data", "studies"}
    return {result.hash: result.model_dump(mode="json", include=parts) for result in results}


@pytest.mark.slow
def test_a_grid_survives_being_killed_ten_times(nursery, profile, tmp_path):
    """In as many fresh folders as it takes; every grid comes to its end, and to the end that it has undisturbed."""
    configs = [config for config, _ in load_profile(str(profile)).expand()]
    assert nursery.grid(tmp_path / "warm")
    began = time.monotonic()
    assert nursery.grid(tmp_path / "calm")
    seconds = time.monotonic() - began
    calm = comparable(read_results(tmp_path / "calm/results"))
    assert set(calm) == {config.hash for config in configs}

    moments = random.Random(10)
    kills = rounds = half_done = 0
    kept: dict[Path, bytes] = {}
    while kills < KILLS or kept:
        folder = tmp_path / f"round{rounds}"
        is_done = nursery.grid(folder, moments.uniform(0, 0.5 * seconds) if kills < KILLS else None)
        kills += not is_done
        now = what_is_kept(folder)
        assert {path: now.get(path) for path in kept} == kept, "something finished was lost or made again"
        results = read_results(folder / "results") if (folder / "results").exists() else []
        found = comparable(results)
        assert found == {name: calm[name] for name in found}
        half_done += bool(now) and not is_done
        if is_done:
            assert found == calm
        kept, rounds = ({}, rounds + 1) if is_done else (now, rounds)
        if is_done and kills == KILLS:
            break
    assert kills == KILLS
    assert half_done >= 3, "most kills came before anything was kept"
    assert "damaged" not in nursery.errors.read_text()


@pytest.mark.parametrize(
    ("number", "jobs", "code", "told"),
    [
        (signal.SIGTERM, 1, 128 + signal.SIGTERM, "ended by SIGTERM; finished runs are kept"),
        (signal.SIGINT, 1, 130, "interrupted; finished runs are kept"),
        (signal.SIGKILL, 2, -signal.SIGKILL, ""),
    ],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_a_grid_that_is_ended_leaves_no_process_loses_nothing_and_can_go_on(
    nab, profile, tmp_path, spare_environment, number, jobs, code, told
):
    """The signal goes to the command alone; its workers and trackers, all of its session, have to follow."""
    results, errors = tmp_path / "results", tmp_path / "errors"
    given = ["grid", "--profile", str(profile), "--device", "cpu", "--results", str(results)]
    command = [NAB, *given, "--jobs", str(jobs), "--threads", "1"]
    with (
        errors.open("w") as stream,
        subprocess.Popen(
            command, env=spare_environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=stream
        ) as process,
    ):
        wait_until(lambda: visible(results, "*.json") or process.poll() is not None, 240)
        assert alive(process.pid, column=3) > jobs, "the command and its workers"
        process.send_signal(number)
        wait_until(lambda: not alive(process.pid, column=3), 20)
        assert process.wait() == code
    assert told in errors.read_text()
    assert "Traceback" not in errors.read_text()
    finished = {path: path.read_bytes() for path in visible(results, "*.json")}
    assert 1 <= len(finished) < 4
    assert len(read_results(results)) == len(finished)
    assert nab(*given, "--dry-run")[1].splitlines()[-1].startswith(f"{4 - len(finished)} run")
    if number != signal.SIGKILL:
        return  # two starts are enough
    done = subprocess.run(command, env=spare_environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"4 runs: 4 of 4 done; {len(finished)} of them were done before\n"
    assert {path: path.read_bytes() for path in finished} == finished
    assert len(read_results(results)) == 4


def test_a_worker_elsewhere_ends_soon_after_its_parent(tmp_path):
    """Where no kernel tells it: a process that looks for its parent, which is killed."""
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path / "worker")], start_new_session=True)
    wait_until(lambda: (tmp_path / "worker").exists(), 60)
    assert alive(parent.pid, column=3) == 2
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(parent.pid, column=3), 20)
