"""Image files to tensors: many at once, with progress, and an error that names the file."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from nab.errors import DataError
from nab.progress import track

T = TypeVar("T")

BLOCK = 1024
"""Images whose files are held at once."""

PART = 64
"""Images that a thread decodes before it is handed more."""

WIDE_MODES = ("I", "F")
"""What PIL calls images of more than 8 bits per channel, with or without a suffix."""


def decode_image(data: bytes, where: str) -> Tensor:
    """One image file as uint8, C x H x W: one channel for gray files, three for all others.

    Raises:
        DataError: the bytes are not a complete image of 8 bits per channel; the message begins with ``where``.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return from_pil(image, where)
    except UnidentifiedImageError:
        raise DataError(f"{where}: not an image file (its content is no known format); remove or replace it") from None
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: damaged image file ({error}); fetch it again") from None


def from_pil(image: Image.Image, where: str) -> Tensor:
    """One PIL image as uint8, C x H x W: one channel for gray images, three for all others.

    Raises:
        DataError: the image has more than 8 bits per channel; the message begins with ``where``.
    """
    if image.mode.partition(";")[0] in WIDE_MODES:  # PIL would clip its values
        raise DataError(f"{where}: expected 8 bits per channel, got an image of mode {image.mode}; convert it first")
    array = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return torch.from_numpy(array)[None] if array.ndim == 2 else torch.from_numpy(array).permute(2, 0, 1)


def resized(image: Tensor, size: int | None) -> Tensor:
    """An image (uint8, C x H x W) in ``size`` x ``size`` pixels, bilinear with antialiasing; as it is for None."""
    if size is None or tuple(image.shape[1:]) == (size, size):
        return image
    scaled = F.interpolate(image[None].float(), size=(size, size), mode="bilinear", antialias=True)
    return scaled[0].round().clamp(0, 255).to(torch.uint8)


def decode_all(
    items: Iterable[tuple[T, str]], count: int, decode: Callable[[T, str], Tensor], title: str, *, hint: str
) -> Tensor:
    """All images in one tensor: uint8, N x C x H x W. Gray images among color ones become color.

    Images are decoded in threads, because PIL releases the interpreter while it unpacks. No more than `BLOCK` of them
    are held besides the tensor.

    Args:
        items: what each image is decoded from, and what it is called in errors.
        count: N.
        decode: makes an image (uint8, C x H x W) of both.
        title: of the progress bar.
        hint: what to do about images of different sizes.

    Raises:
        DataError: an image cannot be decoded, or has another size than the first; the message begins with its name.
    """
    images = torch.empty(0)
    first = ""
    for position, (image, where) in enumerate(track(_decoded(items, decode), title, count)):
        if position == 0:
            images, first = torch.empty((count, *image.shape), dtype=torch.uint8), where
        if image.shape[1:] != images.shape[2:]:
            wanted, got = (" x ".join(map(str, reversed(shape))) for shape in (images.shape[2:], image.shape[1:]))
            raise DataError(f"{where}: expected {wanted} pixels as in {first}, got {got}; {hint}")
        if len(image) > images.shape[1]:
            images = images.expand(-1, len(image), -1, -1).clone()
        images[position] = image
    return images


def _decoded(items: Iterable[tuple[T, str]], decode: Callable[[T, str], Tensor]) -> Iterator[tuple[Tensor, str]]:
    """Images and their names, in order."""
    items = iter(items)

    def decode_part(part: list[tuple[T, str]]) -> list[tuple[Tensor, str]]:
        return [(decode(item, where), where) for item, where in part]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        while block := list(itertools.islice(items, BLOCK)):
            for part in pool.map(decode_part, [block[start : start + PART] for start in range(0, len(block), PART)]):
                yield from part
