"""The commands ``nab cache ...``."""

from __future__ import annotations

from typing import Annotated

import typer

from nab.cli.options import StagesOption

app = typer.Typer(no_args_is_help=True, help="What is kept of stages: networks, scores, labels, poisoned data.")


@app.command()
def size(stages: StagesOption = None) -> None:
    """How much is kept, where, and how much may be."""
    from nab.experiments import StageCache

    cache = StageCache(stages)
    entries = cache.entries()
    total = sum(entry.size for entry in entries)
    print(f"{len(entries)} outputs, {_gigabytes(total)} of at most {_gigabytes(cache.limit)}, in {cache.where}")


@app.command("list")
def list_cache(stages: StagesOption = None) -> None:
    """Every kept output, the longest unused first."""
    from nab.experiments import StageCache
    from nab.report.terminal import print_cache

    print_cache(StageCache(stages).entries())


@app.command()
def prune(
    limit: Annotated[float | None, typer.Option(min=0, help="Gigabytes to keep; NAB_CACHE_LIMIT by default.")] = None,
    stages: StagesOption = None,
) -> None:
    """Delete what was not used for the longest time, down to the limit."""
    from nab.experiments import StageCache
    from nab.experiments.stages import GIGABYTE

    removed = StageCache(stages).prune(None if limit is None else int(limit * GIGABYTE))
    print(f"{len(removed)} outputs deleted, {_gigabytes(sum(entry.size for entry in removed))}")


@app.command()
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
