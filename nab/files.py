"""Writing files so that a killed process never leaves half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upath import UPath


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then rename it: readers see the old file or the whole
    new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path | UPath, data: bytes) -> None:
    """``data`` as the file ``path``; in a folder and in an object store (S3, GCS, Azure) nobody sees a part of it."""
    if isinstance(path, Path):
        write_atomically(path, lambda temporary: temporary.write_bytes(data))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)  # object stores show an object when all of it is there
