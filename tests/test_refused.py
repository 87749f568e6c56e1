"""What cannot be run is refused at once, in one line that names it; nothing is trained and no traceback is seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nab.detection import DETECTORS
from nab.errors import ConfigError, NabError
from nab.experiments import StageCache, find_results, load_profile, make_config, run
from nab.paths import cache_folder, data_root
from nab.pseudolabels import LABELERS
from nab.training import Trainer

DEFENDED = {"defense": "nab", "detector": "lga", "labeler": "vd"}

LONG = "x" * 300
FOREIGN = "/tmp/\udcff"
"""A path whose bytes are no UTF-8, as Python reads it from the environment or the command line."""


def method(name: str, **params) -> dict:
    return {"name": name, "params": params}


# Configs.


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"poison_rate": 1.5}, "poison_rate: .*less than 1, got 1.5"),
        ({"detection_rate": 0}, "detection_rate in .0, 1., got 0"),
        ({"detection_rate": "atuo"}, r"detection_rate as a share in \(0, 1\) or 'auto', got 'atuo'"),
        ({"detection_threshold": float("nan")}, "detection_threshold in .*, got nan"),
        ({"target": -1}, "target: .*got -1"),
        ({"seed": -1}, "seed: .*got -1"),
        ({"seed": 1.5}, "seed: .*got 1.5"),
        ({"monitor_size": 0}, "monitor_size: .*got 0"),
        ({"dataset": "cifar"}, "unknown dataset 'cifar'.*did you mean 'cifar10'"),
        ({"dataset": method("digits", train_size=0)}, "train_size.*got 0"),
        ({"model": "resnet"}, "unknown model 'resnet'.*resnet18"),
        ({"model": method("resnet9", width=0)}, "width.*got 0"),
        ({"model": method("custom", function=print)}, "'custom' has a parameter that a result cannot hold"),
        ({"selection": "all"}, "balanced, uniform, exclude_target, got 'all'"),
        ({"attack": "badnet"}, "unknown attack 'badnet'.*did you mean 'badnets'"),
        ({"attack": method("blend", alfa=1)}, "unknown parameter of attack 'blend' 'alfa'.*did you mean 'alpha'"),
        ({"attack": method("blend", alpha=2)}, r"alpha in \(0, 1\], got 2"),
        ({"attack": {"name": "blend", "paramz": {}}}, "paramz"),
        ({"attack": 3}, "attack: .*got 3"),
        ({"attack": "sig", "label_map": "all-to-all"}, "label_map 'all-to-one' for SIG, got 'all-to-all'"),
        ({"defense": "nap"}, "unknown defense 'nap'.*did you mean 'nab'"),
        ({"detector": None}, f"defense 'nab' needs a detector: name one of {', '.join(sorted(DETECTORS))}"),
        ({"labeler": None}, f"defense 'nab' needs a labeler: name one of {', '.join(sorted(LABELERS))}"),
        ({"defense": method("nab", stamp={"sise": 4})}, "sise"),
        ({"recipe": method("paper", epochs=0)}, "epochs.*at least 1, got 0"),
        ({"recipe": method("paper", epoch=3)}, "epoch"),
        ({"recipe": "quik"}, "unknown recipe 'quik'.*did you mean 'quick'"),
        ({"recipe": {"epochs": 3}}, "recipe.name: Field required"),
        ({"no_such_field": 1}, "no_such_field"),
        ({3: 1}, "3: Keys should be strings"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_run_is_refused_in_one_line(wrong, told):
    with pytest.raises(ConfigError, match=told) as caught:
        make_config(DEFENDED | wrong)
    assert "\n" not in str(caught.value)


# Runs.


@pytest.fixture
def _no_training(monkeypatch) -> None:
    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr(Trainer, "train", fail)


SMOKE = load_profile("smoke")


def try_to_run(folder: Path, changes: dict, **options: Any) -> None:
    run(SMOKE.config(**changes), results=folder, device="cpu", **options)


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": 10}, "target from 0 to 9"),
        ({"dataset.train_size": 5}, "train_size from 10"),
        ({"dataset.train_size": 5000}, r"train_size from 10 .*to 1438"),
        ({"dataset.normalization.std": [float("nan"), 1, 1]}, r"normalization std as three finite numbers, got \(nan,"),
        ({"dataset": "folder", "dataset.folder": "~nouser/x"}, "~nouser"),
        ({"model.width": 99_999_999}, "width to be a whole number from 1 to .*got 99999999"),
        ({"model": "custom", "model.path": "nowhere:net"}, "model.path 'nowhere:net' cannot be imported"),
        ({"recipe.crop_padding": 999}, "crop_padding of at most the image's 32 pixels, got 999"),
        ({"recipe.crop_padding": 10**9}, "crop_padding to be a whole number from 0 to .*got 1000000000"),
        ({"seed": int("9" * 300)}, "seed: Input should be less than or equal to 9223372036854775807"),
        ({"seed": "9" * 300}, "seed: "),
        ({"attack": LONG}, "unknown attack 'xxx"),
        ({"poison_rate": 0.0001}, r"0\.0001"),
        ({"attack": "trojannn", "poison_rate": 0.0001}, r"0\.0001"),  # whose trigger is trained first
        ({"attack": "adap-blend", "attack.cover_rate": 0.99}, "covers of at most"),
        (DEFENDED | {"detection_rate": 0.0001}, r"detection_rate.*0\.0001"),
        (DEFENDED | {"attack": "trojannn", "detection_rate": 0.0001}, r"detection_rate.*0\.0001"),
        (DEFENDED | {"verified_rate": 0.0001}, r"verified.*0\.0001"),
        (DEFENDED | {"attack": "trojannn", "verified_rate": 0.0001}, r"verified.*0\.0001"),
        (DEFENDED | {"defense.stamp.size": 17}, "at most half the image .16 pixels., got 17"),
        (DEFENDED | {"attack": "trojannn", "defense.stamp.size": 17}, "at most half the image .16 pixels., got 17"),
        ({"attack.margin": 40}, "margin of at most 29"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_run_that_must_fail_fails_before_anything_is_trained(tmp_path, changes, told):
    with pytest.raises(NabError, match=told) as caught:
        try_to_run(tmp_path, changes)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.json"))


# Folders, files and names.

PLACES: dict[str, Callable[[str, Path, pytest.MonkeyPatch], object]] = {
    "results folder": lambda path, folder, patch: try_to_run(Path(path), {}),
    "results folder to read": lambda path, folder, patch: find_results(path),
    "data folder": lambda path, folder, patch: try_to_run(folder, {"dataset": "folder"}, data_root=path),
    "data folder of the environment": lambda path, folder, patch: (patch.setenv("NAB_DATA", path), data_root()),
    "NAB_CACHE": lambda path, folder, patch: (patch.setenv("NAB_CACHE", path), cache_folder()),
    "NAB_STAGES": lambda path, folder, patch: (patch.setenv("NAB_STAGES", path), StageCache()),
    "stages folder": lambda path, folder, patch: StageCache(path),
    "file to save to": lambda path, folder, patch: try_to_run(folder, {}, save=path),
    "profile file": lambda path, folder, patch: load_profile(f"{path}.yaml"),
}


@pytest.mark.usefixtures("_no_training")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("~nouser/x", "'~nouser/x.* cannot be used: Could not determine home directory"),
        (f"/tmp/{LONG}", r"'/tmp/x{100,}.*cannot be used: File name too long"),
        (FOREIGN, r"in UTF-8, got '/tmp/\\udcff"),
    ],
    ids=["nobody's home", "300 characters", "not UTF-8"],
)
def test_a_path_that_cannot_be_is_named_with_its_setting(tmp_path, monkeypatch, place, path, told):
    with pytest.raises(ConfigError, match=told) as caught:
        PLACES[place](path, tmp_path, monkeypatch)
    assert place.split(" to read")[0].split(" of the")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()  # can be printed


@pytest.mark.usefixtures("_no_training")
def test_a_profile_that_would_leave_the_results_folder_is_refused(tmp_path):
    for name in ("../other", "/tmp/other", "..", LONG):
        with pytest.raises(ConfigError, match="expected a profile's name of up to 64 letters"):
            try_to_run(tmp_path / "results", {}, profile=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_training")
def test_a_file_to_save_to_that_cannot_be_written_is_told_before_the_run(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for path, told in (("file/x", "Not a directory|File exists"), (".", "it is a folder")):
        with pytest.raises(ConfigError, match=rf"cannot be written to \(({told})\)"):
            try_to_run(tmp_path / "results", {}, save=tmp_path / path)


@pytest.mark.parametrize("limit", ["", "much", "5 GB", "nan", "inf", "-1", "1e999", "\udcff", "9" * 5000])
def test_a_limit_of_the_cache_that_is_none_is_refused(monkeypatch, tmp_path, limit):
    monkeypatch.setenv("NAB_CACHE_LIMIT", limit)
    with pytest.raises(ConfigError, match="expected NAB_CACHE_LIMIT as a number of gigabytes, got "):
        StageCache(tmp_path)
