"""Self-supervised training, without labels: one file each. Adding one is a file, a line in `ENCODERS`, a test file."""

from __future__ import annotations

from typing import Any

from nab.registry import build
from nab.selfsupervised.base import SelfSupervised, find_features, train_encoder
from nab.selfsupervised.simclr import SimCLR

__all__ = ["ENCODERS", "SelfSupervised", "SimCLR", "find_features", "make_encoder", "train_encoder"]

ENCODERS: dict[str, type[SelfSupervised]] = {
    "simclr": SimCLR,
}


def make_encoder(name: str, params: dict[str, Any] | None = None) -> SelfSupervised:
    """The self-supervised training ``name`` with the hyper-parameters ``params``.

    Raises:
        ConfigError: the name or a parameter is unknown or not valid.
    """
    return build("encoder", name, ENCODERS, params)
