"""Tables on the terminal."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from nab.experiments import RunResult, load_profile, profile_names
from nab.experiments.stages import Entry
from nab.registry import unknown_name

COLUMNS = {
    "ACC": "clean_accuracy",
    "ASR": "attack_success_rate",
    "RA": "robust_accuracy",
    "suspects right": "detection_accuracy",
    "labels right": "pseudo_label_accuracy",
}


def print_results(results: Iterable[RunResult]) -> None:
    """One row per run; metrics in percent."""
    table = Table(caption="ACC, ASR and RA in percent, through the defence's own predictor; time in seconds")
    for heading in ("profile", "dataset", "attack", "poisoned", "defense", "seed"):
        table.add_column(heading)
    for heading in (*COLUMNS, "time", "run"):
        table.add_column(heading, justify="right")
    for result in results:
        config = result.config
        names = [config.defense.name]
        if config.detector and config.labeler:
            names = [f"{config.defense.name} ({config.detector.name} + {config.labeler.name})"]
        values = [result.metrics.get(name) for name in COLUMNS.values()]
        table.add_row(
            result.profile,
            config.dataset,
            config.attack.name,
            config.poisoned,
            *names,
            str(config.seed),
            *("" if value is None else f"{value:.1f}" for value in values),
            f"{result.seconds['total']:.0f}",
            result.hash[:8],
        )
    _print(table)


def print_cache(entries: Iterable[Entry]) -> None:
    """One row per kept output."""
    table = Table("stage", "key", "last used", box=None, pad_edge=False)
    for heading in ("MB", "cost"):
        table.add_column(heading, justify="right")
    for entry in entries:
        used = datetime.datetime.fromtimestamp(entry.used).isoformat(sep=" ", timespec="minutes")
        try:
            cost = f"{json.loads(entry.record.read_bytes())['seconds'] or 0:.1f} s"
        except FileNotFoundError:  # deleted by another process at this moment
            continue
        except (ValueError, KeyError, TypeError):
            cost = "damaged"
        table.add_row(entry.stage, entry.key, used, f"{entry.size / 1e6:.1f}", cost)
    _print(table)


def registries() -> dict[str, dict[str, tuple[str, str]]]:
    """For every kind, each name with its line and its source."""
    from nab.attacks import ATTACKS
    from nab.data import SOURCES
    from nab.defenses import DEFENSES
    from nab.detection import DETECTORS
    from nab.models import MODELS
    from nab.pseudolabels import LABELERS
    from nab.selfsupervised import ENCODERS
    from nab.training import RECIPES

    kinds = {
        "attacks": ATTACKS,
        "detectors": DETECTORS,
        "labelers": LABELERS,
        "encoders": ENCODERS,
        "defenses": DEFENSES,
        "datasets": SOURCES,
        "models": MODELS,
    }
    listed = {
        kind: {name: (entry.summary, entry.source) for name, entry in registry.items()}  # type: ignore[attr-defined]
        for kind, registry in kinds.items()
    }
    listed["recipes"] = {
        name: (
            f"{r.epochs} epochs, batches of {r.batch_size}, {r.optimizer}, lr {r.lr:g}, {r.schedule}",
            "nab/training/recipe.py",
        )
        for name, r in RECIPES.items()
    }
    listed["profiles"] = {
        name: (load_profile(name).summary, f"nab/experiments/profiles/{name}.yaml") for name in profile_names()
    }
    return listed


def print_registry(kind: str) -> None:
    """Everything of one kind.

    Raises:
        ConfigError: there is no such kind.
    """
    listed = registries()
    if kind not in listed:
        raise unknown_name("kind", kind, listed)
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, (summary, source) in listed[kind].items():
        table.add_row(f"[bold]{name}[/bold]", summary, f"[dim]{source}[/dim]")
    _print(table)


def _print(table: Table) -> None:
    """Into a file or a pipe a table is written at its own width, a line per row, not cut to a terminal's."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=Measurement.get(console, console.options.update_width(10_000), table).maximum)
    console.print(table)
