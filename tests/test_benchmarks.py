"""The benchmarks run in their smallest settings; tables are made of planted numbers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nab.report import benchmarks

ROOT = Path(__file__).parents[1]

AUTHORS = """
from argparse import ArgumentParser
from pathlib import Path
import torch
from src.resnet import ResNetGenerator

parser = ArgumentParser()
for name in ("attack", "epochs", "batch-size", "save-dir", "isolation", "pseudo-label"):
    parser.add_argument("--" + name)
args = parser.parse_args()
train = torch.load(Path("datasets") / "cifar10" / args.attack / "train", weights_only=True)
clean = torch.load("datasets/cifar10/clean/test", weights_only=True)
assert Path(args.save_dir).is_dir()
assert train["data"].dtype == torch.float32 and train["data"].max() > 1
assert int(torch.load(args.isolation, weights_only=True).sum()) == int(0.05 * len(train["labels"]))
assert len(torch.load(args.pseudo_label, weights_only=True)) == len(train["labels"])
assert train["target"] == 0 and clean["target"] == -1 and bool(train["backdoor"].any())
model = ResNetGenerator("resnet-18")
pairs = torch.utils.data.TensorDataset(train["data"], train["labels"])
loader = torch.utils.data.DataLoader(pairs, int(args.batch_size), shuffle=True, num_workers=1)
for epoch in range(int(args.epochs)):
    for images, labels in loader:
        model(images)
    with torch.no_grad():
        for _ in loader:
            pass
    print("Epoch: 0 | Dev Acc: 12.50% | Dev Acc (backdoor): 3.00% | Dev Asr: 7.25% | Time: 1.00")
"""
"""A script with the interface of the authors' implementation, and nothing of its inside."""

RESNET = """
import torch
from lightly.models.batchnorm import get_norm_layer


def ResNetGenerator(name, width=1.0):
    norm = get_norm_layer(int(64 * width), 1)
    assert norm.num_features == 16
    return torch.nn.Sequential(torch.nn.Conv2d(3, norm.num_features, 3), norm)
"""


Run = Callable[..., list[benchmarks.Measurement]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a benchmark in this process, which spares the seconds of a start, and returns what it measured."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")

    def run(name: str, *options: str) -> list[benchmarks.Measurement]:
        module = importlib.import_module(name)
        module.main(["--results", str(tmp_path / "results"), "--device", "cpu", *options])
        found = benchmarks.read_measurements(name, tmp_path / "results")
        assert all(m.settings["seed"] == 0 and m.device["threads"] and m.versions["torch"] for m in found)
        return found

    return run


def test_throughput_measures_both_sides(tmp_path: Path, spare_environment: dict[str, str]) -> None:
    """As a program, as it is meant to be run."""
    tiny = ["--width", "16", "--batch-size", "16", "--images", "32", "--input-images", "32", "--repeats", "2"]
    options = ["--data", "digits", "--workers", "0", "--threads", "1", "--results", str(tmp_path), "--device", "cpu"]
    program = str(ROOT / "benchmarks" / "throughput.py")
    done = subprocess.run(
        [sys.executable, program, *options, *tiny], capture_output=True, text=True, env=spare_environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "resnet18, width 16" in done.stdout
    found = benchmarks.read_measurements("throughput", tmp_path)
    assert [m.what for m in found] == ["input pipeline", "training"]
    for what in ("input pipeline", "training"):
        table = benchmarks.throughput_table(found, what)
        assert table[["machine", "batch", "its workers"]].to_numpy().tolist() == [[found[0].machine, 16, "0"]]
    assert all(len(seconds) == 2 for m in found for seconds in m.measured["seconds"].values())
    assert found[0].machine.endswith(", 1 thread")


def test_arithmetic_counts_operations_by_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("arithmetic").SIZES, "cpu", (256,))
    tiny = ["--width", "4", "--batch-size", "8", "--images", "16", "--repeats", "1", "--precision", "float32"]
    (found,) = run("arithmetic", *tiny)
    # ResNet-18 on 32 x 32, multiply-adds. The first stage has four convolutions of 3 x 3. Each later one, at twice the
    # width and half the side, has three of them, one from half as many channels, and a shortcut of 1 x 1 from as many.
    w, side = 4, 32
    stages = w**2 * side**2 * (4 * 9 + 3 * (3 * 9 + 9 / 2 + 1 / 2))
    stem, linear = 27 * w * side**2, 8 * w * 10
    # The backward pass costs twice as much, except in the stem, since the images need no gradient.
    assert found.measured["flops_per_image"] == 2 * (3 * stages + 2 * stem + 3 * linear)
    assert benchmarks.arithmetic_table([found])["precision"].tolist() == ["float32"]


def test_defense_cost_measures_training_stamp_and_preparation(run: Run) -> None:
    tiny = ["--width", "16", "--batch-size", "16", "--images", "32", "--repeats", "1", "--epochs", "2"]
    (found,) = run("defense_cost", *tiny)
    assert set(found.measured["seconds"]) == {"plain", "nab"}
    assert len(benchmarks.defense_cost_table([found])) == 1


OTHERS = ("--data", "digits", "--train-size", "200", "--test-size", "20", "--repeats", "1", "--epochs", "2")


def test_others_runs_a_checkout_from_outside_and_says_what_it_supplied(run: Run, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / "src").mkdir(parents=True)
    (checkout / "train_nab.py").write_text(AUTHORS)
    (checkout / "src" / "resnet.py").write_text(RESNET)
    before = sorted(checkout.rglob("*"))
    theirs, ours = run("others", "--authors", str(checkout), "--workers", "own", "--width", "16", *OTHERS)
    assert (theirs.settings["code"], ours.settings["code"]) == ("authors", "ours")
    assert theirs.measured["metrics"] == {"clean_accuracy": 12.5, "attack_success_rate": 7.25}
    assert len(theirs.measured["seconds"]) == 1  # of two passes that train; the first is not counted
    assert theirs.measured["loader_workers"] == 1
    assert any("width 16 instead of 64" in line for line in theirs.measured["stand_ins"])
    assert sorted(checkout.rglob("*")) == before


def test_others_tells_why_a_checkout_did_not_run(run: Run, tmp_path: Path) -> None:
    (tmp_path / "train_nab.py").write_text("raise RuntimeError('no such luck')")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "resnet.py").write_text("ResNetGenerator = print")
    found = run("others", "--authors", str(tmp_path), "--workers", "0", "--width", "16", *OTHERS)
    table = benchmarks.others_table(found).set_index("code")
    assert table.loc["authors", "remark"] == "did not run: RuntimeError: no such luck"


def planted(benchmark: str, settings: dict[str, Any], measured: dict[str, Any], **changes: Any) -> Any:
    """A measurement with the given numbers."""
    values: dict[str, Any] = {
        "benchmark": benchmark,
        "what": "training",
        "settings": {"model": "resnet18", "width": 64, "batch_size": 100, "images": 1000} | settings,
        "measured": measured,
        "device": {"type": "cpu", "name": "a processor", "threads": 2, "precision": "bfloat16"},
        "versions": {"torch": "2.11.0"},
        "commit": None,
        "finished": "2026-01-02T00:00:00+00:00",
    }
    return benchmarks.Measurement(**(values | changes))


def test_throughput_table_takes_the_better_plain_side_and_pairs_repetitions() -> None:
    seconds = {
        "ours": [1.0, 2.0, 4.0],
        "plain, 0 workers": [3.0, 8.0, 20.0],
        "plain, 2 workers": [9.0, 9.0, 9.0],
    }
    row = benchmarks.throughput_table([planted("throughput", {}, {"seconds": seconds})], "training").iloc[0]
    assert row["ours"] == "500 (250 to 1,000)"
    assert row["plain"] == "125 (50 to 333)"
    assert row["its workers"] == "0"
    assert row["times faster"] == "4.0 (3.0 to 5.0)"


def test_arithmetic_table_divides_by_the_best_rate_of_the_same_repetition() -> None:
    # 1000 images of 2e9 operations in 4 s are 5e11 per second: half of 1e12, a quarter of 2e12.
    rates = [{"mm 512": 1e12, "mm 1024": 5e11}, {"mm 512": 2e12}]
    measured = {"flops_per_image": 2e9, "seconds": [4.0, 4.0], "matrix_rates": rates}
    row = benchmarks.arithmetic_table([planted("arithmetic", {"precision": "bfloat16"}, measured)]).iloc[0]
    assert row["share, %"] == "38 (25 to 50)"
    assert row["images/s"] == "250 (250 to 250)"


def test_defense_cost_table_gives_more_time_in_percent() -> None:
    measured = {
        "seconds": {"plain": [10.0, 10.0, 10.0], "nab": [10.1, 10.3, 9.9]},
        "stamp_seconds": [0.01],
        "preprocessing_seconds": [0.25],
    }
    row = benchmarks.defense_cost_table([planted("defense_cost", {}, measured)]).iloc[0]
    assert row["more time, %"] == "1.0 (-1.0 to 3.0)"
    assert row["stamp alone, %"] == "1.00"  # of the second that a tenth of the images takes
    assert row["before training, s"] == "0.250"


def test_others_table_compares_with_ours_of_the_same_settings() -> None:
    common = {"train_images": 1000, "epochs": 100, "workers": ""}
    metrics = {"clean_accuracy": 93.0, "attack_success_rate": 0.5}
    rows = [
        planted("others", common | {"code": "ours"}, {"seconds": [2.0], "metrics": metrics}),
        planted("others", common | {"code": "authors"}, {"seconds": [10.0, 14.0, 10.0], "metrics": metrics}),
        planted("others", common | {"code": "authors", "epochs": 3}, {"seconds": [5.0], "metrics": metrics}),
    ]
    table = benchmarks.others_table(rows)
    assert table["ours is faster"].tolist() == ["", "", "5.0 times"]
    assert table["ACC"].tolist() == ["", "93.0", "93.0"]  # three epochs say nothing of an implementation


def test_detectors_are_timed_in_processes_of_their_own(run: Run) -> None:
    (latent, image) = run("detectors", "--images", "300", "--features", "8", "--detector", "scan", "lga")
    for measurement in (latent, image):
        assert measurement.measured["seconds"][0] > 0
        assert 0.1 < measurement.measured["memory_gb"] < 4
    assert {m.settings["detector"]: m.settings["features"] for m in (latent, image)} == {"scan": 8, "lga": None}


def test_detector_times_stand_in_a_row_by_the_number_of_samples() -> None:
    def timed(detector: str, count: int, seconds: float) -> Any:
        settings = {"detector": detector, "train_images": count, "features": 8}
        return planted("detectors", settings, {"seconds": [seconds], "memory_gb": seconds})

    rows = [timed("scan", 200, 2.0), timed("scan", 1000, 9.0), timed("spectre", 200, 4.0)]
    table = benchmarks.detector_time_table(rows).set_index("detector")
    assert list(table.loc["scan", ["200", "1,000", "memory, GB"]]) == ["2.0", "9.0", "9.0"]
    assert list(table.loc["spectre", ["200", "1,000"]]) == ["4.0", ""]


def test_recipes_are_compared_by_finished_runs_and_timed_in_turn(run: Run, tmp_path: Path, capsys: Any) -> None:
    settings = {"dataset": {"name": "digits", "train_size": 100}, "model": {"name": "resnet9", "width": 16}}
    recipe = {"name": "paper", "epochs": 2, "flip": False}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"summary": "tiny", "run": settings | {"recipe": recipe}}))
    options = ["--profile", str(tmp_path / "tiny.yaml"), "--defense", "none", "--runs", str(tmp_path / "runs")]
    options += ["--timed-images", "64"]
    options += ["--repeats", "2", "--recipe"]
    (trained,) = run("recipe", *options, "profile")
    (read,) = run("recipe", *options, "profile", "quick", "--stored", "--seeds", "3")
    assert "no finished run with none, quick" in capsys.readouterr().out
    assert read.settings == trained.settings | {"seeds": 1}
    assert read.measured["ACC"] == pytest.approx(trained.measured["ACC"], abs=1e-3)
    assert len(read.measured["seconds of training"]) == 2
    assert min(read.measured["seconds of training"]) > 0


def test_sharing_table_compares_with_one_alone_of_the_same_repetition() -> None:
    rates = {"alone": [10.0, 20.0], "processes": [15.0, 40.0], "stack": [5.0, 10.0]}
    settings = {"model": "resnet18", "width": 16, "batch_size": 64, "models": 2}
    row = benchmarks.sharing_table([planted("sharing", settings, {"images_per_second": rates})]).iloc[0]
    assert row["processes, times"] == "1.8 (1.5 to 2.0)"
    assert row["stack, times"] == "0.5 (0.5 to 0.5)"
