"""One process computes, the others wait, and take over when the first one dies."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from upath import UPath

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long belongs to a process that is gone."""

log = logging.getLogger(__name__)


@contextmanager
def only_one(path: Path | UPath, what: str) -> Iterator[None]:
    """A block that one process at a time is in; ``path`` is the file by which they agree, ``what`` tells who waits.

    In a folder the operating system holds the lock, and gives it away the moment its holder dies. At an address there
    is no such thing, so the holder renews a lease.
    """
    if not isinstance(path, Path):
        with Lease(path).held():
            yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that makes %s", what)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class Lease:
    """A file that says who works, rewritten as long as they do.

    Two that begin at the same moment may both get through; they then make the same thing twice, and no harm is done.

    Args:
        path: of the file.
        seconds: after which a lease that was not renewed is taken over.
        settle: how long to wait before believing that nobody else wrote at the same time.
    """

    def __init__(self, path: Path | UPath, *, seconds: float = LEASE_SECONDS, settle: float = 0.2) -> None:
        self._path, self._seconds, self._settle = path, seconds, settle
        self._owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        self._beats = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lease, then keep it for the length of the block."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._wait()
        done = threading.Event()
        beating = threading.Thread(target=self._renew, args=(done,), daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()
            with contextlib.suppress(FileNotFoundError):
                if self._is_mine():
                    self._path.unlink()

    def _wait(self) -> None:
        seen, since = self._read(), time.monotonic()
        while True:
            current = self._read()
            if current != seen:
                seen, since = current, time.monotonic()
            # An empty file is one that is being written.
            if current is None or time.monotonic() - since > self._seconds:
                self._write()
                time.sleep(self._settle)
                if self._is_mine():
                    return
            time.sleep(self._settle)

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(self._seconds / 4):
            with contextlib.suppress(OSError):  # tried again at the next beat
                self._write()

    def _write(self) -> None:
        self._beats += 1
        self._path.write_text(f"{self._owner} {self._beats}")

    def _is_mine(self) -> bool:
        return (self._read() or "").startswith(self._owner)

    def _read(self) -> str | None:
        """What the file says; None if there is none."""
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None
