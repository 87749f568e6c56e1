"""Weights of networks as tensors by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nab.errors import ConfigError, DataError


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers by name, also the buffers that torch leaves out of its ``state_dict``.

    Raises:
        ConfigError: a part of the network has a state that is no tensor.
    """
    state = network.state_dict()
    other = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if other:
        raise ConfigError(f"expected a network whose whole state is in tensors, got something else for {other[0]}")
    return {**state, **{name: value for name, value in network.named_buffers() if name not in state}}


def pack_weights(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Copies of a network's parameters and buffers on the CPU, each name behind ``prefix``.

    Raises:
        ConfigError: see `state_of`.
    """
    return {f"{prefix}{name}": value.detach().cpu().clone() for name, value in state_of(network).items()}


def unpack_weights(tensors: Mapping[str, Tensor], network: nn.Module, prefix: str = "") -> nn.Module:
    """The network, filled with what `pack_weights` packed and in evaluation mode.

    Raises:
        DataError: the tensors belong to another network.
    """
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    known = network.state_dict().keys()
    buffers = dict(network.named_buffers())
    try:
        for name in own.keys() & (buffers.keys() - known):
            with torch.no_grad():
                buffers[name].copy_(own.pop(name))
        network.load_state_dict(own)
    except RuntimeError as error:
        raise DataError(f"the weights belong to another network: {' '.join(str(error).split())[:200]}") from None
    return network.eval()
