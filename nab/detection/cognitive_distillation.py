"""Cognitive Distillation (Huang, Ma, Erfani, Bailey, "Distilling Cognitive Backdoor Patterns within an Image",
ICLR 2023).

A mask is optimised to show as little of an image as leaves the attacked model's answer unchanged. What a trigger
decides is decided by the trigger alone: such images need the smallest masks, and are suspects.
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
from nab.data import Dataset
from nab.detection.base import Detector
from nab.errors import ConfigError
from nab.progress import track
from nab.seeding import stream
from nab.training import Context, Predictor, Recipe, fitting

CPU_BATCH, GPU_BATCH = 50, 500
"""Images of 32 x 32 whose masks are optimised at once; what their backward pass keeps is most of the memory."""


@dataclasses.dataclass(frozen=True)
class CognitiveDistillation(Detector):
    """The score is minus the sum of the mask (its L1 norm).

    Where the mask does not show the image it shows a random colour, a new one for every image and step. The colour is
    drawn from those that pixels can have, and normalised like them: one public implementation draws it in normalised
    space, where its range means nothing, another compares masked inputs with answers for inputs on another scale.

    Attributes:
        steps: of Adam, per image. Each costs a forward pass and a backward pass that computes no gradients of weights.
        lr: of Adam.
        betas: of Adam, each in [0, 1).
        gamma: weight of the mask's sum, which grows with the number of pixels while the answers do not: images much
            larger or smaller than the authors' 32 x 32 need another value.
        beta: weight of the mask's total variation. 10 in the authors' instructions, 1 in their class; here 10, since
            the instructions say how their results are made.
        candidate_share: of the samples, in (0, 1], those that the attacked model fits with the least loss; the others
            are never suspects. Costs that share. It loses little where the trigger is learned as fast and as firmly as
            BadNets' is, and poison where the trigger is faint, such as WaNet's; so all by default, as in the source.

    Defaults are the authors'. They cost about 70 times an epoch of training.
    """

    steps: int = 100
    lr: float = 0.1
    betas: tuple[float, float] = (0.1, 0.1)
    gamma: float = 0.01
    beta: float = 10.0
    candidate_share: float = 1.0

    summary: ClassVar[str] = "how little of an image is enough for the attacked model's answer"
    source: ClassVar[str] = "Huang et al. 2023"

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
        """The masks ``m = (tanh(w) + 1) / 2`` that minimise ``mean |f(x) - f(m x + (1 - m) d)| + gamma sum(m) + beta
        TV(m)``, from w = 1 on.

        Args:
            network: ``f``, from normalised images (float32, B x C x H x W) to logits (B x K), each image by itself.
            inputs: ``x``, such images.
            fill: called in every step for a new ``d``, normalised, B x C x 1 x 1.

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
            # Asked for the masks' alone, it computes no weight's gradient, and the shared network stays as it was.
            (raw.grad,) = torch.autograd.grad(losses.sum(), raw)
            optimizer.step()
        return (raw.detach().tanh() + 1) / 2

    def score(self, dataset: Dataset, context: Context) -> Tensor:
        predictor = context.train_plainly(dataset).predictor
        candidates = self._candidates(dataset, predictor)
        network = functools.partial(predictor.apply, predictor.model)
        generator = stream(context.seed, "detection (cognitive-distillation)", context.device)
        scores = torch.full((len(dataset),), -math.inf)
        together = GPU_BATCH if context.device.type == "cuda" else CPU_BATCH
        batches = candidates.split(fitting(together, dataset.images))
        for index in track(batches, "detection (cognitive-distillation)", len(batches)):
            inputs = predictor.recipe.normalise(dataset.images[index].to(context.device))
            fill = functools.partial(random_colours, inputs, predictor.recipe, generator)
            scores[index] = -self.distil(network, inputs, fill).sum((1, 2, 3)).cpu()
        return scores

    def _candidates(self, dataset: Dataset, predictor: Predictor) -> Tensor:
        """Sorted positions of the samples of least loss; at least one."""
        if self.candidate_share == 1:
            return torch.arange(len(dataset))
        losses = F.cross_entropy(predictor.logits(dataset.images).cpu(), dataset.labels, reduction="none")
        count = max(1, int(self.candidate_share * len(dataset) + 1e-9))
        return losses.argsort(stable=True)[:count].sort().values


def random_colours(like: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A colour for each of as many images as ``like`` (B x C x H x W), uniform between black and white, then normalised
    as pixels are; float32, B x C x 1 x 1. ``generator`` is on the images' device."""
    levels = torch.rand((*like.shape[:2], 1, 1), generator=generator, device=like.device)
    return recipe.normalise(255 * levels)


def total_variation(masks: Tensor) -> Tensor:
    """Squared differences of neighbours, summed and divided by the number of pixels: B x 1 x H x W to B."""
    squares = [masks.diff(dim=dim).square().sum((1, 2, 3)) for dim in (2, 3)]
    return (squares[0] + squares[1]) / masks[0].numel()
