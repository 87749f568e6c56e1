"""STRIP (Gao, Xu, Wang, Chen, Ranasinghe, Nepal, "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks",
ACSAC 2019).

Lay a clean image over another one, and a network no longer knows what to answer. A trigger shows through: whatever is
laid over it, the attacked model stays sure. Samples of least entropy are suspects.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.checks import check_choice, check_positive, check_range
from nab.data import Dataset
from nab.detection.base import Detector
from nab.progress import track
from nab.seeding import stream
from nab.training import Context, fitting

BLENDS = ("sum", "convex")

BATCH_SIZE = 500
"""Images of 32 x 32 that one overlay is laid over at a time."""


@dataclasses.dataclass(frozen=True)
class STRIP(Detector):
    """The score is minus the mean entropy of the attacked model's answers under overlays of verified images.

    All samples get the same overlays, where other implementations draw new ones for each: two samples then differ by
    what they are, not by what was laid over them.

    Attributes:
        overlays: verified images laid over every sample, one at a time; all of them if there are fewer.
        alpha: weight of the overlay, above 0.
        blend: ``"sum"`` adds ``alpha`` times the overlay to the sample, both normalised, as public implementations do;
            ``"convex"`` takes ``1 - alpha`` of the sample, so that brightness stays in its range, with alpha below 1.

    Defaults are those of public implementations for training sets. Costs ``overlays`` forward passes over the training
    set, and fails if the trigger fills the image: an overlay then covers it as much as the rest.
    """

    overlays: int = 100
    alpha: float = 1.0
    blend: str = "sum"

    summary: ClassVar[str] = "a trigger shows through what is laid over it: the attacked model stays sure"
    source: ClassVar[str] = "Gao et al. 2019"
    needs_verified: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive("overlays", self.overlays)
        check_choice("blend", self.blend, BLENDS)
        check_range(
            "alpha", self.alpha, 0, 1 if self.blend == "convex" else math.inf, include_low=False, include_high=False
        )

    def superimpose(self, inputs: Tensor, overlay: Tensor) -> Tensor:
        """Normalised images with another one laid over each: float, B x C x H x W and C x H x W."""
        weight = 1 - self.alpha if self.blend == "convex" else 1.0
        return weight * inputs + self.alpha * overlay

    @torch.no_grad()
    def mean_entropy(self, network: Callable[[Tensor], Tensor], inputs: Tensor, overlays: Tensor) -> Tensor:
        """Entropy of the answers, in nats, averaged over the overlays.

        Args:
            network: normalised images (float32, B x C x H x W) to logits (B x K).
            inputs: such images.
            overlays: float32, M x C x H x W, normalised.

        Returns:
            float32, B, from 0 to ``log K``.
        """
        return torch.stack([entropy(network(self.superimpose(inputs, overlay))) for overlay in overlays]).mean(0)

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        verified = context.require_verified("detector 'strip'", dataset)
        order = torch.randperm(len(verified), generator=stream(context.seed, "strip overlays"))
        predictor = context.train_plainly(dataset).predictor
        network = functools.partial(predictor.apply, predictor.model)
        overlays = predictor.recipe.normalise(verified.images[order[: self.overlays]].to(context.device))
        scores = []
        batches = dataset.images.split(fitting(BATCH_SIZE, dataset.images))
        for batch in track(batches, "detection (strip)", len(batches)):
            inputs = predictor.recipe.normalise(batch.to(context.device))
            scores.append(-self.mean_entropy(network, inputs, overlays).cpu())
        return torch.cat(scores)


def entropy(logits: Tensor) -> Tensor:
    """``-sum p log p`` of the softmax, in nats: float32, B x K to B.

    From log-probabilities in double precision, so that answers that are all but certain still differ; public
    implementations add 1e-8 to ``p``, after which they do not.
    """
    logs = F.log_softmax(logits.double(), 1)
    return -(logs.exp() * logs).sum(1).float()
