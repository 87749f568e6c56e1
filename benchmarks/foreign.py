"""Runs somebody else's checkout, unmodified, inside this process, and times its passes over the data.

    python benchmarks/foreign.py {authors,backdoorbench} CHECKOUT JOB

`others.py` starts this in a process of its own. JOB is a folder with the data in the authors' format and a
``job.json``; it becomes the working directory, so that nothing is written into the checkout. This program supplies what
the other code needs and does not find; ``JOB/report.json`` names every such stand-in and holds the times.

The clock sits in `torch.utils.data.DataLoader`, over which both implementations loop. It starts when a loader is asked
for its first batch and stops when the loader ends, so it measures the whole loop around the loader.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import random
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

Job = dict[str, Any]
Report = dict[str, list[Any]]


def time_loaders(report: Report, workers: int | None) -> None:
    """Record every pass over every DataLoader, and let ``workers`` replace the number that the code asks for."""
    loader: Any = DataLoader
    begin, make = loader.__iter__, loader.__init__

    @functools.wraps(begin)
    def timed(self: Any) -> Iterator[Any]:
        is_training = torch.is_grad_enabled() and isinstance(self.sampler, RandomSampler)
        wait_for_device()
        start = time.perf_counter()
        yield from begin(self)
        wait_for_device()
        seconds = time.perf_counter() - start
        about = {"images": len(self.dataset), "batch_size": self.batch_size, "workers": self.num_workers}
        report["passes"].append({"seconds": seconds, "is_training": is_training, **about})

    @functools.wraps(make)
    def made(self: Any, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options | {"num_workers": workers})

    loader.__iter__ = timed
    if workers is not None:
        loader.__init__ = made
        report["stand_ins"].append(f"every DataLoader has {workers} workers instead of its own number")


def wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run_authors(checkout: Path, job: Job, report: Report) -> None:
    """``train_nab.py`` as a script, with its own defaults for everything that the job does not name."""
    sys.path.insert(0, str(checkout))
    if job["width"] != 64:
        network: Any = importlib.import_module("src.resnet")
        network.ResNetGenerator = functools.partial(network.ResNetGenerator, width=job["width"] / 64)
        report["stand_ins"].append(f"its network is made with width {job['width']} instead of 64")
    options = {"attack": "bench", "epochs": job["epochs"], "batch-size": job["batch_size"], "save-dir": "checkpoints"}
    options |= {"isolation": "isolation", "pseudo-label": "pseudo_label"}
    sys.argv = ["train_nab.py", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
    runpy.run_path(str(checkout / "train_nab.py"), run_name="__main__")


class Encoder(nn.Module):
    """Stands in for BackdoorBench's self-supervised encoder, so that its nearest-center rule finds our labels.

    Its code asks for the features of all samples in order, and then for those of the suspects one by one, in order; the
    answers are the given labels, one-hot.
    """

    queue: Tensor

    def __init__(self, _: nn.Module) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))  # the code makes an optimizer for it, and never steps it
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        answers = self.queue[self.asked : self.asked + len(images)]
        self.asked += len(images)
        return answers.to(images.device)


def run_backdoorbench(checkout: Path, job: Job, report: Report) -> None:
    """The function ``nab`` of ``defense/nab.py``. It finds the results of detection and labeling as checkpoints."""
    Path("utils").symlink_to(checkout / "utils")  # the code reads its settings from the working directory
    if not hasattr(np, "infty"):
        vars(np)["infty"] = np.inf
        report["stand_ins"].append("numpy.infty, which NumPy 2 removed")
    sys.path.insert(0, str(checkout))
    module: Any = importlib.import_module("defense.nab")
    arguments = backdoorbench_arguments(checkout, job)
    load_config = module.load_config
    module.load_config = lambda path: (load_config(path), "", "")
    report["stand_ins"].append("load_config gives three values, as its caller expects, instead of one")
    supply_suspects(module, arguments, report)
    data = backdoorbench_data(importlib.import_module("utils.bd_dataset_v2"))
    module.nab(arguments, data)


def backdoorbench_arguments(checkout: Path, job: Job) -> argparse.Namespace:
    import yaml

    given = yaml.safe_load((checkout / "config/defense/nab/config.yaml").read_text())
    given |= {"device": job["device"], "epochs": job["epochs"], "batch_size": job["batch_size"]}
    given |= {"checkpoint_save": "/checkpoints/", "log": "/log", "prefetch": False, "batch_size_lgd": 64}
    given |= {"num_classes": 10, "input_height": 32, "input_width": 32, "input_channel": 3}
    given |= {"img_size": (32, 32, 3), "gamma": 0.5, "random_seed": job["seed"]}
    Path("log").mkdir()
    return argparse.Namespace(**given)


def supply_suspects(module: Any, arguments: argparse.Namespace, report: Report) -> None:
    """Make checkpoints of both networks that the code would train first, and our mask its file of suspects."""
    is_suspect, labels = torch.load("isolation", weights_only=True), torch.load("pseudo_label", weights_only=True)
    train = torch.load("datasets/cifar10/bench/train", weights_only=True)
    order = torch.cat([torch.arange(len(labels)), is_suspect.nonzero().squeeze(1)])
    answers = torch.where(is_suspect, labels, train["labels"])
    Encoder.queue = nn.functional.one_hot(answers[order], 10).float()
    module.SelfModel = Encoder
    encoder = {"epoch": 0, "model_state_dict": Encoder(nn.Identity()).state_dict()}
    torch.save(encoder, "checkpoints/self_latest_model.pt")
    detector = module.generate_cls_model(arguments.model, arguments.num_classes)
    torch.save(detector.state_dict(), "checkpoints/ascent_latest_model.pt")
    library: Any = torch
    load = library.load

    def load_suspects(path: Any, *rest: Any, **options: Any) -> Any:
        return is_suspect if str(path).endswith("_lga") else load(path, *rest, **options)

    library.load = load_suspects
    report["stand_ins"] += [
        "the self-supervised encoder answers with the given pseudo labels; it is not trained",
        "the detector is an untrained checkpoint, and its suspects are the given ones",
    ]


def backdoorbench_data(classes: Any) -> dict[str, Any]:
    """The job's data in the code's dataset classes. It expects no attacked test images of the target class."""
    train = torch.load("datasets/cifar10/bench/train", weights_only=True)
    attacked = torch.load("datasets/cifar10/bench/test", weights_only=True)
    clean = torch.load("datasets/cifar10/clean/test", weights_only=True)
    is_eligible = attacked["true_labels"] != attacked["target"]
    attacked = {k: v[is_eligible] if isinstance(v, Tensor) else v for k, v in attacked.items()}

    def wrapped(data: dict[str, Any], is_poisoned: Tensor) -> Any:
        from PIL import Image

        pixels = data["data"].permute(0, 2, 3, 1).to(torch.uint8).numpy()
        images = [Image.fromarray(image) for image in pixels]
        true_labels = data["true_labels"].tolist()
        poisoned = classes.prepro_cls_DatasetBD_v2(list(zip(images, true_labels, strict=True)))
        for position in is_poisoned.nonzero().squeeze(1).tolist():
            label = int(data["labels"][position])
            poisoned.set_one_bd_sample(position, images[position], label, true_labels[position])
        return classes.dataset_wrapper_with_transform(poisoned)

    nobody = torch.zeros(len(clean["labels"]), dtype=torch.bool)
    return {
        "bd_train": wrapped(train, train["backdoor"]),
        "bd_test": wrapped(attacked, torch.ones(len(attacked["labels"]), dtype=torch.bool)),
        "clean_test": wrapped(clean, nobody),
    }


RUNNERS = {"authors": run_authors, "backdoorbench": run_backdoorbench}


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("code", choices=RUNNERS)
    options.add_argument("checkout", type=Path)
    options.add_argument("job", type=Path)
    given = options.parse_args()
    checkout = given.checkout.resolve()
    os.chdir(given.job)
    job = json.loads(Path("job.json").read_text())
    torch.set_num_threads(job["threads"])
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(job["seed"])
    if job["device"] == "cpu":
        torch.cuda.is_available = lambda: False  # both implementations would take a GPU that is there
    report: Report = {"passes": [], "stand_ins": ["an empty folder for its checkpoints"]}
    Path("checkpoints").mkdir()
    time_loaders(report, job["workers"])
    RUNNERS[given.code](checkout, job, report)
    Path("report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
