"""Images per second: this library against a plain DataLoader pipeline, with the network and without.

    python benchmarks/throughput.py [--width 64 16] [--batch-size 64 128 512] [--workers 0 2] [--repeats 3]

Both sides train the same network with the same augmentation (crop, flip; the input pipeline alone with cutout too).
They take turns, because a machine's absolute speed drifts; every repetition of either is in the JSON. Each plain side
has a process of its own, so that no setting of this library, such as that of the C library's memory, changes its speed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from common import DATA, MODEL, epoch_seconds, images_of, keep, parse, parser, show, spread, synchronize, trainer_of
from plain import Apart, plain_loading, plain_training

from nab.data import Dataset
from nab.training import Batches, Recipe, Trainer
from nab.training.runtime import resolve_precision


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--data", choices=DATA, default="noise")
    options.add_argument("--data-root", help="for cifar10")
    options.add_argument("--width", type=int, nargs="+", default=[64, 16])
    options.add_argument("--batch-size", type=int, nargs="+", default=[64, 128, 512])
    options.add_argument(
        "--workers", type=int, nargs="+", default=[0, 2], help="of the plain DataLoader; all are tried"
    )
    options.add_argument("--images", type=int, help="per epoch; 512 on a processor, 51200 on a GPU")
    options.add_argument("--input-images", type=int, default=10240, help="per epoch of the input pipeline alone")
    given, device = parse(options, arguments)
    count = given.images or (51_200 if device.type == "cuda" else 512)
    rows = []
    for batch_size in given.batch_size:
        dataset = images_of(given.data, whole(given.input_images, batch_size), given.seed, given.data_root)
        rows.append(measure_input(dataset, batch_size, given, device))
    for width in given.width:
        for batch_size in given.batch_size:
            dataset = images_of(given.data, whole(count, batch_size), given.seed, given.data_root)
            rows.append(measure_training(dataset, width, batch_size, given, device))
    show("images per second: median (least-greatest)", rows)


def whole(count: int, batch_size: int) -> int:
    """The count, rounded to whole batches, and at least two of them."""
    return max(2, round(count / batch_size)) * batch_size


def measure_training(
    dataset: Dataset, width: int, batch_size: int, given: argparse.Namespace, device: torch.device
) -> dict[str, str]:
    """Our training in the device's best precision and in float32, and the plain loop with each number of workers."""
    recipe = Recipe(epochs=3, batch_size=batch_size, cutout=0)
    trainer = trainer_of(recipe, width, given.seed, device)
    ours = {"ours": trainer}
    if resolve_precision(recipe.precision, device) != torch.float32:
        in_float32 = dataclasses.replace(recipe, precision="float32")
        ours["ours, float32"] = dataclasses.replace(trainer, recipe=in_float32)
    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        plain = {
            workers: stack.enter_context(
                Apart(partial(plain_training, trainer.architecture, given.seed, dataset, recipe, workers, device))
            )
            for workers in given.workers
        }
        for _ in range(given.repeats):
            for name, own in ours.items():
                seconds.setdefault(name, []).append(statistics.mean(epoch_seconds(dataset, own)))
            for workers, side in plain.items():
                seconds.setdefault(f"plain, {workers} workers", []).append(side.turn())
    settings = settings_of(dataset, recipe, given) | {"model": MODEL, "width": width}
    keep(given.results, "throughput", "training", settings=settings, measured={"seconds": seconds}, trainer=trainer)
    return row_of(f"{MODEL}, width {width}", batch_size, len(dataset), seconds)


def measure_input(dataset: Dataset, batch_size: int, given: argparse.Namespace, device: torch.device) -> dict[str, str]:
    """Batches are made and brought to the device; there is no network."""
    recipe = Recipe(batch_size=batch_size)
    batches = Batches(dataset, recipe, device, torch.Generator(device).manual_seed(given.seed))

    def ours() -> float:
        synchronize(device)
        start = time.perf_counter()
        for index in batches.epoch():
            batches.batch(index)
        synchronize(device)
        return time.perf_counter() - start

    seconds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        plain = {
            workers: stack.enter_context(Apart(partial(plain_loading, dataset, recipe, workers, device)))
            for workers in given.workers
        }
        for repeat in range(given.repeats + 1):
            found = {"ours": ours()} | {f"plain, {workers} workers": side.turn() for workers, side in plain.items()}
            if repeat:  # the first round starts workers and fills caches
                for name, value in found.items():
                    seconds.setdefault(name, []).append(value)
    trainer = Trainer(Recipe(precision="float32"), device=device)  # batches are made in float32
    settings = settings_of(dataset, recipe, given)
    measured = {"seconds": seconds}
    keep(given.results, "throughput", "input pipeline", settings=settings, measured=measured, trainer=trainer)
    return row_of("input pipeline alone", batch_size, len(dataset), seconds)


def settings_of(dataset: Dataset, recipe: Recipe, given: argparse.Namespace) -> dict[str, Any]:
    augmentation = {name: getattr(recipe, name) for name in ("crop_padding", "flip", "cutout")}
    return {
        "data": dataset.name,
        "images": len(dataset),
        "batch_size": recipe.batch_size,
        "repeats": given.repeats,
        "seed": given.seed,
        **augmentation,
    }


def row_of(what: str, batch_size: int, images: int, seconds: dict[str, list[float]]) -> dict[str, str]:
    """A line of the table on the terminal; the book makes its own from the JSON."""
    rates = {name: [images / value for value in values] for name, values in seconds.items()}
    best = max((name for name in rates if name.startswith("plain")), key=lambda name: statistics.median(rates[name]))
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[best], strict=True)]
    return {
        "what": what,
        "batch": str(batch_size),
        "ours": spread(rates["ours"]),
        "ours, float32": spread(rates["ours, float32"]) if "ours, float32" in rates else "",
        "plain": spread(rates[best]),
        "workers": best.split()[1],
        "times": spread(ratios, 1),
    }


if __name__ == "__main__":
    main()
