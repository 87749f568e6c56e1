"""What scoring costs, by the number of samples. Networks that a detector shares with other methods do not count.

    python benchmarks/detectors.py [--images 10000 20000 40000] [--features 512] [--detector spectre ...]

Detectors that read features get normally distributed ones with a poisoned group in one class. Detectors that read
images get noise of 8 x 8 pixels, a small network, and few epochs or steps, because their time is proportional to all of
these. Every measurement has a process of its own; its greatest memory is that of the whole process, torch included.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import keep, parse, parser, show, spread
from torch import Tensor

from nab.data import Dataset
from nab.defenses.supply import Supply
from nab.detection import FCT, LGA, LN, STRIP, CognitiveDistillation, Detector
from nab.detection.activation_clustering import cluster_scores
from nab.detection.beatrix import deviate, fit_bounds
from nab.detection.scan import scan_scores
from nab.detection.spectral_signatures import spectral_scores
from nab.detection.spectre import spectre_scores
from nab.models import ResNet9
from nab.selfsupervised import SimCLR
from nab.training import Recipe, Trainer
from nab.training.memory import keep_freed_memory

CLASSES = 10
VERIFIED = 1000

ON_IMAGES: dict[str, Detector] = {
    "lga": LGA(epochs=1),
    "ln": LN(epochs=1),
    "strip": STRIP(overlays=4),
    "cognitive-distillation": CognitiveDistillation(steps=2),
    "fct": FCT(epochs=1, separation_epochs=1),
}
"""With the least of everything that multiplies their time."""


def features_of(count: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of ``count`` samples, of which 5 % are poison of class 0, and the observed labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    features = torch.randn(count, width, generator=generator) + torch.randn(CLASSES, width, generator=generator)[labels]
    poisoned = torch.randperm(count, generator=generator)[: count // 20]
    features[poisoned] += 3 * torch.randn(width, generator=generator)
    labels[poisoned] = 0
    return features.relu(), labels


def on_features(detector: str, count: int, width: int, seed: int) -> Callable[[], Any]:
    """A detector's work on features. Beatrix works on maps of 4 x 4, which are drawn batch by batch."""
    features, labels = features_of(count, width, seed)
    if detector == "beatrix":
        bounds = fit_bounds(torch.rand(100, width, 4, 4), orders=8, width=10.0)
        batches = (torch.rand(min(500, count - start), width, 4, 4) for start in range(0, count, 500))
        return functools.partial(deviate, batches, bounds)
    if detector == "scan":
        known = features_of(VERIFIED, width, seed + 1)
        return functools.partial(scan_scores, features, labels, *known, CLASSES)
    works: dict[str, Callable[..., Any]] = {
        "spectral-signatures": spectral_scores,
        "spectre": spectre_scores,
        "activation-clustering": cluster_scores,
    }
    return functools.partial(works[detector], features, labels, CLASSES)


def on_images(detector: str, count: int, seed: int) -> Callable[[], Any]:
    """A detector's work on images; the networks that it shares with other methods are trained before."""
    keep_freed_memory()  # as runs do
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    dataset = Dataset(pixels, torch.arange(count) % CLASSES, tuple("0123456789"), "noise")
    verified = dataset.subset(torch.arange(min(VERIFIED, count)))
    trainer = Trainer(Recipe(epochs=1, batch_size=128), ResNet9(16), seed)
    method = ON_IMAGES[detector]
    given = Supply(dataset, trainer, verified, SimCLR(epochs=1)).give(method)
    return functools.partial(method.score, dataset, trainer, given)


ON_FEATURES = ("spectral-signatures", "spectre", "activation-clustering", "scan", "beatrix")


def measure(detector: str, count: int, width: int, seed: int, threads: int) -> tuple[float, float]:
    """Seconds, and the greatest memory of this process in GB (1e9 bytes)."""
    torch.set_num_threads(threads)
    work = on_features(detector, count, width, seed) if detector in ON_FEATURES else on_images(detector, count, seed)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--images", type=int, nargs="+", default=[10_000, 20_000, 40_000, 50_000])
    options.add_argument("--features", type=int, default=512)
    options.add_argument(
        "--detector", nargs="+", choices=(*ON_FEATURES, *ON_IMAGES), default=[*ON_FEATURES, *ON_IMAGES]
    )
    given, _ = parse(options, arguments)
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for detector in given.detector:
        width = given.features if detector in ON_FEATURES else None
        row = {"detector": detector}
        for count in given.images:
            found = []
            for _ in range(given.repeats):
                with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as executor:
                    work = executor.submit(measure, detector, count, width or 0, given.seed, torch.get_num_threads())
                    found.append(work.result())
            seconds, memory = ([values[place] for values in found] for place in (0, 1))
            settings = {"detector": detector, "train_images": count, "features": width, "seed": given.seed}
            measured = {"seconds": seconds, "memory_gb": max(memory)}
            trainer = Trainer()  # on the processor, like everything here
            keep(given.results, "detectors", "scores", settings=settings, measured=measured, trainer=trainer)
            row[f"{count:,}"] = f"{spread(seconds, 2)} s, {max(memory):.2f} GB"
        rows.append(row)
    show("seconds to score so many samples, and the process's greatest memory", rows)


if __name__ == "__main__":
    main()
