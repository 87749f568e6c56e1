"""Datasets from other people's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nab.data.dataset import Dataset
from nab.data.decode import from_pil
from nab.errors import DataError


def from_torch(source: Any, classes: Sequence[str] | None = None, name: str | None = None) -> Dataset:
    """Any torch map-style dataset of ``(image, label)`` items as a `Dataset`, every item read once.

    Args:
        source: has ``__len__`` and ``__getitem__``. An image is a PIL image, an array H x W x C or H x W, or a tensor
            C x H x W or H x W, of 1 or 3 channels. Its values are uint8, or floats in [0, 1] (not normalized).
        classes: the class names; by default the source's own ``classes``, else the labels as text.
        name: what to call it; by default the name of the source's class.

    Raises:
        DataError: an image has another type, range or number of channels, sizes differ, or there is only one class.
    """
    images, labels = [], []
    for position in range(len(source)):
        image, label = source[position][:2]
        images.append(_to_uint8(image, position))
        labels.append(int(label))
    title = name or type(source).__name__.lower()
    if len({len(image) for image in images}) > 1:  # gray and color mixed: all become color
        images = [image.expand(3, -1, -1) for image in images]
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise DataError(f"expected all images of {title!r} to have one size, got {_shown(sizes)}; resize them first")
    names = classes or getattr(source, "classes", None) or [str(k) for k in range(max(labels, default=-1) + 1)]
    if not images:
        raise DataError(f"expected at least one image in {title!r}, got none")
    return Dataset(torch.stack(images), torch.tensor(labels), tuple(map(str, names)), title)


def _shown(sizes: set[tuple[int, ...]]) -> str:
    listed = sorted(sizes)[:3]
    return " and ".join(" x ".join(map(str, size)) for size in listed) + (" and more" if len(sizes) > 3 else "")


def _to_uint8(image: Any, position: int) -> Tensor:
    """C x H x W uint8 of one item."""
    if isinstance(image, Image.Image):
        return from_pil(image, f"image {position}")
    if not isinstance(image, Tensor):
        array = torch.from_numpy(np.array(image))
        image = array.permute(2, 0, 1) if array.ndim == 3 else array
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or len(image) not in (1, 3):
        raise DataError(f"expected image {position} with 1 or 3 channels, got {' x '.join(map(str, image.shape))}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise DataError(
            f"expected image {position} as uint8 or as float in [0, 1], got {image.dtype}; convert it first"
        )
    low, high = float(image.min()), float(image.max())
    if not (0.0 <= low <= high <= 1.0):
        raise DataError(
            f"expected image {position} as uint8 or as float in [0, 1], got {image.dtype} from {low:g} to {high:g}; "
            "leave the normalization out, the library applies its own"
        )
    return (image * 255).round().to(torch.uint8)
