"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

50,000 training and 10,000 test images, RGB 32 x 32, ten classes. Rows are sorted by their digests, so that every copy
of the dataset gives the same runs, whatever its order was.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch

from nab.data.cache import cached
from nab.data.dataset import Dataset, canonical_order
from nab.data.parquet import find_parts, read_parquet
from nab.data.source import Source
from nab.errors import DataError
from nab.paths import cache_folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINGERPRINTS = {
    "train": "a6bf8fddc448305261f1c78cb17ead21",
    "test": "ddd61f21ae56e7fd5420bb161a8cbb19",
}
"""Of the official files; data with other fingerprints is used, and named as different in every result."""


@dataclasses.dataclass(frozen=True)
class CIFAR10(Source):
    """CIFAR-10, from parquet files, torchvision's folder or torchvision's download."""

    summary: ClassVar[str] = "ten kinds of objects, 32 x 32 RGB"
    source: ClassVar[str] = "Krizhevsky, 2009"
    fingerprints: ClassVar[Mapping[str, str] | None] = FINGERPRINTS

    def read(self, data_root: Path | None) -> tuple[Dataset, Dataset]:
        """Both parts.

        They are looked for in this order: parquet files (``train-*``, ``test-*``; columns ``img`` and ``label``) in
        ``data_root/cifar10`` or ``data_root``, torchvision's folder ``cifar-10-batches-py`` in ``data_root``,
        torchvision's download into ``data_root`` (or the user's cache folder).

        Raises:
            DataError: the folder does not exist, a file is damaged, or the download failed.
        """
        if data_root is not None and not data_root.is_dir():
            raise DataError(
                f"data folder {data_root} does not exist; give the folder that holds cifar10/ with --data-root or "
                "NAB_DATA"
            )
        parts = find_parts([data_root / "cifar10", data_root], ("train", "test")) if data_root else None
        if parts is None:
            return _from_torchvision(data_root or cache_folder() / "torchvision")
        train, test = (
            cached(files, f"cifar10-{part}", functools.partial(_from_parquet, files)) for part, files in parts.items()
        )
        return train, test


def _from_parquet(files: list[Path]) -> Dataset:
    return canonical_order(read_parquet(files, "img", CLASSES, "cifar10"))


def _from_torchvision(root: Path) -> tuple[Dataset, Dataset]:
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    batches = {"train": [folder / f"data_batch_{k}" for k in range(1, 6)], "test": [folder / "test_batch"]}
    download = not all(file.exists() for files in batches.values() for file in files)
    if download:
        print(f"cifar10: not found in {root}, downloading", file=sys.stderr)

    def make(train: bool) -> Dataset:
        source = CIFAR10(root, train=train, download=False)
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        return canonical_order(Dataset(images, torch.tensor(source.targets), CLASSES, "cifar10"))

    try:
        if download:
            CIFAR10(root, download=True)
        return (
            cached(batches["train"], "cifar10-train", lambda: make(True)),
            cached(batches["test"], "cifar10-test", lambda: make(False)),
        )
    except DataError:
        raise
    except Exception as error:  # torchvision raises bare RuntimeError, URLError, OSError, UnpicklingError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"cifar10 could not be had from {root} ({reason}); put its parquet files into a folder cifar10/ and name "
            "the folder above it with --data-root or NAB_DATA"
        ) from None
