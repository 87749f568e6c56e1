"""Datasets and their sources. No training and no poisoning here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nab.data.cifar10 import CIFAR10
from nab.data.convert import from_torch
from nab.data.dataset import Dataset, GroundTruth, canonical_order, stratified_index, take
from nab.data.digits import Digits
from nab.data.folder import Folder
from nab.data.normalization import IDENTITY, IMAGENET, Normalization
from nab.data.source import Source
from nab.data.tiny_imagenet import TinyImageNet
from nab.paths import data_root as _data_root
from nab.registry import build

__all__ = [
    "DATASETS",
    "IDENTITY",
    "IMAGENET",
    "Dataset",
    "GroundTruth",
    "Normalization",
    "Source",
    "canonical_order",
    "from_torch",
    "load",
    "stratified_index",
    "take",
]

DATASETS: dict[str, type[Source]] = {
    "digits": Digits,
    "cifar10": CIFAR10,
    "tiny-imagenet": TinyImageNet,
    "folder": Folder,
}


def load(name: str, data_root: str | Path | None = None, *, seed: int = 0, **params: Any) -> tuple[Dataset, Dataset]:
    """The training and the test set of the dataset ``name``.

    Args:
        name: a key of `DATASETS`.
        data_root: the data folder; by default the one that the environment variable ``NAB_DATA`` names.
        seed: from which the class-balanced part is drawn, if ``train_size`` is among ``params``.
        params: the parameters of the source, which are the fields of its class.

    Raises:
        ConfigError: the name or a parameter is unknown, or a parameter is not valid.
        DataError: the data is missing or damaged.
    """
    source = build("dataset", name, DATASETS, params)
    train, test = source.load(_data_root(data_root))
    return source.take(train, seed), test
