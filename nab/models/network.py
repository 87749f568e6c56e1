"""The protocol through which methods reach a network, and how anybody's module takes part in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from nab.digest import describe
from nab.errors import ConfigError
from nab.source_code import NoSource


@runtime_checkable
class Network(Protocol):
    """A classifier of images: a `torch.nn.Module` that also has the following.

    Attributes:
        classifier: the last layer, from features to logits.
        blocks: the parts of the network in the order in which an image passes them, by name, for methods that cut or
            compare them; each maps N x C x H x W to N x D x h x w. The last one gives what `maps` returns.
    """

    classifier: nn.Linear

    @property
    def blocks(self) -> dict[str, nn.Module]: ...

    def maps(self, images: Tensor) -> Tensor:
        """What the last block sees where: float, N x D x h x w."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features, from which ``classifier`` makes the logits: float, N x D."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, float, N x K, of normalized images, float, N x C x H x W."""
        ...


_POOLING = (
    nn.AvgPool2d,
    nn.MaxPool2d,
    nn.LPPool2d,
    nn.FractionalMaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)


class Adapted(nn.Module):
    """A module of somebody else, behind the `Network` protocol.

    The module is called once, with two black images, to see how images pass through it:

    - The linear layer whose output is the logits is the classifier; what enters it are the features.
    - The outermost parts whose outputs have four dimensions are the blocks. If there is only one, and it is an
      `nn.Sequential`, its own parts are. Pooling layers at the end are left out.
    - The last block's output are the maps.

    Args:
        module: maps normalized images, float, N x C x H x W, to logits, float, N x K.
        shape: C, H and W of an image.

    Raises:
        ConfigError: the module fails on such images, or its logits do not come from a linear layer.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.module = module
        passed, logits = _pass(module, shape)
        linear = [
            name
            for name, output in passed
            if isinstance(module.get_submodule(name), nn.Linear) and torch.equal(output, logits)
        ]
        if not linear:
            raise ConfigError(
                f"expected a network whose logits are the output of a linear layer, got {type(module).__name__}, which "
                "has another layer or function at its end"
            )
        self._classifier_name = linear[-1]
        self._block_names = _blocks(module, [name for name, output in passed if output.ndim == 4])

    @property
    def classifier(self) -> nn.Linear:
        return cast(nn.Linear, self.module.get_submodule(self._classifier_name))

    @property
    def blocks(self) -> dict[str, nn.Module]:
        return {name: self.module.get_submodule(name) for name in self._block_names}

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        if not isinstance(logits, Tensor):
            raise ConfigError(
                f"expected a network that returns a tensor of logits in training too, got {type(logits).__name__}"
            )
        return logits

    def maps(self, images: Tensor) -> Tensor:
        if not self._block_names:
            raise ConfigError(f"expected a network with convolutions, got {type(self.module).__name__} without maps")
        with _listening(self.module.get_submodule(self._block_names[-1]), takes_input=False) as heard:
            self.module(images)
        return heard[-1]

    def features(self, images: Tensor) -> Tensor:
        with _listening(self.classifier, takes_input=True) as heard:
            self.module(images)
        return heard[-1]


def _pass(module: nn.Module, shape: tuple[int, int, int]) -> tuple[list[tuple[str, Tensor]], Tensor]:
    """The outputs of a module's parts for two black images, by name and in their order, and the logits."""
    passed: list[tuple[str, Tensor]] = []

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            passed.append((name, output.clone()))  # a later layer may write into it

    handles = [
        part.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, part in module.named_modules()
        if name
    ]
    is_training = {part: part.training for part in module.modules()}
    like = next(module.parameters(), torch.zeros(0))
    try:
        with torch.no_grad():
            logits = module.eval()(torch.zeros(2, *shape, device=like.device, dtype=like.dtype))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        size = " x ".join(map(str, shape))
        raise ConfigError(f"{type(module).__name__} fails on images of {size}: {error}") from None
    finally:
        for part, was_training in is_training.items():
            part.training = was_training
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(f"expected {type(module).__name__} to return logits, N x K, got {found}")
    return passed, logits


def _blocks(module: nn.Module, names: list[str]) -> list[str]:
    """Which of the parts with these names, in the order in which they are passed, are blocks; see `Adapted`."""
    names = list(dict.fromkeys(reversed(names)))[::-1]  # each once, where it comes last
    blocks = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    while blocks and isinstance(module.get_submodule(blocks[-1]), _POOLING):
        blocks.pop()
    inner = [name for name in names if len(blocks) == 1 and name.startswith(f"{blocks[0]}.")]
    if inner and isinstance(module.get_submodule(blocks[0]), nn.Sequential):
        return _blocks(module, inner)
    return blocks


@contextlib.contextmanager
def _listening(part: nn.Module, *, takes_input: bool) -> Iterator[list[Tensor]]:
    """A block that collects what leaves a part, or what enters it if it ``takes_input``."""
    heard: list[Tensor] = []

    def listen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        heard.append(inputs[0] if takes_input else output)

    handle = part.register_forward_hook(listen)
    try:
        yield heard
    finally:
        handle.remove()


def as_network(module: nn.Module, shape: tuple[int, int, int]) -> nn.Module:
    """The module itself if it follows the `Network` protocol, else an `Adapted` one around it.

    Args:
        module: maps normalized images to logits.
        shape: C, H and W of an image.

    Raises:
        ConfigError: see `Adapted`.
    """
    if not (isinstance(module, Network) and isinstance(module.classifier, nn.Linear)):
        return Adapted(module, shape)
    _check_features(module, shape)
    return module


def _check_features(module: Any, shape: tuple[int, int, int]) -> None:
    """Raise ``ConfigError`` unless the classifier makes the logits from the features, as methods take for granted."""
    like = next(module.parameters(), torch.zeros(0))
    noise = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    is_training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            images = noise.to(like.device, like.dtype)
            logits, made = module(images), module.classifier(module.features(images))
    finally:
        for part, was_training in is_training.items():
            part.training = was_training
    if logits.shape != made.shape or not torch.allclose(logits, made, rtol=1e-2, atol=1e-3):
        raise ConfigError(
            f"expected {type(module).__name__}.classifier to make the logits from {type(module).__name__}.features, "
            "got other logits from the network itself; see nab.models.Network"
        )


_OWN = vars(nn.Module()).keys()
"""What every module has: its parts, its weights, its hooks."""


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def structure(network: nn.Module) -> list[Any]:
    """What a network computes, apart from its weights, as JSON has it: every part's class and plain attributes.

    Raises:
        NoSource: a part has a hook, another ``forward`` than its class, or an attribute that cannot be described; see
            `nab.digest.describe`.
    """
    parts = []
    for name, part in network.named_modules():
        own = vars(part)
        if any(own.get(hooks) for hooks in _HOOKS) or "forward" in own:
            raise NoSource(f"part {name!r} of the network has a hook or a forward of its own")
        try:
            attributes = describe({key: value for key, value in own.items() if key not in _OWN})
        except TypeError as error:
            raise NoSource(f"part {name!r} of the network: {error}") from None
        parts.append([name, describe(type(part)), attributes, part.extra_repr()])
    return parts


def narrowest(network: nn.Module) -> int:
    """The fewest channels that a convolution of the network makes; 0 if it has none."""
    return min((part.out_channels for part in network.modules() if isinstance(part, nn.Conv2d)), default=0)
