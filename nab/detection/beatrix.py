"""Beatrix (Ma, Wang, Sun, Xue, Wang, Xiang, "The Beatrix Resurrections: Robust Backdoor Detection via Gram Matrices",
NDSS 2023).

Poisoned samples may have the features of the target class, but other channels are on together. The Gram matrices of
their feature maps leave the range that the Gram matrices of verified samples span.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_positive, check_range, check_whole
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.detection.gating import gate_classes
from nab.detection.latent import SMALLEST, check_classes, check_finite, stands_out
from nab.errors import NabError
from nab.needs import Given
from nab.seeding import stream
from nab.training import Predictor, Trainer

FOLDS = 5
"""Parts of a class's verified samples, each of which is judged by the others; also the fewest samples a class needs."""

COMPARED = 500
"""Samples of each side of a class that its statistic compares, at most; the cost is quadratic in them."""

SMALL = 1e-6
"""Stands in for a bound of zero, as in the sources."""

ENTRIES = 2**24
"""Entries of training samples' Gram matrices that are in memory at once, 64 MiB."""


@dataclasses.dataclass(frozen=True)
class Beatrix(Detector):
    """The score is how far the Gram matrices of a sample leave the range of the class that it is predicted to be.

    Attributes:
        orders: powers of the features whose Gram matrices are compared, 1 to this; at least 1.
        width: the range reaches so many median absolute deviations to both sides of the median of the verified samples,
            above 0.
        percentile: share of verified samples whose deviation is below the native threshold, which divides a class for
            its statistic, in (0, 1).
        floor: an overshoot is divided by the bound that it passes, but by no less than this share of the average
            median, at least 0. With 0, as in the sources, it is 1e-6, and pairs of channels that are never on together
            weigh most.
        threshold: a class is suspected if its statistic lies above the median by more robust standard deviations than
            this, above 0; the class of highest statistic always is.
        samples: verified images from which the range of a class is learned, at most; at least 5.

    Defaults are the authors'. The features are the maps that enter the network's last block, as in the authors' code; a
    network of one block has only the maps that leave it. A class is what the attacked model predicts. A class for which
    the model predicts fewer than 5 verified samples is not judged: other classes' channels say nothing about it.

    Two differences from the authors' code. Every verified sample is judged by the other folds; theirs leaves out up to
    four samples that do not fill a fold. A class of unusually low statistic is not suspected; theirs flags it too.
    BackdoorBench does not raise the features to the power of the order before it multiplies them, so that all its
    orders are roots of one matrix; the authors' code and this class do.
    """

    orders: int = 8
    width: float = 10.0
    percentile: float = 0.95
    floor: float = 0.0
    threshold: float = math.e**2
    samples: int = 30

    summary: ClassVar[str] = "Gram matrices of the feature maps that leave the range of verified samples"
    source: ClassVar[str] = "Ma et al. 2023"
    judges_classes: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"verified", "attacked model"})

    def __post_init__(self) -> None:
        check_positive("orders", self.orders)
        check_range("width", self.width, 0, math.inf, include_low=False, include_high=False)
        check_range("floor", self.floor, 0, math.inf, include_high=False)
        check_range("percentile", self.percentile, 0, 1, include_low=False, include_high=False)
        check_range("threshold", self.threshold, 0, math.inf, include_low=False, include_high=False)
        check_whole("samples", self.samples, FOLDS, 10_000)

    def check(self, dataset: Dataset, trainer: Trainer, verified: Dataset | None = None) -> None:
        check_classes(dataset.labels)
        if verified is not None and len(verified) < FOLDS:
            raise NabError(f"Beatrix needs at least {FOLDS} verified images, got {len(verified)}")

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        predictor, verified = given.require_attacked().predictor, given.require_verified()
        labels, known = predictor.predict(dataset.images), predictor.predict(verified.images)
        generator = stream(trainer.seed, "beatrix")
        scores, statistics = torch.zeros(len(dataset)), torch.full((dataset.num_classes,), math.nan)
        for label in range(dataset.num_classes):
            members = (labels == label).nonzero().squeeze(1)
            own = (known == label).nonzero().squeeze(1)
            if len(members) < SMALLEST or len(own) < FOLDS:
                continue
            own = own[torch.randperm(len(own), generator=generator)]
            bounds, cut = self._learn(predictor, verified.images[own])
            scores[members], features = deviate(inner_maps(predictor, dataset.images[members]), bounds)
            statistics[label] = split_distance(features, scores[members] > cut, generator)
        if statistics.isnan().all():
            raise NabError(f"no class has {FOLDS} verified samples that the attacked model predicts to be of it")
        gated = gate_classes(scores, labels, statistics, stands_out(statistics, self.threshold))
        return Scored(gated, {"statistics": statistics})

    def _learn(self, predictor: Predictor, images: Tensor) -> tuple[Bounds, float]:
        """The range of a class and its native threshold, from verified images in random order."""
        maps = torch.cat(list(inner_maps(predictor, images[: self.samples])))
        fit = functools.partial(fit_bounds, orders=self.orders, width=self.width, floor=self.floor)
        return fit(maps), native_cut(maps, fit, self.percentile)


def inner_maps(predictor: Predictor, images: Tensor) -> Iterator[Tensor]:
    """The maps that enter the network's last block, or that leave it if there is no other block.

    Args:
        predictor: of the network.
        images: uint8, N x C x H x W.

    Returns:
        float32, B x D x h x w, on the device, batch by batch.
    """
    network = predictor.network
    blocks = list(network.blocks.values())
    if len(blocks) < 2:
        return predictor.maps(images)

    def part(inputs: Tensor) -> Tensor:
        heard: list[Tensor] = []
        handle = blocks[-1].register_forward_pre_hook(lambda _, entering: heard.append(entering[0]))
        try:
            network.maps(inputs)
        finally:
            handle.remove()
        return heard[-1]

    return predictor.run(part, images)


@dataclasses.dataclass(frozen=True, eq=False)
class Bounds:
    """The range of a class; all float32, orders x D (D + 1) / 2.

    Attributes:
        low: of each entry.
        high: of each entry.
        low_unit: what an entry below ``low`` is measured in, above 0.
        high_unit: what one above ``high`` is measured in, above 0.
    """

    low: Tensor
    high: Tensor
    low_unit: Tensor
    high_unit: Tensor


def gram(maps: Tensor, order: int) -> Tensor:
    """``((F^p) (F^p)^T)^(1/p)``. Powers and roots are taken entry by entry, and a root keeps the sign of its entry.

    Args:
        maps: float32, B x D x h x w.
        order: p, at least 1.

    Returns:
        float32, B x D (D + 1) / 2: the upper triangle, row by row.
    """
    flat = maps.flatten(2)
    size = flat.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)  # the 16th power of 300 is no float32
    powers = (flat / size) ** order
    rows, columns = torch.triu_indices(flat.shape[1], flat.shape[1], device=maps.device)
    product = (powers @ powers.transpose(1, 2)).flatten(1).index_select(1, rows * flat.shape[1] + columns)
    return product.sign() * product.abs() ** (1 / order) * size[:, :, 0] ** 2


def fit_bounds(maps: Tensor, orders: int, width: float, floor: float = 0.0) -> Bounds:
    """The range of the Gram matrices of a class's verified samples.

    Args:
        maps: float32, n x D x h x w.
        orders: see `Beatrix`.
        width: see `Beatrix`.
        floor: see `Beatrix`.
    """
    ranges = []
    for order in range(1, orders + 1):
        entries = gram(maps, order)
        middle = entries.median(0).values
        reach = width * (entries - middle).abs().median(0).values
        low, high = middle - reach, middle + reach
        least = (floor * middle.abs().mean()).clamp_min(SMALL)
        ranges.append(torch.stack([low, high, low.abs().maximum(least), high.abs().maximum(least)]))
    return Bounds(*torch.stack(ranges, 1))


def deviate(batches: Iterable[Tensor], bounds: Bounds) -> tuple[Tensor, Tensor]:
    """How far samples leave the range, and their features. No more than `ENTRIES` are in memory at once.

    Args:
        batches: of maps, float32, B x D x h x w.
        bounds: of the class.

    Returns:
        float32, N, at least 0, on the CPU: the mean overshoot of all entries, each in units of the bound that it
        passes; float32, N x D, on the CPU: the maps' averages over space.
    """
    deviations, features = [], []
    for batch in batches:
        features.append(batch.mean((2, 3)).cpu())
        for maps in batch.split(max(1, ENTRIES // batch.shape[1] ** 2)):
            total = maps.new_zeros(len(maps))
            for place in range(len(bounds.low)):
                entries = gram(maps, place + 1)
                total += (bounds.low[place] - entries).clamp_min(0) @ (1 / bounds.low_unit[place])
                total += (entries - bounds.high[place]).clamp_min(0) @ (1 / bounds.high_unit[place])
            deviations.append((total / bounds.low.numel()).cpu())
    return torch.cat(deviations), torch.cat(features)


def native_cut(maps: Tensor, fit: Callable[[Tensor], Bounds], percentile: float) -> float:
    """The deviation below which the share ``percentile`` of verified samples lies, each judged by the other folds.

    Args:
        maps: float32, n x D x h x w, at least `FOLDS`.
        fit: finds the range of some maps.
        percentile: see `Beatrix`.

    Returns:
        the deviation that stands at the place ``percentile n``, rounded down and counted from 0, in rising order.
    """
    folds = torch.arange(len(maps), device=maps.device) % FOLDS
    left_out = [deviate([maps[folds == fold]], fit(maps[folds != fold]))[0] for fold in range(FOLDS)]
    return float(torch.cat(left_out).sort().values[int(percentile * len(maps))])


def split_distance(features: Tensor, is_suspicious: Tensor, generator: torch.Generator) -> float:
    """The statistic of a class: how much its suspicious samples' features differ from the others'.

    Args:
        features: float32, n x D.
        is_suspicious: bool, n.
        generator: draws the samples, `COMPARED` of each side at most.

    Returns:
        the squared maximum mean discrepancy times ``a b / (a + b)`` for sides of a and b samples; 0 if one is empty.
    """
    check_finite(features)
    sides = [members.nonzero().squeeze(1) for members in (is_suspicious, ~is_suspicious)]
    drawn = [side[torch.randperm(len(side), generator=generator)[:COMPARED]] for side in sides]
    if not all(len(side) for side in drawn):
        return 0.0
    one, other = (features[side].double() for side in drawn)
    return len(one) * len(other) / (len(one) + len(other)) * discrepancy(one, other)


def discrepancy(one: Tensor, other: Tensor) -> float:
    """The squared maximum mean discrepancy, biased, under the sum of two Gaussian kernels ``exp(-d^2 / b)``, ``b`` the
    median squared distance of all pairs, and half of it.

    Args:
        one: float64, a x D.
        other: float64, b x D.

    Returns:
        at least 0; 0 if all samples are the same.
    """
    both = torch.cat([one, other])
    distances = torch.cdist(both, both).square()
    bandwidth = distances.median()
    if bandwidth == 0:
        return 0.0
    kernel = (-distances / bandwidth).exp() + (-2 * distances / bandwidth).exp()
    size = len(one)
    return float(kernel[:size, :size].mean() + kernel[size:, size:].mean() - 2 * kernel[:size, size:].mean())
