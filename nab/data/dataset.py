"""`Dataset`: the one shape in which images travel through the library."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nab.data.normalization import IMAGENET, Normalization
from nab.digest import digest, tensor_digest
from nab.errors import ConfigError, DataError
from nab.seeding import stream


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labeled images, all of one size, in memory.

    Attributes:
        images: uint8, N x C x H x W, values 0 to 255, C 1 (gray) or 3 (RGB).
        labels: int64, N, values 0 to K - 1.
        classes: the K class names.
        name: what to call it in results.
        normalization: from pixels to what a network sees.
        files: the file that each row came from, N names; None if that is not known.

    Images and labels may be written into by torch alone. What numpy writes into memory that it shares with a tensor, or
    torch into ``tensor.data``, goes unnoticed: keys would still name the old content.

    Raises:
        DataError: a shape, dtype or label is not as above, or fewer than two classes are named.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str = "unnamed"
    normalization: Normalization = IMAGENET
    files: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
            raise DataError(
                f"expected images of {self.name!r} as uint8 N x C x H x W with C 1 or 3, "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        if labels.ndim != 1 or labels.dtype != torch.int64 or len(labels) != len(images):
            raise DataError(
                f"expected labels of {self.name!r} as int64 of length {len(images)}, "
                f"got {labels.dtype} {tuple(labels.shape)}"
            )
        if len(self.classes) < 2:
            raise DataError(f"expected at least two classes in {self.name!r}, got {len(self.classes)}")
        if len(labels) == 0:
            raise DataError(f"expected at least one image in {self.name!r}, got none")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(f"expected labels of {self.name!r} from 0 to {len(self.classes) - 1}, got {low} to {high}")
        if self.files is not None and len(self.files) != len(labels):
            raise DataError(f"expected a file name per row of {self.name!r}, {len(labels)}, got {len(self.files)}")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        channels, height, width = self.images.shape[1:]
        return f"Dataset({self.name!r}, {len(self)} images {channels} x {height} x {width}, {self.num_classes} classes)"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that depend on images and labels, and not on the order of the rows."""
        return self._remembered("fingerprint", self._computed_fingerprint)

    def know_fingerprint(self, fingerprint: str) -> None:
        """Take it over from whoever computed it of these very rows."""
        self._remembered("fingerprint", lambda: fingerprint)

    def _computed_fingerprint(self) -> str:
        shape = hashlib.blake2b(repr(tuple(self.images.shape[1:])).encode(), digest_size=16)
        for row in sorted(row_digests(self.images, self.labels)):
            shape.update(row)
        return shape.hexdigest()

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that depend on images, labels, their order, the classes and the normalization. They are
        computed once, and again after somebody has written into the images or labels."""
        return self._remembered("digest", self._computed_digest)

    def _remembered(self, name: str, compute: Callable[[], str]) -> str:
        state = (self.images._version, self.labels._version)
        known: dict[str, tuple[tuple[int, int], str]] = self.__dict__.setdefault("_known", {})
        if name not in known or known[name][0] != state:
            known[name] = (state, compute())
        return known[name][1]

    def _computed_digest(self) -> str:
        return digest(
            {
                "rows": tensor_digest(self.images, self.labels),
                "shape": list(self.images.shape),
                "classes": list(self.classes),
                "normalization": self.normalization,
            }
        )

    def replace(self, **changes: Any) -> Dataset:
        """A copy in which the named fields are other ones."""
        other = dataclasses.replace(self, **changes)
        known = self.__dict__.get("_known", {})
        if not changes.keys() & {"images", "labels"} and "fingerprint" in known:
            other.__dict__["_known"] = {"fingerprint": known["fingerprint"]}  # of the same rows; it takes a second
        return other

    def subset(self, index: Tensor) -> Dataset:
        """The rows of ``index`` (int64 positions, or a boolean mask of length N), in that order."""
        files = self.files
        if files is not None:
            files = tuple(np.array(files, dtype=object)[torch.arange(len(self))[index].numpy()])
        return self.replace(images=self.images[index], labels=self.labels[index], files=files)


@dataclasses.dataclass(frozen=True, eq=False)
class GroundTruth:
    """What only the attacker and the evaluation know; it travels apart from the `Dataset` that a defender sees.

    Attributes:
        true_labels: int64, N.
        is_poisoned: bool, N; samples that carry the trigger as poison, those of the target class included.
        is_cover: bool, N; samples that the attacker changed too but left their true label, to hide the poisoned ones.
            None means that there are none.
        origin: int64, N; the row of the clean training set that each sample was made from. None means the same row.
    """

    true_labels: Tensor
    is_poisoned: Tensor
    is_cover: Tensor | None = None
    origin: Tensor | None = None

    @property
    def is_touched(self) -> Tensor:
        """bool, N; poisoned samples and covers."""
        return self.is_poisoned if self.is_cover is None else self.is_poisoned | self.is_cover


def row_digests(images: Tensor, labels: Tensor) -> list[bytes]:
    """One 16-byte digest per row, of its label and its pixels."""
    rows = np.ascontiguousarray(images.cpu().numpy()).reshape(len(images), -1)
    return [
        hashlib.blake2b(row.data, digest_size=16, salt=int(label).to_bytes(8, "little")).digest()
        for row, label in zip(rows, labels.tolist(), strict=True)
    ]


def canonical_order(dataset: Dataset) -> Dataset:
    """The same rows in the order of their digests, so that copies of one dataset that differ only in order give the
    same runs."""
    digests = row_digests(dataset.images, dataset.labels)
    return dataset.subset(torch.tensor(sorted(range(len(digests)), key=digests.__getitem__)))


def stratified_index(labels: Tensor, share: float, seed: int, purpose: str) -> Tensor:
    """Sorted positions of ``round(share * n_c)`` random samples of every class c; int64.

    Raises:
        ConfigError: the share leaves no sample at all.
    """
    generator = stream(seed, purpose)
    chosen = []
    for label in labels.unique():  # sorted, so the draw does not depend on the order of first appearance
        members = (labels == label).nonzero().squeeze(1)
        # The tiny addend keeps .29 * 100 from becoming 28.
        count = int(share * len(members) + 0.5 + 1e-9)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    index = torch.cat(chosen)
    if len(index) == 0:
        raise ConfigError(
            f"expected a share that selects at least one of {len(labels)} samples ({purpose}), got {share}"
        )
    return index.sort().values


def take(dataset: Dataset, size: int | None, seed: int) -> Dataset:
    """A stratified part of ``size`` samples (about: whole numbers per class), or all of it when ``size`` is None.

    Raises:
        ConfigError: ``size`` is larger than the dataset or smaller than its number of classes.
    """
    if size is None or size == len(dataset):
        return dataset
    if not dataset.num_classes <= size <= len(dataset):
        raise ConfigError(
            f"expected train_size from {dataset.num_classes} (one per class) to {len(dataset)} "
            f"(all of {dataset.name!r}), got {size}"
        )
    return dataset.subset(stratified_index(dataset.labels, size / len(dataset), seed, "train subset"))
