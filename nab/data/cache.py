"""Decoded datasets, kept in the user's cache folder so that the second start takes no time."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nab.data.dataset import Dataset
from nab.digest import digest
from nab.errors import DataError
from nab.files import write_atomically
from nab.paths import cache_folder

FORMAT = 3
"""Raised when what is stored changes its meaning, so that older files are no longer read."""

log = logging.getLogger(__name__)


def cached(files: Sequence[Path], name: str, make: Callable[[], Dataset], **params: Any) -> Dataset:
    """The dataset that ``make`` reads from ``files``, from the cache if nothing that decides its images has changed.

    Files, name and parameters are the key. A file counts as unchanged while its path, size and modification time are
    the same.

    Args:
        files: the source files, in the order in which they are read.
        name: for example ``"cifar10-train"``; the file in the cache is named after it.
        make: reads and decodes the files.
        params: what the images depend on besides, such as the size to which they are scaled.

    Raises:
        DataError: a file cannot be read.
    """
    key = digest({"format": FORMAT, "name": name, "params": params, "files": [_state(file) for file in files]})
    path = cache_folder() / "data" / f"{name}-{key[:16]}.safetensors"
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (SafetensorError, DataError, KeyError, OSError, TypeError, json.JSONDecodeError) as error:
        log.warning("%s is damaged (%s): decoding again", path, error)
    dataset = make()
    try:
        write_atomically(path, lambda temporary: _write(dataset, temporary))
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be written (%s): the data will be decoded again next time", path, error)
    return dataset


def _state(file: Path) -> list[str | int]:
    """Path, size and modification time."""
    try:
        state = file.stat()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); remove or replace it") from None
    return [ascii(str(file.absolute())), state.st_size, state.st_mtime_ns]  # a name need not be valid Unicode


def _write(dataset: Dataset, path: Path) -> None:
    about = {"classes": json.dumps(dataset.classes), "name": dataset.name, "fingerprint": dataset.fingerprint}
    save_file({"images": dataset.images.contiguous(), "labels": dataset.labels}, path, metadata=about)


def _read(path: Path) -> Dataset:
    """What is stored; its images are read from the disk when they are first used."""
    with safe_open(path, framework="pt") as stored:
        about = stored.metadata()
        dataset = Dataset(
            stored.get_tensor("images"),
            stored.get_tensor("labels"),
            tuple(json.loads(about["classes"])),
            about["name"],
        )
    # Hashing 60,000 images takes a second; the stored value was computed from these very rows.
    dataset.know_fingerprint(about["fingerprint"])
    return dataset
