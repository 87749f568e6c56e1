"""Image files to tensors: many at once, with progress, and an error that names the file."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nab.errors import DataError
from nab.progress import track

T = TypeVar("T")


def decode_image(data: bytes, where: str) -> Tensor:
    """One PNG or JPEG as uint8 C x H x W: one channel for grey files, three for all others.

    Raises:
        DataError: the bytes are not a complete image; the message begins with ``where``.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            array = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{where}: not an image file (its content is no known format); remove or replace it") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{where}: damaged image file ({error}); fetch it again") from None
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


def decode_all(items: Sequence[T], decode: Callable[[T], Tensor], title: str) -> list[Tensor]:
    """``decode`` over all items, in threads (PIL releases the interpreter while it unpacks), in order."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(track(pool.map(decode, items, chunksize=64), title, total=len(items)))
