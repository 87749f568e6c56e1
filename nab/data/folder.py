"""A folder of images, one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import torch

from nab.data.cache import cached
from nab.data.dataset import Dataset, stratified_index
from nab.data.decode import decode_all, decode_image
from nab.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
TEST_SHARE = 0.2


def load_folder(data_root: Path | None = None) -> tuple[Dataset, Dataset]:
    """Train and test part of ``data_root``.

    Either ``data_root/train/CLASS/*`` and ``data_root/test/CLASS/*``, or ``data_root/CLASS/*``, of which a fixed
    stratified fifth then becomes the test part. PNG, JPEG, BMP and WebP; rows keep the order of their sorted paths.

    Raises:
        DataError: no folder, no images, one class only, a damaged file, or sizes that differ; the message names the
            file.
    """
    if data_root is None:
        raise DataError(
            "dataset 'folder' needs to know where: give the folder that holds one sub-folder per class with --data-root"
        )
    if not data_root.is_dir():
        raise DataError(f"data folder {data_root} does not exist; give the folder that holds one sub-folder per class")
    if (data_root / "train").is_dir() and (data_root / "test").is_dir():
        train, test = read_folder(data_root / "train"), read_folder(data_root / "test")
        if train.classes != test.classes:
            raise DataError(
                f"{data_root}: train/ and test/ hold different classes: {', '.join(train.classes)} and "
                f"{', '.join(test.classes)}"
            )
        if train.images.shape[1:] != test.images.shape[1:]:
            raise DataError(
                f"{data_root}: train/ and test/ hold images of different sizes; resize them to one size first"
            )
        return train, test
    whole = read_folder(data_root)
    is_test = torch.zeros(len(whole), dtype=torch.bool)
    if int(whole.labels.bincount().min()) < 3:
        raise DataError(
            f"{data_root}: expected at least three images of every class to split them; "
            "add some, or make train/ and test/"
        )
    is_test[stratified_index(whole.labels, TEST_SHARE, 0, "folder split")] = True
    return whole.subset(~is_test), whole.subset(is_test)


def image_files(folder: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    """Sorted ``(file, label)`` pairs and the class names of ``folder``; row i of `read_folder` is file i."""
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


def read_folder(folder: Path) -> Dataset:
    """All images below ``folder/CLASS`` as one `Dataset`, decoded once and cached."""
    files, classes = image_files(folder)
    return cached([file for file, _ in files], "folder", lambda: _decode(folder, files, classes))


def _decode(folder: Path, files: list[tuple[Path, int]], classes: tuple[str, ...]) -> Dataset:
    images = decode_all(
        [file for file, _ in files], lambda file: decode_image(file.read_bytes(), str(file)), f"decoding {folder}"
    )
    if len({image.shape[0] for image in images}) > 1:  # grey and colour files mixed: all become colour
        images = [image.expand(3, -1, -1) for image in images]
    for (file, _), image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            sizes = [" x ".join(map(str, reversed(i.shape[1:]))) for i in (images[0], image)]
            raise DataError(
                f"{file}: expected {sizes[0]} pixels like {files[0][0].name}, got {sizes[1]}; resize all images "
                "to one size first"
            )
    return Dataset(torch.stack(images), torch.tensor([label for _, label in files]), classes, folder.name)
