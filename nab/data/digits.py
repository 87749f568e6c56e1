"""The handwritten digits that ship with scikit-learn: the embedded default, nothing to download.

1,797 gray images of 8 x 8 with 17 levels (Alpaydin and Kaynak, UCI repository, 1998), enlarged to 32 x 32 RGB by
default so that every network, trigger and stamp fits.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn import functional as F

from nab.checks import check_whole
from nab.data.cache import cached
from nab.data.dataset import Dataset, stratified_index
from nab.data.source import Source

TEST_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Digits(Source):
    """A training part of 1,438 and a test part of 359 digits, a fixed stratified split.

    Attributes:
        size: height and width to which the images are enlarged, from 8 to 224.
    """

    size: int = 32

    summary: ClassVar[str] = "handwritten digits enlarged to 32 x 32; ships with scikit-learn"
    source: ClassVar[str] = "Alpaydin and Kaynak, 1998"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("size", self.size, 8, 224)

    def read(self, data_root: Path | None) -> tuple[Dataset, Dataset]:
        """Both parts; ``data_root`` is not used."""
        # Decoded images come from the cache, because importing scikit-learn takes longer than a finished run's start.
        package = importlib.util.find_spec("sklearn")
        files = [Path(package.origin)] if package is not None and package.origin else []
        whole = cached(files, "digits", lambda: _enlarged(self.size), size=self.size)
        is_test = torch.zeros(len(whole), dtype=torch.bool)
        is_test[stratified_index(whole.labels, TEST_SHARE, 0, "digits split")] = True
        return whole.subset(~is_test), whole.subset(is_test)


def _enlarged(size: int) -> Dataset:
    """All digits, RGB."""
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(size, size), mode="bilinear", antialias=True)
    images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    return Dataset(images, labels, tuple(str(k) for k in range(10)), "digits")
