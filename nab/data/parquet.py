"""The parquet layout in which image datasets are commonly published: a column of ``{bytes, path}`` and an integer
label, in files such as ``train-00000-of-00003.parquet``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nab.data.dataset import Dataset
from nab.data.decode import decode_all, decode_image
from nab.errors import DataError

ROWS = 1000
"""Rows that are read at once."""


def find_parts(folders: Iterable[Path], names: Sequence[str]) -> dict[str, list[Path]] | None:
    """The files ``NAME-*.parquet`` of every part, from the first folder that has any; None if no folder has.

    Raises:
        DataError: a part has no file, or its files are named ``...-of-COUNT`` and there are more or fewer of them.
    """
    for folder in folders:
        parts = {name: sorted(folder.glob(f"{name}-*.parquet")) for name in names}
        if not any(parts.values()):
            continue
        for name, files in parts.items():
            if not files:
                raise DataError(f"{folder}: no {name}-*.parquet beside the other part's files; fetch them")
            told = re.search(r"-of-(\d+)", files[0].stem)
            if told and len(files) != int(told[1]):
                raise DataError(
                    f"{folder}: expected {int(told[1])} files like {files[0].name}, found {len(files)}; fetch the "
                    "missing ones"
                )
        return parts
    return None


def read_parquet(
    files: Sequence[Path],
    image_column: str,
    classes: tuple[str, ...],
    name: str,
    decode: Callable[[bytes, str], Tensor] = decode_image,
) -> Dataset:
    """All rows of ``files`` as one `Dataset`, in their order.

    Args:
        files: the shards, in order.
        image_column: the name of the column of images; the labels' is ``label``.
        classes: the class names.
        name: of the dataset.
        decode: makes an image (uint8, C x H x W) of the image file in a row and of what the row is called in errors.

    Raises:
        DataError: a file is truncated or lacks a column, or a row holds a label outside the classes, a damaged image or
            one of another size; the message names the file and the row.
    """
    labels = [label for file in files for label in _labels(file, (image_column, "label"), len(classes))]
    if not labels:
        raise DataError(f"{files[0]}: holds no images; fetch it again")
    items = (item for file in files for item in _image_files(file, image_column))
    images = decode_all(items, len(labels), decode, f"decoding {name}", hint="fetch the file again")
    return Dataset(images, torch.tensor(labels), classes, name)


def _labels(file: Path, columns: tuple[str, str], count: int) -> Iterator[int]:
    """Checked labels; both columns must be there."""
    row = 0
    for batch in _batches(file, columns, columns[1]):
        for label in batch:
            if not isinstance(label, int) or not 0 <= label < count:
                raise DataError(
                    f"{file}, row {row}: expected a label from 0 to {count - 1}, got {label!r}; fetch the file again"
                )
            yield label
            row += 1


def _image_files(file: Path, column: str) -> Iterator[tuple[bytes, str]]:
    """The image file in every row, and what the row is called in errors."""
    row = 0
    for batch in _batches(file, (column,), column):
        for cell in batch:
            where = f"{file}, row {row}"
            if not isinstance(cell, dict) or not isinstance(cell.get("bytes"), bytes):
                raise DataError(
                    f"{where}: expected an image as bytes and path in column {column!r}; fetch the file again"
                )
            yield cell["bytes"], where
            row += 1


def _batches(file: Path, columns: Sequence[str], wanted: str) -> Iterator[list[Any]]:
    """Values of the column ``wanted`` of a file that has all ``columns``, some rows at a time."""
    import pyarrow as pa  # it takes a while, and data in the cache does not need it
    import pyarrow.parquet as pq

    def unreadable(reason: str) -> DataError:
        return DataError(
            f"{file}: cannot be read as parquet with the columns {' and '.join(columns)} ({reason}); "
            "it is truncated or another file, fetch it again"
        )

    try:
        with pq.ParquetFile(file) as content:
            found = content.schema_arrow.names
            if not set(columns) <= set(found):
                raise unreadable(f"it has {' and '.join(found)}")
            for batch in content.iter_batches(ROWS, columns=[wanted]):
                yield batch.column(0).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise unreadable(str(error).partition("\n")[0]) from None
