"""Tables about the runs themselves, from planted results."""

from __future__ import annotations

from test_report import planted, two_seeds

from nab.experiments import load_profile
from nab.report import records


def test_settings_table_spells_out_every_setting() -> None:
    table = records.settings_table(two_seeds()).set_index("setting")
    assert table.loc["recipe.momentum", "smoke, none"] == "0.9"
    assert table.loc["model.width", "smoke, none"] == "16"
    assert table.loc["detector.gamma", "smoke, nab"] == "0.5"
    assert table.loc["detector.gamma", "smoke, none"] == ""


def test_record_tables_have_a_row_per_run_or_group() -> None:
    runs = two_seeds()
    assert len(records.provenance_table(runs)) == 4
    cost = records.cost_table(runs)
    assert cost["total"].tolist() == ["10 ± 0", "10 ± 0"]
    assert sorted(cost[["defense", "epochs"]].values.tolist()) == [["nab (lga + vd)", 30], ["none", 30]]
    assert records.version_table(runs)["runs"].tolist() == [4]


def test_stages_are_added_up_to_the_parts_of_a_run() -> None:
    """What the defense itself costs is told from the attacked model, the detector's and the labeler's work."""
    stages = {
        "surrogate": 1.0,
        "attack": 2.0,
        "training": 10.0,
        "detection": 20.0,
        "detection (lga)": 40.0,
        "pseudo labels (vd)": 80.0,
        "training (nab)": 100.0,
        "fine-tuning": 200.0,
        "defense: NAB": 400.0,
        "evaluation": 1000.0,
    }
    config = load_profile("smoke").config(defense="nab")
    (row,) = records.cost_table([planted(config, {}, cost=stages)]).to_dict("records")
    parts = {name: row[name] for name in records.COLUMNS}
    assert parts == {
        "attack": "3",
        "features": "",
        "detection": "60",
        "labels": "80",
        "attacked model": "10",
        "defending": "700",
        "evaluation": "1000",
        "total": "1853",
    }
    assert row["defense"] == "nab (lga + vd)"


def test_what_an_earlier_version_made_is_said_to_be() -> None:
    new, old = {"nab": "1"}, {"nab": f"0, {records.CONVERTED}"}
    assert records.age_note([new, new]) == records.age_note([]) == ""
    assert records.age_note([old, new, new]).startswith(
        "1 of the 3 runs behind these numbers were made with an earlier"
    )
    assert records.age_note([old, old]).startswith("These numbers were made with an earlier version")


def test_runs_say_once_what_they_have_in_common() -> None:
    table, line = records.common(records.provenance_table(two_seeds()))
    assert {"run", "defense", "detector", "labeler", "seed"} <= set(table)
    assert not {"profile", "dataset", "images", "attack", "device"} & set(table)
    assert "profile smoke; dataset digits (published); images 100" in line
    alone = records.provenance_table(two_seeds()[:1])
    assert records.common(alone)[0] is alone
    assert records.common(alone[:0])[1] == ""
