"""Speed: tables from the files that the programs in ``benchmarks/`` write, and their common form."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from nab.errors import ResultError
from nab.report.tables import mean_and_deviation

FOLDER = Path("benchmarks") / "results"
NO_GPU = "not measured on a GPU"


class Measurement(BaseModel):
    """One measurement; one JSON file.

    Attributes:
        benchmark: the program that made it, and the folder it lies in.
        what: which of the program's measurements it is.
        settings: what was run, seeds and repetitions included.
        measured: what came out: numbers, lists with a value per repetition, or mappings of those.
        device: name, threads and precision of what computed; see `nab.experiments.result.describe_device`.
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

    Raises:
        ResultError: a file is damaged, or is no measurement of that program.
    """
    return [_read(path, benchmark) for path in sorted((Path(folder) / benchmark).glob("*.json"))]


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
    """A sentence for under a table: on what, when and with which torch; or that there is nothing yet."""
    if not measurements:
        return f"Nothing measured yet: run `python benchmarks/{benchmark}.py`."
    versions = ", ".join(sorted({m.versions.get("torch", "unknown") for m in measurements}))
    days = sorted({m.finished[:10] for m in measurements})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    machines = "; ".join(dict.fromkeys(m.machine for m in measurements))
    missing = "" if any(m.device["type"] == "cuda" for m in measurements) else f" The same was {NO_GPU}."
    return f"Measured by `benchmarks/{benchmark}.py` on {machines}, {when}, torch {versions}.{missing}"


def span(values: Iterable[float], digits: int = 0) -> str:
    """``"412 (405 to 420)"``: median, least and greatest; a single value by itself."""
    kept = list(values)
    low, middle, high = (f"{v:,.{digits}f}" for v in (min(kept), statistics.median(kept), max(kept)))
    return middle if len(kept) == 1 else f"{middle} ({low} to {high})"


def _table(
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


def throughput_table(measurements: Iterable[Measurement], what: str) -> pd.DataFrame:
    """Images per second, ours and the plain pipeline with the number of workers that suits it best.

    Args:
        measurements: of the program ``throughput``.
        what: ``"training"`` or ``"input pipeline"``.
    """

    def row(m: Measurement) -> dict[str, Any]:
        seconds, images = m.measured["seconds"], m.settings["images"]
        plain = min((k for k in seconds if k.startswith("plain")), key=lambda k: statistics.median(seconds[k]))
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[plain], strict=True)]
        same = seconds.get("ours, float32")
        return {
            "network": f"{m.settings['model']}, width {m.settings['width']}" if "model" in m.settings else "none",
            "batch": m.settings["batch_size"],
            "times faster": span(ratios, 1),
            "ours": span(images / s for s in seconds["ours"]),
            "plain": span(images / s for s in seconds[plain]),
            "its workers": plain.split()[1],
        } | ({"ours, float32": span(images / s for s in same)} if same else {})

    chosen = [m for m in measurements if m.what == what]
    return _table(chosen, row, by=("width", "batch_size"))


def others_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Ours and other implementations on the same data: speed, and accuracy and ASR of whole trainings.

    Every row is compared with ours of the same machine and settings.
    """
    found = list(measurements)
    same = ("width", "batch_size", "train_images", "epochs")

    def key(m: Measurement) -> tuple[Any, ...]:
        return (m.machine, *(m.settings.get(name) for name in same))

    ours = {key(m): m for m in found if m.settings.get("code") == "ours"}

    def row(m: Measurement) -> dict[str, Any]:
        images = m.settings["train_images"]
        workers = m.measured.get("loader_workers", "")
        shown = {"code": m.settings["code"], "workers": workers, "width": m.settings["width"]}
        shown |= {"images": f"{images:,}", "epochs": m.settings["epochs"], "images/s": "", "ours is faster": ""}
        shown |= {"ACC": "", "ASR": "", "remark": ""}
        if "failed" in m.measured:
            return shown | {"remark": f"did not run: {m.measured['failed']}"}
        seconds = m.measured["seconds"]
        shown["images/s"] = span(images / s for s in seconds)
        if shown["code"] != "ours" and key(m) in ours:
            faster = statistics.median(seconds) / statistics.median(ours[key(m)].measured["seconds"])
            shown["ours is faster"] = f"{faster:.1f} times"
        if m.settings["epochs"] >= 20:  # before, the figures say nothing about an implementation
            shown["ACC"] = f"{m.measured['metrics']['clean_accuracy']:.1f}"
            shown["ASR"] = f"{m.measured['metrics']['attack_success_rate']:.1f}"
        return shown

    return _table(found, row, by=("train_images", "epochs", "code"))


def stand_ins(measurements: Iterable[Measurement]) -> list[str]:
    """What other implementations were given from outside in order to run, ``"authors: ..."``, each once."""
    lines = [f"{m.settings['code']}: {line}" for m in measurements for line in m.measured.get("stand_ins", [])]
    return list(dict.fromkeys(lines))


def arithmetic_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Share of the matrix rate of the same device in the same precision, repetition by repetition."""

    def row(m: Measurement) -> dict[str, Any]:
        flops, images, seconds = m.measured["flops_per_image"], m.settings["images"], m.measured["seconds"]
        best = [max(rates.values()) for rates in m.measured["matrix_rates"]]
        shares = [100 * flops * images / s / rate for s, rate in zip(seconds, best, strict=True)]
        return {
            "precision": m.settings["precision"],
            "width": m.settings["width"],
            "batch": m.settings["batch_size"],
            "GFLOP per image": f"{flops / 1e9:.2f}",
            "images/s": span(images / s for s in seconds),
            "matrix rate, GFLOP/s": span(rate / 1e9 for rate in best),
            "share, %": span(shares, 0),
        }

    return _table(measurements, row, by=("precision", "width", "batch_size"))


def defence_cost_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """NAB's training against plain training, the stamp alone, and what is done once before."""

    def row(m: Measurement) -> dict[str, Any]:
        plain, nab = m.measured["seconds"]["plain"], m.measured["seconds"]["nab"]
        images, batch = m.settings["images"], m.settings["batch_size"]
        ratios = [100 * (ours / theirs - 1) for ours, theirs in zip(nab, plain, strict=True)]
        per_batch = statistics.median(plain) * batch / images
        return {
            "width": m.settings["width"],
            "batch": batch,
            "plain, images/s": span(images / s for s in plain),
            "NAB, images/s": span(images / s for s in nab),
            "more time, %": span(ratios, 1),
            "stamp alone, %": span((100 * s / per_batch for s in m.measured["stamp_seconds"]), 2),
            "before training, s": span(m.measured["preprocessing_seconds"], 3),
        }

    return _table(measurements, row, by=("width", "batch_size"))


def detector_time_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Seconds to score so many samples, a column each, and the greatest memory; a detector to a row.

    The least of the repetitions: whatever else the machine does only ever makes one slower.
    """
    measured = list(measurements)
    counts = sorted({m.settings["train_images"] for m in measured})
    groups: dict[tuple[str, str, Any], list[Measurement]] = {}
    for m in measured:
        groups.setdefault((m.machine, m.settings["detector"], m.settings["features"]), []).append(m)
    rows = []
    for (machine, detector, features), group in groups.items():
        seconds = {m.settings["train_images"]: f"{min(m.measured['seconds']):.1f}" for m in group}
        row = {"machine": machine, "detector": detector, "features": features or "images"}
        row |= {f"{count:,}": seconds.get(count, "") for count in counts}
        rows.append(row | {"memory, GB": f"{max(m.measured['memory_gb'] for m in group):.1f}"})
    return pd.DataFrame(rows)


def sharing_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """Several trainings on one device: images per second of all of them, and how many times those of one alone."""

    def row(m: Measurement) -> dict[str, Any]:
        rates = m.measured["images_per_second"]
        shown = {"network": f"{m.settings['model']}, width {m.settings['width']}", "batch": m.settings["batch_size"]}
        shown |= {"trainings": m.settings["models"], "one alone": f"{statistics.median(rates['alone']):,.0f}"}
        for name in ("processes", "stack"):
            gains = [all_of_them / one for all_of_them, one in zip(rates[name], rates["alone"], strict=True)]
            shown |= {name: f"{statistics.median(rates[name]):,.0f}", f"{name}, times": span(gains, 1)}
        return shown

    return _table(measurements, row, by=("width", "batch_size", "models"))


def settings_and_figures(measurements: Sequence[Measurement]) -> pd.DataFrame:
    """Any program's measurements as they are: the settings in which they differ, and every number with its spread.

    A list of numbers becomes mean and standard deviation; a mapping, a column per entry. Settings that are lists or
    mappings are left out.
    """
    values = [m.settings for m in measurements]
    shown = [k for k in dict.fromkeys(k for v in values for k in v) if not isinstance(values[0].get(k), dict | list)]
    names = [k for k in shown if len({str(v.get(k, "")) for v in values}) > 1]

    def row(m: Measurement) -> dict[str, Any]:
        settings = {name.replace("_", " "): str(m.settings.get(name, "")) for name in names}
        return (settings or {"what": m.what}) | _figures(m.measured)

    return _table(measurements, row, by=names).fillna("")


def _figures(measured: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in measured.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            found |= _figures(value, name)
        elif isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
            spread = f"{mean_and_deviation(value, 2)} ({len(value)})"
            found[name] = spread if len(value) > 1 else f"{value[0]:,.1f}"
        elif isinstance(value, int | float):
            found[name] = f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
        elif isinstance(value, str):
            found[name] = value
    return found
