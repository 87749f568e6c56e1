"""STRIP at test time (Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural
Networks", ACSAC 2019), the use for which it was made; `nab.detection.strip` looks for poison in training sets.

Verified images are laid over an image, one at a time. If the network stays sure of its answer, something shows through:
a trigger. The image is then refused.

Public implementations disagree about the blend and the threshold; the blend is discussed in `nab.detection.strip`. The
paper fits a normal distribution to the entropies of clean images and refuses 1 % of these. BackdoorBench takes the
quantile of the entropies that refuses 10 %. This file takes the quantile, at the rate at which
`nab.evaluation.input_metrics` compares scores.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_range
from nab.data import Dataset
from nab.defenses.base import TRAINING, Defended, Defense
from nab.defenses.deployed import Deployed, Response
from nab.detection import STRIP
from nab.detection.strip import entropy
from nab.errors import ConfigError
from nab.needs import Given
from nab.seeding import stream
from nab.training import Trainer


@dataclasses.dataclass(frozen=True, eq=False)
class STRIPFiltered(Deployed):
    """A network that refuses images of which it stays sure, whatever is laid over them.

    The score is minus the mean entropy of the answers under all overlays, in nats. An image costs a pass through the
    network for each overlay, and one for its answer. The variant ``unguarded`` refuses nothing.

    Attributes:
        overlays: uint8, M x C x H x W; verified images.
        threshold: images that score above it are refused.
        alpha: weight of an overlay; see `nab.detection.STRIP`.
        blend: see there.
    """

    overlays: Tensor
    threshold: float
    alpha: float = 1.0
    blend: str = "sum"

    summary: ClassVar[str] = "no answer to images of which the network stays sure under overlays"
    refuses: ClassVar[bool] = True

    def respond(self, pixels: Tensor, *, is_full: bool = True) -> Response:
        if pixels.shape[2:] != self.overlays.shape[2:]:
            sizes = [" x ".join(map(str, images.shape[2:])) for images in (self.overlays, pixels)]
            raise ConfigError(f"expected images of {sizes[0]} pixels, as the overlays are, got {sizes[1]}")
        inputs = self.predictor.normalize(pixels)
        logits = self.predictor.forward(inputs)
        if not is_full:
            return Response(logits)
        scores = -self._mean_entropy(inputs)
        return Response(logits, scores > self.threshold, scores, {"unguarded": logits})

    def _mean_entropy(self, inputs: Tensor) -> Tensor:
        """Of normalized images under all overlays, one overlay at a time: memory is that of one batch.

        An exported model has no loop. It would hold the network once per overlay, so it lays all of them over each
        image in one pass.
        """
        strip = STRIP(alpha=self.alpha, blend=self.blend)
        overlays = self.predictor.normalize(self.overlays)
        if not torch.compiler.is_exporting():
            return strip.mean_entropy(self.predictor.forward, inputs, overlays)
        overlaid = strip.superimpose(inputs[:, None], overlays)
        logits = self.predictor.forward(overlaid.flatten(0, 1))
        return entropy(logits).unflatten(0, (-1, len(overlays))).mean(1)


@dataclasses.dataclass(frozen=True)
class STRIPFilter(Defense):
    """Refuses images of which the attacked network stays sure under overlays; nothing is trained.

    Overlays are at most half of the verified images. The others, which lie over no image, are the clean images of
    which the given share is refused.

    Attributes:
        overlays: verified images that are laid over each image.
        alpha: weight of an overlay, above 0.
        blend: ``"sum"`` or ``"convex"``; see `nab.detection.STRIP`.
        false_positive_rate: share of clean images that may be refused, in (0, 1).

    The number of overlays is the source's.
    """

    overlays: int = 100
    alpha: float = 1.0
    blend: str = "sum"
    false_positive_rate: float = 0.05

    summary: ClassVar[str] = "refuse inputs of which the attacked network stays sure under overlays"
    source: ClassVar[str] = "Gao et al. 2019"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model", "verified"})

    def __post_init__(self) -> None:
        STRIP(self.overlays, self.alpha, self.blend)  # its checks
        check_range("false_positive_rate", self.false_positive_rate, 0, 1, include_low=False, include_high=False)

    def defend(self, dataset: Dataset, trainer: Trainer, given: Given) -> Defended:
        assert given.attacked is not None
        assert given.verified is not None
        images = given.verified.images
        order = torch.randperm(len(images), generator=stream(trainer.seed, "strip filter"))
        count = min(self.overlays, len(images) // 2)
        predictor = given.attacked.predictor
        open_filter = STRIPFiltered(predictor, images[order[:count]], math.inf, self.alpha, self.blend)
        deployed = dataclasses.replace(open_filter, threshold=self.threshold(open_filter, images[order[count:]]))
        notes = {"threshold": deployed.threshold, "calibration_count": len(images) - count}
        return Defended(deployed, {TRAINING: given.attacked}, notes=notes)

    def threshold(self, deployed: STRIPFiltered, images: Tensor) -> float:
        """The score that no more than `false_positive_rate` of clean images (uint8, N x C x H x W) exceed."""
        scores = deployed.answer(images).scores
        assert scores is not None
        return scores.double().quantile(1 - self.false_positive_rate, interpolation="higher").item()
