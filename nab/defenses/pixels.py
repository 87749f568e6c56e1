"""Whether images are what a deployed network takes."""

from __future__ import annotations

import torch
from torch import Tensor

from nab.data import IDENTITY
from nab.errors import ConfigError
from nab.training import Predictor

BRIGHTEST = 255
"""The highest value of a pixel."""


def check_pixels(images: object, predictor: Predictor) -> Tensor:
    """The images themselves, if the network can answer them.

    Args:
        images: uint8, N x C x H x W, or float32 of the same range, 0 to 255.
        predictor: whose network answers. A network that was handed over alone may take images of any size. One whose
            normalization is `nab.data.IDENTITY` takes any numbers.

    Raises:
        ConfigError: they are no such tensor, or have the range of a network's inputs.
    """
    channels, *sides = predictor.shape
    is_known = bool(predictor.classes)
    wanted = f"N x {channels} x {' x '.join(map(str, sides)) if is_known else 'H x W'}"
    if not isinstance(images, Tensor):
        raise ConfigError(f"expected images as a tensor, uint8, {wanted}, got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != channels or (is_known and list(images.shape[2:]) != sides):
        raise ConfigError(f"expected images of {wanted}, got {' x '.join(map(str, images.shape))}")
    if images.dtype == torch.uint8 or not len(images):
        return images
    if not images.is_floating_point():
        raise ConfigError(f"expected images as uint8 or float32, got {str(images.dtype).removeprefix('torch.')}")
    if predictor.normalization == IDENTITY:
        return images
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= BRIGHTEST):  # NaN is in no range
        raise ConfigError(f"expected pixels from 0 to {BRIGHTEST}, got {low:g} to {high:g}")
    if 0 < high <= 1:
        raise ConfigError(
            f"expected pixels from 0 to {BRIGHTEST}, got none above {high:g}: these look like the output of ToTensor; "
            f"multiply by {BRIGHTEST}"
        )
    return images
