"""When does LGA find the poison? Detection accuracy after every epoch, over settings, attacks and seeds.

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
from pathlib import Path
from typing import Any

import joblib
import torch
from torch.nn import functional as F

from nab.attacks import make_attack, poison
from nab.data import Dataset, load, take
from nab.detection import LGA, select_suspects
from nab.detection.lga import GradientAscentHook
from nab.evaluation import percent
from nab.files import write_atomically
from nab.training import Predictor, Recipe, train

RESULTS = Path(__file__).parent / "results" / "lga"
EPOCHS = 10
TRAIN_SIZE = 20_000
WIDTH = 16

SETTINGS: dict[str, dict[str, Any]] = {
    "authors": {},
    "batch 128": {"batch_size": 128},
    "lr 0.03": {"lr": 0.03},
    "gamma 0.3": {"gamma": 0.3},
    "one-cycle, Nesterov, batch 128": {"batch_size": 128, "nesterov": True, "schedule": "one-cycle"},
}
"""What differs from the authors' LGA: batch 64, learning rate 0.1 throughout, gamma 0.5, no augmentation, plain
momentum."""


def recipe_of(setting: dict[str, Any]) -> tuple[LGA, Recipe]:
    """The detector and its training recipe; Nesterov and the schedule are not LGA's own parameters."""
    own = {key: value for key, value in setting.items() if key in {f.name for f in dataclasses.fields(LGA)}}
    detector = LGA(epochs=EPOCHS, **own)
    rest = {key: value for key, value in setting.items() if key not in own}
    return detector, dataclasses.replace(detector.recipe(Recipe()), **rest)


def measure(train_set: Dataset, name: str, attack: str, seed: int) -> None:
    path = RESULTS / f"{name.replace(',', '').replace(' ', '-')}-{attack}-s{seed}.json"
    if path.exists():
        return
    torch.set_num_threads(1)
    detector, recipe = recipe_of(SETTINGS[name])
    part = take(train_set, TRAIN_SIZE, seed)
    poisoned = poison(part, make_attack(attack), rate=0.1, target=0, seed=seed)
    is_poisoned = poisoned.truth.is_poisoned
    hook = GradientAscentHook(detector.gamma, len(part), torch.device("cpu"))

    def monitor(predictor: Predictor) -> dict[str, float]:
        losses = F.cross_entropy(predictor.logits(poisoned.dataset.images), poisoned.dataset.labels, reduction="none")
        is_suspect = select_suspects(-losses, 0.05)
        return {
            "detection_accuracy": percent(is_poisoned[is_suspect]),
            "loss_poisoned": losses[is_poisoned].mean().item(),
            "loss_clean": losses[~is_poisoned].mean().item(),
        }

    start = time.perf_counter()
    trained = train(poisoned.dataset, recipe, width=WIDTH, seed=seed, hook=hook, monitor=monitor)
    row = {
        "setting": name,
        "recipe": dataclasses.asdict(recipe),
        "gamma": detector.gamma,
        "dataset": "cifar10",
        "train_size": TRAIN_SIZE,
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
    print(name, attack, seed, [round(e["detection_accuracy"]) for e in trained.curve], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    train_set, _ = load("cifar10", arguments.data_root)
    cells = itertools.product(range(arguments.seeds), arguments.setting, ("badnets", "blend"))
    joblib.Parallel(n_jobs=arguments.jobs)(
        joblib.delayed(measure)(train_set, name, attack, seed) for seed, name, attack in cells
    )


if __name__ == "__main__":
    main()
