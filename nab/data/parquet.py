"""The parquet layout in which image datasets are commonly published: a column of ``{bytes, path}`` and an integer
label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nab.data.dataset import Dataset
from nab.data.decode import decode_all, decode_image
from nab.errors import DataError


def read_parquet(files: Sequence[Path], image_column: str, classes: tuple[str, ...], name: str) -> Dataset:
    """All rows of ``files`` as one `Dataset`.

    Raises:
        DataError: a file is truncated, lacks a column, or holds a label outside the classes or a damaged image; the
            message names the file and the row.
    """
    sources: list[tuple[str, bytes]] = []
    labels: list[int] = []
    for file in files:
        table = _read_table(file, (image_column, "label"))
        column = table.column("label").to_pylist()
        for row, label in enumerate(column):
            if not isinstance(label, int) or not 0 <= label < len(classes):
                raise DataError(
                    f"{file}, row {row}: expected a label from 0 to {len(classes) - 1}, got {label!r}; fetch "
                    "the file again"
                )
        labels += column
        for row, cell in enumerate(table.column(image_column).to_pylist()):
            if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
                raise DataError(
                    f"{file}, row {row}: expected an image as bytes and path in column {image_column!r}; "
                    "fetch the file again"
                )
            sources.append((f"{file}, row {row}", cell["bytes"]))
    if not sources:
        raise DataError(f"{files[0]}: holds no images; fetch it again")
    images = decode_all(sources, lambda source: decode_image(source[1], source[0]), f"decoding {name}")
    for (where, _), image in zip(sources, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"{where}: expected an image of {tuple(images[0].shape)}, got {tuple(image.shape)}; fetch the "
                "file again"
            )
    return Dataset(torch.stack(images), torch.tensor(labels), classes, name)


def _read_table(file: Path, columns: tuple[str, ...]) -> pa.Table:
    try:
        return pq.read_table(file, columns=list(columns))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise DataError(
            f"{file}: cannot be read as parquet with the columns {' and '.join(columns)} ({first_line}); "
            "it is truncated or another file, fetch it again"
        ) from None
