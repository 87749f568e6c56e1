"""Self-supervised training, without labels: one file each. Adding one is a file, a line in `ENCODERS`, a test file."""

from __future__ import annotations

from nab.selfsupervised.barlow_twins import BarlowTwins
from nab.selfsupervised.base import (
    SelfSupervised,
    check_features,
    features_recipe,
    find_features,
    train_encoder,
)
from nab.selfsupervised.simclr import SimCLR
from nab.selfsupervised.views import Views

__all__ = [
    "ENCODERS",
    "BarlowTwins",
    "SelfSupervised",
    "SimCLR",
    "Views",
    "check_features",
    "features_recipe",
    "find_features",
    "train_encoder",
]

ENCODERS: dict[str, type[SelfSupervised]] = {
    "simclr": SimCLR,
    "barlow-twins": BarlowTwins,
}
