"""Does the quick recipe do what the paper's does? On the same part of CIFAR-10, with and without NAB; and a profile's.

    python benchmarks/recipe.py --data-root DIR [--recipe quick] [--seeds 3]
    python benchmarks/recipe.py --data-root DIR --seeds 3 --stored

Runs that were finished before are read back, from the folder of results that the book is made from. With ``--stored``
nothing is trained to the end: each recipe is shown with the seeds that are there. The seconds of a whole training are
those of a few epochs, which the recipes take in turn, times as many as there are.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch
from common import epoch_seconds, images_of, keep, parse, parser
from rich.console import Console

from nab.experiments import Profile, RunConfig, RunResult, load_profile, read_results
from nab.report.benchmarks import settings_and_figures
from nab.training import Runtime

METRICS = {
    "clean_accuracy": "ACC",
    "attack_success_rate": "ASR",
    "detection_accuracy": "suspects right",
}
CHOICES = ("paper", "quick", "profile")
TIMED_EPOCHS = 3
"""The first of them is not counted."""


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, repeats=3)
    options.add_argument("--data-root")
    options.add_argument("--profile", default="laptop", help="for everything but the recipe")
    options.add_argument("--attack", default="badnets")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--defense", nargs="+", default=["none", "nab"])
    options.add_argument("--recipe", nargs="+", choices=CHOICES, default=list(CHOICES), help="some of them")
    options.add_argument("--runs", type=Path, default=Path("results"))
    options.add_argument("--stored", action="store_true", help="finished runs only, fewer seeds if there are fewer")
    options.add_argument("--timed-images", type=int, default=2560, help="per epoch whose seconds are taken")
    given, device = parse(options, arguments)
    profile = load_profile(given.profile)
    names = {"paper": "the paper's", "quick": "quick", "profile": f"the {profile.name} profile's"}
    runs = {
        (defense, recipe): runs_of(profile, defense, profile.run["recipe"] if recipe == "profile" else recipe, given)
        for defense in given.defense
        for recipe in given.recipe
    }
    seconds = seconds_in_turn({recipe: found[0].config for (_, recipe), found in runs.items() if found}, given, device)
    measurements = []
    for (defense, recipe), found in runs.items():
        if not found:
            print(f"no finished run with {defense}, {names[recipe]}")
            continue
        config = found[0].config
        settings = {
            "defense": defense,
            "recipe": names[recipe],
            "epochs": config.recipe.epochs,
            "batch_size": config.recipe.batch_size,
            "profile": profile.name,
            "attack": given.attack,
            "model": config.model,
            "width": config.width,
            "train_images": config.train_size,
            "seed": given.seed,
            "seeds": len(found),
            "runs": [run.hash for run in found],
            "commits": sorted({run.commit for run in found}),
        }
        measured = metrics_of(found) | {"seconds of training": seconds[recipe]}
        runtime = Runtime.choose(device, config.recipe.precision, config.width)
        what = f"{defense}, {names[recipe]}"
        measurements.append(keep(given.results, "recipe", what, settings=settings, measured=measured, runtime=runtime))
    Console(width=160).print(settings_and_figures(measurements).to_string(index=False))


def runs_of(profile: Profile, defense: str, recipe: Any, given: argparse.Namespace) -> list[RunResult]:
    """One run per seed; with ``--stored`` those that are finished."""
    settings = [
        {"attack": given.attack, "defense": defense, "recipe": recipe, "seed": seed}
        for seed in range(given.seed, given.seed + given.seeds)
    ]
    if given.stored:
        stored = {run.hash: run for run in read_results(given.runs / profile.name)}
        hashes = [profile.config(**values).hash for values in settings]
        return [stored[key] for key in hashes if key in stored]
    where = {"results": given.runs, "data_root": given.data_root, "device": given.device}
    return [profile.run_one(**values, **where) for values in settings]


def seconds_in_turn(
    configs: dict[str, RunConfig], given: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Of a whole training by each config's recipe, a number per repetition."""
    images = images_of("noise", given.timed_images, given.seed)
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(given.repeats):
        for name, config in configs.items():
            recipe = dataclasses.replace(config.recipe, epochs=TIMED_EPOCHS)
            found = epoch_seconds(
                images, recipe, model=config.model, width=config.width, seed=given.seed, device=device
            )
            passes = config.recipe.epochs * (config.train_size or 50_000) / len(images)
            seconds[name].append(statistics.mean(found) * passes)
    return seconds


def metrics_of(runs: list[RunResult]) -> dict[str, list[float]]:
    """By the names of the table; only what was measured."""
    found = {
        short: [float(value) for run in runs if (value := run.metrics.get(name)) is not None]
        for name, short in METRICS.items()
    }
    return {name: values for name, values in found.items() if values}


if __name__ == "__main__":
    main()
