"""A process that ends what a parent leaves behind: `python orphans.py PARENT OLDER...`.

It imports nothing of the library, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

SECONDS = 1.0
"""Between two looks."""

BEGINNING_SECONDS = 0.1
"""The same while children are still being started."""


@contextmanager
def ending_with_parent() -> Iterator[None]:
    """A block in which child processes are started that have to end, with all that they start, when this process does,
    in whatever way. Children from before and after the block are left alone."""
    older = psutil.Process().children(recursive=True)
    numbers = [str(process.pid) for process in (psutil.Process(), *older)]
    nothing = subprocess.DEVNULL
    # A session of its own: what is sent to the parent's terminal or group must not end it first.
    watcher = subprocess.Popen(
        [sys.executable, __file__, *numbers],
        stdin=subprocess.PIPE,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
    )
    assert watcher.stdin is not None
    try:
        yield
    finally:
        begun = {process.pid for process in psutil.Process().children()}
        begun -= {watcher.pid, *(process.pid for process in older)}
        with contextlib.suppress(OSError):  # it ended
            watcher.stdin.write(f"{' '.join(map(str, begun))}\n".encode())
            watcher.stdin.close()


def watch(parent: int, older: list[int]) -> None:
    """Wait for the end of the process ``parent``, then end its children but the ``older`` ones, and their descendants.

    When a line with numbers has come on standard input, only those children count.
    """
    spared = {*_running(older), psutil.Process()}
    family: set[psutil.Process] = set()
    told: list[psutil.Process] | None = None
    while any(_running([parent])):
        for root in _running([parent]) if told is None else told:
            with contextlib.suppress(psutil.Error):
                family.update(root.children(recursive=True))
        family = {process for process in family - spared if process.is_running()}  # a dead one's number is given away
        if told is None and select.select([sys.stdin], [], [], BEGINNING_SECONDS)[0]:
            line = sys.stdin.readline()
            if line:
                told = list(_running(map(int, line.split())))
                family = set(told)
                if not told:  # a cluster that was there before
                    return
            else:
                break  # the parent ended within its block
        elif told is not None:
            with contextlib.suppress(psutil.Error):
                psutil.Process(parent).wait(SECONDS)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _running(numbers: Iterable[int]) -> Iterator[psutil.Process]:
    for number in numbers:
        with contextlib.suppress(psutil.Error):
            if (process := psutil.Process(number)).status() != psutil.STATUS_ZOMBIE:
                yield process


if __name__ == "__main__":
    watch(int(sys.argv[1]), [int(number) for number in sys.argv[2:]])
