"""Images of one value, as the tests of sources find them on the disk."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def picture(value: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    """An image, gray or color; ``size`` is width and height."""
    return Image.new(mode, size, value if mode == "L" else (value, value, value))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The image as a file of some kind."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def save(root: Path, name: str, value: int, **how: Any) -> Path:
    """A `picture` as the file ``name``."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(value, **how).save(file)
    return file


def write_parquet(file: Path, contents: list[Any], labels: list[Any], column: str = "img") -> Path:
    """Rows in the layout in which datasets are published; a number stands for a `picture` of 32 x 32."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [
        {"bytes": content if isinstance(content, bytes) else encoded(picture(content, (32, 32))), "path": ""}
        for content in contents
    ]
    pq.write_table(pa.table({column: cells, "label": labels}), file)
    return file


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, decoding an image is a failure."""

    def fail(*_: Any) -> None:
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr("nab.data.decode.from_pil", fail)
