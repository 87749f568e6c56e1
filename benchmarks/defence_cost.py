"""What NAB costs once suspects and pseudo labels are known: its training against plain training, in turn.

    python benchmarks/defence_cost.py [--width 64] [--batch-size 64] [--repeats 8]

The defended training differs by other labels, which cost nothing, and by the stamp that is written into every batch.
What comes before, from scores and pseudo labels to a dataset and a mask, is timed too, on a set of CIFAR-10's size.
Detection and labelling train networks of their own; their seconds stand in every run's result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from common import DATA, epoch_seconds, images_of, keep, parse, parser, show, spread, synchronize
from torch import Tensor

from nab.data import Dataset
from nab.defenses.nab import NAB, StampHook
from nab.detection import select_suspects
from nab.training import Recipe, Runtime

MODEL = "resnet18"
FULL_SIZE = 50_000


def prepare(
    dataset: Dataset, scores: Tensor, pseudo_labels: Tensor, device: torch.device
) -> tuple[Dataset, StampHook, float]:
    """What NAB trains on, what writes its stamp, and the seconds that it took to make both."""
    start = time.perf_counter()
    defense = NAB()
    suspects = select_suspects(scores, defense.detection_rate)
    found = defense.fit(dataset, is_suspect=suspects, pseudo_labels=pseudo_labels).suspicion_
    labels = torch.where(found.is_suspect, found.pseudo_labels, dataset.labels)
    hook = StampHook(defense.stamp, found.is_stamped, device)
    return dataset.replace(labels=labels), hook, time.perf_counter() - start


def random_findings(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Scores and pseudo labels by chance: the time does not depend on how good they are."""
    generator = torch.Generator().manual_seed(seed)
    count = len(dataset)
    return torch.rand(count, generator=generator), torch.randint(dataset.num_classes, (count,), generator=generator)


def stamp_seconds(hook: StampHook, batch_size: int, device: torch.device, times: int = 200) -> float:
    """Seconds to stamp one batch, launched by itself: finer than a difference of two trainings can be."""
    images = torch.zeros(batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    index = torch.arange(batch_size, device=device)
    hook.images(images, index)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        hook.images(images, index)
    synchronize(device)
    return (time.perf_counter() - start) / times


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=8)
    options.add_argument("--data", choices=DATA, default="noise")
    options.add_argument("--data-root", help="for cifar10")
    options.add_argument("--width", type=int, nargs="+", default=[64])
    options.add_argument("--batch-size", type=int, nargs="+", default=[64])
    options.add_argument("--images", type=int, help="per epoch; 512 on a processor, 51200 on a GPU")
    options.add_argument("--epochs", type=int, default=3, help="of a repetition, of which the first is not counted")
    given, device = parse(options, arguments)
    if given.epochs < 2:
        options.error(f"expected --epochs of at least 2, of which the first is not counted, got {given.epochs}")
    rows = [measure(width, batch_size, given, device) for width in given.width for batch_size in given.batch_size]
    show("time of NAB's training over that of plain training: median (least-greatest)", rows)


def measure(width: int, batch_size: int, given: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    count = given.images or (51_200 if device.type == "cuda" else 512)
    dataset = images_of(given.data, count, given.seed, given.data_root)
    defended, hook, _ = prepare(dataset, *random_findings(dataset, given.seed), device)
    recipe = Recipe(epochs=given.epochs, batch_size=batch_size)
    options: dict[str, Any] = {"model": MODEL, "width": width, "seed": given.seed, "device": device}
    sides: dict[str, Any] = {"plain": (dataset, None), "nab": (defended, hook)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(given.repeats):
        # Whoever goes first in one round goes second in the next, so that a steady drift does not favour either.
        for name in sorted(sides, reverse=repeat % 2 == 1):
            data, own = sides[name]
            seconds[name].append(statistics.mean(epoch_seconds(data, recipe, hook=own, **options)))
    settings = options | {
        "device": device.type,
        "data": dataset.name,
        "images": len(dataset),
        "batch_size": batch_size,
        "epochs": given.epochs,
        "repeats": given.repeats,
        "preprocessed_images": FULL_SIZE,
    }
    full = images_of("noise", FULL_SIZE, given.seed)
    preparing = [prepare(full, *random_findings(full, given.seed), device)[2] for _ in range(given.repeats)]
    runtime = Runtime.choose(device, recipe.precision, width)
    stamping = [stamp_seconds(hook, batch_size, device) for _ in range(given.repeats)]
    measured = {"seconds": seconds, "stamp_seconds": stamping, "preprocessing_seconds": preparing}
    keep(given.results, "defence_cost", "training", settings=settings, measured=measured, runtime=runtime)
    ratios = [nab / plain for nab, plain in zip(seconds["nab"], seconds["plain"], strict=True)]
    per_batch = statistics.median(seconds["plain"]) * batch_size / count
    return {
        "width": width,
        "batch": batch_size,
        "plain images/s": spread([count / s for s in seconds["plain"]]),
        "NAB images/s": spread([count / s for s in seconds["nab"]]),
        "time over plain": spread(ratios, 3),
        "stamp, % of a batch": spread([100 * s / per_batch for s in stamping], 2),
        f"preparing {FULL_SIZE:,} images, s": spread(preparing, 3),
    }


if __name__ == "__main__":
    main()
