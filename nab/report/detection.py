"""How good suspects and pseudo labels are, and what that does to the defense."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nab.experiments import RunResult
from nab.methods import KINDS
from nab.needs import NEEDS
from nab.report.style import METRIC_COLORS
from nab.report.tables import TITLES, frame, mean_and_deviation, reference, summarize

QUALITY = ("suspect_share", "detection_precision", "detection_recall", "detection_auroc")
LABEL_QUALITY = ("pseudo_label_accuracy", "pseudo_label_accuracy_all")
DIALS = {"detector": "suspects that are poisoned (%)", "labeler": "pseudo labels that are right (%)"}


def method_table(kind: str) -> pd.DataFrame:
    """What there is: every registered method of a kind, what it needs besides the images, its source."""
    return pd.DataFrame(
        {
            kind: name,
            "idea": method.summary,
            "needs": ", ".join(words for need, words in NEEDS.items() if need in method().needs),
            "source": method.source,
        }
        for name, method in KINDS[kind].registry.items()
    )


def detector_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T4, first half: suspects by attack and detector, with the authors' own figure where it was published.

    A detector's suspects do not depend on the labeler, so one of the runs that differ in the labeler alone counts. This
    and the other tables leave oracles out; `dial_figure` shows them.
    """
    runs = _without_oracles(runs)
    table = frame(runs)
    if not table.empty:
        table["suspect_share"] = [100 * (run.metrics["suspect_count"] or 0) / run.data["train_images"] for run in runs]
        table = _in_order(table).drop_duplicates(["attack", "detector", "seed"])
        table["setting"] = table["detector"]
    ours = summarize(table, ("attack", "detector"), QUALITY)
    known = reference()
    authors = {(entry["attack"], known["detector"]): entry["detection_precision"] for entry in known["entries"]}
    rates = {(run.settings["poison_rate"], run.settings["detection_rate"]) for run in runs}
    if rates != {(known["poison_rate"], known["detection_rate"])}:
        return ours
    return _beside(ours, {TITLES["detection_precision"]: ("authors", authors)}, ("attack", "detector"))


def labeler_table(runs: Iterable[RunResult], detector: str = "lga") -> pd.DataFrame:
    """T4, second half: pseudo labels by attack and labeler, on the suspects of one detector and on all samples."""
    table = _labels(runs, detector)
    ours = summarize(table, ("attack", "labeler"), LABEL_QUALITY)
    published = {"pseudo_label_accuracy": "on_suspects", "pseudo_label_accuracy_all": "on_all"}
    authors = {
        TITLES[metric]: (
            TITLES[metric].replace("label ACC", "authors"),
            {
                (entry["attack"], labeler): value
                for entry in reference()["entries"]
                for labeler, value in entry[f"pseudo_label_accuracy_{where}"].items()
            },
        )
        for metric, where in published.items()
    }
    return _beside(ours, authors, ("attack", "labeler"))


def label_accuracy(runs: Iterable[RunResult], labeler: str, detector: str = "lga") -> dict[str, float]:
    """How often one labeler is right about the suspects of one detector, in percent: the mean over seeds, by attack."""
    table = _labels(runs, detector)
    if table.empty:
        return {}
    means = table[table["labeler"] == labeler].groupby("attack")["pseudo_label_accuracy"].mean()
    return {str(attack): float(mean) for attack, mean in means.items()}


def _labels(runs: Iterable[RunResult], detector: str) -> pd.DataFrame:
    """A row per attack, labeler and seed; pseudo labels do not depend on the defense."""
    table = frame(_without_oracles(runs))
    if not table.empty:
        table = table[(table["detector"] == detector) & (table["labeler"] != "")]
    if not table.empty:
        table = _in_order(table).drop_duplicates(["attack", "labeler", "seed"])
        table["setting"] = table["labeler"]
    return table


def _without_oracles(runs: Iterable[RunResult]) -> list[RunResult]:
    """The runs with suspects that no oracle had a part in."""
    return [run for run in runs if run.method("detector") and "oracle" not in (run.method(kind) for kind in DIALS)]


def _beside(
    ours: pd.DataFrame, authors: Mapping[str, tuple[str, Mapping[tuple[str, str], float]]], by: Sequence[str]
) -> pd.DataFrame:
    """A column with the authors' figure to the right of each of ours that they published; its heading comes first."""
    for title, (heading, known) in authors.items():
        values = [known.get(tuple(row)) for row in ours[list(by)].itertuples(index=False)]
        place = list(ours).index(title) + 1
        ours.insert(place, heading, ["" if value is None else f"{value:.1f}" for value in values])
    return ours


def pair_table(runs: Iterable[RunResult], attack: str) -> pd.DataFrame:
    """T5: NAB with every detector (rows) and labeler (columns) against one attack: ACC / ASR, mean and deviation.

    Where the cells of a row have different numbers of seeds, the last column gives the least and the greatest.
    """
    meant = (run for run in runs if run.method("attack") == attack and run.method("defense") == "nab")
    table = frame(_without_oracles(meant))
    if table.empty:
        return table
    rows = []
    for detector, group in _in_order(table).groupby("detector", sort=False):
        row: dict[str, Any] = {"detector": detector}
        row[TITLES["detection_precision"]] = mean_and_deviation(
            group.drop_duplicates("seed")["detection_precision"].tolist()
        )
        for labeler, cell in group.groupby("labeler", sort=False):
            figures = [mean_and_deviation(cell[m].tolist()) for m in ("clean_accuracy", "attack_success_rate")]
            row[str(labeler)] = " / ".join(figures)
        seeds = group.groupby("labeler")["seed"].nunique()
        rows.append(row | {"seeds": " to ".join(map(str, sorted({seeds.min(), seeds.max()})))})
    pairs = pd.DataFrame(rows).fillna("")
    return pairs[[name for name in pairs if name != "seeds"] + ["seeds"]]


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """By attack, then as the methods are registered, then by seed; a copy."""
    places = {kind: {name: place for place, name in enumerate(KINDS[kind].registry)} for kind in DIALS}
    detector, labeler = (table[kind].map(places[kind]) for kind in DIALS)
    keys = ["attack", "_detector", "_labeler", "seed"]
    return table.assign(_detector=detector, _labeler=labeler).sort_values(keys).drop(columns=["_detector", "_labeler"])


def dial_figure(runs: Iterable[RunResult]) -> Figure | None:
    """F5, the two dials: ACC, ASR and RA of NAB against how often an oracle's suspects, or its labels, are right.

    Left, the labels are all true; right, the suspects are all poisoned. A mark per run, a line through the means.
    Returns None if there are no such runs.
    """
    rows = []
    for run in runs:
        if all(run.method(kind) == "oracle" for kind in DIALS):
            rows.append({kind: 100 * run.params(kind)["accuracy"] for kind in DIALS} | run.metrics)
    if not rows:
        return None
    table = pd.DataFrame(rows)
    figure, grid = plt.subplots(1, 2, figsize=(9.2, 3.5), sharey=True)
    for ax, (dial, label), other in zip(grid, DIALS.items(), reversed(DIALS), strict=True):
        _draw_dial(ax, table[table[other] == 100], dial)
        ax.set(xlabel=label, ylim=(-3, 103))
    grid[0].set_ylabel("percent")
    grid[1].legend()
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _draw_dial(axes: Axes, table: pd.DataFrame, dial: str) -> None:
    for name, color in METRIC_COLORS.items():
        means = table.groupby(dial)[name].mean()
        axes.plot(table[dial], table[name], "o", color=color, alpha=0.5, markersize=4)
        axes.plot(means.index, means, color=color, label=TITLES[name])
