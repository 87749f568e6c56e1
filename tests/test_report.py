"""Tables and figures from planted results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nab.attacks import BadNets
from nab.data import Dataset
from nab.errors import ResultError
from nab.experiments import RunConfig, RunResult, load_profile
from nab.report import figures, records, sweep, tables
from nab.stamp import Stamp
from nab.training import Recipe


def planted(config: RunConfig, metrics: dict[str, float | None], **changes: Any) -> RunResult:
    """A result with the given numbers."""
    values: dict[str, Any] = {
        "hash": config.hash,
        "profile": "smoke",
        "config": config,
        "metrics": metrics,
        "curve": [{"epoch": e, "clean_accuracy": 10.0 * e, "attack_success_rate": 5.0 * e} for e in (1, 2, 3)],
        "data": {"provenance": "published", "train_images": 100, "classes": [str(k) for k in range(10)]},
        "seconds": {"data": 1.0, "training": 9.0, "total": 10.0},
        "images_per_second": 1000.0,
        "peak_memory_mb": {"host": 500.0},
        "device": {"name": "a processor", "threads": 2, "precision": "float32"},
        "versions": {"torch": "2.11.0"},
        "commit": "0123456789abcdef",
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return RunResult(**(values | changes))


def two_seeds() -> list[RunResult]:
    """Undefended 94/100 and 96/98, NAB 93/1 and 93/3 (ACC/ASR) for seeds 0 and 1."""
    profile = load_profile("smoke")
    runs = []
    for seed, (plain, nab) in enumerate([((94.0, 100.0), (93.0, 1.0)), ((96.0, 98.0), (93.0, 3.0))]):
        for defense, (acc, asr) in (("nab", nab), ("none", plain)):
            metrics: dict[str, float | None] = {
                "clean_accuracy": acc,
                "attack_success_rate": asr,
                "robust_accuracy": None,
            }
            runs.append(planted(profile.config(defense=defense, seed=seed), metrics))
    return runs


def test_mean_and_deviation_over_seeds() -> None:
    assert tables.mean_and_deviation([1.0, 3.0]) == "2.0 ± 1.4"  # sample deviation: sqrt(2)
    assert tables.mean_and_deviation([2.26]) == "2.3"
    assert tables.mean_and_deviation([2.26, math.nan]) == "2.3"
    assert tables.mean_and_deviation([]) == ""


def test_defense_table_counts_seeds_and_puts_the_undefended_network_first() -> None:
    table = tables.defense_table(two_seeds())
    assert table["defense"].tolist() == ["none", "nab (lga + vd)"]
    assert table["seeds"].tolist() == [2, 2]
    assert table["ACC"].tolist() == ["95.0 ± 1.4", "93.0 ± 0.0"]
    assert table["ASR"].tolist() == ["99.0 ± 1.4", "2.0 ± 1.4"]
    # Seed 0: (99 - 1 + 100) / 2 = 99; seed 1: (95 - 3 + 100) / 2 = 96. Mean 97.5, deviation 3 / sqrt(2).
    assert table["DER"].tolist() == ["", "97.5 ± 2.1"]


def test_shown_table_leaves_out_empty_columns() -> None:
    html = tables.show(tables.defense_table(run for run in two_seeds() if run.config.defense.name == "none")).to_html()
    assert "ACC" in html
    assert "DER" not in html
    assert "RA" not in html


def test_no_results_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ResultError, match="nab run"):
        tables.defense_table([])


def test_settings_table_spells_out_every_setting() -> None:
    table = records.settings_table(two_seeds()).set_index("setting")
    assert table.loc["recipe.momentum", "smoke, none"] == "0.9"
    assert table.loc["detector.gamma", "smoke, nab"] == "0.5"
    assert table.loc["detector.gamma", "smoke, none"] == ""


def test_record_tables_have_a_row_per_run_or_group() -> None:
    runs = two_seeds()
    assert len(records.provenance_table(runs)) == 4
    cost = records.cost_table(runs)
    assert cost["total"].tolist() == ["10 ± 0", "10 ± 0"]
    assert sorted(cost[["defense", "detector", "epochs"]].values.tolist()) == [["nab", "lga", 30], ["none", "", 30]]
    assert records.version_table(runs)["runs"].tolist() == [4]


def test_runs_say_once_what_they_have_in_common() -> None:
    table, line = records.common(records.provenance_table(two_seeds()))
    assert {"run", "defense", "detector", "labeler", "seed"} <= set(table)
    assert not {"profile", "dataset", "images", "attack", "device"} & set(table)
    assert "profile smoke; dataset digits (published); images 100" in line
    alone = records.provenance_table(two_seeds()[:1])
    assert records.common(alone)[0] is alone
    assert records.common(alone[:0])[1] == ""


def test_sweep_table_gives_mean_and_worst_case(tmp_path: Path) -> None:
    for seed, values in enumerate(([10.0, 90.0], [20.0, 100.0])):
        epochs = [{"epoch": e + 1, "detection_accuracy": value} for e, value in enumerate(values)]
        row = {"setting": "authors", "attack": "badnets", "seed": seed, "epochs": epochs}
        (tmp_path / f"{seed}.json").write_text(json.dumps(row))
    table = sweep.sweep_table(sweep.sweep_rows(tmp_path))
    assert table.iloc[0].tolist() == ["authors", "15 (10)", "95 (90)", 2]


def test_missing_sweep_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="lga_sweep"):
        sweep.sweep_rows(tmp_path)


def test_stamped_pixels_shows_the_mean_colour_and_leaves_the_rest() -> None:
    """Value 0 after normalisation is the mean colour of ImageNet: 0.485, 0.456, 0.406 of 255."""
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    seen = figures.stamped_pixels(images, Stamp(), Recipe())
    assert seen[0, :, 0, 0].tolist() == [124, 116, 104]
    assert torch.equal(seen[:, :, 2:, :], images[:, :, 2:, :])
    assert torch.equal(seen[:, :, :, 2:], images[:, :, :, 2:])


def test_figures_draw_what_they_are_given(digits: tuple[Dataset, Dataset]) -> None:
    figures.use_style()
    runs = two_seeds()
    assert len(figures.dynamics_figure(runs[:2]).axes) == 2
    example = {"index": 3, "true_label": 4, "clean": 4, "triggered": 0}
    undefended = planted(runs[1].config, {}, examples=[example])
    defended = planted(runs[0].config, {}, examples=[example | {"triggered": 4, "triggered_unstamped": 0}])
    drawn = figures.predictions(digits[1], BadNets(), undefended, defended, stamp=Stamp(), recipe=Recipe(), count=1)
    assert [ax.get_title() for ax in drawn.axes] == ["4", "0", "0", "4"]


def test_loss_gap_has_a_panel_per_attack() -> None:
    rows = [{"epoch": e, "loss_clean": 1.0, "loss_poisoned": 0.1, "detection_accuracy": 90.0} for e in (1, 2)]
    profile = load_profile("smoke")
    runs = [
        planted(profile.config(defense="nab", attack=name), {}, detection_curve=rows) for name in ("badnets", "blend")
    ]
    assert len(figures.loss_gap_figure(runs).axes) == 4


def test_sentences_are_broken_into_lines_and_names_are_not() -> None:
    table = pd.DataFrame({"name": ["lga"], "idea": ["a sentence of a good many words, as a registry has them"]})
    html = tables.show(table).to_html()
    style = html.split("</style>")[0]
    assert "row0_col1 {\n  white-space: normal;" in style
    assert "row0_col0" not in style
