"""Freed memory that the process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from nab.training.memory import keep_freed_memory

IS_GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource
import torch
from nab.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.empty(64 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
assert keep_freed_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(not IS_GLIBC, reason="about glibc")
def test_memory_that_was_freed_is_not_cleared_again():
    """The pages of a block that is freed and asked for again are taken from the system once."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 100
    assert kept < given_back / 10


def test_memory_can_be_left_as_it_is(monkeypatch):
    monkeypatch.setenv("NAB_KEEP_MEMORY", "0")
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()


@pytest.mark.parametrize("library", [object(), OSError("no such library"), TypeError("no library without a name")])
def test_another_c_library_is_left_as_it_is(monkeypatch, library):
    def load(_: None) -> object:
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr("ctypes.CDLL", load)
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
