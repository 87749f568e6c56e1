"""What attacks share that train networks of their own: preparation, frozen networks, and batches of one size."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nab.attacks.base import Attack
from nab.attacks.selection import check_target
from nab.data import IMAGENET, Dataset, Normalization
from nab.digest import digest
from nab.errors import DataError, NabError
from nab.seeding import derive
from nab.training import Output, Predictor, Runtime, Trainer, freeze, pack_weights, unpack_weights

CPU_BATCH, GPU_BATCH = 50, 500
"""Images per pass of `in_batches`: few on a CPU, where the last batch's filling would cost most."""


@dataclasses.dataclass(frozen=True)
class TrainedAttack(Attack):
    """An attack whose trigger comes from networks.

    A subclass writes `prepare`, which returns an object of a fitted subclass; the fitted subclass writes `trigger`.
    """

    is_trained: ClassVar[bool] = True

    @abc.abstractmethod
    def prepare(self, dataset: Dataset, trainer: Trainer, *, target: int) -> Attack:
        """The attack with its networks trained; see `Attack.prepare`."""

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        raise NabError(
            f"{type(self).__name__} must be trained before it has a trigger: "
            "call prepare(dataset, trainer, target=...) and use the attack that it returns"
        )

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The fields by name, for the constructor of a fitted subclass."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.compare}

    def stage_inputs(self, dataset: Dataset, trainer: Trainer, target: int) -> dict[str, Any]:
        """Everything that the networks trained in `prepare` depend on, for `Trainer.keep`.

        Raises:
            ConfigError: the target is not a class of the dataset.
        """
        check_target(target, dataset)
        return {
            "attack": self,
            "dataset": dataset,
            "target": target,
            "seed": trainer.seed,
            "architecture": trainer.architecture,
            "recipe": trainer.recipe.effective(),
        }


def train_surrogate(dataset: Dataset, trainer: Trainer, epochs: int) -> Predictor:
    """The attacker's own classifier, frozen: the trainer's network and recipe on the clean set, for ``epochs`` epochs.

    All attacks that ask for the same number of epochs get the same network, which the trainer keeps.
    """
    recipe = dataclasses.replace(trainer.recipe, epochs=epochs)
    return trainer.train(dataset, "surrogate", recipe=recipe).predictor.frozen()


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What a fitted attack carries: frozen networks and tensors, and what was measured when they were made.

    Attributes:
        shape: C, H and W of the images that the attack was made for.
        target: the class that the backdoor answers.
        networks: frozen networks by name.
        tensors: tensors by name, on the CPU.
        values: measured numbers by name, as JSON has them.
        normalization: the normalization of the networks' inputs.
        runtime: where and how the networks compute.
    """

    shape: tuple[int, ...]
    target: int
    networks: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    normalization: Normalization = IMAGENET
    runtime: Runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)

    @functools.cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that depend on weights, tensors and normalization; see `nab.digest.describe`."""
        weights = {name: pack_weights(network) for name, network in self.networks.items()}
        return digest([self.shape, self.target, weights, self.tensors, self.normalization])

    def check(self, images: Tensor) -> None:
        """Raise ``DataError`` unless ``images`` (uint8, N x C x H x W) have the shape that the attack was made for."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            wanted, got = (" x ".join(map(str, shape)) for shape in (self.shape, images.shape[1:]))
            raise DataError(
                f"expected uint8 images of {wanted}, for which the attack was prepared, got {images.dtype} of {got}"
            )


NOTHING = Fitted((), 0)
"""The default of a field that is always given. A dataclass asks for one, because the fields before it have defaults."""


def in_batches(change: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """``change`` on ``device``, in batches that all have one size.

    How a convolution rounds depends on the size of its batch, and a hundred steps along the signs of gradients make
    such a difference as large as the bound allows. With one size, an image's result does not depend on the others.

    Args:
        change: makes from images (N x C x H x W) as many tensors, all of one shape.
        images: N x C x H x W, on any device.
        device: where ``change`` computes.

    Returns:
        the results of ``change`` for all images, on the images' device.
    """
    size = GPU_BATCH if device.type == "cuda" else CPU_BATCH
    results = []
    for batch in images.split(size):
        filled = batch[torch.arange(size, device=batch.device) % max(len(batch), 1)]
        results.append(change(filled.to(device))[: len(batch)].to(images.device))
    return torch.cat(results)


def pack(networks: Mapping[str, nn.Module], values: Mapping[str, Any] | None = None) -> Output:
    """What a stage keeps: the weights of named networks, and measured values."""
    weights: dict[str, Tensor] = {}
    for name, network in networks.items():
        weights |= pack_weights(network, f"{name}.")
    return Output(weights, values or {})


def unpack(kept: Output, networks: Mapping[str, nn.Module]) -> None:
    """Fill networks with the weights that `pack` packed, and freeze them."""
    for name, network in networks.items():
        freeze(unpack_weights(kept.tensors, network, f"{name}."))


def with_seed(make: Callable[[], nn.Module], seed: int, purpose: str) -> nn.Module:
    """A network whose fresh weights follow from ``seed`` and ``purpose``."""
    with torch.random.fork_rng(devices=[]):  # torch initializes layers from its global generator
        torch.manual_seed(derive(seed, purpose))
        return make()


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Float images, N x C x H x W, with the last row and column repeated up to a size that ``multiple`` divides."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
