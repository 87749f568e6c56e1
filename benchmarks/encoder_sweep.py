"""How long must an encoder learn before its labels beat those of a small verified set? NC and kNN, epoch by epoch.

    python benchmarks/encoder_sweep.py --data-root DIR [--setting simclr ...] [--attack badnets ...] [--seeds 1]

Half of the poison is suspected, and nothing else, so that labelers alone are compared. One JSON per combination goes to
benchmarks/results/encoder/ and is written anew after every measurement; finished ones are not run again. Seconds
include the labeling in between. The encoder is kept where runs find it. One that is kept already cannot be measured:
name another folder with --stages.
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

import torch
from common import RESULTS
from torch import Tensor

from nab.data import Dataset, GroundTruth, load
from nab.detection import OracleDetector, select_suspects
from nab.evaluation import percent
from nab.experiments import StageCache, attack_data, load_profile, make_trainer
from nab.files import write_atomically
from nab.methods import make
from nab.needs import Given
from nab.pseudolabels.knn import vote
from nab.pseudolabels.nc import nearest_center
from nab.selfsupervised import train_encoder
from nab.training import Predictor, Trainer
from nab.training.memory import keep_freed_memory

EVERY = 4
"""Epochs from one measurement to the next."""

SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {"name": "simclr", **load_profile("laptop").params["encoder"]["simclr"]},
    "barlow-twins": {"name": "barlow-twins", **load_profile("laptop").params["encoder"]["barlow-twins"]},
}
"""The encoders of the laptop profile; an option replaces their number of epochs."""
for change, value in {"whole views": {"size": 1.0}, "sharp views": {"blur_rate": 0.0}}.items():
    SETTINGS[f"simclr, {change}"] = SETTINGS["simclr"] | {"views": SETTINGS["simclr"]["views"] | value}


def measure(name: str, attack: str, seed: int, given: argparse.Namespace) -> None:
    params = dict(SETTINGS[name])
    method = make("encoder", params.pop("name"), params | ({} if given.epochs is None else {"epochs": given.epochs}))
    path = given.results / "encoder" / f"{slug(name)}-{attack}-s{seed}-e{method.epochs}.json"
    size = {"dataset.train_size": given.train_size}
    config = load_profile("laptop").config(attack=attack, defense="none", seed=seed, **size)
    row: dict[str, Any] = {
        "setting": name,
        "encoder": {"name": SETTINGS[name]["name"], "params": json.loads(json.dumps(dataclasses.asdict(method)))},
        "dataset": config.dataset.name,
        "train_size": config.dataset.params["train_size"],
        "model": config.model.name,
        "width": config.model.params["width"],
        "attack": attack,
        "poison_rate": config.poison_rate,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "epochs": [],
    }
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["is_finished"] and all(kept[field] == row[field] for field in ("encoder", "train_size")):
            return
    trainer = make_trainer(config, keeper=StageCache(given.stages))
    poisoned = attack_data(config, trainer, given.data_root).poisoned
    dataset, truth = poisoned.dataset, poisoned.truth
    scores = OracleDetector().score(dataset, Trainer(seed=seed), Given(truth=truth)).scores
    is_suspect = select_suspects(scores, 0.05)
    start, passed = time.perf_counter(), itertools.count(1)

    def observe(predictor: Predictor) -> dict[str, float]:
        epoch = next(passed)
        if epoch % EVERY and epoch != method.epochs:
            return {}
        found = {"epoch": epoch, "seconds": time.perf_counter() - start}
        found |= rights(predictor.features(dataset.images).cpu(), dataset, truth, is_suspect)
        row["epochs"].append(found)
        kept = row | {"is_finished": epoch == method.epochs}
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(kept, indent=1) + "\n"))
        print(name, attack, seed, {key: round(value, 1) for key, value in found.items()}, flush=True)
        return {}

    train_encoder(dataset, trainer, method, observe)
    if not row["epochs"]:
        print(f"{name}, {attack}, seed {seed}: left out, because the encoder is kept already; --stages names another")


def slug(name: str) -> str:
    """The name of a setting as part of a file's name."""
    return name.replace(",", "").replace(" ", "-")


def rights(features: Tensor, dataset: Dataset, truth: GroundTruth, is_suspect: Tensor) -> dict[str, float]:
    """The share of right labels of each labeler, in percent, among the suspects and (``..._all``) all samples."""
    guesses = {
        "nc": nearest_center(features, dataset.labels, ~is_suspect),
        "nc_mahalanobis": nearest_center(features, dataset.labels, ~is_suspect, metric="mahalanobis"),
        "knn": vote(features, dataset.labels, ~is_suspect, dataset.num_classes, k=200),
    }
    found = {}
    for labeler, labels in guesses.items():
        is_right = labels == truth.true_labels
        found[labeler] = percent(is_right[is_suspect])
        found[f"{labeler}_all"] = percent(is_right)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data-root")
    options.add_argument("--setting", nargs="+", choices=SETTINGS, default=["simclr"])
    options.add_argument("--attack", nargs="+", default=["badnets", "blend"])
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--epochs", type=int, help="of all settings, in place of the profile's")
    options.add_argument("--train-size", type=int, help="in place of the profile's")
    options.add_argument("--stages", type=Path, help="folder in which encoders are kept; the user's cache by default")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument(
        "--results", type=Path, default=RESULTS, help="folder whose folder encoder/ gets the JSON files"
    )
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    load("cifar10", given.data_root)  # fails at once if the folder is wrong
    for seed, name, attack in itertools.product(range(given.seeds), given.setting, given.attack):
        measure(name, attack, seed, given)


if __name__ == "__main__":
    main()
