"""`StageCache`: the output of every stage, under the hash of exactly what it depends on."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from nab.digest import bytes_digest, describe, digest
from nab.errors import ConfigError
from nab.experiments.locks import only_one
from nab.experiments.provenance import describe_maker
from nab.files import write_whole
from nab.paths import place, stages_place
from nab.registry import unknown_name
from nab.training import Cost, Output

if TYPE_CHECKING:
    from upath import UPath

GIGABYTE = 10**9
LIMIT = 20 * GIGABYTE
"""Bytes; the environment variable ``NAB_CACHE_LIMIT`` sets another limit, in gigabytes."""

DEBRIS_SECONDS = 3600.0
"""A file that was unfinished for so long belongs to a process that is gone."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One kept output.

    Attributes:
        stage: the name of its folder, which is the stage's with dashes in place of spaces.
        key: 32 hexadecimal digits.
        size: bytes.
        used: when it was last written or read, in seconds since 1970 (at an address: written).
        record: the JSON file. The tensors lie beside it.
    """

    stage: str
    key: str
    size: int
    used: float
    record: Path | UPath

    @property
    def tensors(self) -> Path | UPath:
        """The safetensors file."""
        return self.record.with_suffix(".safetensors")

    def remove(self) -> None:
        """Delete both files; the record goes first, since without it nothing counts as kept."""
        self.record.unlink(missing_ok=True)
        self.tensors.unlink(missing_ok=True)


class StageCache:
    """Keeps outputs of stages: tensors as safetensors, everything else in a JSON record beside them.

    It is called as a `nab.training.Keeper`. An output that is found is checked against its checksum. A damaged one is
    told and made again. If several processes want the same output, one makes it and the others wait.

    Args:
        where: a folder or an fsspec address; `nab.paths.stages_place` by default.
        limit: bytes. When there are more, the outputs that were not used for the longest time are deleted. By default
            the environment variable ``NAB_CACHE_LIMIT``, else `LIMIT`.

        is_fresh: whether every output is made anew once, in place of what was kept before.

    Raises:
        ConfigError: the folder or address cannot be used, or the limit is no number.
    """

    def __init__(
        self, where: str | Path | UPath | None = None, *, limit: int | None = None, is_fresh: bool = False
    ) -> None:
        self.where = stages_place() if where is None else place(where, "stages folder")
        self.limit = _limit() if limit is None else limit
        self._made: set[str] | None = set() if is_fresh else None

    def __call__(self, stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        described = {"stage": stage, **describe(dict(inputs))}
        key = digest(described)
        record = self.where / _folder(stage) / f"{key}.json"
        is_wanted = self._made is None or key in self._made
        found = self._read(record, tells=False) if is_wanted else None
        if found is not None:
            return found
        with contextlib.ExitStack() as block:
            try:
                block.enter_context(only_one(self.where / "locks" / key, f"the stage {stage!r}"))
            except OSError as error:
                log.warning("stages cannot be kept in %s (%s)", self.where, error)
                return make()
            found = self._read(record) if is_wanted else None  # another process may have made it meanwhile
            if found is not None:
                return found
            output = make()
            self._write(record, described, output)
            if self._made is not None:
                self._made.add(key)
            return output

    def entries(self) -> list[Entry]:
        """Everything that is kept, the longest unused first."""
        return sorted(self._entries(), key=lambda entry: (entry.used, entry.key))

    def _entries(self) -> Iterator[Entry]:
        if not self.where.exists():
            return
        for record in self.where.glob("*/*.json"):
            try:
                state, tensors = record.stat(), record.with_suffix(".safetensors").stat()
            except FileNotFoundError:  # deleted by another process at this moment
                continue
            yield Entry(record.parent.name, record.stem, state.st_size + tensors.st_size, float(state.st_mtime), record)

    def size(self) -> int:
        """Bytes in all."""
        return sum(entry.size for entry in self._entries())

    def prune(self, limit: int | None = None) -> list[Entry]:
        """Delete what was not used for the longest time, until at most ``limit`` bytes are left. Returns what was
        deleted."""
        entries, removed = self.entries(), []
        excess = sum(entry.size for entry in entries) - (self.limit if limit is None else limit)
        for entry in entries:
            if excess <= 0:
                break
            entry.remove()
            removed.append(entry)
            excess -= entry.size
        self._sweep()
        return removed

    def clear(self, stage: str | None = None) -> list[Entry]:
        """Delete everything, or all outputs of one stage. Returns what was deleted.

        Raises:
            ConfigError: nothing is kept of this stage; the message says of which something is.
        """
        entries = list(self._entries())
        stages = {entry.stage for entry in entries}
        if stage is not None and _folder(stage) not in stages:
            raise unknown_name("stage", stage, stages) if stages else ConfigError(f"nothing is kept in {self.where}")
        removed = [entry for entry in entries if stage is None or entry.stage == _folder(stage)]
        for entry in removed:
            entry.remove()
        self._sweep()
        return removed

    def _sweep(self) -> None:
        """Delete what killed processes left an hour ago or earlier: tensors without a record, and unfinished files."""
        if not isinstance(self.where, Path):
            return  # at an address nothing is unfinished
        left = [path for path in self.where.glob("*/*.safetensors") if not path.with_suffix(".json").exists()]
        for path in [*left, *self.where.glob("*/.*.tmp")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > DEBRIS_SECONDS:
                    path.unlink()

    def _read(self, path: Path | UPath, *, tells: bool = True) -> Output | None:
        """What is kept under ``path``; None if there is nothing, or if it is damaged. ``tells``: whether damage is
        logged."""
        tensors = path.with_suffix(".safetensors")
        try:
            record, data = json.loads(path.read_bytes()), tensors.read_bytes()
            if record["checksum"] != _checksum(record, data):
                raise ValueError("its checksum is another one")
            costs = {key: Cost(**cost) for key, cost in record["costs"].items()}
            output = Output(tensors=load(data), values=record["values"], costs=costs, is_found=True)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            if tells:
                log.warning("%s is damaged (%s): it is made again", path, error)
            return None
        if isinstance(path, Path):
            with contextlib.suppress(OSError):  # deleted at this moment, or another's folder
                os.utime(path)  # used now
        return output

    def _write(self, path: Path | UPath, described: dict[str, Any], output: Output) -> None:
        # Copies, since one tensor may have two names.
        data = save(
            {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in output.tensors.items()}
        )
        maker = describe_maker()
        costs = {
            key: {"stage": cost.stage, "seconds": cost.seconds, "maker": dict(cost.maker) or maker}
            for key, cost in output.costs.items()
        }
        record = {
            "inputs": described,
            "values": dict(output.values),
            "costs": costs,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        record["checksum"] = _checksum(record, data)
        try:
            write_whole(path.with_suffix(".safetensors"), data)
            write_whole(path, json.dumps(record, indent=1).encode())
            self.prune()
        except OSError as error:
            log.warning("%s cannot be written (%s): the stage will be made again next time", path, error)


def _folder(stage: str) -> str:
    """The folder of a stage: its name, with dashes in place of what not every file system takes."""
    return re.sub(r"[^A-Za-z0-9().]+", "-", stage)[:80].strip(".") or "-"


def _checksum(record: Mapping[str, Any], data: bytes) -> str:
    """Of the tensors' file and of what the record says."""
    said = {name: record[name] for name in ("inputs", "values", "costs") if name in record}
    return bytes_digest(json.dumps(said, sort_keys=True).encode(), data)


def _limit() -> int:
    given = os.environ.get("NAB_CACHE_LIMIT")
    try:
        limit = LIMIT if given is None else int(float(given) * GIGABYTE)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise ConfigError(f"expected NAB_CACHE_LIMIT as a number of gigabytes, got {given!r}")
    return limit
