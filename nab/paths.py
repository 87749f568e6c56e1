"""Where data, results and caches are, unless told otherwise."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from nab.errors import ConfigError

if TYPE_CHECKING:
    from upath import UPath

RESULTS = Path("results")
"""Where results go unless told otherwise: one folder per profile, one JSON per run."""


def local(path: str | Path, what: str = "path") -> Path:
    """The absolute path of a file or folder of this machine, which may not be there yet.

    Args:
        path: relative to the working directory, or absolute; ``~`` at the beginning is the user's home.
        what: names the setting in errors.

    Raises:
        ConfigError: no file can have this path, or this process may not look at it.
    """
    text = str(path)
    if not text.strip():
        raise ConfigError(f"expected {what} to be named, got an empty text")
    shown = repr(text) if len(text) <= 120 else f"{text[:120]!r}..."
    try:
        text.encode()
        whole = Path(text).expanduser().absolute()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            whole.lstat()
    except UnicodeEncodeError:
        raise ConfigError(f"expected {what} in UTF-8, got {shown}") from None
    except (RuntimeError, ValueError) as error:  # no such user; a null character
        raise ConfigError(f"{what} {shown} cannot be used: {error}") from None
    except OSError as error:  # of a working directory that is gone, too
        raise ConfigError(f"{what} {shown} cannot be used: {error.strerror}") from None
    return whole


def data_root(given: str | Path | None = None) -> Path | None:
    """The data folder: ``given``, else the environment variable ``NAB_DATA``, else None.

    Raises:
        ConfigError: see `local`.
    """
    chosen = given or os.environ.get("NAB_DATA")
    return local(chosen, "data folder") if chosen else None


def place(address: str | Path | UPath, what: str = "folder") -> Path | UPath:
    """A folder, as an absolute path, or any address that fsspec knows, such as ``s3://bucket/results``.

    Raises:
        ConfigError: fsspec does not know the protocol, or what it needs for it is not installed; see also `local`.
    """
    if isinstance(address, str):
        address = address.removeprefix("file://")  # a folder like any other, in which files can be replaced at once
    if "://" not in str(address):
        return local(str(address), what)
    from upath import UPath

    try:
        remote = UPath(address)
        _ = remote.fs  # connects
    except (ImportError, ValueError) as error:
        raise ConfigError(f"address {address} cannot be used: {error}") from None
    return remote


def cache_folder() -> Path:
    """The user's cache folder (``NAB_CACHE`` if set), which may not be there yet; all in it can be made again.

    Raises:
        ConfigError: see `local`.
    """
    return local(os.environ.get("NAB_CACHE") or platformdirs.user_cache_dir("nab"), "NAB_CACHE")


def stages_place() -> Path | UPath:
    """Where the output of stages is kept: ``NAB_STAGES`` (a folder or an address) if set, else in the cache folder.

    Raises:
        ConfigError: see `place`.
    """
    chosen = os.environ.get("NAB_STAGES")
    return place(chosen, "NAB_STAGES") if chosen else cache_folder() / "stages"
