"""Networks by name. Adding one is a class and a line in `MODELS`."""

from __future__ import annotations

from nab.models.architectures import Architecture, Custom, ResNet9, ResNet18, ResNet34, ResNet50
from nab.models.network import Adapted, Network, as_network, narrowest, structure
from nab.models.resnet import ResNet

__all__ = [
    "MODELS",
    "Adapted",
    "Architecture",
    "Custom",
    "Network",
    "ResNet",
    "ResNet9",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "as_network",
    "narrowest",
    "structure",
]

MODELS: dict[str, type[Architecture]] = {
    "resnet9": ResNet9,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "custom": Custom,
}
