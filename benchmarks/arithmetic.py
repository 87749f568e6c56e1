"""How much of the device's arithmetic does training use?

    python benchmarks/arithmetic.py [--width 64 16] [--batch-size 64 128 512] [--repeats 3]

The share is that of two rates of floating-point operations. The first is what training needs for an image, forwards and
backwards, times its images per second; the second is the fastest matrix multiplication on the same device in the same
precision with the same threads. Both are measured in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from common import MODEL, epoch_seconds, images_of, keep, parse, parser, show, spread, synchronize, trainer_of
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from nab.models import ResNet18
from nab.training import Recipe

SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (2048, 4096, 8192, 16384)}
"""Sides of the square matrices; the size with the highest rate counts."""

PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def flops_per_image(width: int, batch_size: int = 4) -> float:
    """Operations of the convolutions and the classifier; an addition and a multiplication count as two."""
    network = ResNet18(width).build(10, (3, 32, 32))
    images, labels = torch.zeros(batch_size, 3, 32, 32), torch.zeros(batch_size, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(images), labels).backward()
    return counter.get_total_flops() / batch_size


def matrix_rates(precision: torch.dtype, device: torch.device) -> dict[str, float]:
    """Operations per second of a square multiplication, by its size and by the library that does it.

    On a processor, torch multiplies float32 matrices with MKL, which is slow on some makes, and convolves with oneDNN;
    a convolution of one pixel is the same multiplication, so both count.
    """
    rates = {}
    for size in SIZES[device.type]:
        left, right = (torch.randn(size, size, device=device).to(precision) for _ in range(2))
        out = torch.empty_like(left)
        rates[f"mm {size}"] = _rate(size, partial(torch.mm, left, right, out=out), device)
        if device.type == "cpu":
            # 16 images, channels-last, a row of the matrix per pixel. With fewer images torch does not call oneDNN.
            images = left.view(16, size // 16, 1, size).permute(0, 3, 1, 2)
            kernel = right.view(size, size, 1, 1).contiguous(memory_format=torch.channels_last)
            rates[f"convolution {size}"] = _rate(size, partial(F.conv2d, images, kernel), device)
    return rates


def _rate(size: int, multiply: Callable[[], object], device: torch.device, least_seconds: float = 0.3) -> float:
    """The best of many short series, because other work of the machine can only make a series slower."""
    multiply()
    series, best, spent = 1, 0.0, 0.0
    while spent < least_seconds:
        synchronize(device)
        start = time.perf_counter()
        for _ in range(series):
            multiply()
        synchronize(device)
        seconds = time.perf_counter() - start
        best, spent = max(best, 2 * size**3 * series / seconds), spent + seconds
        if seconds < 0.005:
            series *= 2
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--width", type=int, nargs="+", default=[64, 16])
    options.add_argument("--batch-size", type=int, nargs="+", default=[64, 128, 512])
    options.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    options.add_argument("--images", type=int, help="per epoch; 512 on a processor, 51200 on a GPU")
    given, device = parse(options, arguments)
    rows = [
        measure(width, batch_size, precision, given, device)
        for precision in given.precision
        for width in given.width
        for batch_size in given.batch_size
    ]
    show("share of the arithmetic limit: median (least-greatest)", rows)


def measure(
    width: int, batch_size: int, precision: str, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    wanted = given.images or (51_200 if device.type == "cuda" else 512)
    dataset = images_of("noise", max(2, round(wanted / batch_size)) * batch_size, given.seed)
    recipe = Recipe(epochs=3, batch_size=batch_size, precision=precision)
    flops = flops_per_image(width)
    trainer = trainer_of(recipe, width, given.seed, device)
    seconds: list[float] = []
    rates: list[dict[str, float]] = []
    for _ in range(given.repeats):
        rates.append(matrix_rates(PRECISIONS[precision], device))
        seconds.append(statistics.mean(epoch_seconds(dataset, trainer)))
    settings = {
        "model": MODEL,
        "width": width,
        "batch_size": batch_size,
        "precision": precision,
        "images": len(dataset),
        "repeats": given.repeats,
        "seed": given.seed,
    }
    measured = {"flops_per_image": flops, "seconds": seconds, "matrix_rates": rates}
    keep(given.results, "arithmetic", "training", settings=settings, measured=measured, trainer=trainer)
    # Each repetition is compared with the matrix rate measured beside it, since the machine's speed drifts.
    best = [max(found.values()) for found in rates]
    shares = [100 * flops * len(dataset) / s / rate for s, rate in zip(seconds, best, strict=True)]
    return {
        "precision": precision,
        "width": width,
        "batch": batch_size,
        "GFLOP per image": f"{flops / 1e9:.2f}",
        "images/s": spread([len(dataset) / s for s in seconds]),
        "matrix GFLOP/s": spread([rate / 1e9 for rate in best]),
        "share, %": spread(shares, 1),
    }


if __name__ == "__main__":
    main()
