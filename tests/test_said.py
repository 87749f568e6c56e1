"""Sentences of the book that state a result hold for the results that are kept; new results may make them wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nab.detection import DETECTORS
from nab.report.tables import frame, reference, study_runs

ROOT = Path(__file__).parents[1]
PAPERS = ("badnets", "blend")


def rows(*studies: str) -> pd.DataFrame:
    """The laptop's runs of some studies, without oracles."""
    table = frame(study_runs(ROOT / "results", "laptop", *studies))
    return table[~table["detector"].isin(["oracle", "random"])]


def worst(table: pd.DataFrame, metric: str, detector: str, attack: str | None = None) -> float:
    """The least value of a metric over attacks and seeds."""
    chosen = table[table["detector"] == detector]
    chosen = chosen if attack is None else chosen[chosen["attack"] == attack]
    return float(chosen[metric].min())


def rare_poison_is_found_by_who_judges_classes() -> bool:
    table = rows("rare poison")
    judges = {name for name in table["detector"] if DETECTORS[name].judges_classes} - {"spectral-signatures"}
    assert len(judges) >= 4
    missed = worst(table, "detection_recall", "spectral-signatures")
    return all(worst(table, "detection_recall", name) > 99 for name in judges) and missed < 50


def rare_poison_is_lost_by_lga_and_fct_and_not_by_the_ensemble() -> bool:
    recall = rows("rare poison").set_index("detector")["detection_recall"]
    return bool(40 < recall["lga"] < 60 and recall["fct"] < 10 and recall["ensemble"] > 99)


def scan_is_never_misled_and_beatrix_on_blend() -> bool:
    table = rows("suspects")
    return (
        worst(table, "detection_precision", "scan") > 99
        and worst(table, "detection_precision", "beatrix", "blend") < 10
    )


def scan_and_strip_name_only_poison() -> bool:
    return all(worst(rows("suspects"), "detection_precision", name) > 99.5 for name in ("scan", "strip"))


def automatic_suspects_are_nearly_all_poison_for_the_ensemble_alone() -> bool:
    table = rows("automatic rate")
    good = {
        name: min(worst(table, metric, name) for metric in ("detection_precision", "detection_recall"))
        for name in set(table["detector"])
    }
    return good.pop("ensemble") > 95 and max(good.values()) < 95


def the_authors_nc_is_right_for_nine_of_ten() -> bool:
    right = [entry["pseudo_label_accuracy_on_suspects"]["nc"] for entry in reference()["entries"]]
    return min(right) >= 85 and max(right) <= 95


def nc_passes_vd_by_nearly_as_much_as_the_authors() -> bool:
    table = rows("labels")
    table = table[table["detector"] == "lga"]
    means = table.groupby(["attack", "labeler"])["pseudo_label_accuracy"].mean()
    for entry in reference()["entries"]:
        theirs = entry["pseudo_label_accuracy_on_suspects"]
        ours = means[entry["attack"], "nc"] - means[entry["attack"], "vd"]
        if not 0.7 * (theirs["nc"] - theirs["vd"]) <= ours <= theirs["nc"] - theirs["vd"]:
            return False
    return True


def the_adaptive_attacks_are_not_learned_well_at_1_percent() -> bool:
    table = rows("poison rates")
    rare = table[table["attack"].isin(["adap-blend", "adap-patch"]) & (table["poison_rate"] == 0.01)]
    assert set(rare["attack"]) == {"adap-blend", "adap-patch"}
    return bool(rare["attack_success_rate"].max() < 80)


def of_dials() -> pd.DataFrame:
    """Metrics by how often, in percent, suspects are poisoned and labels are right."""
    runs = [run for run in study_runs(ROOT / "results", "laptop", "dials") if run.method("labeler") == "oracle"]
    dials = [[100 * run.params(kind)["accuracy"] for kind in ("detector", "labeler")] for run in runs]
    return frame(runs).assign(suspects=[s for s, _ in dials], labels=[right for _, right in dials])


def means_by(table: pd.DataFrame, dial: str, metric: str) -> dict[float, float]:
    means = table.groupby(dial)[metric].mean()
    return dict(zip(means.index.tolist(), means.tolist(), strict=True))


def wrong_labels_do_not_bring_the_attack_back() -> bool:
    table = of_dials().query("suspects == 100")
    attack, clean = (means_by(table, "labels", metric) for metric in ("attack_success_rate", "clean_accuracy"))
    return attack[0] < attack[100] + 2 and clean[0] >= clean[100]


def wrong_labels_cost_robust_accuracy() -> bool:
    robust = means_by(of_dials().query("suspects == 100"), "labels", "robust_accuracy")
    return robust[50] > 0.9 * robust[100] and robust[0] < 0.5 * robust[100]


def wrong_suspects_let_triggers_through() -> bool:
    attack = means_by(of_dials().query("labels == 100"), "suspects", "attack_success_rate")
    return attack[75] < attack[100] + 2 and attack[50] > attack[100] + 5


SAID: list[tuple[str, str, Callable[[], bool]]] = [
    (
        "detection",
        "All detectors that judge classes find all of the poison, except Spectral Signatures",
        rare_poison_is_found_by_who_judges_classes,
    ),
    (
        "detection",
        "LGA loses half of the poison and FCT nearly all. The ensemble has both as members and loses nothing",
        rare_poison_is_lost_by_lga_and_fct_and_not_by_the_ensemble,
    ),
    ("detection", "SCAn was never misled. Beatrix,", scan_is_never_misled_and_beatrix_on_blend),
    ("detection", "SCAn and STRIP name only poison as well", scan_and_strip_name_only_poison),
    (
        "detection",
        "it then finds nearly all of the poison and little else in both attacks, which none of the",
        automatic_suspects_are_nearly_all_poison_for_the_ensemble_alone,
    ),
    (
        "detection",
        "The authors' NC labels are right for about nine suspects of ten",
        the_authors_nc_is_right_for_nine_of_ten,
    ),
    (
        "detection",
        "by nearly as much as the authors' files show at full scale",
        nc_passes_vd_by_nearly_as_much_as_the_authors,
    ),
    (
        "detection",
        "Even with every pseudo label false, it succeeds about as rarely as with true ones, and clean accuracy is no",
        wrong_labels_do_not_bring_the_attack_back,
    ),
    (
        "detection",
        "With half of the labels false, little of it is lost. With all of them false, most is",
        wrong_labels_cost_robust_accuracy,
    ),
    (
        "detection",
        "A quarter of clean suspects does little harm, half of them lets some triggers through",
        wrong_suspects_let_triggers_through,
    ),
    (
        "attacks",
        "even at 1 % a network of this size does not learn them well",
        the_adaptive_attacks_are_not_learned_well_at_1_percent,
    ),
]


@pytest.mark.parametrize(("page", "sentence", "holds"), SAID, ids=[holds.__name__ for _, _, holds in SAID])
def test_a_sentence_stands_in_the_book_and_holds(page: str, sentence: str, holds: Callable[[], bool]) -> None:
    text = " ".join((ROOT / "notebooks" / f"{page}.md").read_text().split())
    assert sentence in text, "the sentence has changed: change what holds it, or let it go"
    assert holds(), "the results say otherwise: write the sentence again"
