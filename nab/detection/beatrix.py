"""Beatrix (Ma, Wang, Sun, Xue, Wang, Xiang, "The Beatrix Resurrections: Robust Backdoor Detection via Gram Matrices",
NDSS 2023).

Poison may reach the features that clean samples of the target class have, but not by the same channels together. The
Gram matrices of its feature maps leave the range that those of verified samples span.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector
from nab.detection.gating import gate_classes
from nab.detection.latent import SMALLEST, attacked_model, check_finite, stands_out
from nab.errors import NabError
from nab.seeding import stream
from nab.training import Context, Predictor

FOLDS = 5
"""In which the verified samples of a class are judged by the others; also the fewest that a class needs."""

VERIFIED = 100
"""Verified samples of a class that are used at most: their Gram matrices have to be in memory together."""

COMPARED = 500
"""Samples of each side of a class that its statistic compares at most: the cost is quadratic in them."""

SMALL = 1e-6
"""Stands in for a bound of zero, as in the sources."""

ENTRIES = 2**24
"""Entries of Gram matrices that are in memory at once, 64 MiB; four times as many where a median is taken."""


@dataclasses.dataclass(frozen=True)
class Beatrix(Detector):
    """The score is by how much the Gram matrices of a sample leave the range of the class that it is predicted to be.

    Attributes:
        orders: powers of the features whose Gram matrices are looked at, 1 to this; at least 1.
        width: the range reaches so many median absolute deviations to both sides of the median of the verified samples,
            above 0.
        percentile: share of verified samples that are within the range by the native threshold, which divides a class
            for its statistic, in (0, 1).
        floor: an overshoot is divided by the bound that it passes, but by no less than this share of the average
            median, at least 0. With 0, as in the sources, it is 1e-6, and pairs of channels that are never on together
            weigh most.
        threshold: a class is looked at if its statistic lies above the median by more robust standard deviations than
            this, above 0; the class that comes first always is.

    Defaults are BackdoorBench's and the authors'. A class is what the attacked model predicts. One for which it
    predicts less than 5 verified samples is not judged: other classes' channels say nothing about it.

    One difference from BackdoorBench: there the features are not raised to the power of the order before they are
    multiplied, so all orders are roots of one matrix. Here they are, as in the paper.
    """

    orders: int = 8
    width: float = 10.0
    percentile: float = 0.95
    floor: float = 0.0
    threshold: float = math.e**2

    summary: ClassVar[str] = "Gram matrices of the feature maps that leave the range of verified samples"
    source: ClassVar[str] = "Ma et al. 2023"
    judges_classes: ClassVar[bool] = True
    needs_verified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("orders", self.orders)
        check_range("width", self.width, 0, math.inf, include_low=False, include_high=False)
        check_range("floor", self.floor, 0, math.inf, include_high=False)
        check_range("percentile", self.percentile, 0, 1, include_low=False, include_high=False)
        check_range("threshold", self.threshold, 0, math.inf, include_low=False, include_high=False)

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        verified = context.require_verified("detector 'beatrix'", dataset)
        predictor = attacked_model(dataset, context)
        labels, known = predictor.predict(dataset.images), predictor.predict(verified.images)
        generator = stream(context.seed, "beatrix")
        scores, statistics = torch.zeros(len(dataset)), torch.full((dataset.num_classes,), math.nan)
        for label in range(dataset.num_classes):
            members = (labels == label).nonzero().squeeze(1)
            own = (known == label).nonzero().squeeze(1)
            if len(members) < SMALLEST or len(own) < FOLDS:
                continue
            own = own[torch.randperm(len(own), generator=generator)]
            bounds, cut = self._learn(predictor, verified.images[own])
            scores[members], features = deviate(predictor.maps(dataset.images[members]), bounds)
            statistics[label] = split_distance(features, scores[members] > cut, generator)
        if statistics.isnan().all():
            raise NabError(f"no class has {FOLDS} verified samples that the attacked model predicts to be of it")
        context.notes["beatrix_statistics"] = statistics
        return gate_classes(scores, labels, statistics, stands_out(statistics, self.threshold))

    def _learn(self, predictor: Predictor, images: Tensor) -> tuple[Bounds, float]:
        """The range of a class and its native threshold, from verified images in random order."""
        some = torch.cat(list(predictor.maps(images[:VERIFIED])))
        entries = some.shape[1] * (some.shape[1] + 1) // 2
        some = some[: max(FOLDS, 4 * ENTRIES // entries)]
        fit = functools.partial(fit_bounds, orders=self.orders, width=self.width, floor=self.floor)
        return fit(some), native_cut(some, fit, self.percentile)


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
    """``((F^p) (F^p)^T)^(1/p)`` with powers and roots entry by entry, a root with the sign of what it is taken of.

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
    """The range that verified samples of a class span.

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
    """How far samples leave the range, and their features; no more than `ENTRIES` are in memory at once.

    Args:
        batches: of maps, float32, B x D x h x w.
        bounds: of the class.

    Returns:
        float32, N, at least 0, on the CPU: the mean of all entries' overshoots, each as a part of the bound; float32,
        N x D, on the CPU: the maps' averages over space.
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
    """The deviation below which the share ``percentile`` of verified samples lies, each judged by other folds than its.

    Args:
        maps: float32, n x D x h x w, at least `FOLDS`.
        fit: finds the range of some of them.
        percentile: see `Beatrix`.
    """
    folds = torch.arange(len(maps), device=maps.device) % FOLDS
    left_out = [deviate([maps[folds == fold]], fit(maps[folds != fold]))[0] for fold in range(FOLDS)]
    return float(torch.cat(left_out).quantile(percentile))


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
