"""The result store: a folder per profile, one JSON per run, written whole or not at all."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from nab.errors import ResultError
from nab.experiments.config import RunConfig
from nab.experiments.result import RunResult
from nab.files import write_whole
from nab.paths import RESULTS, place
from nab.registry import first_problem

if TYPE_CHECKING:
    from upath import UPath


class ResultStore:
    """Results of one profile.

    Args:
        folder: where the profiles' folders lie; a folder or an fsspec address.
        profile: whose results.
    """

    def __init__(self, folder: str | Path = RESULTS, profile: str = "unnamed") -> None:
        self.folder = place(folder) / profile
        self.profile = profile

    def path(self, config: RunConfig) -> Path | UPath:
        """Where the run's result is kept: a readable beginning, then the hash of the config."""
        words = (config.dataset, config.attack.name, config.defense.name, f"s{config.seed}", config.hash)
        return self.folder / f"{'-'.join(words)}.json"

    def read(self, config: RunConfig) -> RunResult | None:
        """The run's result, or None if it has not been run.

        Raises:
            ResultError: the file is there but damaged.
        """
        path = self.path(config)
        if not path.exists():
            return None
        result = read_result(path)
        if result.hash != config.hash:
            raise ResultError(f"{path} holds another run ({result.hash}); delete it, or run again with --force")
        return result

    def write(self, result: RunResult) -> Path | UPath:
        """Keep a result; a reader sees the old file or the whole new one."""
        path = self.path(result.config)
        text = json.dumps(result.model_dump(mode="json"), indent=1) + "\n"
        try:
            write_whole(path, text.encode())
        except OSError as error:
            print(text, file=sys.stderr)  # the work is done: what it found is not lost with the disk
            raise ResultError(f"{path} could not be written ({error.strerror}); the result is above") from None
        return path

    def check_writable(self) -> None:
        """Find out before hours of work whether its result can be kept.

        Raises:
            ResultError: the folder cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if isinstance(self.folder, Path):
                with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".check-"):
                    pass
        except OSError as error:
            raise ResultError(
                f"results folder {self.folder} cannot be written to ({error.strerror}); choose another with --results"
            ) from None


def read_result(path: Path | UPath) -> RunResult:
    """One stored result.

    Raises:
        ResultError: the file is damaged, or its content is not that of the run that its name promises.
    """
    remedy = "delete it, or run again with --force"
    try:
        result = RunResult.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        raise ResultError(f"{path} is damaged ({first_problem(error)[:120]}); {remedy}") from None
    if result.hash != result.config.hash:
        raise ResultError(
            f"{path} is damaged or from another version (its hash is {result.hash}, its config's "
            f"{result.config.hash}); {remedy}"
        )
    return result


def read_results(folder: str | Path | UPath = RESULTS) -> list[RunResult]:
    """Every result below ``folder``, in the order of profile and file name.

    Raises:
        ResultError: there is no such folder, or a file is damaged.
    """
    root = place(folder)
    if not root.is_dir():
        raise ResultError(f"results folder {root} does not exist; make results with `nab run`, or name another folder")
    paths = sorted((path for path in root.rglob("*.json") if not path.name.startswith(".")), key=_parts)
    return [read_result(path) for path in paths]


def _parts(path: Path | UPath) -> tuple[str, ...]:
    return tuple(path.parts)
