"""Runs: configs, profiles, results, and the one place where all methods meet."""

from nab.experiments.config import Method, RunConfig, make_config
from nab.experiments.profiles import Profile, load_profile, profile_names
from nab.experiments.result import RunResult
from nab.experiments.run import run
from nab.experiments.store import ResultStore, read_result, read_results

__all__ = [
    "Method",
    "Profile",
    "ResultStore",
    "RunConfig",
    "RunResult",
    "load_profile",
    "make_config",
    "profile_names",
    "read_result",
    "read_results",
    "run",
]
