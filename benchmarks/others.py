"""Ours against another implementation of NAB, on the same poisoned data with the same suspects and pseudo labels.

    python benchmarks/others.py --authors PATH --backdoorbench PATH --data-root DIR
        [--train-size 1024] [--epochs 3] [--workers own 2] [--repeats 2]

PATH is a checkout of github.com/damianliumin/non-adversarial_backdoor or of github.com/SCLBD/BackdoorBench; nothing in
it is changed. Neither side detects or labels: suspects and pseudo labels are drawn with about the quality that the
authors published for theirs. The sides take turns; each trains ``epochs`` epochs per repetition, and the first epoch is
not counted. With the whole training set and 100 epochs, accuracy and ASR can be compared too.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import DATA, as_rgb, images_of, keep, parse, parser, show, spread, timed_training, trainer_of
from torch import Tensor

from nab.attacks import BadNets, Poisoned, Triggered, poison, trigger_all
from nab.data import Dataset, load, take
from nab.defenses import find_suspects
from nab.defenses.stamping import StampedTraining
from nab.defenses.training.nab import NAB, Stamped
from nab.detection import OracleDetector
from nab.evaluation import evaluate
from nab.needs import Suspicion
from nab.pseudolabels import OracleLabeler
from nab.training import Recipe, Trainer

DETECTION_PRECISION, LABEL_ACCURACY, DETECTION_RATE = 0.95, 0.7, 0.05
POISON_RATE, TARGET = 0.1, 0
FOREIGN = Path(__file__).with_name("foreign.py")
PRINTED = re.compile(r"Dev Acc: ([\d.]+)%.*Dev Asr: ([\d.]+)%")


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """What every implementation is handed."""

    poisoned: Poisoned
    test: Dataset
    triggered: Triggered
    suspicion: Suspicion


def make_case(given: argparse.Namespace) -> Case:
    if given.data == "noise":  # times can be taken without data
        train_set, test = images_of("noise", 50_000, given.seed), images_of("noise", 10_000, given.seed + 1)
    else:
        train_set, test = map(as_rgb, load(given.data, given.data_root))
    train_set, test = take(train_set, given.train_size, given.seed), take(test, given.test_size, given.seed)
    poisoned = poison(train_set, BadNets(), rate=POISON_RATE, target=TARGET, seed=given.seed)
    suspicion = find_suspects(
        poisoned.dataset,
        OracleDetector(DETECTION_PRECISION),
        OracleLabeler(LABEL_ACCURACY),
        DETECTION_RATE,
        trainer=Trainer(seed=given.seed),
        truth=poisoned.truth,
    )
    return Case(poisoned, test, trigger_all(test, BadNets(), target=TARGET, seed=given.seed), suspicion)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, repeats=2)
    options.add_argument("--authors", type=Path, help="checkout of the authors' implementation")
    options.add_argument("--backdoorbench", type=Path, help="checkout of BackdoorBench")
    options.add_argument("--data", choices=DATA, default="cifar10")
    options.add_argument("--data-root")
    options.add_argument("--train-size", type=int, help="a class-balanced part; all by default")
    options.add_argument("--test-size", type=int, help="a class-balanced part; all by default")
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--batch-size", type=int, default=64)
    options.add_argument("--width", type=int, default=64, help="BackdoorBench has 64 only")
    options.add_argument("--workers", nargs="+", default=["own", "2"], help="of their DataLoaders; own is as published")
    given, device = parse(options, arguments)
    theirs = {name: getattr(given, name) for name in ("authors", "backdoorbench") if getattr(given, name)}
    if not theirs:
        options.error("name a checkout with --authors or --backdoorbench")
    if given.epochs < 2:
        options.error(f"expected --epochs of at least 2, of which the first is not counted, got {given.epochs}")
    if given.backdoorbench and given.width != 64:
        options.error(f"expected --width 64 with --backdoorbench, whose network is as wide, got {given.width}")
    case = make_case(given)
    trainer = trainer_of(Recipe(epochs=given.epochs, batch_size=given.batch_size), given.width, given.seed, device)
    sides: dict[str, dict[str, Any]] = {}
    for _ in range(given.repeats):
        merge(sides, "ours", run_ours(case, trainer))
        for name, workers in itertools.product(theirs, given.workers):
            merge(sides, f"{name}, {workers} workers", run_theirs(name, theirs[name], workers, case, given, device))
    for name, measured in sides.items():
        keep_side(name, measured, case, given, trainer)
    show(f"training images per second, {len(case.poisoned.dataset)} images per epoch", rows_of(sides, case))


def merge(sides: dict[str, dict[str, Any]], name: str, found: dict[str, Any]) -> None:
    """Add a repetition: its seconds to the others, and everything else in place of what the last one had."""
    before = sides.get(name, {}).get("seconds", [])
    sides[name] = found | {"seconds": before + found.get("seconds", [])}


def run_ours(case: Case, trainer: Trainer) -> dict[str, Any]:
    dataset, stamp = case.poisoned.dataset, NAB().stamp
    stamped = NAB().stamped_samples(dataset, case.suspicion)
    step = StampedTraining(stamp, stamped, dataset.normalization, trainer.device)
    trained, seconds = timed_training(case.suspicion.relabeled(dataset), trainer, step)
    metrics = evaluate(Stamped(trained.predictor, stamp), case.test, case.triggered)
    chosen = {name: metrics[name] for name in ("clean_accuracy", "attack_success_rate")}
    return {"seconds": seconds, "metrics": chosen, "stand_ins": []}


def run_theirs(
    name: str, checkout: Path, workers: str, case: Case, given: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """What their code reports from a process and a folder of its own, or why it failed."""
    job = {"epochs": given.epochs, "batch_size": given.batch_size, "width": given.width, "seed": given.seed}
    job |= {"device": device.type, "threads": torch.get_num_threads()}
    job |= {"workers": None if workers == "own" else int(workers)}
    with tempfile.TemporaryDirectory(prefix="nab-others-") as folder:
        write_job(Path(folder), case, job)
        done = subprocess.run(
            [sys.executable, str(FOREIGN), name, str(checkout), folder],
            capture_output=True,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(job["threads"]), "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"},
            check=False,
        )
        if done.returncode:
            return {"failed": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        report = json.loads((Path(folder) / "report.json").read_text())
        table = Path(folder) / "checkpoints" / "nab_df.csv"
        metrics = metrics_in(table) if table.exists() else metrics_printed(done.stdout)
    trainings = [found for found in report["passes"] if found["is_training"]]
    return {
        "seconds": [found["seconds"] for found in trainings[1:]],
        "loader_workers": trainings[-1]["workers"],
        "metrics": metrics,
        "stand_ins": report["stand_ins"],
    }


def write_job(folder: Path, case: Case, job: dict[str, Any]) -> None:
    """The authors' files: float images from 0 to 255, observed and true labels, who is poisoned, the target."""
    dataset, truth, test, attacked = case.poisoned.dataset, case.poisoned.truth, case.test, case.triggered

    def write(name: str, images: Tensor, labels: Tensor, true_labels: Tensor, is_poisoned: Tensor, target: int) -> None:
        path = folder / "datasets" / "cifar10" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"data": images.float(), "labels": labels, "true_labels": true_labels}
        torch.save(content | {"backdoor": is_poisoned, "target": target}, path)

    write("bench/train", dataset.images, dataset.labels, truth.true_labels, truth.is_poisoned, TARGET)
    everyone = torch.ones(len(test), dtype=torch.bool)
    write("bench/test", attacked.images, attacked.attack_labels, attacked.true_labels, everyone, TARGET)
    write("clean/test", test.images, test.labels, test.labels, ~everyone, -1)
    torch.save(case.suspicion.is_suspect, folder / "isolation")
    torch.save(case.suspicion.pseudo_labels, folder / "pseudo_label")
    (folder / "job.json").write_text(json.dumps(job))


def metrics_printed(output: str) -> dict[str, float]:
    """From what the authors' script prints after its last epoch."""
    found = PRINTED.findall(output)
    return dict(zip(("clean_accuracy", "attack_success_rate"), map(float, found[-1]), strict=True)) if found else {}


def metrics_in(table: Path) -> dict[str, float]:
    """From the last row of BackdoorBench's table, whose values are shares."""
    with table.open() as lines:
        last = list(csv.DictReader(lines))[-1]
    return {"clean_accuracy": 100 * float(last["test_acc"]), "attack_success_rate": 100 * float(last["test_asr"])}


def keep_side(name: str, measured: dict[str, Any], case: Case, given: argparse.Namespace, trainer: Trainer) -> None:
    code, _, workers = name.partition(", ")
    settings = {
        "code": code,
        "workers": workers.removesuffix(" workers"),
        "data": case.poisoned.dataset.name,
        "train_images": len(case.poisoned.dataset),
        "test_images": len(case.test),
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "width": given.width,
        "repeats": given.repeats,
        "seed": given.seed,
        "attack": "badnets",
        "poison_rate": POISON_RATE,
        "detection_rate": DETECTION_RATE,
        "detection_precision": DETECTION_PRECISION,
        "pseudo_label_accuracy": LABEL_ACCURACY,
    }
    keep(given.results, "others", "training", settings=settings, measured=measured, trainer=trainer)


def rows_of(sides: dict[str, dict[str, Any]], case: Case) -> list[dict[str, str]]:
    count = len(case.poisoned.dataset)
    ours = statistics.median(sides["ours"]["seconds"])
    rows = []
    for name, side in sides.items():
        row = {"code": name, "images/s": "", "ours is faster by": "", "ACC": "", "ASR": "", "remark": ""}
        if "failed" in side:
            row["remark"] = f"did not run: {side['failed']}"
        else:
            row["images/s"] = spread([count / seconds for seconds in side["seconds"]])
            row["ours is faster by"] = f"{statistics.median(side['seconds']) / ours:.1f}"
            metrics = side["metrics"]
            row |= {"ACC": f"{metrics['clean_accuracy']:.1f}", "ASR": f"{metrics['attack_success_rate']:.1f}"}
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
