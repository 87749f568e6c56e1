"""Tables on the terminal, and the same as plain text in a file or a pipe.

Importing this waits for no method and no torch, so that `nab show` answers at once.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nab.experiments.comparison import differences
from nab.methods import KINDS
from nab.registry import unknown_name

if TYPE_CHECKING:
    from nab.experiments.result import RunResult
    from nab.experiments.stages import Entry

METRICS = {
    "ACC": "clean_accuracy",
    "ASR": "attack_success_rate",
    "RA": "robust_accuracy",
    "suspects right": "detection_precision",
    "labels right": "pseudo_label_accuracy",
}
"""Columns of `print_results`, and which metric each shows."""

SHORT = 6
"""Characters of a column that a narrow terminal does not wrap."""

SHOWN = ("dataset", "attack", "poison_rate", "defense", "detector", "labeler", "seed")
"""Fields of a run that have a column of their own."""


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[str] = (), caption: str = ""
) -> None:
    """A table on standard output. It fits a terminal's width; in a file or a pipe every row is one line.

    Args:
        headings: of the columns; a column without any text is left out.
        rows: a text per column.
        right: headings of the columns that are set to the right.
        caption: a line under the table.
    """
    every = list(rows)
    kept = [place for place, heading in enumerate(headings) if any(row[place] for row in every) or not every]
    names = [headings[place] for place in kept]
    cells = [[row[place] for place in kept] for row in every]
    show = _print_wrapped if sys.stdout.isatty() else _print_plain
    show(names, cells, right, caption)


def _print_plain(names: list[str], cells: list[list[str]], right: Collection[str], caption: str) -> None:
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for row in [names, *cells]:
        columns = zip(row, names, widths, strict=True)
        aligned = (cell.rjust(width) if name in right else cell.ljust(width) for cell, name, width in columns)
        print("  ".join(aligned).rstrip())
    if caption:
        print(caption)


def _print_wrapped(names: list[str], cells: list[list[str]], right: Collection[str], caption: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=caption or None, box=None, pad_edge=False)
    for place, name in enumerate(names):
        is_short = max(len(name), *(len(row[place]) for row in cells), 0) <= SHORT
        table.add_column(name, justify="right" if name in right else "left", no_wrap=is_short, overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)


def print_results(results: Iterable[RunResult]) -> None:
    """One row per run: metrics in percent, and the settings that tell it from the other runs of its profile."""
    runs = list(results)
    print_table(
        ("profile", "dataset", "attack", "poisoned", "defense", "seed", *METRICS, "time", "run", "settings"),
        [_result_row(run, text) for run, text in zip(runs, _settings(runs), strict=True)],
        right=(*METRICS, "time"),
        caption="ACC, ASR and RA in percent, as the defense is deployed; time in seconds",
    )


def _result_row(run: RunResult, settings: str) -> list[str]:
    rate = run.settings.get("poison_rate")
    values = [run.metrics.get(name) for name in METRICS.values()]
    return [
        run.profile,
        run.method("dataset"),
        run.method("attack"),
        "" if rate is None else f"{100 * rate:g} %",
        defense_name(run.settings),
        str(run.seed),
        *("" if value is None else f"{value:.1f}" for value in values),
        f"{run.seconds:.0f}" if run.cost else "",
        run.hash[:8],
        settings,
    ]


def _settings(results: list[RunResult]) -> list[str]:
    """For every run, what tells it from the others of its profile and stands in no column."""
    found = [""] * len(results)
    for profile in {result.profile for result in results}:
        places = [place for place, result in enumerate(results) if result.profile == profile]
        texts = differences([results[place].settings for place in places], SHOWN)
        for place, text in zip(places, texts, strict=True):
            found[place] = text
    return found


def defense_name(settings: dict[str, Any]) -> str:
    """The defense of a run, with its detector and labeler: ``nab (lga + vd)``."""
    helpers = [settings[kind]["name"] for kind in ("detector", "labeler") if settings.get(kind)]
    name = str(settings["defense"]["name"])
    return f"{name} ({' + '.join(helpers)})" if helpers else name


def print_cache(entries: Iterable[Entry]) -> None:
    """One row per kept output."""
    rows = []
    for entry in entries:
        used = datetime.datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
        try:
            costs = json.loads(entry.record.read_bytes())["costs"]
            cost = f"{costs[entry.key]['seconds']:.1f} s" if entry.key in costs else ""
        except FileNotFoundError:  # another process has just deleted it
            continue
        except (ValueError, KeyError, TypeError):
            cost = "damaged"
        rows.append((entry.stage, entry.key, used, f"{entry.size / 1e6:.1f}", cost))
    print_table(("stage", "key", "last used", "MB", "cost"), rows, right=("MB", "cost"))


def listed(kind: str) -> list[tuple[str, str, str, str]]:
    """Everything of one kind: name, one line, what it needs, source.

    Args:
        kind: the plural of a kind of method, see `nab.methods.KINDS`, or ``"profiles"``.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind == "profiles":
        from nab.experiments import load_profile, profile_names

        return [
            (name, load_profile(name).summary, "", f"nab/experiments/profiles/{name}.yaml") for name in profile_names()
        ]
    if kind == "recipes":
        return [
            (
                name,
                f"{r.epochs} epochs, batches of {r.batch_size}, {r.optimizer}, lr {r.lr:g}, {r.schedule}",
                "",
                "nab/training/recipe.py",
            )
            for name, r in KINDS["recipe"].registry.items()
        ]
    kinds = {known.plural: known for known in KINDS.values()}
    if kind not in kinds:
        raise unknown_name("kind", kind, [*kinds, "profiles"])
    found = {name: kinds[kind].make(name) for name in kinds[kind].registry}
    return [(name, method.summary, _needs(method), method.source) for name, method in found.items()]


def _needs(method: Any) -> str:
    """What a method with its usual hyper-parameters needs besides the training set, in words."""
    from nab.needs import NEEDS

    needs: frozenset[str] = getattr(method, "needs", frozenset())
    return ", ".join(words for need, words in NEEDS.items() if need in needs)


def print_kind(kind: str) -> None:
    """Everything of one kind, a row each; see `listed`."""
    print_table(("name", "what it is", "what it needs", "source"), listed(kind))
