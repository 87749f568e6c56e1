"""What made a result: machine, versions, commit."""

from __future__ import annotations

import datetime
import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nab import __version__
from nab.training import Trainer
from nab.training.runtime import resolve_precision


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe_device(trainer: Trainer) -> dict[str, Any]:
    """Name, threads and precision of what computes."""
    precision = resolve_precision(trainer.recipe.precision, trainer.device)
    return {
        "type": trainer.device.type,
        "name": device_name(trainer.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
    }


def device_name(device: torch.device) -> str:
    """The model of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_versions() -> dict[str, str]:
    """Versions of Python, of this library, and of the packages on which its numbers depend."""
    found = {"python": platform.python_version(), "nab": __version__}
    for package in ("torch", "torchvision", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe_maker() -> dict[str, Any]:
    """What is noted beside a stage that is kept: commit, version of torch, threads."""
    return {"commit": describe_commit(), "torch": version("torch"), "threads": torch.get_num_threads()}


@functools.cache  # the code that runs does not change any more
def describe_commit() -> str | None:
    """Commit of the checkout that holds this file, with ``+changes`` if the package differs from it; else None."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        if not git("ls-files", "__init__.py"):  # installed inside somebody else's checkout
            return None
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
