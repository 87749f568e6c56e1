"""Labelers: one file each. Adding one is a file, a line in `LABELERS`, and a test file."""

from __future__ import annotations

from nab.pseudolabels.base import Labeler, guess_labels
from nab.pseudolabels.knn import KNN
from nab.pseudolabels.nc import NC
from nab.pseudolabels.oracle import OracleLabeler
from nab.pseudolabels.random_label import RandomLabeler
from nab.pseudolabels.second_likely import SecondLikely
from nab.pseudolabels.vd import VD

__all__ = [
    "KNN",
    "LABELERS",
    "NC",
    "VD",
    "Labeler",
    "OracleLabeler",
    "RandomLabeler",
    "SecondLikely",
    "guess_labels",
]

LABELERS: dict[str, type[Labeler]] = {
    "vd": VD,
    "nc": NC,
    "knn": KNN,
    "second-likely": SecondLikely,
    "random": RandomLabeler,
    "oracle": OracleLabeler,
}
