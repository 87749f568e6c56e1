"""Datasets and their sources. No training and no poisoning here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from nab.data.cifar10 import FINGERPRINTS, load_cifar10
from nab.data.convert import from_torch
from nab.data.dataset import Dataset, GroundTruth, canonical_order, stratified_index, take
from nab.data.digits import load_digits
from nab.data.folder import load_folder
from nab.paths import data_root as _data_root
from nab.registry import lookup

__all__ = [
    "SOURCES",
    "Dataset",
    "GroundTruth",
    "Source",
    "canonical_order",
    "from_torch",
    "load",
    "provenance",
    "stratified_index",
    "take",
]


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset that can be had by name; ``fingerprints`` are those of the published train and test parts, if known.

    ``is_fixed`` says whether the name alone decides which images there are.
    """

    load: Callable[[Path | None], tuple[Dataset, Dataset]]
    summary: str
    source: str
    fingerprints: dict[str, str] | None = None
    is_fixed: bool = True


SOURCES: dict[str, Source] = {
    "digits": Source(
        load_digits, "handwritten digits enlarged to 32 x 32; ships with scikit-learn", "Alpaydin and Kaynak, 1998"
    ),
    "cifar10": Source(load_cifar10, "ten kinds of objects, 32 x 32 RGB", "Krizhevsky, 2009", FINGERPRINTS),
    "folder": Source(load_folder, "your own images, one folder per class (--data-root)", "yours", is_fixed=False),
}


def load(name: str, data_root: str | Path | None = None) -> tuple[Dataset, Dataset]:
    """Train and test part of the dataset ``name``.

    Args:
        name: a key of `SOURCES`.
        data_root: the data folder; the environment variable ``NAB_DATA`` by default.

    Raises:
        ConfigError: the name is unknown.
        DataError: the data is missing or damaged.
    """
    return lookup("dataset", name, SOURCES).load(_data_root(data_root))


def provenance(name: str, train: Dataset, test: Dataset) -> str:
    """``"published"``, ``"differs from the published data"`` or ``"no published fingerprint"``."""
    published = SOURCES[name].fingerprints if name in SOURCES else None
    if published is None:
        return "no published fingerprint"
    same = published == {"train": train.fingerprint, "test": test.fingerprint}
    return "published" if same else "differs from the published data"
