"""One process computes and the others wait. If it dies, another one takes over."""

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
"""After this time without a renewal, a lease belongs to a process that is gone."""

log = logging.getLogger(__name__)


@contextmanager
def only_one(path: Path | UPath, what: str) -> Iterator[None]:
    """Let one process at a time into the block; the others wait.

    In a folder the operating system keeps the lock, and frees it the moment its holder dies. An address has no locks,
    so there the holder renews a `Lease`.

    Args:
        path: of the file by which the processes agree.
        what: names the work in the log of a process that waits.
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
    """A file that names the process at work, which rewrites it until it is done.

    Two processes that begin at the same moment may both get through. They then make the same thing twice, which does no
    harm.

    Args:
        path: of the file.
        seconds: a lease that was not renewed for this time is taken over.
        settle: seconds to wait after writing, in case another process wrote at the same time.
    """

    def __init__(self, path: Path | UPath, *, seconds: float = LEASE_SECONDS, settle: float = 0.2) -> None:
        self._path, self._seconds, self._settle = path, seconds, settle
        self._owner = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        self._beats = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lease, then hold it during the block."""
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
            # An empty file is being written at this moment.
            if current is None or time.monotonic() - since > self._seconds:
                self._write()
                time.sleep(self._settle)
                if self._is_mine():
                    return
            time.sleep(self._settle)

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(self._seconds / 4):
            with contextlib.suppress(OSError):  # the next beat tries again
                self._write()

    def _write(self) -> None:
        self._beats += 1
        self._path.write_text(f"{self._owner} {self._beats}")

    def _is_mine(self) -> bool:
        return (self._read() or "").startswith(self._owner)

    def _read(self) -> str | None:
        """The content of the file; None if there is no file."""
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return None
