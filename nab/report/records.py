"""Tables about the runs themselves: where and how they were made, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from nab.experiments import RunResult
from nab.report.tables import defense_name, mean_and_deviation

PARTS = {
    "attack": "attack",
    "surrogate": "attack",
    "generators": "attack",
    "secrets": "attack",
    "trigger patch": "attack",
    "encoder": "features",
    "detection": "detection",
    "pseudo labels": "labels",
    "training": "attacked model",
    "evaluation": "evaluation",
}
"""Which part of a run a stage belongs to. Stages such as ``"detection (lga)"`` belong where ``"detection"`` does; all
others, and the trainings with a word after their name, are the defense's own."""

COLUMNS = ("attack", "features", "detection", "labels", "attacked model", "defending", "evaluation", "total")

CONVERTED = "converted"
"""Stands in the version of the library of what an earlier version made."""


def provenance_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """Every run behind a page: what, where, how long; `common` tells what all have in common."""
    rows = [
        {
            "run": run.hash[:8],
            "profile": run.profile,
            "dataset": f"{run.method('dataset')} ({run.data['provenance']})",
            "images": run.data["train_images"],
            **{kind: run.method(kind) for kind in ("attack", "defense", "detector", "labeler")},
            "seed": run.seed,
            "device": f"{run.device['name']}, {run.device['threads']} threads, {run.device['precision']}",
            "commit": _short(run.commit),
            "found, from": ", ".join(dict.fromkeys(_short(maker["commit"]) for maker in run.found_makers)),
            "seconds": round(run.seconds),
            "images/s": round([*run.images_per_second.values()][-1]) if run.images_per_second else "",
            "MiB": round(run.peak_memory_mb["host"]),
            "finished": run.finished[:10],
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def _short(commit: str | None) -> str:
    """Eight digits of a commit, with a plus if the code was changed since."""
    return (commit or "")[:8] + ("+" if (commit or "").endswith("+changes") else "")


def age_note(versions: Iterable[dict[str, str]]) -> str:
    """A sentence that says how much of it an earlier version of the library made; empty if nothing.

    Args:
        versions: of the packages behind every run or measurement.
    """
    is_old = [CONVERTED in found.get("nab", "") for found in versions]
    if not any(is_old):
        return ""
    which = (
        "These numbers were" if all(is_old) else f"{sum(is_old)} of the {len(is_old)} runs behind these numbers were"
    )
    return f"{which} made with an earlier version, before the core of the library was rebuilt, and are being made anew."


def common(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A table without the columns that are the same in every row, and a line that names those."""
    if len(table) < 2:
        return table, ""
    same = [name for name in table if table[name].nunique() == 1]
    line = "; ".join(f"{name} {table[name].iloc[0]}" for name in same if table[name].iloc[0] != "")
    return table.drop(columns=same), f"All of them: {line}." if line else ""


def cost_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T7: seconds per part of a run, mean and deviation over attacks and seeds, of runs that do the same work."""
    groups: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    names = ("profile", "defense", "epochs")
    for run in runs:
        groups.setdefault((run.profile, defense_name(run), run.params("recipe")["epochs"]), []).append(_parts(run))
    rows = [
        dict(zip(names, group_of, strict=True))
        | {part: mean_and_deviation([cost[part] for cost in group if part in cost], 0) for part in COLUMNS}
        | {"runs": len(group)}
        for group_of, group in groups.items()
    ]
    return pd.DataFrame(rows)


def _parts(run: RunResult) -> dict[str, float]:
    """Seconds of each part that the run has, and in all."""
    found: dict[str, float] = {}
    for stage, seconds in run.cost.items():
        name = stage if stage.startswith("training") else stage.partition(" (")[0]
        part = PARTS.get(name, "defending")
        found[part] = found.get(part, 0.0) + seconds
    return found | {"total": run.seconds}


def settings_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """All settings of the first run of every profile and defense, a column each."""
    columns: dict[str, dict[str, str]] = {}
    for run in runs:
        column = f"{run.profile}, {run.method('defense')}"
        if column not in columns:
            columns[column] = _flat(run.settings)
    table = pd.DataFrame(columns).fillna("")
    table.insert(0, "setting", table.index)
    return table.sort_index().reset_index(drop=True)


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``recipe.lr``; methods' parameters without the word ``params``."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = prefix if key in ("params", "name") else f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict):
            flat |= _flat(value, name)
        elif value is not None:
            flat[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return flat


def version_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """The sets of package versions that occur, and how many runs were made with each."""
    counts: dict[str, int] = {}
    for run in runs:
        key = json.dumps(run.versions)
        counts[key] = counts.get(key, 0) + 1
    return pd.DataFrame([json.loads(key) | {"runs": count} for key, count in counts.items()])
