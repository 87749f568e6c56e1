"""Of several processes one makes an output, the others wait, and take over when the first one dies."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from kept import refuse
from upath import UPath

from nab.experiments import StageCache
from nab.experiments.locks import Lease, only_one
from nab.training import Output

FORK = multiprocessing.get_context("fork")
"""Real processes that need not import torch again."""


@pytest.fixture
def _quick_leases(monkeypatch) -> None:
    monkeypatch.setattr(Lease.__init__, "__kwdefaults__", {"seconds": 1.0, "settle": 0.02})


def worker(where: Path | UPath, log: Path, seconds: float, name: str) -> None:
    """One output, slowly; a line in ``log`` when it begins to be made and when it is there."""

    def say(word: str) -> None:
        with log.open("a") as file:
            file.write(f"{word} {name}\n")

    def make() -> Output:
        say("makes")
        time.sleep(seconds)
        return Output({"x": torch.arange(5)}, {"by": name})

    output = StageCache(where)("any", {}, make)
    say(f"{'found' if output.is_found else 'made'} {output.values['by']}'s as")


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., multiprocessing.process.BaseProcess]]:
    """Starts workers on one stage and ends them with the test."""
    log, started = tmp_path / "log", []

    def begin(name: str, seconds: float, where: object = tmp_path / "stages") -> multiprocessing.process.BaseProcess:
        process = FORK.Process(target=worker, args=(where, log, seconds, name), daemon=True)
        process.start()
        started.append(process)
        return process

    log.touch()
    yield begin
    for process in started:
        process.kill()
        process.join()


def wait_until(is_so: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_of_several_processes_one_makes_it_and_the_others_find_it(start, tmp_path):
    workers = [start(name, 0.5) for name in "abcd"]
    for process in workers:
        process.join(30)
        assert process.exitcode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    (maker,) = [line.split()[1] for line in lines if line.startswith("makes")]
    assert sorted(lines[1:]) == sorted(f"{'made' if name == maker else 'found'} {maker}'s as {name}" for name in "abcd")


def test_when_the_first_is_killed_the_second_takes_over_at_once(start, tmp_path):
    log = tmp_path / "log"
    first = start("first", 600)
    wait_until(lambda: "makes first" in log.read_text())
    second = start("second", 0)
    time.sleep(0.5)
    assert "second" not in log.read_text(), "it waits"
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: "makes second" in log.read_text())
    assert time.monotonic() - killed < 2
    second.join(30)
    assert log.read_text().splitlines()[-1] == "made second's as second"
    assert StageCache(tmp_path / "stages")("any", {}, refuse).values == {"by": "second"}


def test_waiting_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    entered = threading.Event()

    def wait() -> None:
        with only_one(tmp_path / "locks" / "x", "the stage 'scores'"):
            entered.set()

    with only_one(tmp_path / "locks" / "x", "it"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: "waiting for another process that makes the stage 'scores'" in caplog.text)
        assert not entered.is_set()
    assert entered.wait(10)
    waiting.join()


@pytest.mark.usefixtures("_quick_leases")
def test_at_an_address_one_makes_it_and_the_other_waits(start, tmp_path):
    where, log = UPath(f"file://{tmp_path}/stages"), tmp_path / "log"
    first = start("first", 2.5, where)
    wait_until(lambda: "makes first" in log.read_text())
    second = start("second", 0, where)
    for process in (first, second):
        process.join(30)
    assert log.read_text().splitlines() == ["makes first", "made first's as first", "found first's as second"]


@pytest.mark.usefixtures("_quick_leases")
def test_at_an_address_a_dead_process_is_succeeded_when_its_lease_is_over(start, tmp_path):
    where, log = UPath(f"file://{tmp_path}/stages"), tmp_path / "log"
    first = start("first", 600, where)
    wait_until(lambda: "makes first" in log.read_text())
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    start("second", 0, where)
    wait_until(lambda: "made second" in log.read_text())
    assert 0.9 < time.monotonic() - killed < 15


# Leases.


@pytest.fixture(params=["memory", "file"])
def lease_file(request, tmp_path) -> UPath:
    return UPath(f"memory://{uuid.uuid4().hex}/lease" if request.param == "memory" else f"file://{tmp_path}/lease")


def lease(path: UPath, seconds: float = 1.0) -> Lease:
    return Lease(path, seconds=seconds, settle=0.02)


def test_a_free_lease_is_had_at_once_and_given_back(lease_file):
    began = time.monotonic()
    for _ in range(2):
        with lease(lease_file, seconds=60).held():
            assert lease_file.read_text()
        assert not lease_file.exists()
    assert time.monotonic() - began < 5


def test_a_lease_is_given_back_when_the_work_fails(lease_file):
    with pytest.raises(RuntimeError), lease(lease_file).held():
        raise RuntimeError
    assert not lease_file.exists()


def test_a_lease_that_is_not_renewed_is_taken_over_and_not_before_its_time(lease_file):
    lease_file.write_text("a process that is gone 1")
    began = time.monotonic()
    with lease(lease_file).held():
        assert 1.0 <= time.monotonic() - began < 15
        assert "gone" not in lease_file.read_text()


def test_a_lease_that_is_renewed_is_not_taken_over(lease_file):
    entered = threading.Event()

    def wait() -> None:
        with lease(lease_file).held():
            entered.set()

    with lease(lease_file).held():
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(3.0), "three times its length"
    assert entered.wait(10)
    waiting.join()
    assert not lease_file.exists()


def test_a_lease_that_went_to_somebody_else_is_left_to_them(lease_file):
    with lease(lease_file, seconds=60).held():
        lease_file.write_text("somebody else 1")
    assert lease_file.read_text() == "somebody else 1"


def test_a_waiting_process_that_sees_an_empty_lease_does_not_take_it_at_once(lease_file):
    """A writer empties a file before it fills it."""
    lease_file.write_text("")
    began = time.monotonic()
    with lease(lease_file).held():
        assert time.monotonic() - began >= 1.0
