"""What NAB costs once suspects and pseudo labels are known: its training against plain training, in turn.

    python benchmarks/defense_cost.py [--width 64] [--batch-size 64] [--repeats 8]

The defended training has other labels, which cost nothing, and writes the stamp into every batch. What comes before it,
from scores and pseudo labels to a dataset and a mask, is timed too, on a set of CIFAR-10's size. Detection and labeling
train networks of their own; their seconds stand in every run's result.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from common import DATA, MODEL, epoch_seconds, images_of, keep, parse, parser, show, spread, synchronize, trainer_of
from torch import Tensor

from nab.data import Dataset
from nab.defenses.stamping import StampedTraining
from nab.defenses.training.nab import NAB
from nab.detection import select_suspects
from nab.needs import Suspicion
from nab.training import Batch, Recipe, Step

FULL_SIZE = 50_000
DETECTION_RATE = 0.05


def prepare(
    dataset: Dataset, scores: Tensor, pseudo_labels: Tensor, device: torch.device
) -> tuple[Dataset, StampedTraining, float]:
    """What NAB trains on, the step that writes its stamp, and the seconds that it took to make both."""
    start = time.perf_counter()
    defense = NAB()
    suspicion = Suspicion(scores, select_suspects(scores, DETECTION_RATE), pseudo_labels)
    stamped = defense.stamped_samples(dataset, suspicion)
    step = StampedTraining(defense.stamp, stamped, dataset.normalization, device)
    return suspicion.relabeled(dataset), step, time.perf_counter() - start


def random_findings(dataset: Dataset, seed: int) -> tuple[Tensor, Tensor]:
    """Random scores and pseudo labels, because the time does not depend on how good they are."""
    generator = torch.Generator().manual_seed(seed)
    count = len(dataset)
    return torch.rand(count, generator=generator), torch.randint(dataset.num_classes, (count,), generator=generator)


def stamp_seconds(step: StampedTraining, batch_size: int, device: torch.device, times: int = 200) -> float:
    """Seconds to stamp one batch by itself, which is more exact than the difference of two trainings."""
    images = torch.zeros(batch_size, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    positions = torch.arange(batch_size, device=device)
    batch = Batch(images, positions, positions)
    step.images(batch)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        step.images(batch)
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
    defended, step, _ = prepare(dataset, *random_findings(dataset, given.seed), device)
    trainer = trainer_of(Recipe(epochs=given.epochs, batch_size=batch_size), width, given.seed, device)
    sides: dict[str, tuple[Dataset, Step | None]] = {"plain": (dataset, None), "nab": (defended, step)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(given.repeats):
        # The side that is first in one round is second in the next, so that a steady drift favors neither.
        for name in sorted(sides, reverse=repeat % 2 == 1):
            data, own = sides[name]
            seconds[name].append(statistics.mean(epoch_seconds(data, trainer, own)))
    settings = {
        "model": MODEL,
        "width": width,
        "seed": given.seed,
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
    stamping = [stamp_seconds(step, batch_size, device) for _ in range(given.repeats)]
    measured = {"seconds": seconds, "stamp_seconds": stamping, "preprocessing_seconds": preparing}
    keep(given.results, "defense_cost", "training", settings=settings, measured=measured, trainer=trainer)
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
