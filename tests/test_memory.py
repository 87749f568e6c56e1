"""Freed memory that the process keeps, and gives back."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from nab.training import memory
from nab.training.memory import LARGEST_KEPT, keep_freed_memory

IS_GLIBC = platform.libc_ver()[0] == "glibc"

WORK = """
import resource
import torch
from nab.experiments.meter import Meter
from nab.training.memory import keep_freed_memory

def work(mebibytes):
    for _ in range(8):
        torch.empty(mebibytes * 2**20, dtype=torch.uint8).fill_(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def peak(mebibytes):
    meter = Meter(torch.device("cpu"))
    work(mebibytes)
    return meter.peak_memory_mb()["host"]

given_back = faults()
assert keep_freed_memory()
faults()
print(given_back, faults(), peak(512), peak(8))
"""


@pytest.fixture(autouse=True)
def asked_anew():
    """What is asked once per process is asked in every test here."""
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, int]]]:
    """Puts a C library in place that refuses some settings; what it is asked for."""

    def put(*refused: int) -> list[tuple[int, int]]:
        calls: list[tuple[int, int]] = []

        def mallopt(name: int, value: int) -> int:
            calls.append((name, value))
            return name not in refused

        monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
        return calls

    return put


@pytest.mark.skipif(not IS_GLIBC, reason="about glibc")
def test_memory_that_was_freed_is_not_cleared_again_and_not_counted_twice():
    """The pages of a block that is freed and asked for again are taken from the system once; a small piece of work
    after a large one has a small peak."""
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    given_back, kept, large, small = map(float, done.stdout.split())
    assert given_back > 100
    assert kept < given_back / 10
    assert small < large - 400


def test_making_and_training_a_network_leaves_the_process_as_it_is(asked, tiny_trainer, noise):
    """Whoever imports the library may have settings of their own."""
    calls = asked()
    tiny_trainer().train(noise, "x").predictor.predict(noise.images)
    assert not calls


def test_freed_blocks_are_kept_and_the_heap_is_not_trimmed(asked):
    calls = asked()
    assert keep_freed_memory()
    assert calls == [(memory.M_MMAP_THRESHOLD, LARGEST_KEPT), (memory.M_TRIM_THRESHOLD, -1)]


def test_an_older_library_is_told_to_take_no_block_by_itself(asked):
    calls = asked(memory.M_MMAP_THRESHOLD)
    assert keep_freed_memory()
    assert calls[1:] == [(memory.M_MMAP_MAX, 0), (memory.M_TRIM_THRESHOLD, -1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("NAB_KEEP_MEMORY", "0"), ("MALLOC_TRIM_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")],
)
def test_memory_can_be_left_as_it_is(asked, monkeypatch, name, value):
    calls = asked()
    monkeypatch.setenv(name, value)
    assert not keep_freed_memory()
    assert not calls


@pytest.mark.parametrize("library", [object(), OSError("no such library"), TypeError("no library without a name")])
def test_another_c_library_is_left_as_it_is(monkeypatch, library):
    def load(_: None) -> object:
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr("ctypes.CDLL", load)
    assert not keep_freed_memory()
    memory.release_freed_memory()
