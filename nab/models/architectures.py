"""Architectures: what a network looks like, without its weights."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from torch import nn

from nab.checks import check_whole
from nab.digest import digest
from nab.errors import ConfigError
from nab.models.network import as_network
from nab.models.resnet import BasicBlock, Bottleneck, ResNet
from nab.seeding import derive

WIDEST = 4096
"""Channels of a first stage; a wider network does not fit into any memory."""


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """A network that can be made by name.

    A subclass is a frozen dataclass whose fields are its hyper-parameters, and writes `make`.
    """

    summary: ClassVar[str]
    source: ClassVar[str]

    @abc.abstractmethod
    def make(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """A network with fresh weights from torch's global generator; see `nab.models.Network`.

        Args:
            num_classes: K.
            shape: C, H and W of an image.
        """

    def build(self, num_classes: int, shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
        """A network with fresh weights drawn from ``seed``; arguments as for `make`.

        Raises:
            ConfigError: the network cannot be made, or does not follow the protocol.
        """
        with torch.random.fork_rng(devices=[]):  # torch initializes layers from its global generator
            torch.manual_seed(derive(seed, "weights"))
            return as_network(self.make(num_classes, shape), shape)


@dataclasses.dataclass(frozen=True)
class _ResNet(Architecture):
    """A residual network with a CIFAR stem.

    Attributes:
        width: channels of the first stage, 1 to 4096.
    """

    width: int = 64

    source: ClassVar[str] = "He, Zhang, Ren, Sun 2016"
    block: ClassVar[type[BasicBlock] | type[Bottleneck]] = BasicBlock
    depths: ClassVar[tuple[int, int, int, int]]

    def __post_init__(self) -> None:
        check_whole("width", self.width, 1, WIDEST)

    def make(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        return ResNet(self.block, self.depths, num_classes=num_classes, channels=shape[0], width=self.width)


@dataclasses.dataclass(frozen=True)
class ResNet9(_ResNet):
    __doc__ = _ResNet.__doc__
    summary: ClassVar[str] = "one block per stage, CIFAR stem"
    depths: ClassVar[tuple[int, int, int, int]] = (1, 1, 1, 1)


@dataclasses.dataclass(frozen=True)
class ResNet18(_ResNet):
    __doc__ = _ResNet.__doc__
    summary: ClassVar[str] = "two blocks per stage, CIFAR stem; the paper's network"
    depths: ClassVar[tuple[int, int, int, int]] = (2, 2, 2, 2)


@dataclasses.dataclass(frozen=True)
class ResNet34(_ResNet):
    __doc__ = _ResNet.__doc__
    summary: ClassVar[str] = "16 basic blocks, CIFAR stem"
    depths: ClassVar[tuple[int, int, int, int]] = (3, 4, 6, 3)


@dataclasses.dataclass(frozen=True)
class ResNet50(_ResNet):
    __doc__ = _ResNet.__doc__
    summary: ClassVar[str] = "16 bottleneck blocks, CIFAR stem"
    block: ClassVar[type[BasicBlock] | type[Bottleneck]] = Bottleneck
    depths: ClassVar[tuple[int, int, int, int]] = (3, 4, 6, 3)


@dataclasses.dataclass(frozen=True)
class Custom(Architecture):
    """A network of your own; see `nab.models.Adapted` for what it has to be.

    Attributes:
        path: where the function or class is that makes it, ``"package.module:name"``. It is called with ``num_classes``
            and, as keyword arguments, ``arguments``.
        arguments: for that call.
        function: the function or class itself, in place of its path. What is trained with it is kept only if it stands
            at the top of a module that is a file; see `nab.digest.describe`.
    """

    path: str = ""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    function: Callable[..., nn.Module] | None = dataclasses.field(default=None, repr=False)

    summary: ClassVar[str] = "your own, by import path: --set model.path=package.module:name"
    source: ClassVar[str] = "yours"

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of the function, the file that defines it, and the arguments.

        Raises:
            ConfigError: ``path`` cannot be imported.
            NoSource: see `nab.digest.describe`.
        """
        own = {"function": self.function or self._imported(), "arguments": self.arguments}
        further = {name: value for name, value in vars(self).items() if name not in ("path", "function", "arguments")}
        return digest(own | further)

    def make(self, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        function = self.function or self._imported()
        try:
            module = function(num_classes=num_classes, **self.arguments)
        except TypeError as error:
            raise ConfigError(
                f"{self._name} cannot be called with num_classes={num_classes} and the arguments "
                f"{dict(self.arguments)}: {error}"
            ) from error
        if not isinstance(module, nn.Module):
            raise ConfigError(f"expected {self._name} to make a torch.nn.Module, got {type(module).__name__}")
        return module

    @property
    def _name(self) -> str:
        return self.path or getattr(self.function, "__qualname__", repr(self.function))

    def _imported(self) -> Callable[..., nn.Module]:
        module, _, name = self.path.partition(":")
        if not module or not name:
            raise ConfigError(f"expected model.path as 'package.module:name', got {self.path!r}; set it beside model")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"model.path {self.path!r} cannot be imported: {error}") from None
        if not callable(found):
            raise ConfigError(f"expected a function or class at model.path {self.path!r}, got {found!r}")
        return cast(Callable[..., nn.Module], found)
