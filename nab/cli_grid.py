"""The commands ``nab grid`` and ``nab cache``."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from nab.cli_options import DataRootOption, DeviceOption, ProfileOption, ResultsOption, StagesOption, parse_pairs
from nab.errors import ConfigError

cache_app = typer.Typer(no_args_is_help=True, help="What is kept of stages: networks, scores, labels, poisoned data.")


def grid(
    profile: ProfileOption = "smoke",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only runs with this value; several of one key are alternatives."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of each run; by default this machine's, shared out to the jobs."),
    ] = None,
    backend: Annotated[Literal["loky", "ray", "dask"], typer.Option(help="Who executes them.")] = "loky",
    address: Annotated[str | None, typer.Option(help="Of the ray or dask cluster; a local one by default.")] = None,
    gpu_share: Annotated[float, typer.Option(min=0.01, max=1, help="Of a GPU that a run takes (ray).")] = 1.0,
    time_budget: Annotated[
        str | None, typer.Option(metavar="90s|9m|1.5h", help="Start nothing that cannot finish in time; then stop.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what there is to do and how long it may take.")
    ] = False,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    results: ResultsOption = "results",
    stages: StagesOption = None,
) -> None:
    """Do all runs of a profile's grid that are not done yet. Exit code 1 if one failed."""
    began = time.monotonic()
    from nab.experiments import Grid, Settings, StageCache, load_profile, make_executor, select, usable_cores
    from nab.paths import stages_place
    from nab.report.progress_table import GridView, print_outcome, print_plan
    from nab.training import resolve_device

    chosen = load_profile(profile)
    deadline = None if time_budget is None else began + parse_duration(time_budget)
    configs = select(chosen.expand(), parse_pairs(only or []))
    threads = threads or max(1, usable_cores() // jobs)
    if backend == "ray":  # its nodes may have GPUs where this machine has none
        gpus = 0.0 if device == "cpu" else gpu_share
    else:
        gpus = 1 / jobs if resolve_device(device).type == "cuda" else 0.0
    settings = Settings(
        profile=chosen.name,
        results=_absolute(results),
        stages=_absolute(stages or str(stages_place())),
        data_root=None if data_root is None else str(data_root.absolute()),
        device=device,
        threads=threads,
    )
    StageCache(settings.stages)  # a mistake in its address is told now, not by every run
    todo = Grid(configs, settings)
    if dry_run:
        print_plan(todo, jobs, threads, gpus)
        return
    if todo.of_state("waiting"):
        executor = make_executor(backend, address=address, jobs=jobs, threads=threads, gpus=gpus)
        with GridView(todo, jobs) as view:
            todo.execute(executor, jobs, deadline=deadline, tell=view.tell)
    print_outcome(todo)
    if todo.of_state("failed"):
        sys.exit(1)


def parse_duration(text: str) -> float:
    """Seconds.

    Raises:
        ConfigError: the text is not a number with s, m or h.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"expected a time such as 90s, 9m or 1.5h, got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _absolute(address: str) -> str:
    """Workers may have another working directory."""
    return address if "://" in address else str(Path(address).expanduser().absolute())


@cache_app.command()
def size(stages: StagesOption = None) -> None:
    """How much is kept, where, and how much may be."""
    from nab.experiments import StageCache

    cache = StageCache(stages)
    entries = cache.entries()
    total = sum(entry.size for entry in entries)
    print(f"{len(entries)} outputs, {_gigabytes(total)} of at most {_gigabytes(cache.limit)}, in {cache.where}")


@cache_app.command("list")
def list_cache(stages: StagesOption = None) -> None:
    """Every kept output, the longest unused first."""
    from nab.experiments import StageCache
    from nab.report.terminal import print_cache

    print_cache(StageCache(stages).entries())


@cache_app.command()
def prune(
    limit: Annotated[float | None, typer.Option(min=0, help="Gigabytes to keep; NAB_CACHE_LIMIT by default.")] = None,
    stages: StagesOption = None,
) -> None:
    """Delete what was not used for the longest time, down to the limit."""
    from nab.experiments import StageCache
    from nab.experiments.stages import GIGABYTE

    removed = StageCache(stages).prune(None if limit is None else int(limit * GIGABYTE))
    print(f"{len(removed)} outputs deleted, {_gigabytes(sum(entry.size for entry in removed))}")


@cache_app.command()
def clear(
    stage: Annotated[str | None, typer.Option(help="Only outputs of this stage, as `nab cache list` names it.")] = None,
    stages: StagesOption = None,
) -> None:
    """Delete everything that is kept; it is made again when it is needed."""
    from nab.experiments import StageCache

    removed = StageCache(stages).clear(stage)
    print(f"{len(removed)} outputs deleted, {_gigabytes(sum(entry.size for entry in removed))}")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3f} GB"
