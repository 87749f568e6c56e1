"""CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

50,000 training and 10,000 test images, RGB 32 x 32, ten classes. Rows are put into an order of their own (that of
their digests), so every copy of the dataset gives the same runs whatever its order was.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from nab.data.cache import cached
from nab.data.dataset import Dataset, canonical_order
from nab.errors import DataError
from nab.paths import cache_folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINGERPRINTS = {
    "train": "a6bf8fddc448305261f1c78cb17ead21",
    "test": "ddd61f21ae56e7fd5420bb161a8cbb19",
}
"""Of the official files; data with other fingerprints is used, and named as different in every result."""


def load_cifar10(data_root: Path | None = None) -> tuple[Dataset, Dataset]:
    """Train and test part.

    Looked for in this order: parquet files in ``data_root`` or ``data_root/cifar10``, torchvision's folder
    ``cifar-10-batches-py`` in ``data_root``, torchvision's download into ``data_root`` (or the user's cache folder).

    Raises:
        DataError: the folder does not exist, a file is damaged, or the download failed.
    """
    if data_root is not None and not data_root.is_dir():
        raise DataError(
            f"data folder {data_root} does not exist; give the folder that holds cifar10/ with --data-root or NAB_DATA"
        )
    for folder in (data_root / "cifar10", data_root) if data_root else ():
        parts = {part: sorted(folder.glob(f"{part}-*.parquet")) for part in ("train", "test")}
        if any(parts.values()):
            return _from_parquet(folder, parts)
    return _from_torchvision(data_root or cache_folder() / "torchvision")


def _from_parquet(folder: Path, parts: dict[str, list[Path]]) -> tuple[Dataset, Dataset]:
    loaded = {}
    for part, files in parts.items():
        if not files:
            raise DataError(f"{folder}: no {part}-*.parquet beside the other part's files; fetch them")
        _check_shards(files)

        def make(files: list[Path] = files) -> Dataset:
            from nab.data.parquet import read_parquet  # pyarrow takes a while, and a cached dataset does not need it

            return canonical_order(read_parquet(files, "img", CLASSES, "cifar10"))

        loaded[part] = cached(files, f"cifar10-{part}", make)
    return loaded["train"], loaded["test"]


def _check_shards(files: list[Path]) -> None:
    """Files named ``part-00000-of-00003`` say how many there should be."""
    tail = files[0].stem.rpartition("-of-")[2]
    if tail.isdigit() and len(files) != int(tail):
        raise DataError(
            f"{files[0].parent}: expected {int(tail)} files like {files[0].name}, found {len(files)}; fetch the "
            "missing ones"
        )


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
            f"cifar10 could not be had from {root} ({reason}); put its parquet files into a folder cifar10/ and "
            "name the "
            "folder above it with --data-root or NAB_DATA"
        ) from None
