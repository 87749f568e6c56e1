"""The whole line on the embedded digits: what it promises happens, is kept, read back, and the same to the bit."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from PIL import Image

from nab.defenses import DEFENSES
from nab.detection import DETECTORS
from nab.errors import NabError
from nab.experiments import ResultStore, RunConfig, RunResult, load_profile, read_results, run
from nab.pseudolabels import LABELERS

QUICK = {"train_size": 200, "recipe.epochs": 2}
QUICK_NAB = QUICK | {"defense": "nab", "detector.epochs": 2, "labeler.epochs": 2}


@pytest.fixture(scope="session")
def undefended(smoke_results) -> RunResult:
    return run(load_profile("smoke").config(defense="none"), profile="smoke", results=smoke_results, device="cpu")


@pytest.fixture(scope="session")
def defended(smoke_results) -> RunResult:
    return run(load_profile("smoke").config(defense="nab"), profile="smoke", results=smoke_results, device="cpu")


@pytest.fixture
def forbid_training(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("nab.training.context.train", fail)


# The effect.


def test_without_defence_the_attack_succeeds(undefended):
    assert undefended.metrics["attack_success_rate"] >= 95
    assert undefended.metrics["clean_accuracy"] >= 90
    assert undefended.metrics["robust_accuracy"] <= 5


def test_nab_switches_the_backdoor_off_at_a_bearable_cost(undefended, defended):
    assert defended.metrics["attack_success_rate"] <= 15
    assert defended.metrics["clean_accuracy"] >= undefended.metrics["clean_accuracy"] - 12
    assert defended.metrics["robust_accuracy"] >= 70


def test_without_the_stamp_the_backdoor_is_still_there(defended):
    """NAB does not unlearn the attack; the stamp switches it off."""
    assert defended.metrics["attack_success_rate_unstamped"] >= 80


def test_the_filter_stops_what_the_stamp_does_not(defended):
    assert defended.metrics["defense_success_rate"] >= 85
    assert defended.metrics["filtered_attack_success_rate"] <= defended.metrics["attack_success_rate"]
    assert defended.metrics["backdoor_reject_rate"] > defended.metrics["clean_reject_rate"]


def test_the_suspects_are_mostly_poisoned(defended):
    assert defended.metrics["detection_accuracy"] >= 60
    assert defended.metrics["detection_auroc"] >= 60
    assert defended.metrics["suspect_count"] == int(defended.config.detection_rate * 1438)
    assert 0 < defended.metrics["stamped_count"] <= defended.metrics["suspect_count"]


# The record.


def test_a_result_tells_the_whole_story(undefended, defended):
    for result in (undefended, defended):
        assert [row["epoch"] for row in result.curve] == list(range(1, result.config.recipe.epochs + 1))
        assert {"loss", "lr", "clean_accuracy", "attack_success_rate"} <= set(result.curve[-1])
        assert result.data["provenance"] == "no published fingerprint"
        assert len(result.data["train_fingerprint"]) == 32
        assert result.data["classes"] == list("0123456789")
        assert {"python", "nab", "torch", "numpy"} <= set(result.versions)
        assert result.device["type"] == "cpu"
        assert result.images_per_second > 0
        assert result.peak_memory_mb["host"] > 100
        assert {"data", "training", "evaluation", "total"} <= set(result.seconds)
        assert all(example["true_label"] != result.config.target for example in result.examples)
    assert {"detection", "pseudo_labels"} <= set(defended.seconds)
    assert "attack_success_rate_unstamped" in defended.curve[-1]
    assert [row["epoch"] for row in defended.detection_curve] == list(
        range(1, defended.config.make_detector().epochs + 1)
    )
    assert undefended.detection_curve == []
    assert undefended.config.detector is None


def test_results_are_files_named_by_their_hash(smoke_results, undefended, defended):
    for result in (undefended, defended):
        path = ResultStore(smoke_results, "smoke").path(result.config)
        assert result.hash in path.name
        assert json.loads(path.read_text())["metrics"] == result.model_dump(mode="json")["metrics"]
    assert {found.hash for found in read_results(smoke_results)} >= {undefended.hash, defended.hash}


def test_a_finished_run_is_read_back_and_nothing_is_trained(smoke_results, defended, forbid_training):
    again = run(defended.config, profile="smoke", results=smoke_results, device="cpu")
    assert again.model_dump(mode="json") == defended.model_dump(mode="json")


def test_force_trains_again(smoke_results, defended, forbid_training):
    with pytest.raises(AssertionError, match="something was trained"):
        run(defended.config, profile="smoke", results=smoke_results, device="cpu", force=True)


# Quick runs, whose numbers mean nothing.


@pytest.mark.parametrize("settings", [QUICK, QUICK_NAB], ids=["none", "nab"])
def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path, settings):
    config = load_profile("smoke").config(**settings)
    first = run(config, results=tmp_path, device="cpu")
    second = run(config, results=tmp_path, device="cpu", force=True)
    for part in ("metrics", "curve", "detection_curve", "examples", "data"):
        assert getattr(second, part) == getattr(first, part), part
    assert len(list(tmp_path.rglob("*"))) == 2, "one folder, one file"


def test_another_seed_is_another_run(tmp_path):
    one, other = (run(load_profile("smoke").config(**QUICK, seed=seed), results=tmp_path) for seed in (0, 1))
    assert one.hash != other.hash
    assert one.curve != other.curve


def test_force_replaces_a_damaged_result(tmp_path):
    config = load_profile("smoke").config(**QUICK)
    path = ResultStore(tmp_path, "smoke").path(config)
    path.parent.mkdir(parents=True)
    path.write_text("{half")
    with pytest.raises(NabError, match="--force"):
        run(config, profile="smoke", results=tmp_path)
    forced = run(config, profile="smoke", results=tmp_path, force=True)
    assert json.loads(path.read_text())["hash"] == forced.hash


def test_another_folder_of_images_is_not_answered_with_the_first_ones_result(tmp_path):
    """Both runs have the same config; the data behind it differs."""
    for name, base in (("one", 0), ("other", 90)):
        for label, number in itertools.product("ab", range(20)):
            file = tmp_path / name / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (base + number, 100 * (label == "a"), base)).save(file)
    config = load_profile("smoke").config(dataset="folder", poison_rate=0.2, **{"recipe.epochs": 1})
    how = {"results": tmp_path / "results", "device": "cpu"}
    first = run(config, data_root=tmp_path / "one", **how)
    assert run(config, data_root=tmp_path / "one", **how).hash == first.hash
    with pytest.raises(NabError, match=r"other images.*--force.*--results"):
        run(config, data_root=tmp_path / "other", **how)
    second = run(config, data_root=tmp_path / "other", force=True, **how)
    assert first.data["train_fingerprint"] != second.data["train_fingerprint"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"target": 10}, "target from 0 to 9"),
        ({"train_size": 5}, "train_size from 10"),
        ({"train_size": 5000}, r"train_size from 10 .*to 1438"),
        ({"poison_rate": 0.0001}, r"0\.0001"),
        ({"defense": "nab", "detection_rate": 0.0001}, r"detection_rate.*0\.0001"),
        ({"defense": "nab", "verified_rate": 0.0001}, r"verified.*0\.0001"),
        ({"defense": "nab", "defense.stamp.size": 17}, "at most half the image .16 pixels., got 17"),
        ({"attack.margin": 40}, "margin of at most 29"),
    ],
    ids=str,
)
def test_a_run_that_must_fail_fails_before_anything_is_trained(tmp_path, forbid_training, changes, told):
    with pytest.raises(NabError, match=told):
        run(load_profile("smoke").config(**changes), results=tmp_path, device="cpu")
    assert not list(tmp_path.rglob("*.json"))


class StoppedError(RuntimeError):
    """Raised when the defence would start."""


@pytest.fixture
def handed_over(monkeypatch) -> list:
    """What `run` hands to the defence; nothing is trained."""
    seen = []

    def spy(self, dataset, context):
        seen.append((dataset, context))
        raise StoppedError

    for cls in DEFENSES.values():
        monkeypatch.setattr(cls, "defend", spy)
    return seen


@pytest.mark.parametrize(("detector", "labeler"), [*itertools.product(sorted(DETECTORS), sorted(LABELERS))])
def test_the_truth_is_out_of_reach_of_every_real_method(tmp_path, handed_over, detector, labeler):
    config = load_profile("smoke").config(defense="nab", detector=detector, labeler=labeler)
    with pytest.raises(StoppedError):
        run(config, results=tmp_path)
    ((dataset, context),) = handed_over
    methods = DETECTORS[detector](), LABELERS[labeler]()
    has_oracle = any(method.is_oracle for method in methods)
    assert (context.truth is not None) == has_oracle
    assert (context.verified is not None) == any(method.needs_verified for method in methods)
    assert (context.encoder is not None) == any(method.needs_features for method in methods)
    assert set(vars(dataset)) <= {"images", "labels", "classes", "name", "fingerprint"}


def test_the_truth_is_out_of_reach_of_an_undefended_run(tmp_path, handed_over):
    with pytest.raises(StoppedError):
        run(load_profile("smoke").config(defense="none"), results=tmp_path)
    assert handed_over[0][1].truth is None


def test_the_verified_set_is_clean_and_of_its_size(tmp_path, handed_over):
    """Drawn from the images before they were poisoned: none of them carries a trigger."""
    config = load_profile("smoke").config(defense="nab", verified_rate=0.2)
    with pytest.raises(StoppedError):
        run(config, results=tmp_path)
    dataset, context = handed_over[0]
    assert abs(len(context.verified) - 0.2 * len(dataset)) <= 5
    assert context.verified.labels.unique().numel() == 10
    corner = context.verified.images[:, :, 26:29, 26:29].flatten(1).float()
    trigger = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]]).flatten().repeat(3).float()
    assert not (corner == trigger).all(1).any()
    assert (dataset.images[:, :, 26:29, 26:29].flatten(1).float() == trigger).all(1).sum() >= 0.09 * len(dataset)


def test_the_library_can_be_used_without_a_profile(tmp_path):
    config = RunConfig(model="resnet9", width=4, train_size=100, recipe={"epochs": 1})
    assert run(config, results=tmp_path, profile="mine").profile == "mine"
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["mine"]
