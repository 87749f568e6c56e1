"""`RunResult`: what a run found, how, where, and how long it took."""

from __future__ import annotations

import datetime
import functools
import math
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, field_serializer

from nab.experiments.config import RunConfig
from nab.training import Runtime


class RunResult(BaseModel):
    """One finished run; one JSON file.

    Attributes:
        hash: of the config.
        profile: the results folder it belongs to.
        config: the whole run.
        metrics: final values in percent, named as in `nab.evaluation`; counts have names that end in ``_count``.
        curve: one row per epoch of the final network, over ``config.monitor_size`` test images.
        detection_curve: what LGA saw, epoch by epoch, if it was the detector.
        examples: for some test images, what was predicted: true label, with and without trigger and stamp.
        data: name, number of images, fingerprints, and whether those are the published ones.
        seconds: wall time per part, and in ``total``, as if nothing had been in the cache: what was found there counts
            with what it cost when it was made, and what parts share counts once. ``passed`` is the time that it took.
        found_stages: those that were found in the cache.
        found_makers: what made those, each once: commit, version of torch, threads; none where it was not noted.
        images_per_second: in the final training, monitoring included; None for a defence that has none.
        peak_memory_mb: of the process (``host``) and on the GPU (``device``), in MiB, while this run was computed.
        energy_joules: used while this run was computed, by the processors (``host``) and the GPU (``device``) with all
            that ran on them; left out where it cannot be read.
        device: what computed: name, threads, precision. This and the next two are those of the process that finished
            the run.
        versions: of what the numbers may depend on.
        commit: of the library's checkout; ends in ``+changes`` if its code was changed since; None outside a checkout.
        finished: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    hash: str
    profile: str
    config: RunConfig
    metrics: dict[str, float | None]
    curve: list[dict[str, float | None]]
    detection_curve: list[dict[str, float | None]] = []
    examples: list[dict[str, int]] = []
    data: dict[str, Any]
    seconds: dict[str, float]
    found_stages: list[str] = []
    found_makers: list[dict[str, Any]] = []
    images_per_second: float | None
    peak_memory_mb: dict[str, float]
    energy_joules: dict[str, float] = {}
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    finished: str

    @field_serializer(
        "metrics", "curve", "detection_curve", "seconds", "images_per_second", "peak_memory_mb", "energy_joules"
    )
    def _rounded(self, value: Any) -> Any:
        return _round(value)


def _round(value: Any) -> Any:
    """Six significant digits everywhere, and null for what is not a number."""
    if isinstance(value, dict):
        return {key: _round(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_round(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe_device(runtime: Runtime) -> dict[str, Any]:
    """Name, threads and precision of what computes."""
    return {
        "type": runtime.device.type,
        "name": device_name(runtime.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": str(runtime.precision).removeprefix("torch."),
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
    """Versions of Python, this library and the packages its numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("nab", "torch", "torchvision", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def describe_maker() -> dict[str, Any]:
    """What to note beside something that is kept: commit, torch, threads."""
    return {"commit": describe_commit(), "torch": version("torch"), "threads": torch.get_num_threads()}


@functools.cache  # the code that runs does not change any more
def describe_commit() -> str | None:
    """Commit of the checkout that this file lies in."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        if not git("ls-files", "__init__.py"):  # installed inside somebody else's checkout
            return None
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
