"""Does the quick recipe do what the paper's does, and a profile's? On the same part of CIFAR-10, with and without NAB.

    python benchmarks/recipe.py --data-root DIR [--recipe quick] [--seeds 3]
    python benchmarks/recipe.py --data-root DIR --seeds 3 --stored

Runs that are finished are read back from the folder of results from which the book is made. With ``--stored`` no run is
made; each recipe is shown with the seeds that are there. The seconds of a whole training are extrapolated from a few
epochs, for which the recipes take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import statistics
from pathlib import Path
from typing import Any

import torch
from common import epoch_seconds, images_of, keep, parse, parser
from rich.console import Console

from nab.experiments import Profile, RunConfig, RunResult, load_profile, make_trainer, read_results, run
from nab.report.benchmarks import settings_and_figures

METRICS = {
    "clean_accuracy": "ACC",
    "attack_success_rate": "ASR",
    "detection_precision": "suspects right",
}
CHOICES = ("paper", "quick", "profile")
TIMED_EPOCHS = 3
"""The first one is not counted."""


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
    configs: dict[tuple[str, str], list[RunConfig]] = {}
    for defense, recipe in itertools.product(given.defense, given.recipe):
        wanted = profile.run["recipe"] if recipe == "profile" else recipe
        configs[defense, recipe] = configs_of(profile, defense, wanted, given)
    runs = {key: runs_of(profile, wanted, given) for key, wanted in configs.items()}
    timed = {recipe: configs[defense, recipe][0] for (defense, recipe), found in runs.items() if found}
    seconds = seconds_in_turn(timed, given, device)
    measurements = []
    for (defense, recipe), found in runs.items():
        if not found:
            print(f"no finished run with {defense}, {names[recipe]}")
            continue
        trainer = make_trainer(timed[recipe], device=device.type)
        settings = {
            "defense": defense,
            "recipe": names[recipe],
            "epochs": trainer.recipe.epochs,
            "batch_size": trainer.recipe.batch_size,
            "profile": profile.name,
            "attack": given.attack,
            "model": found[0].method("model"),
            "width": found[0].params("model").get("width"),
            "train_images": found[0].data["train_images"],
            "seed": given.seed,
            "seeds": len(found),
            "runs": [one.hash for one in found],
            "commits": sorted({str(one.commit) for one in found}),
        }
        measured = metrics_of(found) | {"seconds of training": seconds[recipe]}
        what = f"{defense}, {names[recipe]}"
        measurements.append(keep(given.results, "recipe", what, settings=settings, measured=measured, trainer=trainer))
    Console(width=160).print(settings_and_figures(measurements).to_string(index=False))


def configs_of(profile: Profile, defense: str, recipe: Any, given: argparse.Namespace) -> list[RunConfig]:
    """One run per seed."""
    return [
        profile.config(attack=given.attack, defense=defense, recipe=recipe, seed=seed)
        for seed in range(given.seed, given.seed + given.seeds)
    ]


def runs_of(profile: Profile, configs: list[RunConfig], given: argparse.Namespace) -> list[RunResult]:
    """The results of all configs; with ``--stored``, of the finished ones alone."""
    if given.stored:
        stored = {one.hash: one for one in read_results(given.runs / profile.name)}
        return [stored[config.hash] for config in configs if config.hash in stored]
    where = {"results": given.runs, "data_root": given.data_root, "device": given.device}
    return [run(config, profile=profile.name, **where) for config in configs]


def seconds_in_turn(
    configs: dict[str, RunConfig], given: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """The seconds of a whole training by each config's recipe, a number per repetition."""
    images = images_of("noise", given.timed_images, given.seed)
    seconds: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(given.repeats):
        for name, config in configs.items():
            trainer = make_trainer(config, device=device.type)
            brief = dataclasses.replace(trainer, recipe=dataclasses.replace(trainer.recipe, epochs=TIMED_EPOCHS))
            passes = trainer.recipe.epochs * (config.make_source().train_size or 50_000) / len(images)
            seconds[name].append(statistics.mean(epoch_seconds(images, brief)) * passes)
    return seconds


def metrics_of(runs: list[RunResult]) -> dict[str, list[float]]:
    """The values that were measured, by the names of the table."""
    found = {
        short: [float(value) for one in runs if (value := one.metrics.get(name)) is not None]
        for name, short in METRICS.items()
    }
    return {name: values for name, values in found.items() if values}


if __name__ == "__main__":
    main()
