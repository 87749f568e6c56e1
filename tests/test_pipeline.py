"""The whole line on the embedded digits: what it promises happens, is kept, read back, and the same to the bit."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from kept import fill_disk
from PIL import Image

from nab.defenses import DEFENSES
from nab.defenses.storage import load_deployed
from nab.detection import DETECTORS
from nab.errors import NabError, ResultError
from nab.experiments import Method, Profile, ResultStore, RunConfig, RunResult, load_profile, read_results, run, runner
from nab.pseudolabels import LABELERS
from nab.training import Trainer

QUICK = {"dataset.train_size": 200, "recipe.epochs": 2}
QUICK_NAB = QUICK | {"defense": "nab", "detector.epochs": 2, "labeler.epochs": 2}
SMOKE = load_profile("smoke")


@pytest.fixture(scope="session")
def undefended(smoke_results) -> RunResult:
    return run(SMOKE.config(defense="none"), profile="smoke", results=smoke_results, device="cpu")


@pytest.fixture(scope="session")
def defended(smoke_results) -> RunResult:
    return run(SMOKE.config(defense="nab"), profile="smoke", results=smoke_results, device="cpu")


@pytest.fixture
def _no_training(monkeypatch) -> None:
    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr(Trainer, "train", fail)


# The effect.


def test_without_a_defense_the_attack_succeeds(undefended):
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
    found = defended.metrics
    assert found["defense_success_rate"] >= 85
    assert found["attack_success_rate_after_refusal"] <= found["attack_success_rate"]
    assert found["triggered_refusal_rate"] > found["clean_refusal_rate"]


def test_the_suspects_are_mostly_poisoned(defended):
    assert defended.metrics["detection_precision"] >= 60
    assert defended.metrics["detection_auroc"] >= 60
    assert defended.metrics["suspect_count"] == int(0.05 * 1438)
    assert 0 < defended.metrics["stamped_count"] <= defended.metrics["suspect_count"]


# The record.


def test_a_result_tells_the_whole_story(undefended, defended):
    for result in (undefended, defended):
        assert [row["epoch"] for row in result.curve] == list(range(1, result.params("recipe")["epochs"] + 1))
        assert {"loss", "lr", "clean_accuracy", "attack_success_rate"} <= set(result.curve[-1])
        assert result.data["provenance"] == "no published fingerprint"
        assert len(result.data["train_fingerprint"]) == 32
        assert result.data["classes"] == list("0123456789")
        assert {"python", "nab", "torch", "numpy"} <= set(result.versions)
        assert result.device["type"] == "cpu"
        assert result.images_per_second["training"] > 0
        assert result.peak_memory_mb["host"] > 100
        assert {"attack", "evaluation"} <= set(result.cost)
        assert all(example["true_label"] != 0 for example in result.examples)
    assert "training" in undefended.cost
    assert {"detection", "pseudo labels", "training (nab)"} <= set(defended.cost)
    assert "attack_success_rate_unstamped" in defended.curve[-1]
    assert [row["epoch"] for row in defended.detection_curve] == list(
        range(1, defended.params("detector")["epochs"] + 1)
    )
    assert (undefended.detection_curve, undefended.method("detector")) == ([], "")


def test_results_are_files_named_by_their_hash(smoke_results, undefended, defended):
    for result in (undefended, defended):
        path = ResultStore(smoke_results, "smoke").path(RunConfig(**result.settings))
        assert result.hash in path.name
        assert json.loads(path.read_text())["metrics"] == result.model_dump(mode="json")["metrics"]
    assert {found.hash for found in read_results(smoke_results)} >= {undefended.hash, defended.hash}


@pytest.mark.usefixtures("_no_training")
def test_a_finished_run_is_read_back_and_nothing_is_trained_unless_it_is_forced(smoke_results, defended):
    config, how = RunConfig(**defended.settings), {"profile": "smoke", "results": smoke_results, "device": "cpu"}
    assert run(config, **how).model_dump(mode="json") == defended.model_dump(mode="json")
    with pytest.raises(AssertionError, match="something was trained"):
        run(config, **how, force=True)


# Quick runs, whose numbers mean nothing.


@pytest.mark.parametrize("settings", [QUICK, QUICK_NAB], ids=["none", "nab"])
def test_the_same_run_twice_is_the_same_to_the_bit(tmp_path, settings, monkeypatch):
    config, results = SMOKE.config(**settings), []
    for name in ("one", "other"):
        monkeypatch.setenv("NAB_CACHE", str(tmp_path / name))
        results.append(run(config, results=tmp_path / "results", device="cpu", force=True))
    first, second = results
    assert second.found_stages == []
    for part in ("metrics", "curves", "detection_curve", "examples", "data"):
        assert getattr(second, part) == getattr(first, part), part
    assert len(list((tmp_path / "results").rglob("*"))) == 2, "one folder, one file"


def test_another_seed_is_another_run(tmp_path):
    one, other = (run(SMOKE.config(**QUICK, seed=seed), results=tmp_path) for seed in (0, 1))
    assert one.hash != other.hash
    assert one.curve != other.curve


def test_force_replaces_a_damaged_result(tmp_path):
    config = SMOKE.config(**QUICK)
    path = ResultStore(tmp_path, "smoke").path(config)
    path.parent.mkdir(parents=True)
    path.write_text("{half")
    with pytest.raises(NabError, match="--force"):
        run(config, profile="smoke", results=tmp_path)
    forced = run(config, profile="smoke", results=tmp_path, force=True)
    assert json.loads(path.read_text())["hash"] == forced.hash


def test_a_finished_run_joins_studies_and_force_keeps_them(tmp_path, monkeypatch):
    config = SMOKE.config(**QUICK)
    assert run(config, results=tmp_path, studies=["main"]).studies == ["main"]
    assert run(config, results=tmp_path, force=True).studies == ["main"]
    monkeypatch.setattr(runner, "attack_data", None)
    assert run(config, results=tmp_path, studies=["rates"]).studies == ["main", "rates"]
    assert [result.studies for result in read_results(tmp_path)] == [["main", "rates"]]


def test_a_full_disk_costs_no_result(tmp_path, monkeypatch, capsys):
    fill_disk(monkeypatch)
    with pytest.raises(ResultError, match=r"could not be written \(No space left on device\); the result is printed"):
        run(SMOKE.config(**QUICK), results=tmp_path)
    printed = capsys.readouterr().err
    assert RunResult.model_validate_json(printed[printed.index("{\n") :]).hash == SMOKE.config(**QUICK).hash
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_was_deployed_is_saved_with_the_name_of_its_run_even_if_there_is_a_result(tmp_path, digits):
    config, file = SMOKE.config(**QUICK_NAB), tmp_path / "deep" / "net.safetensors"
    first = run(config, results=tmp_path, device="cpu")
    second = run(config, results=tmp_path, device="cpu", save=file)
    assert second.metrics == first.metrics
    assert "training (nab)" in second.found_stages
    deployed = load_deployed(file, device="cpu")
    assert deployed.labels(digits[1].images).eq(digits[1].labels).double().mean() * 100 == pytest.approx(
        first.metrics["clean_accuracy"]
    )
    assert config.hash.encode() in file.read_bytes()


def test_another_folder_of_images_is_not_answered_with_the_first_ones_result(tmp_path):
    """Both runs have the same config; the data behind it differs."""
    for name, base in (("one", 0), ("other", 90)):
        for label, number in itertools.product("ab", range(20)):
            file = tmp_path / name / label / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (base + number, 100 * (label == "a"), base)).save(file)
    config = SMOKE.config(dataset="folder", poison_rate=0.2, **{"recipe.epochs": 1})
    how = {"results": tmp_path / "results", "device": "cpu"}
    first = run(config, data_root=tmp_path / "one", **how)
    assert run(config, data_root=tmp_path / "one", **how).hash == first.hash
    for save in (None, tmp_path / "net.safetensors"):
        with pytest.raises(NabError, match=r"other images.*--force.*--results"):
            run(config, data_root=tmp_path / "other", save=save, **how)
    second = run(config, data_root=tmp_path / "other", force=True, **how)
    assert first.data["train_fingerprint"] != second.data["train_fingerprint"]


def test_without_an_attack_only_clean_images_are_judged(tmp_path):
    result = run(SMOKE.config(**QUICK_NAB, attack="none"), results=tmp_path, device="cpu")
    assert {name for name in result.metrics if not name.startswith("clean_")} == {
        "suspect_count", "stamped_count", "pseudo_label_accuracy", "pseudo_label_accuracy_all",
        "pseudo_label_accuracy_stamped",
    }  # fmt: skip
    assert set(result.curve[-1]) == {"epoch", "loss", "lr", "clean_accuracy", "clean_accuracy_unstamped"}
    assert set(result.examples[0]) == {"index", "true_label", "clean", "clean_unstamped"}
    assert result.detection_curve == []


def test_the_library_can_be_used_without_a_profile(tmp_path):
    config = RunConfig(
        model=Method(name="resnet9", params={"width": 4}),
        dataset=Method(name="digits", params={"train_size": 100}),
        recipe=Method(name="paper", params={"epochs": 1}),
    )
    assert run(config, results=tmp_path, profile="mine").profile == "mine"
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["mine"]


def test_a_profile_runs_what_it_describes(tmp_path):
    profile = Profile(name="own", summary="x", run={"dataset": {"name": "digits", "train_size": 100}})
    small: dict[str, Any] = {"model": "resnet9", "model.width": 4, "recipe.epochs": 1}
    result = profile.run_one(results=tmp_path, device="cpu", **small)
    assert (result.profile, result.params("dataset")["train_size"]) == ("own", 100)


# What the defender is handed.


class StoppedError(RuntimeError):
    """Raised when the defense would start."""


@pytest.fixture
def handed_over(monkeypatch) -> list:
    """What `run` hands to the defense; nothing is trained."""
    seen: list = []

    def spy(defense, dataset, **given):
        seen.append((dataset, given))
        raise StoppedError

    monkeypatch.setattr(runner, "defend", spy)
    return seen


def handed(handed_over, folder, **changes) -> tuple:
    with pytest.raises(StoppedError):
        run(SMOKE.config(**changes), results=folder)
    return handed_over[-1]


def test_the_truth_is_out_of_reach_of_every_real_method(tmp_path, handed_over):
    for detector, labeler in [(name, "nc") for name in DETECTORS] + [("lga", name) for name in LABELERS]:
        dataset, given = handed(handed_over, tmp_path, defense="nab", detector=detector, labeler=labeler)
        needs = DETECTORS[detector]().needs | LABELERS[labeler]().needs
        assert (given["truth"] is not None) == ("oracle" in (detector, labeler)), (detector, labeler)
        assert (given["verified"] is not None) == ("verified" in needs), (detector, labeler)
        assert dataset.files is None
        assert "test" not in given
    for defense in DEFENSES:
        assert handed(handed_over, tmp_path, defense=defense)[1]["truth"] is None


def test_the_verified_set_is_clean_and_of_its_size(tmp_path, handed_over):
    """Drawn from the images before they were poisoned: none of them carries a trigger."""
    dataset, given = handed(handed_over, tmp_path, defense="fine-tune", verified_rate=0.2)
    verified = given["verified"]
    assert abs(len(verified) - 0.2 * len(dataset)) <= 5
    assert verified.labels.unique().numel() == 10
    corner = verified.images[:, :, 26:29, 26:29].flatten(1).float()
    trigger = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]]).flatten().repeat(3).float()
    assert not (corner == trigger).all(1).any()
    assert (dataset.images[:, :, 26:29, 26:29].flatten(1).float() == trigger).all(1).sum() >= 0.09 * len(dataset)
