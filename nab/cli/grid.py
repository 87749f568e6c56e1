"""The command ``nab grid``."""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nab.cli.options import DataRootOption, DeviceOption, ProfileOption, ResultsOption, StagesOption, parse_pairs
from nab.errors import ConfigError


def grid(
    profile: ProfileOption = "smoke",
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Only runs with this value, e.g. attack=blend, detector.epochs=2 or study=NAME; "
            "several of one key are alternatives.",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of each run; by default OMP_NUM_THREADS, else the jobs share the processors."),
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
    from nab import experiments
    from nab.experiments.executors import usual_threads
    from nab.experiments.store import tell_problems
    from nab.paths import local, stages_place
    from nab.report.progress_table import GridView, print_outcome, print_plan
    from nab.training import resolve_device

    chosen = experiments.load_profile(profile)
    deadline = None if time_budget is None else began + parse_duration(time_budget)
    runs = experiments.select(chosen.expand(), parse_pairs(only or []))
    threads = threads or usual_threads(jobs)
    if backend == "ray":  # its nodes may have GPUs where this machine has none
        gpus = 0.0 if device == "cpu" else gpu_share
    else:
        gpus = 1 / jobs if resolve_device(device).type == "cuda" else 0.0
    settings = experiments.Settings(
        profile=chosen.name,
        results=_absolute(results),
        stages=_absolute(stages or str(stages_place())),
        data_root=None if data_root is None else str(local(data_root, "data folder")),
        device=device,
        threads=threads,
    )
    experiments.StageCache(settings.stages)  # finds a mistake in the address before any run does
    todo = experiments.Grid(runs, settings)
    tell_problems(todo.found)
    if dry_run:
        print_plan(todo, jobs, threads, gpus)
        return
    todo.note_studies()
    if todo.of_state("waiting"):
        executor = experiments.make_executor(backend, address=address, jobs=jobs, threads=threads, gpus=gpus)
        with _ending_at_signals(), GridView(todo, jobs) as view:
            todo.execute(executor, jobs, deadline=deadline, tell=view.tell)
    print_outcome(todo)
    if todo.of_state("failed"):
        sys.exit(1)


class _Signal(BaseException):  # no error, which a worker's own handling could swallow
    """The process was asked to end."""


@contextmanager
def _ending_at_signals() -> Iterator[None]:
    """A block that SIGTERM, and the end of the terminal, end as Ctrl-C does: what it started is stopped first."""

    def end(number: int, frame: Any) -> None:
        raise _Signal(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # Ray sets a handler of its own, which aborts the process. A signal that is ignored, as under nohup, stays so.
    before = {number: known for number in numbers if (known := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    except _Signal as asked:
        print(f"ended by {signal.Signals(asked.args[0]).name}; finished runs are kept", file=sys.stderr)
        sys.exit(128 + asked.args[0])
    finally:
        for number, known in before.items():
            signal.signal(number, known or signal.SIG_DFL)


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
    """The same place for workers that have another working directory."""
    from nab.paths import place

    found = place(address)
    return str(found) if isinstance(found, Path) else address
