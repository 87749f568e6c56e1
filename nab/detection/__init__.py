"""Detectors: one file each. Adding one is a file, a line in `DETECTORS`, and a test file."""

from __future__ import annotations

from typing import Any

from nab.detection.base import Detector, find_scores
from nab.detection.cut import Rate, automatic_cut, check_cut, select_suspects, suspect_count
from nab.detection.gating import gate_classes
from nab.detection.lga import LGA
from nab.detection.ln import LN
from nab.detection.oracle import OracleDetector
from nab.registry import build

__all__ = [
    "DETECTORS",
    "LGA",
    "LN",
    "Detector",
    "OracleDetector",
    "Rate",
    "automatic_cut",
    "check_cut",
    "find_scores",
    "gate_classes",
    "make_detector",
    "select_suspects",
    "suspect_count",
]

DETECTORS: dict[str, type[Detector]] = {
    "lga": LGA,
    "ln": LN,
    "oracle": OracleDetector,
}


def make_detector(name: str, params: dict[str, Any] | None = None) -> Detector:
    """The detector ``name`` with the hyper-parameters ``params``.

    Raises:
        ConfigError: the name or a parameter is unknown or not valid.
    """
    return build("detector", name, DETECTORS, params)
