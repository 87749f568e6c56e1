"""Decoded datasets, kept in the user's cache folder so that the second start takes no time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nab.data.dataset import Dataset
from nab.errors import DataError
from nab.files import write_atomically
from nab.paths import cache_folder

FORMAT = 2
"""Raised when what is stored changes its meaning, so that older files are no longer read."""

log = logging.getLogger(__name__)


def cached(files: Sequence[Path], what: str, make: Callable[[], Dataset]) -> Dataset:
    """The dataset that ``make`` reads from ``files``, from the cache if those files have not changed since.

    Args:
        files: the source files; their paths, sizes and modification times are the key.
        what: a word for the file's name, for example ``"cifar10-train"``.
        make: reads and decodes the files.
    """
    identity = [[str(f.absolute()), *_state(f)] for f in files]
    key = hashlib.blake2b(json.dumps([FORMAT, what, identity]).encode(), digest_size=8).hexdigest()
    path = cache_folder() / "data" / f"{what}-{key}.safetensors"
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (SafetensorError, KeyError, OSError, TypeError, json.JSONDecodeError) as error:
        log.warning("%s is damaged (%s): decoding again", path, error)
    dataset = make()
    try:
        write_atomically(path, lambda temporary: _write(dataset, temporary))
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be written (%s): the data will be decoded again next time", path, error)
    return dataset


def _state(file: Path) -> tuple[int, int]:
    """Size and modification time."""
    try:
        state = file.stat()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); remove or replace it") from None
    return state.st_size, state.st_mtime_ns


def _write(dataset: Dataset, path: Path) -> None:
    about = {"classes": json.dumps(dataset.classes), "name": dataset.name, "fingerprint": dataset.fingerprint}
    save_file({"images": dataset.images.contiguous(), "labels": dataset.labels}, path, metadata=about)


def _read(path: Path) -> Dataset:
    with safe_open(path, framework="pt") as stored:
        about = stored.metadata()
        dataset = Dataset(
            stored.get_tensor("images"),
            stored.get_tensor("labels"),
            tuple(json.loads(about["classes"])),
            about["name"],
        )
    # Hashing 60,000 images takes a second; the stored value was computed from these very rows.
    dataset.__dict__["fingerprint"] = about["fingerprint"]
    return dataset
