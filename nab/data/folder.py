"""A folder of images, one sub-folder per class."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from nab.checks import check_whole
from nab.data.cache import cached
from nab.data.dataset import Dataset, stratified_index
from nab.data.decode import decode_all, decode_image, resized
from nab.data.source import Source
from nab.errors import DataError
from nab.paths import local

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Folder(Source):
    """Your own images: PNG, JPEG, BMP and WebP, one sub-folder per class. Rows keep the order of their sorted paths.

    Attributes:
        folder: the folder; by default the data folder (``--data-root``, ``NAB_DATA``).
        size: height and width to which every image is scaled, from 8 to 1024, whatever its proportions. None leaves
            images as they are; all must then have one size.
    """

    folder: str | None = None
    size: int | None = None

    summary: ClassVar[str] = "your own images, one folder per class (--data-root)"
    source: ClassVar[str] = "yours"
    is_fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None:
            check_whole("size", self.size, 8, 1024)

    def read(self, data_root: Path | None) -> tuple[Dataset, Dataset]:
        """Both parts.

        They are the images ``FOLDER/train/CLASS/*`` and ``FOLDER/test/CLASS/*``. A folder without ``train`` and
        ``test`` holds ``FOLDER/CLASS/*``, and a fixed, stratified fifth of these images is the test part.

        Raises:
            DataError: the folder is missing or holds fewer than two classes, a class is empty or too small to be split,
                or an image is damaged or has another size; the message names the file.
        """
        root = local(self.folder, "dataset.folder") if self.folder else data_root
        if root is None:
            raise DataError(
                "dataset 'folder' needs to know where: give the folder that holds one sub-folder per class with "
                "--data-root"
            )
        if not root.is_dir():
            raise DataError(f"data folder {root} does not exist; give the folder that holds one sub-folder per class")
        if (root / "train").is_dir() and (root / "test").is_dir():
            return _two_parts(root, self.size)
        return _split(root, read_folder(root, self.size))


def _two_parts(root: Path, size: int | None) -> tuple[Dataset, Dataset]:
    train, test = read_folder(root / "train", size), read_folder(root / "test", size)
    if train.classes != test.classes:
        raise DataError(
            f"{root}: train/ and test/ hold different classes: {', '.join(train.classes)} and {', '.join(test.classes)}"
        )
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"{root}: train/ and test/ hold images of different sizes; resize them to one size first")
    return train, test


def _split(root: Path, whole: Dataset) -> tuple[Dataset, Dataset]:
    if int(whole.labels.bincount().min()) < 3:
        raise DataError(
            f"{root}: expected at least three images of every class to split them; add some, or make train/ and test/"
        )
    is_test = torch.zeros(len(whole), dtype=torch.bool)
    is_test[stratified_index(whole.labels, TEST_SHARE, 0, "folder split")] = True
    return whole.subset(~is_test), whole.subset(is_test)


def image_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Sorted ``(file, label)`` pairs and the class names of ``folder``; row i of `read_folder` is file i.

    Raises:
        DataError: there are fewer than two class folders, or one of them holds no image.
    """
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(classes) < 2:
        named = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder}: expected at least two class folders, found {named}")
    files = []
    for label, name in enumerate(classes):
        members = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not members:
            raise DataError(f"{folder / name}: no images ({', '.join(sorted(SUFFIXES))}) for class {name!r}")
        files += [(file, label) for file in members]
    return files, classes


def read_folder(folder: Path, size: int | None = None) -> Dataset:
    """All images below ``folder/CLASS`` as one `Dataset`, scaled to ``size`` if it is given; decoded once.

    Raises:
        DataError: see `Folder.read`.
    """
    pairs, classes = image_files(folder)
    files = [file for file, _ in pairs]
    labels = torch.tensor([label for _, label in pairs])

    def make() -> Dataset:
        decode = functools.partial(_decode, size=size)
        hint = "resize all images to one size, with --set dataset.size=32 for example"
        images = decode_all([(file, str(file)) for file in files], len(files), decode, f"decoding {folder}", hint=hint)
        return Dataset(images, labels, classes, folder.name)

    return cached(files, "folder", make, size=size).replace(files=tuple(map(str, files)))


def _decode(file: Path, where: str, size: int | None) -> Tensor:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror}); remove or replace it") from None
    return resized(decode_image(data, where), size)
