"""tiny-ImageNet (Le and Yang, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N, 2015).

100,000 training and 10,000 validation images of 200 of ImageNet's classes, RGB. They are published in 64 x 64 pixels.
The labels of the test set are not public, so the validation set takes its place, as is usual. Rows are sorted by their
digests, so that every copy of the dataset gives the same runs, whatever its order was.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from nab.checks import check_whole
from nab.data.cache import cached
from nab.data.dataset import Dataset, canonical_order
from nab.data.decode import decode_image, resized
from nab.data.parquet import find_parts, read_parquet
from nab.data.source import Source
from nab.errors import DataError

CLASSES = 200
LARGEST = 64
"""Height and width of the published images."""

FINGERPRINTS = {
    "train": "3729fb02fc71cff27730de958565473f",
    "test": "ee328abd9a97df5673b38cc1c0c65ac9",
}
"""Of a copy in 32 x 32 pixels, stored as JPEG. Data with other fingerprints, such as the published images scaled here,
is used, and named as different in every result."""


@dataclasses.dataclass(frozen=True)
class TinyImageNet(Source):
    """tiny-ImageNet in 32 x 32 pixels or more, from parquet files.

    The files are ``train-*.parquet`` and ``valid-*.parquet``, in one or several shards such as
    ``train-00000-of-00002.parquet``. A row has the columns ``image``, of a struct ``{bytes, path}`` whose ``bytes`` are
    a JPEG or PNG file, and ``label``, an integer from 0 to 199 in the order of the WordNet ids. A file ``classes.csv``
    beside them names the classes; its columns are ``label``, ``wnid`` and ``name``. Without it, classes are called by
    their labels.

    Attributes:
        size: height and width of the images, from 8 to 64. Larger files are scaled down.
    """

    size: int = 32

    summary: ClassVar[str] = "200 kinds of objects, RGB, 32 x 32 (published in 64 x 64)"
    source: ClassVar[str] = "Le and Yang, 2015"
    fingerprints: ClassVar[Mapping[str, str] | None] = FINGERPRINTS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("size", self.size, 8, LARGEST)

    def read(self, data_root: Path | None) -> tuple[Dataset, Dataset]:
        """The training and the validation set.

        The files are looked for in ``data_root/tiny-imagenet-SIZE``, ``data_root/tiny-imagenet`` and ``data_root``.

        Raises:
            DataError: there are no such files, one is damaged, or their images have fewer pixels than ``size``.
        """
        if data_root is None or not data_root.is_dir():
            missing = "no data folder was named" if data_root is None else f"data folder {data_root} does not exist"
            raise DataError(f"{missing}; give the folder that holds tiny-imagenet/ with --data-root or NAB_DATA")
        folders = [data_root / f"tiny-imagenet-{self.size}", data_root / "tiny-imagenet", data_root]
        parts = find_parts(folders, ("train", "valid"))
        if parts is None:
            raise DataError(
                f"{data_root}: no train-*.parquet and valid-*.parquet of tiny-ImageNet, nor in a folder tiny-imagenet/ "
                "there; it is not downloaded, put them there"
            )
        table = parts["train"][0].with_name("classes.csv")
        names = [table] if table.exists() else []
        train, test = (
            cached(
                [*files, *names], f"tiny-imagenet-{part}", functools.partial(self._decode, files, table), size=self.size
            )
            for part, files in parts.items()
        )
        return train, test

    def _decode(self, files: list[Path], table: Path) -> Dataset:
        classes = _class_names(table) if table.exists() else tuple(map(str, range(CLASSES)))
        return canonical_order(read_parquet(files, "image", classes, "tiny-imagenet", self._decode_image))

    def _decode_image(self, data: bytes, where: str) -> Tensor:
        image = decode_image(data, where)
        if min(image.shape[1:]) < self.size:
            raise DataError(
                f"{where}: expected an image of at least {self.size} x {self.size} pixels, got "
                f"{image.shape[2]} x {image.shape[1]}; set dataset.size to no more than its pixels"
            )
        return resized(image, self.size)


def _class_names(table: Path) -> tuple[str, ...]:
    """The first of the names that WordNet gives a class, by label."""
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            rows = {int(row["label"]): row["name"].partition(",")[0] for row in csv.DictReader(lines)}
        return tuple(rows[label] for label in range(CLASSES))
    except (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error):
        raise DataError(
            f"{table}: expected columns label, wnid and name, and a row for every label from 0 to {CLASSES - 1}; "
            "fetch it again, or remove it to call classes by their labels"
        ) from None
