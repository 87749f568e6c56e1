"""Runs: configs, profiles, results, and the one place where all methods meet.

Names are imported when they are first used, so that results can be read without waiting for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nab.experiments.comparison import select
    from nab.experiments.config import Method, RunConfig, make_config
    from nab.experiments.executors import BACKENDS, Executor, make_executor, usable_cores
    from nab.experiments.grid import Cell, Grid, Settings
    from nab.experiments.poisoning import Attacked, attack_data, make_trainer
    from nab.experiments.profiles import Profile, load_profile, profile_names
    from nab.experiments.result import RunResult
    from nab.experiments.runner import run
    from nab.experiments.stages import StageCache
    from nab.experiments.store import ResultStore, find_results, read_result, read_results

_HOME = {
    "comparison": ("select",),
    "config": ("Method", "RunConfig", "make_config"),
    "executors": ("BACKENDS", "Executor", "make_executor", "usable_cores"),
    "grid": ("Cell", "Grid", "Settings"),
    "poisoning": ("Attacked", "attack_data", "make_trainer"),
    "profiles": ("Profile", "load_profile", "profile_names"),
    "result": ("RunResult",),
    "runner": ("run",),
    "stages": ("StageCache",),
    "store": ("ResultStore", "find_results", "read_result", "read_results"),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "BACKENDS",
    "Attacked",
    "Cell",
    "Executor",
    "Grid",
    "Method",
    "Profile",
    "ResultStore",
    "RunConfig",
    "RunResult",
    "Settings",
    "StageCache",
    "attack_data",
    "find_results",
    "load_profile",
    "make_config",
    "make_executor",
    "make_trainer",
    "profile_names",
    "read_result",
    "read_results",
    "run",
    "select",
    "usable_cores",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = found  # found at once from now on
    return found
