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
from nab.experiments import Method, RunConfig, RunResult, load_profile, read_results
from nab.experiments.config import SUSPECT_FIELDS

REFERENCE = Path(__file__).parent / "reference.json"

TITLES = {
    "clean_accuracy": "ACC",
    "attack_success_rate": "ASR",
    "robust_accuracy": "RA",
    "backdoor_accuracy": "BA",
    "defense_effectiveness": "DER",
    "clean_accuracy_unstamped": "ACC, no stamp",
    "attack_success_rate_unstamped": "ASR, no stamp",
    "suspect_share": "suspects",
    "detection_accuracy": "detection ACC",
    "detection_recall": "recall",
    "detection_auroc": "AUROC",
    "pseudo_label_accuracy": "label ACC",
    "pseudo_label_accuracy_all": "label ACC, all",
    "clean_reject_rate": "C-REJ",
    "backdoor_reject_rate": "B-REJ",
    "prediction_success_rate": "PSR",
    "defense_success_rate": "DSR",
}
"""Column headings of metrics; all in percent."""

LONGEST_LABEL = 32
"""Characters of a name or figure, which stays in one line; what is longer is a sentence."""

ORDER = {"none": 0, "nab": 1}
"""Defences in tables: the undefended network first, then NAB, then the others by name."""


def runs_of(results: str | Path, profile: str) -> list[RunResult]:
    """The stored results of one profile; none if its folder does not exist."""
    folder = Path(results) / profile
    return read_results(folder) if folder.is_dir() else []


def main_runs(results: str | Path, profile: str) -> list[RunResult]:
    """The profile's results for every attack, defence and seed, all other settings as the profile has them.

    Studies that vary another setting keep their results in the same folder; the main tables leave them out, and audits,
    whose network is the undefended one.
    """
    chosen = load_profile(profile)

    def is_main(run: RunResult) -> bool:
        config = run.config
        same = chosen.config(attack=config.attack.name, defense=config.defense.name, seed=config.seed)
        return run.hash == same.hash and config.defense.name != "audit"

    return [run for run in runs_of(results, chosen.name) if is_main(run)]


def frame(runs: Iterable[RunResult]) -> pd.DataFrame:
    """One row per run: what was run (methods by name), every metric, ``seconds`` in all, ``hash``.

    ``setting`` is the same for runs that differ in their seed alone, ``baseline`` the hash of the undefended run that a
    defended one is compared with.
    """
    rows = []
    for run in runs:
        config = run.config
        rows.append(
            {
                "profile": run.profile,
                "dataset": config.dataset,
                "attack": config.attack.name,
                "poison_rate": config.poison_rate,
                "poisoned": config.poisoned,
                "defense": config.defense.name,
                "detector": config.detector.name if config.detector else "",
                "labeler": config.labeler.name if config.labeler else "",
                "seed": config.seed,
                "seconds": run.seconds["total"],
                "hash": run.hash,
                "setting": config.model_copy(update={"seed": 0}).hash,
                "baseline": _undefended(config).hash,
                **run.metrics,
            }
        )
    table = pd.DataFrame(rows)
    return table if table.empty else _with_effectiveness(table)


def _undefended(config: RunConfig) -> RunConfig:
    """The same run without a defence."""
    nothing = dict.fromkeys(SUSPECT_FIELDS)
    return config.model_copy(update={"defense": Method(name="none"), **nothing})


def _with_effectiveness(table: pd.DataFrame) -> pd.DataFrame:
    """Add DER: every defended run against the undefended one that differs in nothing else."""
    undefended = {row["hash"]: row for row in _rows(table[table["defense"] == "none"])}
    table["defense_effectiveness"] = [
        defense_effectiveness(undefended[row["baseline"]], row)
        if row["defense"] != "none" and row["baseline"] in undefended
        else math.nan
        for row in _rows(table)
    ]
    return table


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def mean_and_deviation(values: Sequence[float], digits: int = 1) -> str:
    """``"93.4 ± 0.2"``; the sample standard deviation, left out for a single value; empty if there is none."""
    kept = pd.Series([v for v in values if v is not None and not math.isnan(v)], dtype=float)
    if kept.empty:
        return ""
    if len(kept) == 1:
        return f"{kept.iloc[0]:.{digits}f}"
    return f"{kept.mean():.{digits}f} ± {kept.std(ddof=1):.{digits}f}"


def summarise(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """One row per combination of ``by`` and of all other settings but the seed: mean and deviation, and how many seeds.

    Raises:
        ResultError: there are no runs to summarise.
    """
    if table.empty:
        raise ResultError("no results to make a table of; make some with `nab run`")
    rows = []
    for values, group in table.groupby([*by, "setting"], sort=False, dropna=False):
        row = dict(zip(by, values, strict=False))
        row |= {TITLES.get(m, m): mean_and_deviation(group[m].tolist()) if m in group else "" for m in metrics}
        rows.append(row | {"seeds": group["seed"].nunique()})
    return pd.DataFrame(rows)


def defense_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T1: attacks by defences."""
    table = frame(runs)
    if not table.empty:
        rank = table["defense"].map(lambda name: (ORDER.get(name, len(ORDER)), name))
        table = table.assign(_rank=rank).sort_values(
            ["dataset", "attack", "poison_rate", "_rank", "detector", "labeler", "seed"]
        )
        chosen = table["detector"] + " + " + table["labeler"]
        table["defense"] = table["defense"].where(table["detector"] == "", table["defense"] + " (" + chosen + ")")
    metrics = (
        "clean_accuracy",
        "attack_success_rate",
        "robust_accuracy",
        "defense_effectiveness",
        "attack_success_rate_unstamped",
    )
    return summarise(table, ("attack", "poisoned", "defense"), metrics)


def filter_table(runs: Iterable[RunResult]) -> pd.DataFrame:
    """T6: what NAB's test-data filter rejects."""
    table = frame(run for run in runs if "clean_reject_rate" in run.metrics)
    metrics = ("clean_reject_rate", "backdoor_reject_rate", "prediction_success_rate", "defense_success_rate")
    return summarise(table, ("attack", "defense"), metrics)


def reference() -> dict[str, Any]:
    """What the authors published with their code; the file names the source."""
    values: dict[str, Any] = json.loads(REFERENCE.read_text())
    return values


def show(table: pd.DataFrame) -> Any:
    """A table as a notebook displays it: no row numbers, no columns in which nothing stands, and sentences in lines."""
    texts = {column: table[column].astype(str) for column in table}
    table = table.loc[:, [bool((text != "").any()) for text in texts.values()]]
    sentences = [column for column in table if texts[column].str.len().max() > LONGEST_LABEL]
    # Its own id is random; one that follows from the content leaves a notebook that is built again as it was.
    uuid = hashlib.blake2b(table.to_csv().encode(), digest_size=4).hexdigest()
    shown = table.style.set_uuid(uuid).hide(axis="index").set_table_attributes('class="dataframe table nab-table"')
    return shown.set_properties(subset=sentences, **{"white-space": "normal"}) if sentences else shown
