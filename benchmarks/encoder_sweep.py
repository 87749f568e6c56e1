"""How long must an encoder learn before its labels beat those of a small verified set? NC and kNN, epoch by epoch.

    python benchmarks/encoder_sweep.py --data-root DIR [--setting simclr ...] [--attack badnets ...] [--seeds 1]

Suspects are half of the poison, so that labellers alone are compared. One JSON per combination goes to
benchmarks/results/encoder/, and is written anew after every measurement; finished ones are not run again. Seconds
include the labelling in between. The encoder is kept where runs find it, and one that is there already cannot be
measured: --stages names another folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch

from nab.data import load
from nab.detection import OracleDetector, select_suspects
from nab.evaluation import percent
from nab.experiments import StageCache, load_profile
from nab.experiments.poisoning import attack_data, make_context
from nab.files import write_atomically
from nab.pseudolabels.knn import vote
from nab.pseudolabels.nc import nearest_centre
from nab.selfsupervised import make_encoder, train_encoder
from nab.training import Context, Predictor

RESULTS = Path(__file__).parent / "results" / "encoder"
EVERY = 4
"""Epochs from one measurement to the next."""

SETTINGS: dict[str, dict[str, Any]] = {
    "simclr": {"name": "simclr", **load_profile("laptop").params["encoder"]["simclr"]},
    "barlow-twins": {"name": "barlow-twins", **load_profile("laptop").params["encoder"]["barlow-twins"]},
}
"""Those of the laptop profile, but for the number of epochs if one is given."""
for change, value in {"whole views": {"size": 1.0}, "sharp views": {"blur_rate": 0.0}}.items():
    SETTINGS[f"simclr, {change}"] = SETTINGS["simclr"] | {"views": SETTINGS["simclr"]["views"] | value}


def measure(name: str, attack: str, seed: int, epochs: int | None, stages: Path | None, data_root: str | None) -> None:
    params = dict(SETTINGS[name])
    method = make_encoder(params.pop("name"), params | ({} if epochs is None else {"epochs": epochs}))
    epochs = method.epochs
    path = RESULTS / f"{name.replace(',', '').replace(' ', '-')}-{attack}-s{seed}-e{epochs}.json"
    config = load_profile("laptop").config(attack=attack, defense="none", seed=seed)
    encoder = {"name": SETTINGS[name]["name"], "params": json.loads(json.dumps(dataclasses.asdict(method)))}
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["is_finished"] and (kept["encoder"], kept["train_size"]) == (encoder, config.train_size):
            return
    context = dataclasses.replace(make_context(config, keeper=StageCache(stages)), encoder=method)
    data = attack_data(config, context, data_root)
    dataset, truth = data.poisoned.dataset, data.poisoned.truth
    scores = OracleDetector().score(dataset, Context(seed=seed, truth=truth))
    is_suspect = select_suspects(scores, 0.05)
    start = time.perf_counter()
    measured: list[dict[str, float]] = []
    row = {
        "setting": name,
        "encoder": encoder,
        "dataset": config.dataset,
        "train_size": config.train_size,
        "model": config.model,
        "width": config.width,
        "attack": attack,
        "poison_rate": config.poison_rate,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "epochs": measured,
    }
    passed = itertools.count(1)

    def monitor(predictor: Predictor) -> dict[str, float]:
        epoch = next(passed)
        if epoch % EVERY and epoch != epochs:
            return {}
        seconds = time.perf_counter() - start
        features = predictor.features(dataset.images).cpu()
        guesses = {
            "nc": nearest_centre(features, dataset.labels, ~is_suspect),
            "nc_mahalanobis": nearest_centre(features, dataset.labels, ~is_suspect, metric="mahalanobis"),
            "knn": vote(features, dataset.labels, ~is_suspect, dataset.num_classes, k=200),
        }
        found: dict[str, float] = {"epoch": epoch, "seconds": seconds}
        for labeler, labels in guesses.items():
            is_right = labels == truth.true_labels
            found[labeler] = percent(is_right[is_suspect])
            found[f"{labeler}_all"] = percent(is_right)
        measured.append(found)
        kept = row | {"is_finished": epoch == epochs}
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(kept, indent=1) + "\n"))
        print(name, attack, seed, {key: round(value, 1) for key, value in found.items()}, flush=True)
        return {}

    train_encoder(dataset, context, monitor)
    if not measured:
        print(f"{name}, {attack}, seed {seed}: left out, for the encoder is in the cache; --stages names another")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-root")
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=["simclr"])
    parser.add_argument("--attack", nargs="+", default=["badnets", "blend"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="of all settings, in place of the profile's")
    parser.add_argument("--stages", type=Path, help="folder in which encoders are kept; the user's cache by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load("cifar10", arguments.data_root)  # a wrong folder is told before anything else
    for seed, name, attack in itertools.product(range(arguments.seeds), arguments.setting, arguments.attack):
        measure(name, attack, seed, arguments.epochs, arguments.stages, arguments.data_root)


if __name__ == "__main__":
    main()
