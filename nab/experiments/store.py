"""The result store: a folder per profile, one JSON per run, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from nab.digest import SCHEMA
from nab.errors import ConfigError, ResultError
from nab.experiments.result import RunResult
from nab.files import try_writing, write_whole
from nab.paths import RESULTS, place
from nab.registry import first_problem

if TYPE_CHECKING:
    from upath import UPath

    from nab.experiments.config import RunConfig

_PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")


def check_profile_name(name: str) -> None:
    """Raise ``ConfigError`` unless ``name`` can be that of a folder below the results folder."""
    if not _PROFILE_NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"expected a profile's name of up to 64 letters, digits, dots, dashes and spaces, got {name[:80]!r}"
        )


class ResultStore:
    """Results of one profile.

    Args:
        folder: where the profiles' folders lie; a folder or an fsspec address.
        profile: whose results.

    Raises:
        ConfigError: the profile's name is no name of a folder, or the folder or address cannot be used.
    """

    def __init__(self, folder: str | Path | UPath = RESULTS, profile: str = "unnamed") -> None:
        check_profile_name(profile)
        self.folder = place(folder, "results folder") / profile
        self.profile = profile

    def path(self, config: RunConfig) -> Path | UPath:
        """Where the run's result is kept: a readable beginning, then the hash of the config."""
        words = [re.sub(r"[^A-Za-z0-9._-]", "_", getattr(config, kind).name[:32]) for kind in _IN_FILE_NAMES]
        return self.folder / f"{'-'.join([*words, f's{config.seed}', config.hash])}.json"

    def read(self, config: RunConfig) -> RunResult | None:
        """The run's result, or None if it has not been run.

        Raises:
            ResultError: the file is there but cannot be read.
        """
        path = self.path(config)
        try:
            if not path.exists():
                return None
            result = read_result(path)
            if result.hash != config.hash:
                raise ResultError(f"{path} holds another run ({result.hash})")
        except OSError as error:
            raise ResultError(f"{path} cannot be looked for ({error.strerror or error})") from None
        except ResultError as error:
            raise ResultError(f"{error}; delete it, or run again with --force") from None
        return result

    def write(self, result: RunResult, config: RunConfig) -> Path | UPath:
        """Keep a result; a reader sees the old file or the whole new one.

        Raises:
            ResultError: it cannot be written. What it says is printed on standard error then: the work is done, and
                what was found is not lost with the disk.
        """
        try:
            return self._put(result, config)
        except ResultError as error:
            print(_text(result), file=sys.stderr)
            raise ResultError(f"{error}; the result is printed above") from None

    def join(self, result: RunResult, config: RunConfig, studies: Iterable[str]) -> RunResult:
        """The result of a finished run, which from now on belongs to these studies too.

        Raises:
            ResultError: it cannot be written.
        """
        names = sorted({*result.studies, *studies})
        if names == sorted(result.studies):
            return result
        joined = result.model_copy(update={"studies": names})
        self._put(joined, config)
        return joined

    def _put(self, result: RunResult, config: RunConfig) -> Path | UPath:
        path = self.path(config)
        try:
            write_whole(path, _text(result).encode())
        except OSError as error:
            raise ResultError(f"{path} could not be written ({error.strerror or error})") from None
        return path

    def check_writable(self) -> None:
        """Find out before hours of work whether its result can be kept.

        Raises:
            ResultError: the folder cannot be made or written to.
        """
        try:
            if isinstance(self.folder, Path):
                try_writing(self.folder / "result.json")
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResultError(
                f"results folder {self.folder} cannot be written to ({error.strerror or error}); choose another with "
                "--results"
            ) from None


_IN_FILE_NAMES = ("dataset", "attack", "defense")


def _text(result: RunResult) -> str:
    return json.dumps(result.model_dump(mode="json"), indent=1) + "\n"


def read_result(path: Path | UPath) -> RunResult:
    """One stored result.

    Raises:
        ResultError: the file cannot be read, is damaged, is no result, or is one of another version.
    """
    if isinstance(path, Path) and path.is_fifo():  # reading would wait for a writer
        raise ResultError(f"{path} is no file")
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, RecursionError):
        raise ResultError(f"{path} is damaged or no result (it is no JSON)") from None
    if not isinstance(values, dict) or not {"hash", "metrics"} <= values.keys():
        raise ResultError(f"{path} is no result (it lacks a hash and metrics)")
    if values.get("schema_version") != SCHEMA:
        raise ResultError(
            f"{path} was written by another version (schema {values.get('schema_version', 1)}; this version reads "
            f"{SCHEMA})"
        )
    try:
        return RunResult.model_validate(values)
    except ValidationError as error:
        raise ResultError(f"{path} is damaged ({first_problem(error)[:120]})") from None


@dataclasses.dataclass(frozen=True)
class Found:
    """What lies in a folder of results.

    Attributes:
        results: the results that this version can read, in the order of profile and file name.
        problems: one line for each JSON file that this version cannot read; those files are left alone.
    """

    results: list[RunResult]
    problems: list[str]


def find_results(folder: str | Path | UPath = RESULTS) -> Found:
    """Every result below ``folder``, hidden files and folders left out. A file that cannot be read blocks no other.

    Raises:
        ResultError: there is no such folder.
    """
    root = place(folder, "results folder")
    if root.is_file():
        raise ResultError(f"{root} is a file: name a folder of results")
    if not root.is_dir():
        raise ResultError(f"results folder {root} does not exist; make results with `nab run`, or name another folder")
    found = Found([], [])
    for path in sorted(root.rglob("*.json"), key=_parts):
        if any(part.startswith(".") for part in _parts(path)[len(_parts(root)) :]):
            continue
        try:
            found.results.append(read_result(path))
        except ResultError as error:
            found.problems.append(str(error))
    return found


def read_results(folder: str | Path | UPath = RESULTS) -> list[RunResult]:
    """The results below ``folder`` that this version can read; see `find_results`."""
    return find_results(folder).results


def tell_problems(found: Found) -> None:
    """Say on standard error which files were left out, and how many."""
    if found.problems:
        count = len(found.problems)
        print(f"{count} file{'s' * (count > 1)} left out:", file=sys.stderr)
        for problem in found.problems[:10]:
            print(f"  {problem}", file=sys.stderr)
        if count > 10:
            print(f"  and {count - 10} more", file=sys.stderr)


def _parts(path: Path | UPath) -> tuple[str, ...]:
    return tuple(path.parts)
