"""Standard output and error of the command: full, closed, or of an encoding that lacks characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import NAB, assert_one_line_error, result_of

from nab import cli
from nab.experiments import RunConfig

COMMANDS = [["show"], ["show", "few"], ["list", "models"], ["--help"], ["cache", "list"]]


@pytest.fixture(autouse=True)
def _results(tmp_path, monkeypatch) -> None:
    """In ``results``, more of them than a stream's buffer holds; one in ``few``, whose attack is not ASCII."""
    monkeypatch.chdir(tmp_path)
    stored = result_of(RunConfig()).model_dump(mode="json")
    stored["settings"]["attack"]["name"] = "bl\u00e9nd"
    for folder, count in {"results": 150, "few": 1}.items():
        Path(folder).mkdir()
        for number in range(count):
            Path(folder, f"{number}.json").write_text(json.dumps(stored | {"hash": f"{number:016}"}))


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the command with another stream in place of one of its own; exit code and standard error."""

    def call(stream: Any, *arguments: str, name: str = "stdout") -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["nab", *arguments])
        with monkeypatch.context() as patched:
            patched.setattr(sys, name, stream)
            with pytest.raises(SystemExit) as stop:
                cli.main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return call


def unread() -> io.TextIOWrapper:
    """A pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def ascii_only() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_device_is_one_line(call, arguments):
    with Path("/dev/full").open("w") as stream:
        code, err = call(stream, *arguments)
    assert_one_line_error((code, "", err), "No space left on device")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_reader_that_has_read_enough_ends_the_command_quietly(call, arguments):
    with unread() as stream:
        assert call(stream, *arguments) == (1, "")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_closed_stream_is_no_mistake(call, arguments):
    assert call(None, *arguments) == (0, "")


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_an_encoding_without_some_characters_shows_question_marks(call, arguments):
    stream = ascii_only()
    assert call(stream, *arguments) == (0, "")
    out = written(stream)
    assert len(out.splitlines()) >= 1
    assert ("bl?nd" in out) == (arguments[0] == "show")


def test_messages_are_written_in_any_encoding(call):
    stream = ascii_only()
    assert call(stream, "show", "caf\u00e9", name="stderr")[0] == 2
    assert "caf? does not exist" in written(stream)


def test_in_a_process_of_its_own(spare_environment):
    """The interpreter, which writes what is left when it ends, has nothing to add."""
    environment = spare_environment | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}

    def show(stream: Any) -> tuple[int, str]:
        command = [NAB, "show"]
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, env=environment, check=False)
        return done.returncode, done.stderr

    with Path("/dev/full").open("w") as full:
        code, err = show(full)
    assert_one_line_error((code, "", err), "No space left on device")
    with unread() as stream:
        assert show(stream) == (1, "")
    with Path("shown").open("w") as file:
        assert show(file) == (0, "")
    assert Path("shown").read_text().count("bl?nd") == 150
