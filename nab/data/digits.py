"""The handwritten digits that ship with scikit-learn: the embedded default, nothing to download.

1,797 grey images of 8 x 8 with 17 levels (Alpaydin and Kaynak, UCI repository, 1998), here enlarged to 32 x 32 RGB so
that every network, trigger and stamp fits.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch.nn import functional as F

from nab.data.cache import cached
from nab.data.dataset import Dataset, stratified_index

TEST_SHARE = 0.2


def load_digits(data_root: Path | None = None) -> tuple[Dataset, Dataset]:
    """Train (1,438) and test (359) part, a fixed stratified split; ``data_root`` is not used."""
    # Decoded images come from the cache, because importing scikit-learn takes longer than a finished run's start.
    package = importlib.util.find_spec("sklearn")
    files = [Path(package.origin)] if package is not None and package.origin else []
    whole = cached(files, "digits", _enlarged)
    is_test = torch.zeros(len(whole), dtype=torch.bool)
    is_test[stratified_index(whole.labels, TEST_SHARE, 0, "digits split")] = True
    return whole.subset(~is_test), whole.subset(is_test)


def _enlarged() -> Dataset:
    """All digits."""
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    small = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(32, 32), mode="bilinear", antialias=True)
    images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    return Dataset(images, labels, tuple(str(k) for k in range(10)), "digits")
