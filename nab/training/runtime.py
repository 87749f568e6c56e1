"""Device, precision and memory layout of a network's arithmetic."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TypeVar

import torch
from torch import Tensor, nn

from nab.checks import check_choice
from nab.errors import ConfigError
from nab.models import narrowest

SAFE_CHANNELS = 16
"""On a CPU, a network with fewer channels somewhere does not get the channels-last layout. With 4, 8 and 12 channels,
torch 2.11 and 2.13 corrupt memory on AVX-512 processors after some steps, and the process dies."""


def resolve_device(name: str = "auto") -> torch.device:
    """``"auto"`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: the name is none of auto, cpu, cuda, or there is no CUDA device.
    """
    check_choice("device", name, ("auto", "cpu", "cuda"))
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("expected a CUDA device for device 'cuda', found none; use 'cpu' or 'auto'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype in which convolutions run; see `Recipe.precision`."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bfloat16 = (
        torch.backends.cpu.get_cpu_capability().startswith("AVX512") and torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if has_bfloat16 else torch.float32


M = TypeVar("M", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a network computes.

    Attributes:
        device: where.
        precision: of convolutions and matrix products.
        channels_last: whether images and weights are laid out with their channels last.
        uses_graphs: whether updates are recorded as CUDA graphs and replayed.
    """

    device: torch.device
    precision: torch.dtype
    channels_last: bool
    uses_graphs: bool = False

    @classmethod
    def choose(cls, device: torch.device, precision: str, network: nn.Module) -> Runtime:
        """The fastest safe setting for a network.

        CUDA graphs can be turned off by setting the environment variable ``NAB_CUDA_GRAPHS`` to 0.
        """
        is_cuda = device.type == "cuda"
        uses_graphs = is_cuda and os.environ.get("NAB_CUDA_GRAPHS", "1") != "0"
        is_safe = is_cuda or narrowest(network) >= SAFE_CHANNELS
        return cls(device, resolve_precision(precision, device), is_safe, uses_graphs)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: M) -> M:
        """The network itself, moved to the device and brought into the layout."""
        return network.to(self.device).to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def lay_out(self, images: Tensor) -> Tensor:
        """A batch (N x C x H x W) in the layout.

        Images of one channel are laid out both ways at once, and a convolution guesses the layout from their strides.
        For the contiguous layout, the batch is copied into strides that leave no doubt.
        """
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return torch.empty_like(images, memory_format=torch.contiguous_format).copy_(images)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A block in which convolutions run in the chosen precision."""
        if self.precision == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.precision)
