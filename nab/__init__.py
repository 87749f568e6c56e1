"""Train on data that cannot be trusted: the non-adversarial backdoor (NAB), its attacks, its rivals.

Names are imported when they are first used, so that ``import nab`` and ``nab --help`` do not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nab.attacks import ATTACKS, Attack, poison, trigger_all
    from nab.data import DATASETS, Dataset, Normalization, from_torch, load
    from nab.defenses import DEFENSES, NAB, REFUSED, Defense, Deployed, Guard, defend, find_suspects
    from nab.defenses.storage import load_deployed, save_deployed
    from nab.detection import DETECTORS, LGA, Detector
    from nab.evaluation import evaluate
    from nab.experiments import RunConfig, RunResult, load_profile, run
    from nab.needs import Suspicion
    from nab.pseudolabels import LABELERS, VD, Labeler
    from nab.stamp import Stamp
    from nab.training import Predictor, Recipe, Trainer, fit

_HOME = {
    "nab.attacks": ("ATTACKS", "Attack", "poison", "trigger_all"),
    "nab.data": ("DATASETS", "Dataset", "Normalization", "from_torch", "load"),
    "nab.defenses": ("DEFENSES", "NAB", "REFUSED", "Defense", "Deployed", "Guard", "defend", "find_suspects"),
    "nab.defenses.storage": ("load_deployed", "save_deployed"),
    "nab.detection": ("DETECTORS", "LGA", "Detector"),
    "nab.evaluation": ("evaluate",),
    "nab.experiments": ("RunConfig", "RunResult", "load_profile", "run"),
    "nab.needs": ("Suspicion",),
    "nab.pseudolabels": ("LABELERS", "VD", "Labeler"),
    "nab.stamp": ("Stamp",),
    "nab.training": ("Predictor", "Recipe", "Trainer", "fit"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "ATTACKS",
    "DATASETS",
    "DEFENSES",
    "DETECTORS",
    "LABELERS",
    "LGA",
    "NAB",
    "REFUSED",
    "VD",
    "Attack",
    "Dataset",
    "Defense",
    "Deployed",
    "Detector",
    "Guard",
    "Labeler",
    "Normalization",
    "Predictor",
    "Recipe",
    "RunConfig",
    "RunResult",
    "Stamp",
    "Suspicion",
    "Trainer",
    "defend",
    "evaluate",
    "find_suspects",
    "fit",
    "from_torch",
    "load",
    "load_deployed",
    "load_profile",
    "poison",
    "run",
    "save_deployed",
    "trigger_all",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'nab' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
