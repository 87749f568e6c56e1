"""Train on data that cannot be trusted: the non-adversarial backdoor (NAB), its attacks, its rivals.

Names are imported when they are first used, so that ``import nab`` and ``nab --help`` do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nab.attacks import ATTACKS, Attack, poison, trigger_all
    from nab.data import Dataset, from_torch, load
    from nab.defenses import DEFENSES, NAB, REJECTED, Guard
    from nab.detection import DETECTORS, LGA, Detector
    from nab.evaluation import evaluate
    from nab.experiments import RunConfig, RunResult, load_profile, run
    from nab.pseudolabels import LABELERS, VD, Labeler
    from nab.stamp import Stamp
    from nab.training import Context, Predictor, Recipe, train

_HOME = {
    "nab.attacks": ("ATTACKS", "Attack", "poison", "trigger_all"),
    "nab.data": ("Dataset", "from_torch", "load"),
    "nab.defenses": ("DEFENSES", "NAB", "REJECTED", "Guard"),
    "nab.detection": ("DETECTORS", "LGA", "Detector"),
    "nab.evaluation": ("evaluate",),
    "nab.experiments": ("RunConfig", "RunResult", "load_profile", "run"),
    "nab.pseudolabels": ("LABELERS", "VD", "Labeler"),
    "nab.stamp": ("Stamp",),
    "nab.training": ("Context", "Predictor", "Recipe", "train"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "ATTACKS",
    "DEFENSES",
    "DETECTORS",
    "LABELERS",
    "LGA",
    "NAB",
    "REJECTED",
    "VD",
    "Attack",
    "Context",
    "Dataset",
    "Detector",
    "Guard",
    "Labeler",
    "Predictor",
    "Recipe",
    "RunConfig",
    "RunResult",
    "Stamp",
    "evaluate",
    "from_torch",
    "load",
    "load_profile",
    "poison",
    "run",
    "train",
    "trigger_all",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nab' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
