"""Files are written whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from nab.files import write_atomically

ENDLESS_WRITER = """
import json, sys
from pathlib import Path
from nab.files import write_atomically
path = Path(sys.argv[1])
for number in range(10**9):
    text = json.dumps({"numbers": [number] * 20_000})
    write_atomically(path, lambda temporary: temporary.write_text(text))
    if number == 0:
        print("started", flush=True)
"""


def test_folders_are_made_and_the_file_can_be_read_by_others(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("whole"))
    assert path.read_text() == "whole"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_writer_that_fails_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("ha")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_readers_never_see_half_a_file_of_a_killed_writer(tmp_path):
    path = tmp_path / "file.json"
    for delay in (0.0, 0.013, 0.037, 0.06, 0.1):
        with subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(delay)
            writer.send_signal(signal.SIGKILL)
        numbers = json.loads(path.read_text())["numbers"]
        assert numbers == [numbers[0]] * 20_000
