"""When does LGA find the poison? Detection precision after every epoch, over settings, attacks and seeds.

    python benchmarks/lga_sweep.py --data-root DIR [--jobs 2] [--setting authors ...] [--seeds 3]

One JSON per combination goes to benchmarks/results/lga/; finished ones are not run again. The detection chapter draws
its figure of LGA's failures from them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import torch
from common import RESULTS, trainer_of
from torch.nn import functional as F

from nab.attacks import poison
from nab.data import Dataset, load, take
from nab.detection import LGA, select_suspects
from nab.detection.lga import GradientAscent
from nab.evaluation import percent
from nab.files import write_atomically
from nab.methods import make
from nab.seeding import stream
from nab.training import Batches, Predictor, Recipe, fit
from nab.training.memory import keep_freed_memory

WIDTH = 16

SETTINGS: dict[str, dict[str, Any]] = {
    "authors": {},
    "batch 128": {"batch_size": 128},
    "lr 0.03": {"lr": 0.03},
    "gamma 0.3": {"gamma": 0.3},
    "one-cycle, Nesterov, batch 128": {"batch_size": 128, "nesterov": True, "schedule": "one-cycle"},
}
"""What differs from the authors' LGA, which has batches of 64, a learning rate of 0.1 throughout, a gamma of 0.5, no
augmentation, and plain momentum."""


def recipe_of(setting: dict[str, Any], epochs: int) -> tuple[LGA, Recipe]:
    """The detector and its training recipe; Nesterov and the schedule are not LGA's own parameters."""
    own = {key: value for key, value in setting.items() if key in {f.name for f in dataclasses.fields(LGA)}}
    detector = LGA(epochs=epochs, **own)
    rest = {key: value for key, value in setting.items() if key not in own}
    return detector, dataclasses.replace(detector.recipe(Recipe()), **rest)


def measure(train_set: Dataset, name: str, attack: str, seed: int, given: argparse.Namespace) -> None:
    path = given.results / "lga" / f"{name.replace(',', '').replace(' ', '-')}-{attack}-s{seed}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    detector, recipe = recipe_of(SETTINGS[name], given.epochs)
    poisoned = poison(take(train_set, given.train_size, seed), make("attack", attack), rate=0.1, target=0, seed=seed)
    dataset, is_poisoned = poisoned.dataset, poisoned.truth.is_poisoned
    trainer = trainer_of(recipe, WIDTH, seed, torch.device("cpu"))

    def observe(predictor: Predictor) -> dict[str, float]:
        losses = F.cross_entropy(predictor.logits(dataset.images), dataset.labels, reduction="none")
        is_suspect = select_suspects(-losses, 0.05)
        return {
            "detection_precision": percent(is_poisoned[is_suspect]),
            "loss_poisoned": losses[is_poisoned].mean().item(),
            "loss_clean": losses[~is_poisoned].mean().item(),
        }

    start = time.perf_counter()
    batches = Batches(dataset, recipe, trainer.device, stream(seed, "batches"))
    step = GradientAscent(detector.gamma, len(dataset), trainer.device)
    trained = fit(trainer.fresh(dataset, "detection (lga)"), batches, recipe, step, observe=observe)
    row = {
        "setting": name,
        "recipe": dataclasses.asdict(recipe),
        "gamma": detector.gamma,
        "dataset": train_set.name,
        "train_size": len(dataset),
        "width": WIDTH,
        "attack": attack,
        "poison_rate": 0.1,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "seconds": time.perf_counter() - start,
        "torch": torch.__version__,
        "epochs": trained.curve,
    }
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(row, indent=1) + "\n"))
    print(name, attack, seed, [round(e["detection_precision"]) for e in trained.curve], flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data-root")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options.add_argument("--attack", nargs="+", default=["badnets", "blend"])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--train-size", type=int, default=20_000)
    options.add_argument("--results", type=Path, default=RESULTS, help="the JSON files go to its folder lga/")
    given = options.parse_args(arguments)
    train_set, _ = load("cifar10", given.data_root)
    cells = itertools.product(range(given.seeds), given.setting, given.attack)
    joblib.Parallel(n_jobs=given.jobs)(
        joblib.delayed(measure)(train_set, name, attack, seed, given) for seed, name, attack in cells
    )


if __name__ == "__main__":
    main()
