"""Self-supervised training, without labels: one file each. Adding one is a file, a line in `ENCODERS`, a test file."""

from __future__ import annotations

from typing import Any

from nab.registry import build
from nab.selfsupervised.barlow_twins import BarlowTwins
from nab.selfsupervised.base import (
    SelfSupervised,
    check_features,
    encoder_inputs,
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
    "encoder_inputs",
    "features_recipe",
    "find_features",
    "make_encoder",
    "train_encoder",
]

ENCODERS: dict[str, type[SelfSupervised]] = {
    "simclr": SimCLR,
    "barlow-twins": BarlowTwins,
}


def make_encoder(name: str, params: dict[str, Any] | None = None) -> SelfSupervised:
    """The self-supervised training ``name`` with the hyper-parameters ``params``.

    Raises:
        ConfigError: the name or a parameter is unknown or not valid.
    """
    return build("encoder", name, ENCODERS, params)
