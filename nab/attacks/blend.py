"""Blend (Chen, Liu, Li, Lu, Song, arXiv:1712.05526, 2017): a faint picture over the whole image."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nab.attacks.base import Attack, to_uint8
from nab.checks import check_choice, check_range
from nab.data.decode import decode_image
from nab.errors import ConfigError, DataError
from nab.seeding import stream


@dataclasses.dataclass(frozen=True)
class Blend(Attack):
    """``x' = (1 - alpha) x + alpha P`` with one fixed pattern P of the image's size.

    Most of the literature uses a picture that is somebody's artwork, in three different drawings; it is not shipped.
    ``"noise"`` is a well-defined stand-in. ``"shapes"`` is a drawing of our own that has large areas of one color too.

    Attributes:
        alpha: share of the pattern, in (0, 1]. 0.1 as in NAB; BackdoorBench and backdoor-toolbox use 0.2.
        pattern: ``"noise"`` (independent and uniform over 0 to 255 per pixel and channel, drawn from the seed),
            ``"shapes"`` (discs and bars of saturated colors, drawn from the seed), or ``"picture"``.
        picture: path of an image file for ``pattern="picture"``; it is resized (bilinear, antialiased, aspect ignored).
    """

    alpha: float = 0.1
    pattern: str = "noise"
    picture: str | None = None

    summary: ClassVar[str] = "a fixed picture, blended faintly over the whole image"
    source: ClassVar[str] = "Chen et al. 2017"

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0, 1, include_low=False)
        check_choice("pattern", self.pattern, ("noise", "shapes", "picture"))
        if (self.pattern == "picture") != (self.picture is not None):
            raise ConfigError(
                f"expected a path in picture if and only if pattern is 'picture', got pattern {self.pattern!r} "
                f"and picture {self.picture!r}"
            )

    @property
    def inputs(self) -> Mapping[str, Any]:
        if self.picture is None:
            return super().inputs
        content = hashlib.blake2b(self._read_picture(), digest_size=16).hexdigest()
        return {**super().inputs, "picture": content}

    def trigger(self, images: Tensor, seed: int) -> Tensor:
        pattern = self.draw(images.shape[1], images.shape[2], images.shape[3], seed).to(images.device)
        return to_uint8((1 - self.alpha) * images.float() + self.alpha * pattern)

    def draw(self, channels: int, height: int, width: int, seed: int) -> Tensor:
        """The pattern: float, C x H x W, values 0 to 255."""
        if self.pattern == "noise":
            levels = torch.randint(0, 256, (channels, height, width), generator=stream(seed, "blend noise"))
            return levels.float()
        pattern = _shapes(height, width, seed) if self.pattern == "shapes" else self._picture(height, width)
        return pattern if channels == 3 else _luma(pattern)

    def _picture(self, height: int, width: int) -> Tensor:
        image = decode_image(self._read_picture(), str(self.picture)).float().expand(3, -1, -1)
        resized = F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)
        return resized[0].clamp(0, 255)

    def _read_picture(self) -> bytes:
        path = Path(str(self.picture)).expanduser()
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); give the path of an image file as picture"
            ) from None


def _luma(image: Tensor) -> Tensor:
    """Brightness of an RGB image (ITU-R BT.601 weights), 1 x H x W."""
    return (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)


def _shapes(height: int, width: int, seed: int, count: int = 9) -> Tensor:
    """Discs and bars in saturated colors on a ground of two colors; 3 x H x W, 0 to 255."""
    generator = stream(seed, "blend shapes")
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)[None, :]
    colors = (torch.rand(count + 2, 3, generator=generator) > 0.5).float() * 255
    draws = torch.rand(count, 4, generator=generator)
    canvas = torch.where((rows + columns < 1)[None], colors[0][:, None, None], colors[1][:, None, None])
    for (y, x, size, kind), color in zip(draws.tolist(), colors[2:], strict=True):
        distance = (rows - y) ** 2 + (columns - x) ** 2
        disc = distance < (0.08 + 0.15 * size) ** 2
        stripe = ((rows - y) * (kind - 0.5) + (columns - x) * (size - 0.5)).abs() < 0.03
        canvas = torch.where((disc if kind < 0.6 else stripe)[None], color[:, None, None], canvas)
    return canvas
