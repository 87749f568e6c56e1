"""The processor's memory: what one step of a training frees is what the next one wants."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``malloc.h``."""

LARGEST_KEPT = 2**30
"""Bytes. Anything larger than a layer's activations, such as a training set, goes back to the system when freed."""


@functools.cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed blocks of up to 1 GiB for the rest of the process.

    By default glibc gives blocks of tens of megabytes, activations and their gradients, back to the system, which then
    has to clear each page of them again in the next step: at width 64 an eighth of the time at a batch of 64, a third
    at 512. Kept, they cost memory: the process stays as large as it has ever been.

    The environment variable ``NAB_KEEP_MEMORY``, set to 0, leaves the C library as it is.

    Returns:
        whether it was asked and agreed; not where the C library is another one.
    """
    if os.environ.get("NAB_KEEP_MEMORY", "1") == "0":
        return False
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no mallopt: musl, macOS, Windows
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
    return False
