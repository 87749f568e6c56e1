"""Runs: configs, profiles, results, and the one place where all methods meet."""

from nab.experiments.config import Method, RunConfig, make_config
from nab.experiments.executors import BACKENDS, Executor, make_executor, usable_cores
from nab.experiments.grid import Cell, Grid, Settings, select
from nab.experiments.poisoning import Attacked, attack_data, make_context
from nab.experiments.profiles import Profile, load_profile, profile_names
from nab.experiments.result import RunResult
from nab.experiments.run import run
from nab.experiments.stages import StageCache
from nab.experiments.store import ResultStore, read_result, read_results

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
    "load_profile",
    "make_config",
    "make_context",
    "make_executor",
    "profile_names",
    "read_result",
    "read_results",
    "run",
    "select",
    "usable_cores",
]
