"""`Source`: a dataset that can be had by name, with parameters."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from nab.checks import check_positive
from nab.data.dataset import Dataset, take
from nab.data.normalization import IMAGENET, Normalization

PUBLISHED = "published"
"""The provenance of images whose fingerprints are those of the published set."""


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """Where a training and a test set come from.

    A subclass is a frozen dataclass whose fields are its parameters, and writes `read` alone.

    Attributes:
        train_size: the number of images in a class-balanced part of the training set, which is then trained on; None
            for the whole set.
        normalization: from pixels to what a network sees.

    Raises:
        ConfigError: a parameter is out of its range.
    """

    _: dataclasses.KW_ONLY
    train_size: int | None = None
    normalization: Normalization = IMAGENET

    summary: ClassVar[str]
    source: ClassVar[str]
    fingerprints: ClassVar[Mapping[str, str] | None] = None
    """Those of the published training and test set (``"train"``, ``"test"``), if they are known."""

    is_fixed: ClassVar[bool] = True
    """Whether name and parameters alone decide which images there are, as long as these are the published ones."""

    def __post_init__(self) -> None:
        if self.train_size is not None:
            check_positive("train_size", self.train_size)

    @abc.abstractmethod
    def read(self, data_root: Path | None) -> tuple[Dataset, Dataset]:
        """The whole training set and the test set.

        Args:
            data_root: the data folder, if one was named.

        Raises:
            DataError: the data is missing or damaged.
        """

    def load(self, data_root: Path | None = None) -> tuple[Dataset, Dataset]:
        """The whole training set and the test set, with this source's normalization; see `read`."""
        train, test = self.read(data_root)
        return train.replace(normalization=self.normalization), test.replace(normalization=self.normalization)

    def take(self, train: Dataset, seed: int) -> Dataset:
        """The part of the training set that is trained on, drawn from ``seed``.

        Raises:
            ConfigError: ``train_size`` is more than the images of the training set, or less than its classes.
        """
        return take(train, self.train_size, seed)

    def provenance(self, train: Dataset, test: Dataset) -> str:
        """``"published"``, ``"differs from the published data"`` or ``"no published fingerprint"``."""
        if self.fingerprints is None:
            return "no published fingerprint"
        is_same = self.fingerprints == {"train": train.fingerprint, "test": test.fingerprint}
        return PUBLISHED if is_same else "differs from the published data"

    def fixes(self, provenance: str) -> bool:
        """Whether everybody who names this source gets the images of a run that noted this `provenance`."""
        return self.is_fixed and (self.fingerprints is None or provenance == PUBLISHED)
