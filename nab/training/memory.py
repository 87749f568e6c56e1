"""The processor's memory: what one step of a training frees is what the next one wants."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Of glibc's ``malloc.h``."""

LARGEST_KEPT = 2**30
"""Bytes of a block; above the activations of any layer here."""


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed blocks of up to 1 GiB for what the process asks for next.

    By default glibc gives blocks of tens of megabytes, activations and their gradients, back to the system, which then
    has to clear each page of them again in the next step. Kept, they cost memory: the process stays as large as it has
    been until `release_freed_memory`. It holds for the main thread; glibc limits what others may keep.

    Nothing is asked if the environment variable ``NAB_KEEP_MEMORY`` is 0, or if the environment has settings of the C
    library's own (``MALLOC_..._``, ``GLIBC_TUNABLES``).

    Returns:
        whether it was asked and agreed; not where the C library is another one.
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
    """Give what is kept back to the system, once; where the C library can."""
    trim = _function_of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def _is_chosen_by_user() -> bool:
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_")
    return any(name in os.environ for name in own) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


def _function_of_libc(name: str) -> Any:
    """None where there is none of this name: musl, macOS, Windows."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        return getattr(ctypes.CDLL(None), name)
    return None
