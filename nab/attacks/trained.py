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
from nab.data import Dataset
from nab.digest import digest
from nab.errors import DataError, NabError
from nab.seeding import derive
from nab.training import Context, Output, Predictor, Recipe, Runtime

CPU_BATCH, GPU_BATCH = 50, 500
"""Images per pass of `in_batches`: few on a CPU, where the last batch's filling would cost most."""


@dataclasses.dataclass(frozen=True)
class TrainedAttack(Attack):
    """An attack whose trigger comes from networks.

    A subclass writes `prepare`, which returns a fitted subclass of itself; that one writes `trigger`.
    """

    is_trained: ClassVar[bool] = True

    @abc.abstractmethod
    def prepare(self, dataset: Dataset, context: Context, *, target: int) -> Attack:
        """The attack with its networks trained; see `Attack.prepare`."""

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        raise NabError(
            f"{type(self).__name__} must be trained before it has a trigger: "
            "call prepare(dataset, context, target=...) and use the attack that it returns"
        )

    @property
    def hyper_parameters(self) -> dict[str, Any]:
        """The fields by name, for the constructor of a fitted subclass."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.compare}

    def stage_inputs(self, dataset: Dataset, context: Context, target: int) -> dict[str, Any]:
        """All that what is trained in `prepare` depends on, for `Context.keep`.

        Raises:
            ConfigError: the target is not a class of the dataset.
        """
        check_target(target, dataset)
        return {
            "version": self.version,
            "attack": self,
            "dataset": dataset,
            "target": target,
            "seed": context.seed,
            "model": context.model,
            "width": context.width,
            "recipe": context.recipe.effective(),
        }


def train_surrogate(dataset: Dataset, context: Context, epochs: int) -> Predictor:
    """The attacker's own classifier: the context's model and recipe on the clean set, for ``epochs`` epochs.

    All attacks that ask for as many epochs get the same network, from the cache if there is one. It is frozen.
    """
    recipe = dataclasses.replace(context.recipe, epochs=epochs)
    predictor = context.train(dataset, "surrogate", recipe=recipe).predictor
    freeze(predictor.model)
    return predictor


def freeze(network: nn.Module) -> nn.Module:
    """The network itself, in evaluation mode and without gradients of its weights."""
    return network.eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What a fitted attack carries: frozen networks and tensors, and what was measured on the way.

    Attributes:
        shape: C, H and W of the images that it was made for.
        target: the class that the backdoor answers.
        networks: by name.
        tensors: by name, on the CPU.
        values: measured numbers by name, as JSON has them.
        recipe: whose normalisation the networks expect.
        runtime: where and how they compute.
    """

    shape: tuple[int, ...]
    target: int
    networks: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Recipe = Recipe()
    runtime: Runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)

    @functools.cached_property
    def digest(self) -> str:
        """32 hexadecimal digits that depend on weights, tensors and normalisation; see `nab.digest.describe`."""
        weights = {name: network.state_dict() for name, network in self.networks.items()}
        return digest([self.shape, self.target, weights, self.tensors, self.recipe.mean, self.recipe.std])

    def check(self, images: Tensor) -> None:
        """Raise ``DataError`` unless ``images`` (uint8, N x C x H x W) have the shape that the attack was made for."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self.shape:
            wanted, got = (" x ".join(map(str, shape)) for shape in (self.shape, images.shape[1:]))
            raise DataError(
                f"expected uint8 images of {wanted}, for which the attack was prepared, got {images.dtype} of {got}"
            )


NOTHING = Fitted((), 0)
"""Stands where nothing was fitted: dataclasses ask for a default behind fields that have one."""


def in_batches(change: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """``change`` on ``device``, in batches that all have one size.

    How a convolution rounds depends on the size of its batch, and a hundred signs of gradients enlarge such a
    difference to all that the bound allows. With one size, an image's result does not depend on its company.

    Args:
        change: images (N x C x H x W) to as many tensors of one shape, each by itself.
        images: N x C x H x W, on any device.
        device: where ``change`` computes.

    Returns:
        what ``change`` returns, for all images, on their device.
    """
    size = GPU_BATCH if device.type == "cuda" else CPU_BATCH
    results = []
    for batch in images.split(size):
        filled = batch[torch.arange(size, device=batch.device) % max(len(batch), 1)]
        results.append(change(filled.to(device))[: len(batch)].to(images.device))
    return torch.cat(results)


def pack(networks: Mapping[str, nn.Module], values: Mapping[str, Any] | None = None) -> Output:
    """Weights of named networks as a stage keeps them, and measured values."""
    weights = {
        f"{name}.{key}": value.detach().cpu().clone()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    return Output(weights, values or {})


def unpack(kept: Output, networks: Mapping[str, nn.Module]) -> None:
    """Fill networks with the weights that `pack` packed, and freeze them."""
    for name, network in networks.items():
        weights = {key.split(".", 1)[1]: value for key, value in kept.tensors.items() if key.startswith(f"{name}.")}
        freeze(network).load_state_dict(weights)


def with_seed(make: Callable[[], nn.Module], seed: int, purpose: str) -> nn.Module:
    """A network whose fresh weights follow from ``seed`` and ``purpose``."""
    with torch.random.fork_rng(devices=[]):  # torch initialises layers from its global generator
        torch.manual_seed(derive(seed, purpose))
        return make()


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Float images, N x C x H x W, their last row and column repeated up to a size that ``multiple`` divides."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
