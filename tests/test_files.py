"""Files are written whole or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from kept import fill_disk
from upath import UPath

from nab.files import try_writing, write_atomically, write_whole

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


def test_a_full_disk_leaves_the_old_file_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    path.write_text("old")
    fill_disk(monkeypatch)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_may_have_the_longest_name_there_is(tmp_path):
    path = tmp_path / ("x" * 255)
    write_whole(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_an_address_is_written_as_a_folder_is():
    path = UPath("memory://files-of-tests/a/b/file.txt")
    write_whole(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_trying_makes_the_folder_and_leaves_no_file(tmp_path):
    try_writing(tmp_path / "a" / "b" / "file.txt")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "a", tmp_path / "file" / "x"):
        with pytest.raises(OSError, match=r"a folder|exists|Not a directory"):
            try_writing(path)


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
