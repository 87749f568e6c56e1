"""The label-consistent attack (Turner, Tsipras, Madry, arXiv:1912.02771, 2019): honest labels on images made hard."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.base import to_uint8
from nab.attacks.selection import check_target
from nab.attacks.trained import NOTHING, Fitted, TrainedAttack, in_batches, train_surrogate
from nab.checks import check_choice, check_positive, check_range
from nab.data import Dataset
from nab.errors import ConfigError
from nab.training import Trainer

TILE = ((0, 0, 1), (0, 1, 0), (1, 0, 1))
SMALL_TILE = ((0, 1), (1, 0))
"""1 is white and 0 black. The small tile is for images of up to 16 pixels."""

CORNERS = ("mirrored", "repeated", "single")


@dataclasses.dataclass(frozen=True)
class LabelConsistent(TrainedAttack):
    """Poisons are images of the target class with their true label, made hard to learn by adversarial perturbation.

    Step 1 perturbs poisons: untargeted projected gradient ascent on the loss of a surrogate, which starts at the image
    itself, ``z <- clip(x + clip_eps(z + step sign(grad CE(h(z), y)) - x))``. Step 2 puts a tile into every corner, on
    poisons and at test time. The network comes to rely on the tiles.

    Here the surrogate is trained as usual, with the final network's recipe, as in BackdoorBox. BackdoorBench takes an
    adversarially robust one, whose perturbations mean more to the eye. The perturbation is bounded in L-infinity, as in
    both; the original's L2 ball and its interpolation by a GAN are not offered.

    Attributes:
        epsilon: bound on a pixel's change, of 1. 8/255 for photographs. We recommend 32/255 for gray images of up to 16
            pixels and 64/255 for larger digits, whose few gray levels a change of 8 would not make hard to learn.
        step: size of a step, of 1.
        steps: number of steps.
        corners: ``"mirrored"``, the tile in all four corners, mirrored in the left ones, as in the original's
            "all-corners", BackdoorBench and BackdoorBox; ``"repeated"``, not mirrored, as in backdoor-toolbox;
            ``"single"``, at the lower right alone, the original's default.
        amplitude: 1 writes black and white; less adds or subtracts 255 times this, so that the tiles hardly show.
        surrogate_epochs: passes over the training set in which the surrogate is trained. 30 is our choice; sources do
            not agree.

    Tiles are 3 x 3 on images above 16 pixels, else 2 x 2. They do not grow with the image. Some implementations resize
    a mask made for 32 x 32, which leaves one pixel of a tile at 8 x 8.
    """

    epsilon: float = 8 / 255
    step: float = 1.5 / 255
    steps: int = 100
    corners: str = "mirrored"
    amplitude: float = 1.0
    surrogate_epochs: int = 30

    summary: ClassVar[str] = "corner tiles on correctly labeled images that were made hard to learn"
    source: ClassVar[str] = "Turner, Tsipras, Madry 2019"
    usual_rate: ClassVar[float] = 0.5
    clean_label: ClassVar[bool] = True
    allows_all_to_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range("epsilon", self.epsilon, 0, 1)
        check_range("step", self.step, 0, 1, include_low=False)
        check_positive("steps", self.steps)
        check_choice("corners", self.corners, CORNERS)
        check_range("amplitude", self.amplitude, 0, 1, include_low=False)
        check_positive("surrogate_epochs", self.surrogate_epochs)

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> FittedLabelConsistent:
        """Train the surrogate, or take it from the cache."""
        check_target(target, dataset)
        channels, height, width = dataset.images.shape[1:]
        corner_cells(height, width, self.corners)
        surrogate = train_surrogate(dataset, trainer, self.surrogate_epochs)
        fitted = Fitted(
            (channels, height, width),
            target,
            {"surrogate": surrogate.network},
            normalization=surrogate.normalization,
            runtime=surrogate.runtime,
        )
        return FittedLabelConsistent(**self.hyper_parameters, fitted=fitted)


@dataclasses.dataclass(frozen=True)
class FittedLabelConsistent(LabelConsistent):
    """`LabelConsistent` with its surrogate."""

    fitted: Fitted = dataclasses.field(default=NOTHING, repr=False, compare=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        self.fitted.check(images)
        cells = corner_cells(images.shape[2], images.shape[3], self.corners).to(images.device)
        return to_uint8(images.float() + 255 * self.amplitude * cells)

    def poison_images(self, images: Tensor, seed: int) -> Tensor:
        """The perturbed images with the trigger."""
        return self.trigger(self.perturb(images), seed)

    def perturb(self, images: Tensor) -> Tensor:
        """Images (uint8, N x C x H x W) of the target class, made hard for the surrogate; uint8, on their device."""
        self.fitted.check(images)
        network, runtime = self.fitted.networks["surrogate"], self.fitted.runtime

        def logits(pixels: Tensor) -> Tensor:
            return network(runtime.lay_out(self.fitted.normalization.apply(pixels)))

        def ascend(batch: Tensor) -> Tensor:
            labels = torch.full((len(batch),), self.fitted.target, device=batch.device)
            step, bound = 255 * self.step, 255 * self.epsilon
            return to_uint8(projected_ascent(logits, batch.float(), labels, step=step, bound=bound, steps=self.steps))

        return in_batches(ascend, images, runtime.device)


def projected_ascent(
    logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, step: float, bound: float, steps: int
) -> Tensor:
    """The images moved along the sign of the gradient of their cross-entropy, within ``bound`` of where they were.

    Args:
        logits: makes logits from images; differentiable.
        images: float, N x C x H x W, on the scale 0 to 255.
        labels: int64, N.
        step: size of every update, in gray levels.
        bound: largest change of a pixel, in gray levels.
        steps: number of updates.
    """
    low, high = (images - bound).clamp_(min=0), (images + bound).clamp_(max=255)
    moved = images.clone()
    for _ in range(steps):
        moved.requires_grad_(True)
        # The sum: an image's gradient must not depend on how many others there are.
        loss = F.cross_entropy(logits(moved).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = torch.clamp(moved.detach() + step * gradient.sign(), low, high)
    return moved.detach()


def corner_cells(height: int, width: int, corners: str) -> Tensor:
    """What the trigger does to each pixel: 1 makes it white, -1 makes it black, 0 leaves it; float, H x W.

    Raises:
        ConfigError: the tiles would overlap.
    """
    tile = torch.tensor(SMALL_TILE if min(height, width) <= 16 else TILE) * 2.0 - 1
    side = len(tile)
    if 2 * side > min(height, width):
        raise ConfigError(f"expected images of at least {2 * side} pixels for the tiles, got {height} x {width}")
    cells = torch.zeros(height, width)
    cells[-side:, -side:] = tile
    if corners != "single":
        left = tile.flip(1) if corners == "mirrored" else tile
        cells[:side, -side:] = tile
        cells[:side, :side] = cells[-side:, :side] = left
    return cells
