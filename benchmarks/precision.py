"""Does bfloat16 cost accuracy? The same runs in bfloat16 and in float32, with five seeds.

    python benchmarks/precision.py --data-root DIR

Runs that were finished before are read back, so the program may be stopped and started again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import keep, parse, parser
from rich.console import Console

from nab.experiments import load_profile, make_trainer, run
from nab.report.benchmarks import settings_and_figures
from nab.training import RECIPES

METRICS = ("clean_accuracy", "attack_success_rate")


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__, repeats=1)
    options.add_argument("--data-root")
    options.add_argument("--profile", default="laptop", help="whose settings the runs have, unless told otherwise")
    options.add_argument("--recipe", choices=RECIPES, default="quick", help="with another precision and other epochs")
    options.add_argument("--train-size", type=int, default=10000)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "nab-precision")
    given, device = parse(options, arguments)
    profile = load_profile(given.profile)
    measurements = []
    for precision in ("bfloat16", "float32"):
        measured: dict[str, list[float]] = {name: [] for name in (*METRICS, "images_per_second")}
        for seed in range(given.seed, given.seed + given.seeds):
            config = profile.config(
                recipe=given.recipe,
                **{"recipe.precision": precision, "recipe.epochs": given.epochs},
                **{"dataset.train_size": given.train_size},
                seed=seed,
            )
            result = run(
                config, profile=profile.name, results=given.runs, data_root=given.data_root, device=given.device
            )
            for name in METRICS:
                measured[name].append(float(result.metrics[name] or 0.0))
            measured["images_per_second"].append(result.images_per_second["training"])
        settings = {
            "precision": precision,
            "profile": profile.name,
            "dataset": config.dataset.name,
            "attack": config.attack.name,
            "model": config.model.name,
            "width": config.model.params.get("width"),
            "train_images": given.train_size,
            "recipe": given.recipe,
            "epochs": given.epochs,
            "seeds": given.seeds,
        }
        trainer = make_trainer(config, device=device.type)
        measurements.append(
            keep(given.results, "precision", "plain training", settings=settings, measured=measured, trainer=trainer)
        )
    Console(width=160).print(settings_and_figures(measurements).to_string(index=False))
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
