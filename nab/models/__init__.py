"""Networks by name. Adding one is a line in `MODELS`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from nab.checks import check_positive
from nab.models.resnet import BasicBlock, Bottleneck, ResNet
from nab.registry import lookup
from nab.seeding import derive

__all__ = ["MODELS", "Architecture", "ResNet", "build_model"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network that can be made by name."""

    make: Callable[..., ResNet]
    summary: str
    source: str


def _resnet(
    block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int], summary: str
) -> Architecture:
    return Architecture(functools.partial(ResNet, block, depths), summary, "He, Zhang, Ren, Sun 2016")


MODELS: dict[str, Architecture] = {
    "resnet9": _resnet(BasicBlock, (1, 1, 1, 1), "one block per stage, CIFAR stem"),
    "resnet18": _resnet(BasicBlock, (2, 2, 2, 2), "two blocks per stage, CIFAR stem; the paper's network"),
    "resnet34": _resnet(BasicBlock, (3, 4, 6, 3), "16 basic blocks, CIFAR stem"),
    "resnet50": _resnet(Bottleneck, (3, 4, 6, 3), "16 bottleneck blocks, CIFAR stem"),
}


def build_model(name: str, *, num_classes: int, channels: int = 3, width: int = 64, seed: int = 0) -> ResNet:
    """A network with fresh weights drawn from ``seed``.

    Raises:
        ConfigError: the name is unknown, or the width is not at least 1.
    """
    architecture = lookup("model", name, MODELS)
    check_positive("width", width)
    with torch.random.fork_rng(devices=[]):  # torch initialises layers from its global generator
        torch.manual_seed(derive(seed, "weights"))
        return architecture.make(num_classes=num_classes, channels=channels, width=width)
