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
    """Let ``write`` fill a temporary neighbor of ``path``, then rename it: readers see the old file or the whole new
    one.

    Raises:
        OSError: the folder or the file cannot be written to; nothing is left behind then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path | UPath, data: bytes) -> None:
    """Write ``data`` as the file ``path``. In a folder, and in an object store (S3, GCS, Azure), nobody sees a part of
    it.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(path, Path):
        write_atomically(path, lambda temporary: temporary.write_bytes(data))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)  # object stores show an object when all of it is there


def try_writing(path: Path) -> None:
    """Find out before hours of work whether the file ``path`` can be written; its folder is made.

    Raises:
        OSError: it cannot.
    """
    if path.is_dir():
        raise IsADirectoryError(21, "it is a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".check-"):
        pass
