"""Standard output and error: of any encoding, closed, or full."""

from __future__ import annotations

import os
import sys


def prepare() -> None:
    """Make sure that every text can be written: a character that the encoding lacks becomes a question mark."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started the command
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - stays open
        elif hasattr(stream, "reconfigure") and "utf" not in (stream.encoding or "").lower():
            stream.reconfigure(errors="replace")


def close() -> None:
    """Throw away output that cannot be written; the interpreter would try once more when it ends, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
