"""Tables from stored results: mean and standard deviation over seeds, and how many seeds there were."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nab.errors import ResultError
from nab.evaluation import defense_effectiveness
from nab.experiments import RunResult, read_results
from nab.methods import KINDS
from nab.report.places import found

REFERENCE = Path(__file__).parent / "reference.json"

TITLES = {
    "clean_accuracy": "ACC",
    "attack_success_rate": "ASR",
    "robust_accuracy": "RA",
    "robust_accuracy_all": "RA, all",
    "defense_effectiveness": "DER",
    "suspect_share": "suspects",
    "detection_precision": "precision",
    "detection_recall": "recall",
    "detection_auroc": "AUROC",
    "pseudo_label_accuracy": "label ACC",
    "pseudo_label_accuracy_all": "label ACC, all",
    "clean_refusal_rate": "C-REJ",
    "triggered_refusal_rate": "B-REJ",
    "defense_success_rate": "DSR",
    "input_auroc": "input AUROC",
    "input_detection_rate": "TPR at 5 % FPR",
}
"""Column headings of metrics; all in percent."""

ENDINGS = {"after_refusal": "after refusal", "unstamped": "no stamp"}
"""Headings of the other ways to use a network, and of what is left after refusal; a way without one is its own."""

LONGEST_LABEL = 32
"""Characters of a name or figure, which is a label; what is longer is a sentence."""

ORDER = {"none": 0, "nab": 1}
"""Defenses in tables: the undefended network first, then NAB, then the others by name."""

ATTACKED = ("dataset", "attack", "poison_rate", "selection", "label_map", "target", "model", "recipe", "seed")
"""The settings that an undefended network depends on."""


def title(metric: str) -> str:
    """The column heading of a metric; of one with an ending, as in ``"ASR, no stamp"``."""
    if metric in TITLES:
        return TITLES[metric]
    base = max((name for name in TITLES if metric.startswith(f"{name}_")), key=len, default="")
    if not base:
        return metric.replace("_", " ")
    ending = metric.removeprefix(f"{base}_")
    return f"{TITLES[base]}, {ENDINGS.get(ending, ending.replace('_', ' '))}"


def runs_of(results: str | Path, profile: str) -> list[RunResult]:
    """The stored results in one profile's folder; none if nothing has been run.

    Args:
        results: where the profiles' folders lie; in the checkout, if it is relative and not in the working directory.
        profile: the name of the folder.

    Raises:
        ResultError: there is no such folder of results; the message says where it was looked for.
    """
    folder = found(results) / profile
    return read_results(folder) if folder.is_dir() else []


def study_runs(results: str | Path, profile: str, *studies: str) -> list[RunResult]:
    """The results of some of a profile's studies, and those that differ from one of them in the seed alone."""
    runs = runs_of(results, profile)
    meant = {setting(run) for run in runs if set(studies) & set(run.studies)}
    return [run for run in runs if setting(run) in meant]


def main_runs(results: str | Path, profile: str) -> list[RunResult]:
    """The results of the profile's main study; see `study_runs`."""
    return study_runs(results, profile, "main")


def setting(run: RunResult) -> str:
    """What is the same for runs that differ in their seed alone."""
    return _said({name: value for name, value in run.settings.items() if name != "seed"})


def _said(values: Any) -> str:
    return json.dumps(values, sort_keys=True)


def poisoned(run: RunResult) -> str:
    """``"10 % of all"`` or ``"50 % of the target class"``; empty if nothing is."""
    rate, attack = run.settings["poison_rate"], KINDS["attack"].registry.get(run.method("attack"))
    if rate is None:
        return ""
    return f"{100 * rate:g} % of {'the target class' if attack and attack.clean_label else 'all'}"


def defense_name(run: RunResult) -> str:
    """The defense, with detector and labeler if it has any."""
    chosen = [name for name in (run.method("detector"), run.method("labeler")) if name]
    return f"{run.method('defense')} ({' + '.join(chosen)})" if chosen else run.method("defense")


def frame(runs: Iterable[RunResult]) -> pd.DataFrame:
    """One row per run: what was run (methods by name), every metric, DER, ``seconds`` in all, ``hash``.

    ``setting`` is the same for runs that differ in their seed alone. DER compares a defended run with the undefended
    one of the same data, attack, network, recipe and seed; it is NaN if there is none.
    """
    runs = list(runs)
    undefended = {_network(run): run.metrics for run in runs if run.method("defense") == "none"}
    return pd.DataFrame(
        {
            "profile": run.profile,
            **{kind: run.method(kind) for kind in ("dataset", "attack", "defense", "detector", "labeler")},
            "poison_rate": run.settings["poison_rate"],
            "poisoned": poisoned(run),
            "defended": defense_name(run),
            "seed": run.seed,
            "seconds": run.seconds,
            "hash": run.hash,
            "setting": setting(run),
            **run.metrics,
            "defense_effectiveness": _effectiveness(undefended.get(_network(run)), run),
        }
        for run in runs
    )


def _network(run: RunResult) -> str:
    """What is the same for runs in which the same network was attacked."""
    return _said([run.settings[name] for name in ATTACKED])


def _effectiveness(undefended: dict[str, float | None] | None, run: RunResult) -> float:
    if undefended is None or run.method("defense") == "none":
        return math.nan
    before, after = ({k: v for k, v in m.items() if v is not None} for m in (undefended, run.metrics))
    return defense_effectiveness(before, after)


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """``"93.4 ± 0.2"``; the sample standard deviation, left out for a single value; empty if there is none."""
    kept = pd.Series([v for v in values if v is not None and not math.isnan(v)], dtype=float)
    if kept.empty:
        return ""
    if len(kept) == 1:
        return f"{kept.iloc[0]:.{digits}f}"
    return f"{kept.mean():.{digits}f} ± {kept.std(ddof=1):.{digits}f}"


def summarize(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One row per combination of ``by`` and of all other settings but the seed: mean and deviation, and how many seeds.

    Raises:
        ResultError: there are no runs to summarize.
    """
    if table.empty:
        raise ResultError("no results to make a table of; make some with `nab run`")
    rows = []
    for values, group in table.groupby([*by, "setting"], sort=False, dropna=False):
        row = dict(zip(by, values, strict=False))
        row |= {title(m): mean_and_deviation(group[m].tolist()) if m in group else "" for m in metrics}
        rows.append(row | {"seeds": group["seed"].nunique()})
    return pd.DataFrame(rows)


def defense_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T1: attacks by defenses, with the ASR of every other way to use the defended networks."""
    table = frame(runs)
    others: list[str] = []
    if not table.empty:
        rank = table["defense"].map(lambda name: (ORDER.get(name, len(ORDER)), name))
        keys = ["dataset", "attack", "poison_rate", "_rank", "detector", "labeler", "seed"]
        table = table.assign(_rank=rank).sort_values(keys).assign(defense=table["defended"])
        others = [name for name in map(str, table) if name.startswith("attack_success_rate_")]
        others = [name for name in others if not name.endswith("after_refusal")]
    metrics = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "defense_effectiveness", *others)
    return summarize(table, ("attack", "poisoned", "defense"), metrics)


def refusal_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T6: what is refused, and what is left of ACC and ASR after it."""
    table = frame(run for run in runs if "clean_refusal_rate" in run.metrics)
    metrics = (
        "clean_refusal_rate",
        "triggered_refusal_rate",
        "clean_accuracy_after_refusal",
        "attack_success_rate_after_refusal",
        "defense_success_rate",
    )
    return summarize(table, ("attack", "defense"), metrics)


def reference() -> dict[str, Any]:
    """What the authors published with their code; the file names the source."""
    values: dict[str, Any] = json.loads(REFERENCE.read_text())
    return values


def show(table: pd.DataFrame) -> Any:
    """A table as a notebook displays it: no row numbers, no columns in which nothing stands, every figure in one line,
    and sentences in several."""
    texts = {column: table[column].astype(str) for column in table}
    table = table.loc[:, [bool((text != "").any()) for text in texts.values()]]
    sentences = [column for column in table if texts[column].str.len().max() > LONGEST_LABEL]
    # Its own id is random; one that follows from the content leaves a notebook that is built again as it was.
    uuid = hashlib.blake2b(table.to_csv().encode(), digest_size=4).hexdigest()
    shown = table.style.set_uuid(uuid).hide(axis="index").set_table_attributes('class="dataframe table nab-table"')
    figures = [column for column in table if not texts[column].str.contains(r"[^\W\d_]").any()]
    for columns, lines in ((sentences, "normal"), (figures, "nowrap")):
        if columns:
            shown = shown.set_properties(subset=columns, **{"white-space": lines})
    return shown
