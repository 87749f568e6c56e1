"""How good suspects and pseudo labels are, and what that does to the defence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nab.detection import DETECTORS
from nab.experiments import RunConfig, RunResult, load_profile
from nab.pseudolabels import LABELERS
from nab.report.style import CLEAN, POISONED
from nab.report.tables import TITLES, frame, mean_and_deviation, reference, runs_of, summarise

QUALITY = ("suspect_share", "detection_accuracy", "detection_recall", "detection_auroc")
LABEL_QUALITY = ("pseudo_label_accuracy", "pseudo_label_accuracy_all")
DIALS = {"detector": "suspects that are poisoned (%)", "labeler": "pseudo labels that are right (%)"}


def suspect_runs(results: str | Path, profile: str, **settings: Any) -> list[RunResult]:
    """The profile's runs with suspects, whatever the attack, detector, labeler, seed, and the dials of the oracles.

    Args:
        results: where the profiles' folders lie.
        profile: a name or a YAML file.
        settings: fields of `RunConfig`, or names with dots, that differ from the profile's.
    """
    chosen = load_profile(profile)

    def is_meant(run: RunResult) -> bool:
        given = _chosen_by(run.config)
        return "detector" in given and run.hash == chosen.config(**{**given, **settings}).hash

    return [run for run in runs_of(results, chosen.name) if is_meant(run)]


def _chosen_by(config: RunConfig) -> dict[str, Any]:
    """What may differ from run to run."""
    given: dict[str, Any] = {"attack": config.attack.name, "defense": config.defense.name, "seed": config.seed}
    for kind in DIALS:
        method = getattr(config, kind)
        if method is not None:
            given[kind] = method.name
            if method.name == "oracle":
                given[f"{kind}.accuracy"] = method.params["accuracy"]
    return given


def method_table(kind: str) -> pd.DataFrame:
    """What there is: every registered ``"detector"`` or ``"labeler"``, what it needs besides the images, its source."""
    registries: dict[str, Mapping[str, Any]] = {"detector": DETECTORS, "labeler": LABELERS}
    needs = {
        "needs_verified": "verified images",
        "needs_features": "self-supervised features",
        "is_oracle": "the truth",
    }
    return pd.DataFrame(
        {
            kind: name,
            "idea": method.summary,
            "needs": ", ".join(what for flag, what in needs.items() if getattr(method(), flag)),
            "source": method.source,
        }
        for name, method in registries[kind].items()
    )


def detector_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T4, first half: suspects by attack and detector, with the authors' own figure where it was published.

    A detector's suspects do not depend on the labeler: of runs that differ in it alone, one counts. Oracles are left
    out, here and in the other tables: `dial_figure` shows what theirs is for.
    """
    runs = _without_oracles(runs)
    table = frame(runs)
    if not table.empty:
        table["suspect_share"] = [100 * (run.metrics["suspect_count"] or 0) / run.data["train_images"] for run in runs]
        table = _in_order(table).drop_duplicates(["attack", "detector", "seed"])
        table["setting"] = table["detector"]
    ours = summarise(table, ("attack", "detector"), QUALITY)
    known = reference()
    authors = {(entry["attack"], known["detector"]): entry["detection_accuracy"] for entry in known["entries"]}
    rates = {(run.config.poison_rate, run.config.detection_rate) for run in runs}
    if rates != {(known["poison_rate"], known["detection_rate"])}:
        return ours
    return _beside(ours, {TITLES["detection_accuracy"]: ("authors", authors)}, ("attack", "detector"))


def labeler_table(runs: Iterable[RunResult], detector: str = "lga") -> pd.DataFrame:
    """T4, second half: pseudo labels by attack and labeler, on the suspects of one detector and on all samples."""
    table = _labels(runs, detector)
    ours = summarise(table, ("attack", "labeler"), LABEL_QUALITY)
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
    """Of one labeler on the suspects of one detector, in percent: the mean over seeds, by attack."""
    table = _labels(runs, detector)
    if table.empty:
        return {}
    means = table[table["labeler"] == labeler].groupby("attack")["pseudo_label_accuracy"].mean()
    return {str(attack): float(mean) for attack, mean in means.items()}


def _labels(runs: Iterable[RunResult], detector: str) -> pd.DataFrame:
    """A row per attack, labeler and seed: they do not depend on the defence."""
    table = frame(_without_oracles(runs))
    if not table.empty:
        table = table[table["detector"] == detector]
    if not table.empty:
        table = _in_order(table).drop_duplicates(["attack", "labeler", "seed"])
        table["setting"] = table["labeler"]
    return table


def _without_oracles(runs: Iterable[RunResult]) -> list[RunResult]:
    return [run for run in runs if "oracle" not in _chosen_by(run.config).values()]


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
    meant = (run for run in runs if run.config.attack.name == attack and run.config.defense.name == "nab")
    table = frame(_without_oracles(meant))
    if table.empty:
        return table
    rows = []
    for detector, group in _in_order(table).groupby("detector", sort=False):
        row: dict[str, Any] = {"detector": detector}
        row[TITLES["detection_accuracy"]] = mean_and_deviation(
            group.drop_duplicates("seed")["detection_accuracy"].tolist()
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
    registries: dict[str, Mapping[str, Any]] = {"detector": DETECTORS, "labeler": LABELERS}
    detector, labeler = (table[kind].map(list(names).index) for kind, names in registries.items())
    keys = ["attack", "_detector", "_labeler", "seed"]
    return table.assign(_detector=detector, _labeler=labeler).sort_values(keys).drop(columns=["_detector", "_labeler"])


def dial_figure(runs: Iterable[RunResult]) -> Figure | None:
    """F5, the two dials: ACC and ASR of NAB against how often an oracle's suspects, or its labels, are right.

    Left, the labels are all true; right, the suspects are all poisoned. A mark per run, a line through the means.
    Returns None if there are no such runs.
    """
    rows = []
    for run in runs:
        methods = {kind: getattr(run.config, kind) for kind in DIALS}
        if any(method is None or method.name != "oracle" for method in methods.values()):
            continue
        rows.append({kind: 100 * method.params["accuracy"] for kind, method in methods.items()} | run.metrics)
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
    for name, colour in (("clean_accuracy", CLEAN), ("attack_success_rate", POISONED)):
        means = table.groupby(dial)[name].mean()
        axes.plot(table[dial], table[name], "o", color=colour, alpha=0.5, markersize=4)
        axes.plot(means.index, means, color=colour, label=TITLES[name])
