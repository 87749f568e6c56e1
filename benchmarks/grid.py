"""How many runs does a grid finish in a minute? One, two and four side by side, and on a Ray cluster of two nodes.

    python benchmarks/grid.py

Every measurement is the whole command, start of the workers included, on fresh folders.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from common import keep, parse, parser
from rich.console import Console
from rich.table import Table

from nab.experiments import load_profile, read_results
from nab.training import Trainer


def small_grid(folder: Path, seeds: int, epochs: int) -> Path:
    """A profile of equal runs: the smoke profile's undefended one with several seeds."""
    smoke = load_profile("smoke")
    run = smoke.run | {"recipe": smoke.run["recipe"] | {"epochs": epochs}}
    path = folder / "throughput.yaml"
    study = {"name": "seeds", "runs": {"seed": list(range(seeds))}}
    path.write_text(yaml.safe_dump({"summary": "equal runs", "run": run, "grid": [study]}))
    return path


def seconds_of_grid(given: argparse.Namespace, *options: str) -> float:
    """Wall time of one `nab grid` over the small grid, from nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = small_grid(folder, given.seeds, given.epochs)
        command = [sys.executable, "-m", "nab", "grid", "--profile", str(profile), "--device", given.device]
        command += ["--results", str(folder / "results"), "--stages", str(folder / "stages"), *options]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - start
        finished = len(read_results(folder / "results"))
    if done.returncode or finished != given.seeds:
        raise SystemExit(f"expected {given.seeds} finished runs, got {finished}\n{done.stderr[-2000:]}")
    return seconds


@contextlib.contextmanager
def ray_cluster(nodes: int) -> Iterator[str]:
    """The address of a local cluster whose head does no work and whose nodes have one processor each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4])
    options.add_argument("--seeds", type=int, default=8, help="runs of the grid")
    options.add_argument("--epochs", type=int, default=10, help="of a run")
    options.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True)
    given, device = parse(options, arguments)
    table = Table("grid", "seconds", "runs per minute")

    def measure(what: str, jobs: int, *extra: str) -> None:
        seconds = min(seconds_of_grid(given, "--jobs", str(jobs), *extra) for _ in range(given.repeats))
        measured = {"seconds": seconds, "runs_per_minute": 60 * given.seeds / seconds}
        settings = {"what": what, "jobs": jobs, "runs": given.seeds, "epochs": given.epochs, "profile": "smoke"}
        keep(given.results, "grid", what, settings=settings, measured=measured, trainer=Trainer(device=device))
        table.add_row(what, f"{seconds:.1f}", f"{measured['runs_per_minute']:.1f}")

    for jobs in given.jobs:
        measure(f"{jobs} job{'s' if jobs > 1 else ''}", jobs)
    if given.ray:
        with ray_cluster(2) as address:
            measure("ray, 2 nodes", 2, "--backend", "ray", "--address", address, "--threads", "1")
    Console().print(table)


if __name__ == "__main__":
    main()
