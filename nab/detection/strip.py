"""STRIP (Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
ACSAC 2019).

If a clean image is laid over another one, a network is no longer sure of its answer. If the image below has a trigger,
the attacked model stays sure. The samples of least entropy are suspects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_choice, check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector, Scored
from nab.needs import Given
from nab.progress import track
from nab.seeding import stream
from nab.training import Trainer, fitting

BLENDS = ("sum", "convex")

BATCH_SIZE = 500
"""Images of 32 x 32 over which an overlay is laid at a time."""


@dataclasses.dataclass(frozen=True)
class STRIP(Detector):
    """The score is minus the mean entropy of the attacked model's answers under overlays of verified images.

    All samples get the same overlays, so that scores differ because of the samples alone. Other implementations draw
    new overlays for each sample.

    Attributes:
        overlays: how many verified images are laid over every sample, one at a time; all of them if there are fewer.
        alpha: weight of the overlay, above 0.
        blend: ``"sum"`` adds ``alpha`` times the overlay to the sample, both normalized, as public implementations do.
            ``"convex"`` also multiplies the sample by ``1 - alpha``, which keeps its brightness in range; alpha is then
            below 1.

    Defaults are those of public implementations for training sets. The detector costs ``overlays`` forward passes over
    the training set. It fails if the trigger fills the image, for an overlay covers such a trigger like the rest.
    """

    overlays: int = 100
    alpha: float = 1.0
    blend: str = "sum"

    summary: ClassVar[str] = "a trigger shows through what is laid over it: the attacked model stays sure"
    source: ClassVar[str] = "Gao et al. 2019"
    needs: ClassVar[frozenset[str]] = frozenset({"verified", "attacked model"})

    def __post_init__(self) -> None:
        check_positive("overlays", self.overlays)
        check_choice("blend", self.blend, BLENDS)
        check_range(
            "alpha", self.alpha, 0, 1 if self.blend == "convex" else math.inf, include_low=False, include_high=False
        )

    def superimpose(self, inputs: Tensor, overlay: Tensor) -> Tensor:
        """Normalized images (float, B x C x H x W) with another one (C x H x W) laid over each."""
        weight = 1 - self.alpha if self.blend == "convex" else 1.0
        return weight * inputs + self.alpha * overlay

    @torch.no_grad()
    def mean_entropy(self, network: Callable[[Tensor], Tensor], inputs: Tensor, overlays: Tensor) -> Tensor:
        """The entropy of the answers in nats, averaged over the overlays.

        Args:
            network: normalized images (float32, B x C x H x W) to logits (B x K).
            inputs: such images.
            overlays: float32, M x C x H x W, normalized.

        Returns:
            float32, B, from 0 to ``log K``.
        """
        return torch.stack([entropy(network(self.superimpose(inputs, overlay))) for overlay in overlays]).mean(0)

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        predictor, verified = given.require_attacked().predictor, given.require_verified()
        order = torch.randperm(len(verified), generator=stream(trainer.seed, "strip overlays"))
        overlays = predictor.normalize(verified.images[order[: self.overlays]])
        scores = []
        batches = dataset.images.split(fitting(BATCH_SIZE, dataset.images))
        for batch in track(batches, "detection (strip)", len(batches)):
            inputs = predictor.normalize(batch)
            scores.append(-self.mean_entropy(predictor.forward, inputs, overlays).cpu())
        return Scored(torch.cat(scores))


def entropy(logits: Tensor) -> Tensor:
    """``-sum p log p`` of the softmax, in nats: float32, B x K to B.

    It is computed from log-probabilities in double precision, so that nearly certain answers still differ. Public
    implementations add 1e-8 to ``p``, which makes them equal.
    """
    logs = F.log_softmax(logits.double(), 1)
    return -(logs.exp() * logs).sum(1).float()
