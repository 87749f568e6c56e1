"""Speed: tables from the files that the programs in ``benchmarks/`` write."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from nab.report.measurements import FOLDER, Measurement, note, read_measurements, span, table_of, without_machine
from nab.report.tables import mean_and_deviation

__all__ = [
    "FOLDER",
    "Measurement",
    "arithmetic_table",
    "defense_cost_table",
    "detector_time_table",
    "note",
    "others_table",
    "read_measurements",
    "settings_and_figures",
    "sharing_table",
    "stand_ins",
    "throughput_table",
    "without_machine",
]


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
    return table_of(chosen, row, by=("width", "batch_size"))


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

    return table_of(found, row, by=("train_images", "epochs", "code"))


def stand_ins(measurements: Iterable[Measurement]) -> list[str]:
    """What other implementations were given from outside so that they run: ``"authors: ..."``, each line once."""
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

    return table_of(measurements, row, by=("precision", "width", "batch_size"))


def defense_cost_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
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

    return table_of(measurements, row, by=("width", "batch_size"))


def detector_time_table(measurements: Iterable[Measurement]) -> pd.DataFrame:
    """A row per detector: seconds for every number of samples, a column each, and the greatest memory.

    The fastest repetition counts, for other work on the machine can only slow one down.
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

    return table_of(measurements, row, by=("width", "batch_size", "models"))


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

    return table_of(measurements, row, by=names).fillna("")


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
