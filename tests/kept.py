"""Outputs of stages for the tests of the cache, and what makes them."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nab.experiments import StageCache
from nab.training import Cost, Output


class Maker:
    """Makes an output and counts how often."""

    def __init__(self, output: Output | None = None) -> None:
        costs = {"a key": Cost("any", 1.5)}
        self.output = output or Output({"x": torch.arange(5)}, {"note": "made"}, costs)
        self.count = 0

    def __call__(self) -> Output:
        self.count += 1
        return self.output


def refuse() -> Output:
    """In the place of a maker where nothing may be made."""
    raise AssertionError("it was made again")


def files(cache: StageCache) -> tuple[Path, Path]:
    """Record and tensors of the only entry."""
    (entry,) = cache.entries()
    return Path(str(entry.record)), Path(str(entry.tensors))


def fill(cache: StageCache, *names: str, size: int = 1000) -> None:
    """Outputs of ``size`` bytes and a little, used one after the other."""
    for name in names:
        cache("any", {"name": name}, lambda: Output({"x": torch.zeros(size, dtype=torch.uint8)}))
        time.sleep(0.01)


def names_of(cache: StageCache) -> list[str]:
    """The names given to `fill`, the longest unused first."""
    return [json.loads(entry.record.read_text())["inputs"]["name"] for entry in cache.entries()]


def fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every file that `nab.files` writes is a link to ``/dev/full``, where no space is left."""
    make = tempfile.mkstemp

    def mkstemp(**where: Any) -> tuple[int, str]:
        handle, name = make(**where)
        Path(name).unlink()
        Path(name).symlink_to("/dev/full")
        return handle, name

    monkeypatch.setattr("nab.files.tempfile.mkstemp", mkstemp)
