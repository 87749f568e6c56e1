"""A process that ends what a parent leaves behind: `python orphans.py PARENT CHILD...`.

Its own file, free of the library, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator

import psutil

SECONDS = 1.0
"""Between two looks."""


def end_with_parent_from_outside(children: Iterable[psutil.Process]) -> None:
    """When this process ends, in whatever way, end ``children`` and all that they started."""
    numbers = [str(process.pid) for process in (psutil.Process(), *children)]
    nothing = subprocess.DEVNULL
    # A session of its own: what is sent to the parent's terminal or group must not end it first.
    subprocess.Popen(
        [sys.executable, __file__, *numbers], stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True
    )


def watch(parent: int, children: Iterable[int]) -> None:
    """Wait for the end of the process ``parent``, then end what is left of ``children`` and their descendants."""
    roots = list(_running(children))
    family = set(roots)
    while True:
        for root in roots:
            with contextlib.suppress(psutil.Error):
                family.update(root.children(recursive=True))
        family = {process for process in family if process.is_running()}  # another one may get the number of the dead
        if not any(_running([parent])):
            break
        time.sleep(SECONDS)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _running(numbers: Iterable[int]) -> Iterator[psutil.Process]:
    for number in numbers:
        with contextlib.suppress(psutil.Error):
            if (process := psutil.Process(number)).status() != psutil.STATUS_ZOMBIE:
                yield process


if __name__ == "__main__":
    watch(int(sys.argv[1]), map(int, sys.argv[2:]))
