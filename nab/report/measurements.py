"""What the programs in ``benchmarks/`` write: one measurement, its file, and what all tables of them share."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from nab.errors import ResultError
from nab.report.places import found
from nab.report.records import age_note

FOLDER = Path("benchmarks") / "results"
NO_GPU = "not measured on a GPU"


class Measurement(BaseModel):
    """One measurement; one JSON file.

    Attributes:
        benchmark: the program that made it, and the folder it lies in.
        what: which of the program's measurements it is.
        settings: what was run, seeds and repetitions included.
        measured: what came out: numbers, lists with a value per repetition, or mappings of those.
        device: name, threads and precision of what computed; see `nab.experiments.provenance.describe_device`.
        versions: of Python and of the packages that the figures may depend on.
        commit: of the library's checkout.
        finished: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: str
    what: str
    settings: dict[str, Any]
    measured: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    finished: str

    @property
    def machine(self) -> str:
        """``"NVIDIA H200"`` or ``"AMD EPYC, 2 threads"``."""
        name, threads = str(self.device["name"]), self.device["threads"]
        return name if self.device["type"] == "cuda" else f"{name}, {threads} thread{'s' * (threads != 1)}"


def read_measurements(benchmark: str, folder: str | Path = FOLDER) -> list[Measurement]:
    """What one program has measured, in the order of the files' names; nothing if it never ran.

    Args:
        benchmark: the program's name.
        folder: of all programs' measurements; in the checkout, if it is relative and not in the working directory.

    Raises:
        ResultError: there is no such folder, a file is damaged, or one is no measurement of that program.
    """
    return [_read(path, benchmark) for path in sorted((found(folder) / benchmark).glob("*.json"))]


def _read(path: Path, benchmark: str) -> Measurement:
    try:
        measurement = Measurement.model_validate_json(path.read_bytes())
        measurement.machine  # noqa: B018  # the device must be named
    except (OSError, ValidationError, KeyError) as error:
        reason = f"{error.errors()[0]['msg']}" if isinstance(error, ValidationError) else f"{error}"
        raise ResultError(
            f"{path} is no whole measurement ({reason}); delete it and run benchmarks/{benchmark}.py again"
        ) from None
    if measurement.benchmark != benchmark:
        raise ResultError(f"{path} is a measurement of {measurement.benchmark!r}, expected {benchmark!r}; move it")
    return measurement


def note(benchmark: str, measurements: Sequence[Measurement]) -> str:
    """A sentence that stands under a table: on what, when and with which torch it was measured; or that nothing was."""
    if not measurements:
        return f"Nothing measured yet: run `python benchmarks/{benchmark}.py`."
    versions = ", ".join(sorted({m.versions.get("torch", "unknown") for m in measurements}))
    days = sorted({m.finished[:10] for m in measurements})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = "; ".join(dict.fromkeys(m.machine for m in measurements))
    missing = "" if any(m.device["type"] == "cuda" for m in measurements) else f" The same was {NO_GPU}."
    age = age_note(m.versions for m in measurements)
    return f"Measured by `benchmarks/{benchmark}.py` on {machines}, {when}, torch {versions}.{missing} {age}".rstrip()


def span(values: Iterable[float], digits: int = 0) -> str:
    """``"412 (405 to 420)"``: median, least and greatest; a single value by itself."""
    kept = list(values)
    low, middle, high = (f"{v:,.{digits}f}" for v in (min(kept), statistics.median(kept), max(kept)))
    return middle if len(kept) == 1 else f"{middle} ({low} to {high})"


def table_of(
    measurements: Iterable[Measurement], row_of: Callable[[Measurement], dict[str, Any]], by: Sequence[str]
) -> pd.DataFrame:
    """A row per measurement, its machine first, sorted by machine and by the settings ``by``.

    Raises:
        ResultError: a measurement lacks a number that the table shows.
    """
    rows = []
    for measurement in sorted(measurements, key=lambda m: (m.machine, *(_rank(m.settings.get(name)) for name in by))):
        try:
            rows.append({"machine": measurement.machine} | row_of(measurement))
        except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError, AttributeError) as error:
            program = measurement.benchmark
            raise ResultError(
                f"a measurement of {program!r} ({measurement.finished}, {measurement.machine}) lacks what its table "
                f"shows ({type(error).__name__}: {error}); run benchmarks/{program}.py again"
            ) from None
    return pd.DataFrame(rows)


def _rank(value: Any) -> tuple[float, bool, str]:
    """Numbers by size, then words by letter, ours before all others."""
    is_number = isinstance(value, int | float)
    return (value if is_number else float("inf"), value != "ours", str(value))


def without_machine(table: pd.DataFrame) -> pd.DataFrame:
    """The table without its machines if there is one only, which `note` names."""
    return table.drop(columns="machine") if "machine" in table and table["machine"].nunique() == 1 else table
