"""The sweep of LGA's settings, from the files that ``benchmarks/lga_sweep.py`` writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nab.errors import ResultError
from nab.report.places import found

FOLDER = Path("benchmarks") / "results" / "lga"
ENCODERS = Path("benchmarks") / "results" / "encoder"


def _read(folder: str | Path) -> list[dict[str, Any]]:
    """Every JSON file of a folder, which need not be there; the folder around it must be."""
    path = found(Path(folder).parent) / Path(folder).name
    return [json.loads(file.read_text()) for file in sorted(path.glob("*.json"))]


def encoder_table(folder: str | Path = ENCODERS) -> pd.DataFrame:
    """How many labels NC and kNN get right while an encoder learns, of suspects and, under *all*, of the whole set.

    From ``benchmarks/encoder_sweep.py``; no rows if nothing was measured.
    """
    rows = _read(folder)
    labelers = {"nc": "NC, Euclid", "nc_mahalanobis": "NC, Mahalanobis", "knn": "kNN"}
    return pd.DataFrame(
        {
            "encoder": f"{row['setting']}, {row['encoder']['params']['epochs']} epochs",
            "attack": row["attack"],
            "seed": row["seed"],
            "epoch": point["epoch"],
            "minutes": f"{point['seconds'] / 60:.0f}",
        }
        | {title: f"{point[name]:.1f}" for name, title in labelers.items()}
        | {f"{title}, all": f"{point[f'{name}_all']:.1f}" for name, title in labelers.items()}
        for row in rows
        for point in row["epochs"]
    )


def lead_note(table: pd.DataFrame, others: Mapping[str, float], points: float = 15.0) -> str:
    """Since which epoch NC with Mahalanobis' distance has been ahead of another labeler by some points, on suspects.

    Args:
        table: from `encoder_table`.
        others: the other labeler's accuracy on suspects in percent, by attack; attacks that are missing are left out.
        points: percentage points.
    """
    lines = []
    for (encoder, attack, seed), rows in table.groupby(["encoder", "attack", "seed"]) if len(table) else ():
        if str(attack) not in others:
            continue
        wanted = others[str(attack)] + points
        is_ahead = (rows["NC, Mahalanobis"].astype(float) >= wanted).to_numpy()
        ahead = rows[is_ahead[::-1].cumprod()[::-1].astype(bool)]  # and stays so
        when = "not within these epochs"
        if len(ahead):
            when = f"from epoch {ahead['epoch'].iloc[0]} on, that is, after {ahead['minutes'].iloc[0]} minutes"
        lines.append(f"{encoder}, {attack}, seed {seed}: {when} ({wanted:.1f})")
    return "; ".join(lines)


def sweep_rows(folder: str | Path = FOLDER) -> list[dict[str, Any]]:
    """Every combination that was measured, the authors' setting first.

    Raises:
        ResultError: there are none.
    """
    rows = _read(folder)
    if not rows:
        raise ResultError(f"no sweep in {folder}; make one with `python benchmarks/lga_sweep.py`")
    return sorted(rows, key=lambda row: (row["setting"] != "authors", row["setting"], row["attack"], row["seed"]))


def sweep_points(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per setting, attack, seed and epoch."""
    return pd.DataFrame(
        [
            {"setting": row["setting"], "attack": row["attack"], "seed": row["seed"]} | epoch
            for row in rows
            for epoch in row["epochs"]
        ]
    )


def sweep_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Detection precision by setting and epoch: the mean over attacks and seeds and, in brackets, the worst case."""
    points = sweep_points(rows)
    cells = points.groupby(["setting", "epoch"], sort=False)["detection_precision"].agg(["mean", "min"])
    text = cells.apply(lambda row: f"{row['mean']:.0f} ({row['min']:.0f})", axis=1)
    table = text.unstack("epoch")
    table.columns = [str(epoch) for epoch in table.columns]
    runs = points.groupby("setting", sort=False)[["attack", "seed"]].apply(lambda group: len(group.drop_duplicates()))
    table.insert(len(table.columns), "runs", runs)
    table.insert(0, "setting", table.index)
    return table.loc[list(dict.fromkeys(points["setting"]))].reset_index(drop=True)
