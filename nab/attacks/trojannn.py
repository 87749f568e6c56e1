"""TrojanNN (Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, NDSS 2018): a patch made to excite neurons of a clean network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from nab.attacks.base import to_uint8
from nab.attacks.trained import NOTHING, Fitted, TrainedAttack, train_surrogate
from nab.checks import check_count, check_positive, check_range
from nab.data import Dataset
from nab.errors import ConfigError
from nab.seeding import stream
from nab.training import Batch, Output, Predictor, RawBatches, Recipe, Runtime, Step, Trainer, fit

MEASURED = 500
"""Training images on which the patch's effect is measured."""


@dataclasses.dataclass(frozen=True)
class TrojanNN(TrainedAttack):
    """A square of pixels near the lower right corner, optimized so that chosen neurons of a surrogate fire.

    The neurons are chosen from the penultimate layer: the last layer's weights on them have the largest sums of
    absolute values. The loss is the mean squared difference between their activations and ``activation``. The patch
    starts as uniform noise, replaces the pixels beneath it, and is optimized by Adam on pixels ``(1 + tanh w) / 2``
    with a rate that falls along a cosine, as in backdoor-toolbox. It is pasted on random training images, so that it
    works wherever it is pasted.

    BackdoorBench descends by signs within a ball around a picture of an apple, adds the result to the image and lets
    bright pixels overflow. backdoor-toolbox trains the surrogate for one more epoch; here the victim is trained from
    scratch, as every victim is, so that the attack can be compared with others.

    Attributes:
        neurons: number of neurons, at most all that there are. 100 of 512 as in backdoor-toolbox; BackdoorBench takes
            2.
        activation: the value toward which the neurons are pulled, as in BackdoorBench. It is beyond their reach, so
            that all are pulled with about the same force.
        steps: updates of the patch.
        lr: first learning rate of Adam.
        batch_size: training images per update; our choice.
        side: side of the patch in pixels; 0 for a quarter of the image, as in backdoor-toolbox.
        margin: pixels between the patch and the border; none on images of up to 16 pixels, as for `BadNets`.
        surrogate_epochs: passes over the training set in which the surrogate is trained; 30 is our choice.
    """

    neurons: int = 100
    activation: float = 100.0
    steps: int = 1000
    lr: float = 0.1
    batch_size: int = 16
    side: int = 0
    margin: int = 3
    surrogate_epochs: int = 30

    summary: ClassVar[str] = "a patch whose pixels were optimized to excite neurons of a clean network"
    source: ClassVar[str] = "Liu et al. 2018"

    def __post_init__(self) -> None:
        for name in ("neurons", "steps", "batch_size", "surrogate_epochs"):
            check_positive(name, getattr(self, name))
        for name in ("activation", "lr"):
            check_range(name, getattr(self, name), 0, math.inf, include_low=False, include_high=False)
        check_count("side", self.side)
        check_count("margin", self.margin)

    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> FittedTrojanNN:
        """Train the surrogate and optimize the patch, or take them from the cache."""
        inputs = self.stage_inputs(dataset, trainer, target)
        shape = tuple(dataset.images.shape[1:])
        self.place(*shape[1:])
        kept = trainer.keep("trigger patch", inputs, lambda: self._make_patch(dataset, trainer))
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

    def _make_patch(self, dataset: Dataset, trainer: Trainer) -> Output:
        """The patch, and the mean activation of the chosen neurons without and with it."""
        surrogate = train_surrogate(dataset, trainer, self.surrogate_epochs)
        excite = chosen_activations(surrogate, self.neurons)
        patch = self.optimize(excite, dataset, stream(trainer.seed, "trojannn", trainer.device))
        some = dataset.images[:MEASURED]
        views = {"activation_without": some, "activation_with": paste(some, patch, self.place(*some.shape[2:]))}
        with torch.no_grad():
            values = {
                name: torch.cat([excite(part.to(trainer.device)) for part in images.split(100)]).mean().item()
                for name, images in views.items()
            }
        return Output({"patch": patch}, values)

    def optimize(self, excite: Callable[[Tensor], Tensor], dataset: Dataset, draws: torch.Generator) -> Tensor:
        """The patch that makes ``excite`` large when pasted on random images; uint8, C x side x side, on the CPU.

        Args:
            excite: makes activations (N x neurons) from images on the scale 0 to 255; differentiable.
            dataset: the patch is pasted on its images.
            draws: on the device on which ``excite`` computes; draws the first patch and the images.
        """
        network = _Patch(dataset.images.shape[1], self.place(*dataset.images.shape[2:]), draws)
        runtime = Runtime(draws.device, torch.float32, channels_last=False)
        # An epoch is one batch, so the cosine, which moves from epoch to epoch, moves with every update.
        recipe = Recipe(epochs=self.steps, lr=self.lr, schedule="cosine", cosine_extra_epochs=0)
        fit(
            Predictor(network, dataset.normalization, runtime),
            _RandomDraws(dataset, self.batch_size, draws),
            recipe,
            _ExciteStep(excite, self.activation),
            optimizers=[torch.optim.Adam(network.parameters(), lr=self.lr)],
            title="trigger patch",
        )
        return to_uint8(network.pixels().detach()).cpu()


class _Patch(nn.Module):
    """A patch whose pixels can be trained. It pastes itself on images (float, N x C x H x W, 0 to 255)."""

    def __init__(self, channels: int, place: tuple[slice, slice], draws: torch.Generator) -> None:
        super().__init__()
        sides = [part.stop - part.start for part in place]
        noise = torch.rand(channels, *sides, generator=draws, device=draws.device)
        self.place = place
        self.hidden = nn.Parameter(torch.atanh(2 * noise.clamp(0.01, 0.99) - 1))

    def pixels(self) -> Tensor:
        """The patch; float, C x side x side, 0 to 255."""
        return 127.5 * (1 + self.hidden.tanh())

    def forward(self, images: Tensor) -> Tensor:
        return paste(images, self.pixels(), self.place)


class _RandomDraws(RawBatches):
    """Images that are drawn at random with replacement; an epoch is one batch."""

    def __init__(self, dataset: Dataset, batch_size: int, draws: torch.Generator) -> None:
        super().__init__(dataset.images, dataset.labels, batch_size, draws)
        self._count = len(dataset)

    def __len__(self) -> int:
        return 1

    def epoch(self) -> Iterator[Tensor]:
        device = self.generator.device
        yield torch.randint(self._count, (self.batch_size,), generator=self.generator, device=device)


class _ExciteStep(Step):
    """The mean squared difference between ``activation`` and what the patch makes of the neurons."""

    def __init__(self, excite: Callable[[Tensor], Tensor], activation: float) -> None:
        self._excite, self._activation = excite, activation

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> Tensor:
        pasted = predictor.network(batch.images.float())
        return (self._excite(pasted) - self._activation).square().mean()


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


def strongest_neurons(weights: Tensor, count: int) -> Tensor:
    """The ``count`` neurons with the largest sums of absolute weights over all classes, in falling order.

    Args:
        weights: K x D, the last layer's weights.
        count: number of neurons; all D if there are not so many.
    """
    return weights.abs().sum(0).argsort(descending=True, stable=True)[:count]


def chosen_activations(surrogate: Predictor, count: int) -> Callable[[Tensor], Tensor]:
    """A function that makes, from images (on the scale 0 to 255, on the device), the activations of the surrogate's
    strongest neurons: float32, N x ``count``; differentiable."""
    network = surrogate.network
    chosen = strongest_neurons(network.classifier.weight, count)

    def excite(images: Tensor) -> Tensor:
        return surrogate.apply(network.features, surrogate.normalize(images))[:, chosen]

    return excite
