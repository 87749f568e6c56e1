"""The table of encoders, from planted measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from nab.report import sweep


def test_encoder_table_has_a_row_per_measurement(tmp_path: Path) -> None:
    point = {"epoch": 4, "seconds": 150.0, "nc": 40.0, "nc_all": 41.0, "knn": 50.04, "knn_all": 51.0}
    point |= {"nc_mahalanobis": 45.0, "nc_mahalanobis_all": 46.0}
    row = {"setting": "simclr", "encoder": {"params": {"epochs": 8}}, "attack": "badnets", "seed": 0}
    (tmp_path / "one.json").write_text(json.dumps(row | {"epochs": [point, point | {"epoch": 8, "nc": 60.0}]}))
    table = sweep.encoder_table(tmp_path)
    assert table["epoch"].tolist() == [4, 8]
    assert table["NC, Euclid"].tolist() == ["40.0", "60.0"]
    assert table["NC, Mahalanobis, all"].tolist() == ["46.0", "46.0"]
    first = table.to_dict("records")[0]
    assert [first[name] for name in ("encoder", "minutes", "kNN")] == ["simclr, 8 epochs", "2", "50.0"]
    assert sweep.encoder_table(tmp_path / "none").empty


def test_the_lead_begins_where_it_stays() -> None:
    """Ahead at epoch 4, behind at 8, ahead for good from 12."""
    columns = {
        "epoch": [4, 8, 12, 16],
        "minutes": ["2", "4", "6", "8"],
        "NC, Mahalanobis": ["66.0", "64.9", "65.0", "70.0"],
    }
    table = pd.DataFrame(columns).assign(encoder="simclr", attack="badnets", seed=0)
    assert sweep.lead_note(table, {"badnets": 50.0}) == (
        "simclr, badnets, seed 0: from epoch 12 on, that is, after 6 minutes (65.0)"
    )
    assert sweep.lead_note(table, {"badnets": 50.0}, 21) == "simclr, badnets, seed 0: not within these epochs (71.0)"
    assert sweep.lead_note(table, {"blend": 50.0}) == ""
    assert sweep.lead_note(table[:0], {"badnets": 50.0}) == ""
