"""Cognitive Distillation (Huang, Ma, Erfani, Bailey, "Distilling Cognitive Backdoor Patterns within an Image",
ICLR 2023).

A mask is optimized for every image: it shows as little of the image as leaves the attacked model's answer unchanged. If
a trigger decides the answer, the trigger is enough, and the mask is small. The images of smallest masks are suspects.
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

from nab.checks import check_positive, check_range
from nab.data import Dataset, Normalization
from nab.detection.base import Detector, Scored
from nab.errors import ConfigError
from nab.needs import Given
from nab.progress import track
from nab.seeding import stream
from nab.training import Predictor, Trainer, fitting

CPU_BATCH, GPU_BATCH = 50, 500
"""Images of 32 x 32 whose masks are optimized at once. Most of the memory goes to their backward pass."""


@dataclasses.dataclass(frozen=True)
class CognitiveDistillation(Detector):
    """The score is minus the sum of the mask (its L1 norm).

    The masked part of an image shows a random color, a new one for every image and step. The color is drawn from those
    that pixels can have, and normalized like pixels. One public implementation draws it in normalized space, where its
    range means nothing; another one compares masked inputs with answers for inputs on another scale.

    Attributes:
        steps: of Adam, per image. Each costs a forward pass, and a backward pass without gradients of weights.
        lr: of Adam.
        betas: of Adam, each in [0, 1).
        gamma: weight of the mask's sum. The sum grows with the number of pixels and the answers do not, so images much
            larger or smaller than the authors' 32 x 32 need another value.
        beta: weight of the mask's total variation. The authors' instructions have 10 and their class has 1; the
            instructions say how their results are made, so the default is 10.
        candidate_share: share of the samples that get a mask, in (0, 1]: those of least loss under the attacked model.
            The others are never suspects. The cost falls with the share. A share below 1 loses little if the trigger is
            learned firmly, such as BadNets', and loses poison if it is faint, such as WaNet's; the default is the
            source's.

    Defaults are the authors'. They cost about as much as 70 epochs of training.
    """

    steps: int = 100
    lr: float = 0.1
    betas: tuple[float, float] = (0.1, 0.1)
    gamma: float = 0.01
    beta: float = 10.0
    candidate_share: float = 1.0

    summary: ClassVar[str] = "how little of an image is enough for the attacked model's answer"
    source: ClassVar[str] = "Huang et al. 2023"
    needs: ClassVar[frozenset[str]] = frozenset({"attacked model"})

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        check_range("lr", self.lr, 0, math.inf, include_low=False, include_high=False)
        if len(self.betas) != 2:
            raise ConfigError(f"expected betas as two numbers, got {self.betas}")
        for value in self.betas:
            check_range("betas", value, 0, 1, include_high=False)
        check_range("gamma", self.gamma, 0, math.inf, include_low=False, include_high=False)
        check_range("beta", self.beta, 0, math.inf, include_high=False)
        check_range("candidate_share", self.candidate_share, 0, 1, include_low=False)

    def distil(self, network: Callable[[Tensor], Tensor], inputs: Tensor, fill: Callable[[], Tensor]) -> Tensor:
        """The masks ``m = (tanh(w) + 1) / 2`` that minimize ``mean |f(x) - f(m x + (1 - m) d)| + gamma sum(m) + beta
        TV(m)``, from w = 1 on.

        Args:
            network: ``f``, from normalized images (float32, B x C x H x W) to logits (B x K), each image by itself.
            inputs: ``x``, such images.
            fill: called in every step for a new ``d``, normalized, B x C x 1 x 1.

        Returns:
            float32, B x 1 x H x W, in [0, 1].
        """
        with torch.no_grad():
            wanted = network(inputs)
        raw = torch.ones_like(inputs[:, :1]).requires_grad_()
        optimizer = torch.optim.Adam([raw], lr=self.lr, betas=self.betas)
        for _ in range(self.steps):
            masks = (raw.tanh() + 1) / 2
            answers = network(torch.lerp(fill(), inputs, masks))
            losses = (answers - wanted).abs().mean(1) + self.gamma * masks.sum((1, 2, 3))
            losses = losses + self.beta * total_variation(masks)
            # Only the masks' gradient is asked for, so none of a weight is computed and the network stays as it was.
            (raw.grad,) = torch.autograd.grad(losses.sum(), raw)
            optimizer.step()
        return (raw.detach().tanh() + 1) / 2

    def score(self, dataset: Dataset, trainer: Trainer, given: Given) -> Scored:
        predictor = given.require_attacked().predictor
        candidates = self._candidates(dataset, predictor)
        generator = stream(trainer.seed, "detection (cognitive-distillation)", trainer.device)
        scores = torch.full((len(dataset),), -math.inf)
        together = GPU_BATCH if trainer.device.type == "cuda" else CPU_BATCH
        batches = candidates.split(fitting(together, dataset.images))
        for index in track(batches, "detection (cognitive-distillation)", len(batches)):
            inputs = predictor.normalize(dataset.images[index])
            fill = functools.partial(random_colors, inputs, predictor.normalization, generator)
            scores[index] = -self.distil(predictor.forward, inputs, fill).sum((1, 2, 3)).cpu()
        return Scored(scores)

    def _candidates(self, dataset: Dataset, predictor: Predictor) -> Tensor:
        """Positions of the samples of least loss, sorted; at least one."""
        if self.candidate_share == 1:
            return torch.arange(len(dataset))
        losses = F.cross_entropy(predictor.logits(dataset.images).cpu(), dataset.labels, reduction="none")
        count = max(1, int(self.candidate_share * len(dataset) + 1e-9))
        return losses.argsort(stable=True)[:count].sort().values


def random_colors(like: Tensor, normalization: Normalization, generator: torch.Generator) -> Tensor:
    """A color for each of as many images as ``like`` (B x C x H x W), uniform between black and white, then normalized
    as pixels are; float32, B x C x 1 x 1. ``generator`` is on the images' device."""
    levels = torch.rand((*like.shape[:2], 1, 1), generator=generator, device=like.device)
    return normalization.apply(255 * levels)


def total_variation(masks: Tensor) -> Tensor:
    """Squared differences of neighbors, summed and divided by the number of pixels: B x 1 x H x W to B."""
    squares = [masks.diff(dim=dim).square().sum((1, 2, 3)) for dim in (2, 3)]
    return (squares[0] + squares[1]) / masks[0].numel()
