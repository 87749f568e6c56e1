"""What the benchmarks share: their options, images, clocks, and the file that each measurement leaves."""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from nab.data import Dataset, load
from nab.experiments.provenance import describe_commit, describe_device, describe_versions, now
from nab.files import write_atomically
from nab.models import ResNet18
from nab.report.benchmarks import Measurement
from nab.seeding import stream
from nab.training import Batches, Recipe, Step, Trained, Trainer, fit, resolve_device
from nab.training.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
DATA = ("noise", "digits", "cifar10")
MODEL = "resnet18"
"""The network that is trained where its width is an option."""


def parser(description: str | None, *, repeats: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    options.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options.add_argument("--threads", type=int, help="torch's threads on the processor; its own choice by default")
    options.add_argument("--repeats", type=int, default=repeats, help="how often each side is measured, in turn")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--results", type=Path, default=RESULTS, help="folder that the JSON files go to")
    return options


def parse(options: argparse.ArgumentParser, arguments: Sequence[str] | None) -> tuple[argparse.Namespace, torch.device]:
    """The given options and the device. Threads are set, and the process keeps the memory that it frees."""
    given = options.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    device = resolve_device(given.device)
    if device.type == "cpu":
        keep_freed_memory()  # as runs do; so the first repetition is like the others
    return given, device


def images_of(kind: str, count: int, seed: int, data_root: str | None = None) -> Dataset:
    """``count`` training images in RGB, 32 x 32. Speed does not depend on what they show, so noise will do.

    If a source has fewer images, some are taken several times.
    """
    generator = torch.Generator().manual_seed(seed)
    if kind == "noise":
        pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Dataset(pixels, torch.arange(count) % 10, tuple("0123456789"), "noise")
    source = load(kind, data_root)[0]
    order = torch.randperm(len(source), generator=generator)
    return as_rgb(source.subset(order[torch.arange(count) % len(source)]))


def as_rgb(dataset: Dataset) -> Dataset:
    """The dataset with three channels; those of gray images are equal."""
    return dataset.replace(images=dataset.images.expand(-1, 3, -1, -1).contiguous())


def trainer_of(recipe: Recipe, width: int, seed: int, device: torch.device) -> Trainer:
    """Trains `MODEL` of a width."""
    return Trainer(recipe, ResNet18(width), seed, device)


def timed_training(dataset: Dataset, trainer: Trainer, step: Step | None = None) -> tuple[Trained, list[float]]:
    """A training by `nab.training.fit`, and the seconds of every epoch but the first.

    In the first epoch memory is laid out and CUDA graphs are recorded. An epoch ends when the device has finished.
    """
    batches = Batches(dataset, trainer.recipe, trainer.device, stream(trainer.seed, "batches", trainer.device))
    predictor = trainer.fresh(dataset, "benchmark")
    trained = fit(predictor, batches, trainer.recipe, step, observe=lambda _: {"ended": time.perf_counter()})
    ends = [row["ended"] for row in trained.curve]
    return trained, [later - earlier for earlier, later in itertools.pairwise(ends)]


def epoch_seconds(dataset: Dataset, trainer: Trainer, step: Step | None = None) -> list[float]:
    """The seconds of `timed_training`."""
    return timed_training(dataset, trainer, step)[1]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work; a processor has no queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep(
    results: Path,
    benchmark: str,
    what: str,
    *,
    settings: dict[str, Any],
    measured: dict[str, Any],
    trainer: Trainer,
) -> Measurement:
    """Write one measurement, in place of an earlier one with the same settings on the same machine.

    Args:
        results: the folder of all benchmarks' measurements.
        benchmark: the name of the program.
        what: which of its measurements it is.
        settings: what was run.
        measured: what came out.
        trainer: whose device and precision computed.
    """
    made: dict[str, Any] = {"device": describe_device(trainer), "versions": describe_versions()}
    made |= {"commit": describe_commit(), "finished": now()}
    measurement = Measurement(benchmark=benchmark, what=what, settings=settings, measured=measured, **made)
    name = "-".join([_machine(measurement.device), what, *(f"{key}-{value}" for key, value in _key(settings))])
    path = results / benchmark / f"{_slug(name)}.json"
    write_atomically(path, lambda temporary: temporary.write_text(measurement.model_dump_json(indent=1) + "\n"))
    return measurement


NAMING = (
    *("detector", "features", "code", "model", "width", "batch_size", "train_images", "epochs", "workers"),
    *("precision", "recipe", "attack", "defense", "backend", "jobs", "models"),
)
"""Settings by which the files of one benchmark differ. A new measurement of the same settings replaces the old one."""


def _key(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, settings[name]) for name in NAMING if isinstance(settings.get(name), str | int)]


def _machine(device: dict[str, Any]) -> str:
    return str(device["name"]) if device["type"] == "cuda" else f"{device['name']}-{device['threads']}-threads"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def spread(values: Sequence[float], digits: int = 0) -> str:
    """``"412 (405-420)"``: median, least and greatest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A small table on the terminal."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in rows[0]:
        table.add_column(heading, no_wrap=heading != "remark")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console = Console()
    Console(width=max(console.width, 160)).print(table)
