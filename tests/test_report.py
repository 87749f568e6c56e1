"""Tables and figures from planted results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from nab.attacks import Poisoned, Triggered
from nab.data import IMAGENET, Dataset, GroundTruth
from nab.errors import ResultError
from nab.experiments import Attacked, ResultStore, RunConfig, RunResult, load_profile
from nab.report import figures, places, sweep, tables
from nab.stamp import Stamp


def planted(config: RunConfig, metrics: Mapping[str, float | None], **changes: Any) -> RunResult:
    """A result with the given numbers."""
    values: dict[str, Any] = {
        "hash": config.hash,
        "profile": "smoke",
        "settings": config.settings,
        "metrics": dict(metrics),
        "curves": {
            "training": [{"epoch": e, "clean_accuracy": 10.0 * e, "attack_success_rate": 5.0 * e} for e in (1, 2, 3)]
        },
        "data": {"provenance": "published", "train_images": 100, "classes": [str(k) for k in range(10)]},
        "cost": {"attack": 1.0, "training": 9.0},
        "wall_seconds": 3.0,
        "images_per_second": {"training": 1000.0},
        "peak_memory_mb": {"host": 500.0},
        "device": {"type": "cpu", "name": "a processor", "threads": 2, "precision": "float32"},
        "versions": {"nab": "1", "torch": "2.11.0"},
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
    html = tables.show(tables.defense_table(run for run in two_seeds() if run.method("defense") == "none")).to_html()
    assert "ACC" in html
    assert "DER" not in html
    assert "RA" not in html


def test_no_results_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ResultError, match="nab run"):
        tables.defense_table([])


def test_metrics_have_headings_and_so_have_other_ways_to_use_a_network() -> None:
    names = ("robust_accuracy", "robust_accuracy_all", "attack_success_rate_unstamped", "clean_accuracy_after_refusal")
    assert [tables.title(name) for name in names] == ["RA", "RA, all", "ASR, no stamp", "ACC, after refusal"]
    assert tables.title("robust_accuracy_all_without_filter") == "RA, all, without filter"
    assert tables.title("suspect_count") == "suspect count"


def test_every_other_way_to_use_a_network_has_a_column() -> None:
    metrics: dict[str, float | None] = {"clean_accuracy": 90.0, "attack_success_rate": 1.0}
    defended = planted(load_profile("smoke").config(defense="nab"), metrics | {"attack_success_rate_unfiltered": 97.0})
    assert tables.defense_table([defended])["ASR, unfiltered"].tolist() == ["97.0"]


def test_without_an_attack_there_is_accuracy_alone() -> None:
    """DER is about an attack; and the other runs of the table still have theirs."""
    profile = load_profile("smoke")
    peace = [
        planted(profile.config(attack="none", defense=defense), {"clean_accuracy": acc})
        for defense, acc in (("none", 95.0), ("nab", 93.0))
    ]
    rows = tables.defense_table([*peace, *two_seeds()]).to_dict("records")
    attacked, quiet = (row for row in rows if row["defense"] == "nab (lga + vd)")
    assert [quiet[name] for name in ("attack", "poisoned", "ACC", "ASR", "DER")] == ["none", "", "93.0", "", ""]
    assert (attacked["attack"], attacked["DER"]) == ("badnets", "97.5 ± 2.1")


def test_defended_runs_are_compared_with_the_same_network_alone() -> None:
    metrics: dict[str, float | None] = {"clean_accuracy": 90.0, "attack_success_rate": 1.0}
    other = planted(load_profile("smoke").config(defense="nab", **{"recipe.epochs": 3}), metrics)
    assert tables.defense_table([*two_seeds(), other])["DER"].tolist().count("") == 2  # the undefended, and this one


def test_refusals_have_a_table_of_their_own() -> None:
    refusing = {
        "clean_refusal_rate": 5.0,
        "triggered_refusal_rate": 90.0,
        "clean_accuracy_after_refusal": 88.0,
        "attack_success_rate_after_refusal": 1.0,
        "defense_success_rate": 99.0,
    }
    runs = [*two_seeds(), planted(load_profile("smoke").config(defense="nab"), refusing)]
    (row,) = tables.refusal_table(runs).to_dict("records")
    assert [row[name] for name in ("C-REJ", "B-REJ", "ACC, after refusal", "DSR")] == ["5.0", "90.0", "88.0", "99.0"]


def test_studies_choose_runs_and_further_seeds_join_them(tmp_path: Path) -> None:
    profile, store = load_profile("smoke"), ResultStore(tmp_path, "smoke")
    settings: dict[str, dict[str, Any]] = {
        "main": {"studies": ["main"]},
        "both": {"studies": ["main", "other"], "defense": "nab"},
        "another seed": {"seed": 7},
        "other": {"studies": ["other"], "attack": "blend"},
        "by hand": {"defense": "nab", "detection_rate": 0.1},
    }
    hashes = {}
    for what, given in settings.items():
        studies = given.pop("studies", [])
        config = profile.config(**given)
        hashes[config.hash] = what
        store.write(planted(config, {}, studies=studies), config)
    found = {hashes[run.hash] for run in tables.main_runs(tmp_path, "smoke")}
    assert found == {"main", "both", "another seed"}
    found = {hashes[run.hash] for run in tables.study_runs(tmp_path, "smoke", "other")}
    assert found == {"both", "other"}
    assert len(tables.study_runs(tmp_path, "smoke", "main", "other")) == 4
    assert tables.study_runs(tmp_path, "smoke", "none such") == []


def test_results_are_found_from_anywhere_or_said_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the checkout count where the working directory has none; a profile that was never run has none."""
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    for folder in (checkout / "kept" / "smoke", elsewhere):
        folder.mkdir(parents=True)
    monkeypatch.setattr(places, "HOME", checkout)
    monkeypatch.chdir(elsewhere)
    assert places.found("kept") == checkout / "kept"
    assert tables.runs_of("kept", "smoke") == tables.runs_of("kept", "laptop") == []
    with pytest.raises(ResultError, match=f"no folder {elsewhere}/gone or {checkout}/gone;"):
        tables.runs_of("gone", "smoke")
    with pytest.raises(ResultError, match=f"no folder {tmp_path}/gone;"):
        tables.runs_of(tmp_path / "gone", "smoke")
    (elsewhere / "kept").mkdir()
    assert places.found("kept") == elsewhere / "kept"


def test_sweep_table_gives_mean_and_worst_case(tmp_path: Path) -> None:
    for seed, values in enumerate(([10.0, 90.0], [20.0, 100.0])):
        epochs = [{"epoch": e + 1, "detection_precision": value} for e, value in enumerate(values)]
        row = {"setting": "authors", "attack": "badnets", "seed": seed, "epochs": epochs}
        (tmp_path / f"{seed}.json").write_text(json.dumps(row))
    table = sweep.sweep_table(sweep.sweep_rows(tmp_path))
    assert table.iloc[0].tolist() == ["authors", "15 (10)", "95 (90)", 2]


def test_missing_sweep_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="lga_sweep"):
        sweep.sweep_rows(tmp_path)


def test_stamped_pixels_shows_the_mean_color_and_leaves_the_rest() -> None:
    """Value 0 after normalization is the mean color of ImageNet: 0.485, 0.456, 0.406 of 255."""
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    seen = figures.stamped_pixels(images, Stamp(), IMAGENET)
    assert seen[0, :, 0, 0].tolist() == [124, 116, 104]
    assert torch.equal(seen[:, :, 2:, :], images[:, :, 2:, :])
    assert torch.equal(seen[:, :, :, 2:], images[:, :, :, 2:])


def test_predictions_have_a_row_for_every_way_to_use_the_defended_network(few_digits: Dataset) -> None:
    figures.use_style()
    triggered = Triggered(255 - few_digits.images, few_digits.labels, torch.zeros_like(few_digits.labels))
    truth = GroundTruth(few_digits.labels, torch.zeros(len(few_digits), dtype=torch.bool))
    data = Attacked(few_digits, few_digits, few_digits, Poisoned(few_digits, truth), triggered)
    example = {"index": 3, "true_label": 4, "clean": 4, "triggered": 0}
    undefended = planted(load_profile("smoke").config(), {}, examples=[example])
    ways = {"triggered": 4, "triggered_unstamped": 0, "triggered_other": -1}
    defended = planted(load_profile("smoke").config(defense="nab"), {}, examples=[example | ways])
    drawn = figures.predictions(data, undefended, defended, seen=lambda images: images // 2)
    assert [ax.get_title() for ax in drawn.axes] == ["4", "0", "0", "refused (4)", "4"]
    assert [ax.get_ylabel().split("\n")[1] for ax in drawn.axes] == [*["no defense"] * 2, "no stamp", "other", "nab"]
    shown = [torch.as_tensor(ax.images[0].get_array())[0, 0].tolist() for ax in drawn.axes]
    pixel = few_digits.images[3, :, 0, 0].tolist()
    away = [255 - level for level in pixel]
    assert shown == [pixel, away, away, away, [level // 2 for level in away]]
    assert len(figures.dynamics_figure(two_seeds()[:2]).axes) == 2


def test_dynamics_draw_every_way_to_use_the_network() -> None:
    rows = [{"epoch": e, "loss": 1.0, "clean_accuracy": 9.0, "clean_accuracy_unstamped": 5.0} for e in (1, 2)]
    run = planted(load_profile("smoke").config(defense="nab"), {}, curves={"attacked": [], "training": rows})
    (axes,) = figures.dynamics_figure([run]).axes
    assert axes.get_legend_handles_labels()[1] == ["ACC", "ACC, no stamp"]
    assert [line.get_linestyle() for line in axes.get_lines()] == ["-", ":"]


def test_loss_gap_has_a_panel_per_attack() -> None:
    rows = [{"epoch": e, "loss_clean": 1.0, "loss_poisoned": 0.1, "detection_precision": 90.0} for e in (1, 2)]
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


def test_figures_stay_in_one_line() -> None:
    table = pd.DataFrame({"attack": ["badnets"], "ACC": ["84.3 ± 0.1"], "seeds": [3], "pair": ["84.3 / 2.1"]})
    style = tables.show(table).to_html().split("</style>")[0]
    for column in (1, 2, 3):
        assert f"row0_col{column}" in style
    assert "white-space: nowrap;" in style
    assert "row0_col0" not in style
