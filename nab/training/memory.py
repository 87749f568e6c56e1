"""Memory on the CPU: a process keeps what one step of a training frees, for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""From glibc's ``malloc.h``."""

LARGEST_KEPT = 2**30
"""Bytes of a block; the activations of every layer here are smaller."""


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed blocks of up to 1 GiB for what the process asks for next.

    By default glibc gives blocks of tens of megabytes, such as activations, back to the system. The next step asks for
    them again, and the system has to clear each of their pages. Kept blocks cost memory instead: the process stays as
    large as it was at its largest until `release_freed_memory`. The setting holds for the main thread; glibc limits
    what other threads may keep.

    It changes the whole process, so the library never calls it by itself: only its commands, the workers of its grid
    and its benchmarks do.

    Nothing is asked if the environment variable ``NAB_KEEP_MEMORY`` is 0, or if the environment has settings of the C
    library's own (``MALLOC_..._``, ``GLIBC_TUNABLES``).

    Returns:
        whether the C library was asked and agreed. Libraries other than glibc are not asked.
    """
    if os.environ.get("NAB_KEEP_MEMORY", "1") == "0" or _is_chosen_by_user():
        return False
    mallopt = _function_of_libc("mallopt")
    if mallopt is None:
        return False
    # glibc before 2.35 takes no threshold above 32 MiB, but can be told to get no block from the system by itself.
    is_agreed = mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) or mallopt(M_MMAP_MAX, 0)
    return bool(is_agreed) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def release_freed_memory() -> None:
    """Give what is kept now back to the system, if the C library can."""
    trim = _function_of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _is_chosen_by_user() -> bool:
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")
    return any(name in os.environ for name in own) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _function_of_libc(name: str) -> Any:
    """None if the C library has no function of this name, as on musl, macOS and Windows."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        return getattr(ctypes.CDLL(None), name)
    return None
