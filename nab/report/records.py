"""Tables about the runs themselves: where and how they were made, and what they cost."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from nab.experiments import RunResult
from nab.report.tables import mean_and_deviation


def provenance_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """Every run behind a page: what, where, how long; `common` tells what all have in common."""
    rows = [
        {
            "run": run.hash[:8],
            "profile": run.profile,
            "dataset": f"{run.config.dataset} ({run.data['provenance']})",
            "images": run.data["train_images"],
            "attack": run.config.attack.name,
            "defense": run.config.defense.name,
            "detector": run.config.detector.name if run.config.detector else "",
            "labeler": run.config.labeler.name if run.config.labeler else "",
            "seed": run.config.seed,
            "device": f"{run.device['name']}, {run.device['threads']} threads, {run.device['precision']}",
            "commit": _short(run.commit),
            "found, from": ", ".join(dict.fromkeys(_short(maker["commit"]) for maker in run.found_makers)),
            "seconds": round(run.seconds["total"]),
            "images/s": "" if run.images_per_second is None else round(run.images_per_second),
            "MiB": round(run.peak_memory_mb["host"]),
            "finished": run.finished[:10],
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def _short(commit: str | None) -> str:
    """Eight digits of a commit, with a plus if the code was changed since."""
    return (commit or "")[:8] + ("+" if (commit or "").endswith("+changes") else "")


def common(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A table without the columns that are the same in every row, and a line that names those."""
    if len(table) < 2:
        return table, ""
    same = [name for name in table if table[name].nunique() == 1]
    line = "; ".join(f"{name} {table[name].iloc[0]}" for name in same if table[name].iloc[0] != "")
    return table.drop(columns=same), f"All of them: {line}." if line else ""


def cost_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T7: seconds per stage, mean and deviation over attacks and seeds, of runs that do the same work."""
    groups: dict[tuple[Any, ...], list[RunResult]] = {}
    for run in runs:
        config = run.config
        methods = [method.name if method else "" for method in (config.defense, config.detector, config.labeler)]
        groups.setdefault((run.profile, *methods, config.recipe.epochs), []).append(run)
    stages = ("data", "detection", "pseudo_labels", "training", "evaluation", "total")
    rows = [
        dict(zip(("profile", "defense", "detector", "labeler", "epochs"), group_of, strict=True))
        | {stage: mean_and_deviation([r.seconds[stage] for r in group if stage in r.seconds], 0) for stage in stages}
        | {"runs": len(group)}
        for group_of, group in groups.items()
    ]
    return pd.DataFrame(rows)


def settings_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """All settings of the first run of every profile and defence, a column each."""
    columns: dict[str, dict[str, str]] = {}
    for run in runs:
        title = f"{run.profile}, {run.config.defense.name}"
        if title not in columns:
            columns[title] = _flat(run.config.model_dump(mode="json"))
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
