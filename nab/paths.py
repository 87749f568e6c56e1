"""Where data, results and caches are, unless told otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from nab.errors import ConfigError

if TYPE_CHECKING:
    from upath import UPath

RESULTS = Path("results")
"""Where results go unless told otherwise: one folder per profile, one JSON per run."""


def data_root(given: str | Path | None = None) -> Path | None:
    """The data folder: ``given``, else the environment variable ``NAB_DATA``, else None."""
    chosen = given or os.environ.get("NAB_DATA")
    return Path(chosen).expanduser() if chosen else None


def place(address: str | Path | UPath) -> Path | UPath:
    """A folder, or any address that fsspec knows, such as ``s3://bucket/results``.

    Raises:
        ConfigError: fsspec does not know the protocol, or what it needs for it is not installed.
    """
    if isinstance(address, str):
        address = address.removeprefix("file://")  # a folder like any other, in which files can be replaced at once
    if "://" not in str(address):
        return Path(str(address)).expanduser()
    from upath import UPath

    try:
        remote = UPath(address)
        _ = remote.fs  # connects
    except (ImportError, ValueError) as error:
        raise ConfigError(f"address {address} cannot be used: {error}") from None
    return remote


def cache_folder() -> Path:
    """The user's cache folder (``NAB_CACHE`` if set), which may not be there yet; all in it can be made again."""
    chosen = os.environ.get("NAB_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("nab"))


def stages_place() -> Path | UPath:
    """Where the output of stages is kept: ``NAB_STAGES`` (a folder or an address) if set, else in the cache folder."""
    chosen = os.environ.get("NAB_STAGES")
    return place(chosen) if chosen else cache_folder() / "stages"
