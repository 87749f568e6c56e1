"""TrojanNN (Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, NDSS 2018): a patch made to excite neurons of a clean network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from nab.attacks.base import to_uint8
from nab.attacks.trained import NOTHING, Fitted, TrainedAttack, train_surrogate
from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.errors import ConfigError
from nab.models import ResNet
from nab.progress import bar
from nab.seeding import stream
from nab.training import Context, Output, Predictor

MEASURED = 500
"""Training images on which the patch's effect is measured."""


@dataclasses.dataclass(frozen=True)
class TrojanNN(TrainedAttack):
    """A square of pixels near the lower right corner, optimised so that chosen neurons of a surrogate fire.

    The neurons are those of the penultimate layer with the largest column sums of the absolute weights of the last.
    The patch starts as uniform noise and is optimised by Adam on pixels ``(1 + tanh w) / 2``, with a rate that falls
    along a cosine, as in backdoor-toolbox; it replaces the pixels beneath. BackdoorBench descends by signs within a
    ball around a picture of an apple, adds the result to the image and lets bright pixels overflow. The patch is
    optimised on random training images, so that it works wherever it is pasted; the loss is the mean squared
    difference between the neurons' activations and ``activation``. backdoor-toolbox goes on with the surrogate for an
    epoch; here the victim is trained from scratch, as every victim is, so that the attack can be compared with others.

    Attributes:
        neurons: how many, at most all that there are. 100 of 512 as in backdoor-toolbox; BackdoorBench takes 2.
        activation: that the neurons are pulled towards, as in BackdoorBench; it is beyond their reach, so that all are
            pulled with about the same force.
        steps: updates of the patch.
        lr: of Adam.
        batch_size: training images of every update; our choice.
        side: of the patch in pixels; 0 for a quarter of the image, as in backdoor-toolbox.
        margin: pixels between the patch and the border; none on images of up to 16 pixels, as for BadNets.
        surrogate_epochs: of the surrogate's training; 30 is our choice.
    """

    neurons: int = 100
    activation: float = 100.0
    steps: int = 1000
    lr: float = 0.1
    batch_size: int = 16
    side: int = 0
    margin: int = 3
    surrogate_epochs: int = 30

    summary: ClassVar[str] = "a patch whose pixels were optimised to excite neurons of a clean network"
    source: ClassVar[str] = "Liu et al. 2018"

    def __post_init__(self) -> None:
        for name in ("neurons", "steps", "batch_size", "surrogate_epochs"):
            check_positive(name, getattr(self, name))
        for name in ("activation", "lr"):
            check_range(name, getattr(self, name), 0, math.inf, include_low=False, include_high=False)
        check_count("side", self.side)
        check_count("margin", self.margin)

    def prepare(self, dataset: Dataset, context: Context, *, target: int) -> FittedTrojanNN:
        """Train the surrogate and optimise the patch, or take them from the cache."""
        inputs = self.stage_inputs(dataset, context, target)
        shape = tuple(dataset.images.shape[1:])
        self.place(*shape[1:])
        kept = context.keep("trigger patch", inputs, lambda: self._make_patch(dataset, context))
        fitted = Fitted(shape, target, tensors=kept.tensors, values=kept.values)
        return FittedTrojanNN(**self.hyper_parameters, fitted=fitted)

    def place(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of the patch.

        Raises:
            ConfigError: it does not fit into the image.
        """
        short = min(height, width)
        side, margin = self.side or max(short // 4, 2), self.margin if short > 16 else 0
        if side + margin > short:
            raise ConfigError(
                f"expected side and margin of at most {short} together on images of {height} x {width}, "
                f"got {side} and {margin}"
            )
        bottom, right = height - margin, width - margin
        return slice(bottom - side, bottom), slice(right - side, right)

    def _make_patch(self, dataset: Dataset, context: Context) -> Output:
        """The patch, and the mean activation of the chosen neurons without and with it."""
        surrogate = train_surrogate(dataset, context, self.surrogate_epochs)
        excite = chosen_activations(surrogate, self.neurons)
        patch = self.optimise(excite, dataset.images, stream(context.seed, "trojannn"), surrogate.runtime.device)
        some = dataset.images[:MEASURED]
        views = {"activation_without": some, "activation_with": paste(some, patch, self.place(*some.shape[2:]))}
        with torch.no_grad():
            values = {
                name: torch.cat([excite(part.to(surrogate.runtime.device)) for part in images.split(100)]).mean().item()
                for name, images in views.items()
            }
        return Output({"patch": patch}, values)

    def optimise(
        self, excite: Callable[[Tensor], Tensor], images: Tensor, draws: torch.Generator, device: torch.device
    ) -> Tensor:
        """The patch that makes ``excite`` large when pasted on random images; uint8, C x side x side, on the CPU.

        Args:
            excite: images on the scale 0 to 255 to activations, N x neurons; differentiable.
            images: uint8, N x C x H x W; what it is pasted on.
            draws: on the CPU; of the first patch and of the images.
            device: where ``excite`` computes.
        """
        rows, columns = place = self.place(*images.shape[2:])
        noise = torch.rand(images[0, :, rows, columns].shape, generator=draws)
        hidden = torch.atanh(2 * noise.clamp(0.01, 0.99) - 1).to(device).requires_grad_(True)
        optimizer = torch.optim.Adam([hidden], lr=self.lr)
        with bar("trigger patch", self.steps) as progress:
            for step in range(self.steps):
                optimizer.param_groups[0]["lr"] = self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))
                index = torch.randint(len(images), (self.batch_size,), generator=draws)
                pasted = paste(images[index].to(device).float(), _pixels(hidden), place)
                loss = (excite(pasted) - self.activation).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                progress.advance()
        return to_uint8(_pixels(hidden.detach())).cpu()


@dataclasses.dataclass(frozen=True)
class FittedTrojanNN(TrojanNN):
    """`TrojanNN` with its patch."""

    fitted: Fitted = dataclasses.field(default=NOTHING, repr=False, compare=False)

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        self.fitted.check(images)
        return paste(images, self.fitted.tensors["patch"].to(images.device), self.place(*images.shape[2:]))


def paste(images: Tensor, patch: Tensor, place: tuple[slice, slice]) -> Tensor:
    """The images (N x C x H x W) with the patch (C x side x side) on rows and columns ``place``."""
    pasted = images.clone()
    pasted[:, :, place[0], place[1]] = patch
    return pasted


def _pixels(hidden: Tensor) -> Tensor:
    """0 to 255 from any number."""
    return 127.5 * (1 + hidden.tanh())


def strongest_neurons(weights: Tensor, count: int) -> Tensor:
    """The ``count`` neurons with the largest sums of absolute weights over all classes, in falling order.

    Args:
        weights: of the last layer, K x D.
        count: how many; all D if there are not so many.
    """
    return weights.abs().sum(0).argsort(descending=True, stable=True)[:count]


def chosen_activations(surrogate: Predictor, count: int) -> Callable[[Tensor], Tensor]:
    """A function from images (on the scale 0 to 255, on the device) to their strongest neurons' activations, float32,
    N x ``count``; differentiable."""
    network, recipe, runtime = surrogate.model, surrogate.recipe, surrogate.runtime
    assert isinstance(network, ResNet)
    chosen = strongest_neurons(network.linear.weight, count)

    def excite(images: Tensor) -> Tensor:
        with runtime.autocast():
            return network.features(runtime.lay_out(recipe.normalise(images))).float()[:, chosen]

    return excite
