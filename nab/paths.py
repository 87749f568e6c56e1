"""Where data, results and caches are, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

RESULTS = Path("results")
"""Where results go unless told otherwise: one folder per profile, one JSON per run."""


def data_root(given: str | Path | None = None) -> Path | None:
    """The data folder: ``given``, else the environment variable ``NAB_DATA``, else None."""
    chosen = given or os.environ.get("NAB_DATA")
    return Path(chosen).expanduser() if chosen else None


def cache_folder() -> Path:
    """The user's cache folder (``NAB_CACHE`` if set); everything in it can be made again."""
    chosen = os.environ.get("NAB_CACHE")
    folder = Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("nab"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
