"""Does the quick recipe do what the paper's does? On the same part of CIFAR-10, with and without NAB; and a profile's.

    python benchmarks/recipe.py --data-root DIR [--recipe quick] [--seeds 3]

A recipe that takes an hour a run may have fewer seeds than another: the program is then called for each. Runs that were
finished before are read back, from the folder of results that the book is made from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import keep, parse, parser
from rich.console import Console

from nab.experiments import RunResult, load_profile
from nab.report.benchmarks import settings_and_figures

METRICS = {
    "clean_accuracy": "ACC",
    "attack_success_rate": "ASR",
    "detection_accuracy": "suspects right",
}


RECIPES = ("paper", "quick", "profile")


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--data-root")
    options.add_argument("--profile", default="laptop", help="for everything but the recipe")
    options.add_argument("--attack", default="badnets")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--defense", nargs="+", default=["none", "nab"])
    options.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES), help="some of them")
    options.add_argument("--runs", type=Path, default=Path("results"))
    given, _ = parse(options, arguments)
    profile = load_profile(given.profile)
    names = {"paper": "the paper's", "quick": "quick", "profile": f"the {profile.name} profile's"}
    measurements = []
    for defense in given.defense:
        for recipe in given.recipe:
            runs = [
                profile.run_one(
                    attack=given.attack,
                    defense=defense,
                    recipe=profile.run["recipe"] if recipe == "profile" else recipe,
                    seed=seed,
                    results=given.runs,
                    data_root=given.data_root,
                    device=given.device,
                )
                for seed in range(given.seed, given.seed + given.seeds)
            ]
            config = runs[0].config
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
                "seeds": given.seeds,
                "runs": [run.hash for run in runs],
            }
            what = f"{defense}, {names[recipe]}"
            measurements.append(
                keep(given.results, "recipe", what, settings=settings, measured=_measured(runs), run=runs[-1])
            )
    Console(width=160).print(settings_and_figures(measurements).to_string(index=False))


def _measured(runs: list[RunResult]) -> dict[str, Any]:
    shown = {
        short: [float(value) for run in runs if (value := run.metrics.get(name)) is not None]
        for name, short in METRICS.items()
    }
    seconds = {"seconds": [run.seconds["training"] for run in runs]}
    return {name: values for name, values in (shown | seconds).items() if values}


if __name__ == "__main__":
    main()
