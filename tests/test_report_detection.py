"""The tables of detectors and labelers, from planted results."""

from __future__ import annotations

import json
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from test_report import planted

from nab.errors import ResultError
from nab.experiments import load_profile
from nab.report import detection, tables

FOUND = {"suspect_count": 1.0, "detection_precision": 90.0, "detection_recall": 45.0, "detection_auroc": 99.0}
GUESSED = {"pseudo_label_accuracy": 60.0, "pseudo_label_accuracy_all": 50.0}


def run_with(metrics: dict[str, float], **chosen: Any) -> Any:
    config = load_profile("smoke").config(**({"attack": "badnets", "defense": "audit"} | chosen))
    return planted(config, FOUND | GUESSED | metrics)


def test_the_tables_of_methods_say_what_each_needs() -> None:
    detectors = detection.method_table("detector").set_index("detector")["needs"]
    assert (detectors["lga"], detectors["oracle"]) == ("", "the truth")
    assert detectors["scan"] == "verified images, the attacked model"
    labelers = {row["labeler"]: row for row in detection.method_table("labeler").to_dict("records")}
    assert labelers["vd"]["needs"] == "verified images"
    assert "2023" in labelers["vd"]["source"]


def test_a_detector_counts_once_per_seed_however_many_labelers_it_was_run_with() -> None:
    runs = [
        run_with({"detection_precision": 80.0}, seed=0),
        run_with({"detection_precision": 80.0}, seed=0, labeler="random"),
        run_with({"detection_precision": 90.0}, seed=1, defense="nab"),
    ]
    (row,) = detection.detector_table(runs).to_dict("records")
    assert (row["attack"], row["detector"], row["seeds"]) == ("badnets", "lga", 2)
    assert row["precision"] == "85.0 ± 7.1"
    assert row["recall"] == "45.0 ± 0.0"
    assert row["suspects"] == "1.0 ± 0.0", "one of a hundred"


def test_the_authors_figures_stand_beside_ours_of_the_same_attack_and_method() -> None:
    published = json.loads(tables.REFERENCE.read_text())
    assert published["source"]
    runs = [run_with({}), run_with({}, detector="random"), run_with({}, attack="wanet")]
    shown = detection.detector_table(runs).set_index(["attack", "detector"])["authors"]
    assert shown.to_dict() == {("badnets", "lga"): "96.7", ("badnets", "random"): "", ("wanet", "lga"): ""}
    labels = detection.labeler_table(runs).set_index(["attack", "labeler"])
    assert labels.loc[("badnets", "vd"), "authors"] == "70.6"
    assert labels.loc[("badnets", "vd"), "authors, all"] == "67.8"
    assert labels.loc[("wanet", "vd"), "authors"] == ""


@pytest.mark.parametrize("changes", [{"poison_rate": 0.02}, {"detection_rate": "auto"}], ids=str)
def test_the_authors_figures_do_not_stand_beside_ours_of_other_rates(changes: dict[str, Any]) -> None:
    assert "authors" not in detection.detector_table([run_with({}, **changes)])


def test_labelers_are_compared_on_the_suspects_of_one_detector() -> None:
    runs = [
        run_with({"pseudo_label_accuracy": 40.0}),
        run_with({"pseudo_label_accuracy": 99.0}, detector="random", seed=1),
        run_with({"pseudo_label_accuracy": 100.0}, labeler="random"),
    ]
    shown = detection.labeler_table(runs).set_index("labeler")["label ACC"].to_dict()
    assert shown == {"vd": "40.0", "random": "100.0"}
    assert detection.labeler_table(runs, "random")["label ACC"].tolist() == ["99.0"]
    again = [
        run_with({"pseudo_label_accuracy": value}, defense="nab", seed=seed) for seed, value in ((0, 40.0), (2, 50.0))
    ]
    assert detection.label_accuracy(runs + again, "vd") == {"badnets": 45.0}, "seed 0 counts once"
    assert detection.label_accuracy(runs, "nc") == {}
    assert detection.label_accuracy([], "vd") == {}


def test_a_pair_shows_accuracy_and_attack_success_of_nab_alone() -> None:
    outcome = {"clean_accuracy": 80.0, "attack_success_rate": 3.0}
    runs = [
        run_with(outcome, defense="nab"),
        run_with(outcome | {"attack_success_rate": 5.0}, defense="nab", seed=1),
        run_with(outcome | {"clean_accuracy": 1.0}),
        run_with(outcome | {"clean_accuracy": 2.0}, defense="nab", attack="blend"),
        run_with(outcome | {"clean_accuracy": 70.0}, defense="nab", detector="random", labeler="random"),
        run_with(outcome | {"clean_accuracy": 60.0}, defense="nab", labeler="random"),
    ]
    first, second = detection.pair_table(runs, "badnets").to_dict("records")
    assert (first["detector"], first["vd"], first["random"]) == ("lga", "80.0 ± 0.0 / 4.0 ± 1.4", "60.0 / 3.0")
    assert (first["seeds"], second["seeds"]) == ("1 to 2", "1")
    assert (second["detector"], second["vd"], second["random"]) == ("random", "", "70.0 / 3.0")
    assert detection.pair_table(runs, "sig").empty


def test_rows_are_in_the_order_in_which_methods_are_registered() -> None:
    """``random`` is a detector and a labeler, in different places."""
    names = ["random", "fct", "scan", "lga"]
    shown = detection.detector_table([run_with({}, detector=name) for name in names])
    assert shown["detector"].tolist() == names[::-1]
    names = ["random", "knn", "vd"]
    shown = detection.labeler_table([run_with({}, labeler=name) for name in names])
    assert shown["labeler"].tolist() == names[::-1]


def test_suspects_without_labels_count_for_the_detector_alone() -> None:
    runs = [run_with({"detection_precision": 70.0}, defense="drop-suspects"), run_with({}, defense="none")]
    assert detection.detector_table(runs)["precision"].tolist() == ["70.0"]
    with pytest.raises(ResultError):
        detection.labeler_table(runs)


def test_no_runs_with_suspects_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ResultError, match="nab run"):
        detection.detector_table([])
    with pytest.raises(ResultError, match="nab run"):
        detection.labeler_table([])


def test_oracles_are_in_no_table() -> None:
    """Their figures are set by a dial, of which a table would show an average."""
    runs = [run_with({}, defense="nab", **{kind: "oracle"}) for kind in ("detector", "labeler")]
    assert detection.pair_table(runs, "badnets").empty
    for table in (detection.detector_table, detection.labeler_table):
        with pytest.raises(ResultError):
            table(runs)


def test_the_dials_show_each_oracle_alone() -> None:
    dials = [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (0.5, 0.5)]
    runs = [
        run_with(
            {"clean_accuracy": 80.0, "attack_success_rate": 10.0 * place, "robust_accuracy": 70.0},
            defense="nab",
            detector="oracle",
            labeler="oracle",
            **{"detector.accuracy": detector, "labeler.accuracy": labeler},
        )
        for place, (detector, labeler) in enumerate(dials)
    ]
    figure = detection.dial_figure([*runs, run_with({})])
    assert figure is not None
    left, right = figure.axes
    success = {axes: dict(np.asarray(axes.lines[3].get_xydata()).tolist()) for axes in (left, right)}
    assert success == {left: {50.0: 10.0, 100.0: 0.0}, right: {50.0: 20.0, 100.0: 0.0}}
    plt.close(figure)


def test_without_oracles_there_are_no_dials() -> None:
    assert detection.dial_figure([run_with({})]) is None
