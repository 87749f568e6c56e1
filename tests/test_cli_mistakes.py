"""Mistakes on the command line: one line each, and exit code 2, before anything is trained."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import assert_one_line_error
from PIL import Image

from nab.experiments import ResultStore, load_profile

LONG = "n" * 300
"""Longer than any file system allows a name to be."""

BYTE = "\udcff"
"""How Python shows an argument whose byte 255 is no UTF-8."""


# The twelve mistakes that are made most often. Each makes a wrong input and returns the options of `nab run`.


def unknown_attack(folder: Path) -> list[object]:
    return ["--attack", "badnet"]


def rate_above_one(folder: Path) -> list[object]:
    return ["--poison-rate", "1.5"]


def target_ten(folder: Path) -> list[object]:
    return ["--target", "10"]


def missing_data_folder(folder: Path) -> list[object]:
    return ["--dataset", "cifar10", "--data-root", folder / "nowhere"]


def truncated_parquet(folder: Path) -> list[object]:
    (folder / "cifar10").mkdir()
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    for part in ("train", "test"):
        file = folder / "cifar10" / f"{part}-00000-of-00001.parquet"
        pq.write_table(pa.table({"img": [{"bytes": buffer.getvalue(), "path": ""}], "label": [1]}), file)
    file = folder / "cifar10" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-200])
    return ["--dataset", "cifar10", "--data-root", folder]


def image_folder(folder: Path, sizes: dict[str, int]) -> list[object]:
    for name, size in sizes.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size)).save(folder / "images" / name)
    return ["--dataset", "folder", "--data-root", folder / "images"]


def text_named_png(folder: Path) -> list[object]:
    options = image_folder(folder, {"cats/1.png": 8, "dogs/2.png": 8})
    (folder / "images/dogs/2.png").write_text("this is no picture")
    return options


def width_zero(folder: Path) -> list[object]:
    return ["--width", "0"]


def unknown_profile(folder: Path) -> list[object]:
    return ["--profile", "smok"]


def results_not_writable(folder: Path) -> list[object]:
    (folder / "taken").write_text("a file, so nothing can be made in it, whoever runs this")
    return ["--results", folder / "taken"]


def damaged_result(folder: Path) -> list[object]:
    path = ResultStore(folder / "results", "smoke").path(load_profile("smoke").config())
    path.parent.mkdir(parents=True)
    path.write_text('{"hash": "12')
    return ["--results", folder / "results"]


def mixed_sizes(folder: Path) -> list[object]:
    return image_folder(folder, {"cats/1.png": 8, "dogs/2.png": 9})


def one_class_only(folder: Path) -> list[object]:
    return image_folder(folder, {"cats/1.png": 8, "cats/2.png": 8})


TWELVE: list[tuple[Any, ...]] = [
    (unknown_attack, "'badnet'", "badnets, blend", "did you mean 'badnets'?"),
    (rate_above_one, "poison_rate", "less than 1", "got 1.5"),
    (target_ten, "target from 0 to 9", "'digits'", "got 10"),
    (missing_data_folder, "nowhere does not exist", "--data-root", "NAB_DATA"),
    (truncated_parquet, "train-00000-of-00001.parquet", "truncated", "fetch it again"),
    (text_named_png, "images/dogs/2.png", "not an image file", "remove or replace it"),
    (width_zero, "width", "from 1 to 4,096", "got 0"),
    (unknown_profile, "'smok'", "laptop, paper, smoke", "did you mean 'smoke'?"),
    (results_not_writable, "taken", "cannot be written to", "--results"),
    (damaged_result, "results/smoke/digits-badnets-none-s0-", "damaged", "delete it, or run again with --force"),
    (mixed_sizes, "images/dogs/2.png", "expected 8 x 8 pixels", "1.png, got 9 x 9", "resize all images"),
    (one_class_only, "images", "at least two class folders", "found only 'cats'"),
]


@pytest.mark.parametrize(
    ("make", "parts"), [(row[0], row[1:]) for row in TWELVE], ids=[row[0].__name__ for row in TWELVE]
)
def test_each_of_the_twelve_wrong_inputs_has_its_line(nab, tmp_path, monkeypatch, make, parts):
    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("nab.training.Trainer.train", fail)
    assert_one_line_error(nab("run", *make(tmp_path)), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["run", "--dataset", "digit"], ["'digit'", "did you mean 'digits'"]),
        (["run", "--defense", "nap"], ["'nap'", "did you mean 'nab'"]),
        (["run", "--defense", "nab", "--detector", "lgaa"], ["'lgaa'", "did you mean 'lga'"]),
        (["run", "--defense", "nab", "--labeler", "dv"], ["'dv'", "did you mean 'vd'"]),
        (["run", "--model", "resnet"], ["'resnet'", "resnet18"]),
        (["run", "--device", "tpu"], ["'tpu'", "auto, cpu, cuda"]),
        (["run", "--epochs", "0"], ["epochs", "got 0"]),
        (["run", "--seed", "x"], ["'x'", "--seed"]),
        (["run", "--atack", "badnets"], ["--atack", "--attack"]),
        (["run", "--set", "recipe.lr"], ["KEY=VALUE", "'recipe.lr'"]),
        (["run", "--set", "recipe.rl=1"], ["rl"]),
        (["run", "--set", "recipe.epochs.x=1"], ["recipe.epochs"]),
        (["run", "--set", "sead=1"], ["'sead'", "did you mean 'seed'"]),
        (["run", "--set", "recipe.lr=[1"], ["recipe.lr", "'[1'"]),
        (["run", "--profile", "my.yaml"], ["my.yaml", "No such file"]),
        (["list", "atacks"], ["'atacks'", "did you mean 'attacks'"]),
        (["list"], ["issing argument", "datasets|attacks|"]),
        (["rum"], ["rum"]),
        (["show", "nowhere"], ["nowhere does not exist", "nab run"]),
        (["show", "."], ["no results", "nab run"]),
        (["run", "--save", "."], ["cannot be written to", "it is a folder", "name a file"]),
        # Names that no method of the run needs, and keys that no method has.
        (["run", "--detector", "nosuch"], ["unknown detector 'nosuch'"]),
        (["run", "--encoder", "nosuch"], ["unknown encoder 'nosuch'"]),
        (["run", "--detector", "lga", "--defense", "none"], ["setting detector", "defense 'none'", "leave it out"]),
        (["run", "--set", "labeler.epochs=3", "--defense", "none"], ["setting labeler.epochs", "leave it out"]),
        (["run", "--set", "verified_rate=0.1", "--defense", "abl"], ["setting verified_rate", "'abl'", "leave it out"]),
        (["run", "--attack", "none", "--poison-rate", "0.1"], ["setting poison_rate", "attack 'none'"]),
        (["run", "--attack", "none", "--target", "1"], ["setting target", "attack 'none'"]),
        (["run", "--defense", "nab", "--set", "detector.gamma=-1"], ["detector 'lga': ", "gamma", "got -1"]),
        (["run", "--set", "labeler.stamp.sise=4"], ["'sise'", "did you mean 'size'"]),
        (["run", "--set", "foo.bar=1"], ["unknown setting 'foo.bar'", "recipe.PARAMETER"]),
        (["run", "--set", "attack={nome: blend}"], ["attack", "a mapping with a name"]),
        # Values that no machine can work with.
        (["run", "--set", "model.width=99999999"], ["width", "from 1 to 4,096", "got 99999999"]),
        (["run", "--set", "recipe.crop_padding=999"], ["crop_padding of at most the image's 32 pixels", "got 999"]),
        (["run", "--set", "dataset.normalization.std=[nan,1,1]"], ["normalization std as three finite numbers", "nan"]),
        (["run", "--set", "recipe.lr=1e400"], ["lr in (0, inf)", "got inf"]),
        (["run", "--set", "attack.margin=2020-99-99"], ["a YAML value for attack.margin", "'2020-99-99'"]),
        (["run", "--seed", "9" * 300], ["seed", "less than or equal to 9223372036854775807"]),
        (["run", "--seed", "9" * 5000], ["--seed", "exceeded maximum size"]),
        # Paths that lead out of the folder, to nobody's home, or nowhere.
        (["run", "--profile", "../../../escape"], ["unknown profile '../../../escape'"]),
        (["run", "--results", "~nouser/x"], ["'~nouser/x' cannot be used"]),
        (["run", "--results", ""], ["results folder to be named", "empty"]),
        (["show", __file__], ["is a file: name a folder of results"]),
        (["run", "--seed", "0", "--set", "seed=1"], ["setting seed: given twice"]),
        (["run", "--epochs", "1", "--set", "recipe.epochs=2"], ["setting recipe.epochs: given twice"]),
        (["cache", "clear", "--stage", "nope"], ["nothing is kept in"]),
        (["run", "--save", "~nouser/x"], ["'~nouser/x' cannot be used"]),
        (["run", "--data-root", "~nouser/x"], ["'~nouser/x' cannot be used"]),
        (["show", "~nouser/x"], ["'~nouser/x' cannot be used"]),
        (["grid", "--results", "~nouser/x"], ["'~nouser/x' cannot be used"]),
        (["cache", "size", "--stages", "~nouser/x"], ["'~nouser/x' cannot be used"]),
        (["run", "--results", LONG], ["nnn", "File name too long"]),
        (["run", "--save", LONG], ["nnn", "File name too long"]),
        (["run", "--profile", LONG], ["unknown profile 'nnn"]),
        (["run", "--profile", f"{LONG}.yaml"], ["nnn", "File name too long"]),
        (["run", "--attack", LONG], ["unknown attack 'nnn"]),
        (["run", "--set", f"{LONG}=1"], ["unknown setting 'nnn"]),
        (["show", LONG], ["nnn", "File name too long"]),
        (["list", LONG], ["unknown kind 'nnn"]),
        ([LONG], ["nnn"]),
        (["run", "--attack", BYTE], ["arguments in UTF-8", r"'\udcff'"]),
        (["run", "--results", BYTE], ["arguments in UTF-8"]),
        (["show", BYTE], ["arguments in UTF-8"]),
    ],
    ids=lambda texts: ascii(" ".join(texts))[:50],
)
def test_other_mistakes_have_their_line_too(nab, monkeypatch, arguments, parts):
    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("nab.training.Trainer.train", fail)
    assert_one_line_error(nab(*arguments), *parts)


@pytest.mark.parametrize("command", ["run", "grid"])
def test_a_profile_whose_name_leads_out_of_the_results_folder_is_refused(nab, tmp_path, command):
    file = tmp_path / "deep" / "mine.yaml"
    file.parent.mkdir()
    file.write_text("name: ../../escape\nsummary: of a test\nrun: {dataset: digits}\n")
    results = tmp_path / "deep" / "results"
    answer = nab(command, "--profile", file, "--results", results, "--device", "cpu")
    assert_one_line_error(answer, "a profile's name", "'../../escape'")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "mine.yaml"]


def test_cuda_without_a_gpu_has_its_line(nab, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line_error(nab("run", "--device", "cuda"), "'cuda'", "use 'cpu' or 'auto'")
