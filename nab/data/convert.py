"""Datasets from other people's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nab.data.dataset import Dataset
from nab.errors import DataError


def from_torch(source: Any, classes: Sequence[str] | None = None, name: str | None = None) -> Dataset:
    """Any torch map-style dataset of ``(image, label)`` items as a `Dataset`, every item read once.

    Args:
        source: has ``__len__`` and ``__getitem__``; an image is a PIL image, a uint8 array or tensor, or a float tensor
            C x H x W in [0, 1] (not normalised).
        classes: the class names; the source's own ``classes`` by default, else the labels as text.
        name: what to call it; the source's class name by default.

    Raises:
        DataError: an image has an unknown type or range, sizes differ, or there is only one class.
    """
    images, labels = [], []
    for position in range(len(source)):
        image, label = source[position][:2]
        images.append(_to_uint8(image, position))
        labels.append(int(label))
    title = name or type(source).__name__.lower()
    if len({image.shape[0] for image in images}) > 1:  # grey and colour mixed: all become colour
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
    if not isinstance(image, Tensor):
        array = np.array(image.convert("RGB") if getattr(image, "mode", "RGB") not in ("L", "RGB") else image)
        tensor = torch.from_numpy(array)
        image = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    if image.dtype == torch.uint8:
        return image if image.ndim == 3 else image[None]
    low, high = (float(image.min()), float(image.max())) if image.is_floating_point() else (0.0, -1.0)
    if not (0.0 <= low <= high <= 1.0):
        raise DataError(
            f"expected image {position} as uint8 or as float in [0, 1], got {image.dtype} from {low:g} to {high:g}; "
            "leave the normalisation out, the library applies its own"
        )
    image = image if image.ndim == 3 else image[None]
    return (image * 255).round().to(torch.uint8)
