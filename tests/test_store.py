"""Results are one JSON per run: written whole, read back exactly, refused when damaged."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
from helpers import result_of

from nab.errors import ResultError
from nab.experiments import ResultStore, RunConfig, RunResult, read_result, read_results

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return ResultStore(tmp_path, "smoke")


def test_a_result_is_kept_under_a_readable_name_with_the_hash(store, tmp_path):
    config = RunConfig(seed=3)
    path = store.write(result_of(config))
    assert path == tmp_path / "smoke" / f"digits-badnets-none-s3-{config.hash}.json"


def test_a_result_is_read_back_as_it_was_written(store):
    result = result_of(RunConfig(), clean_accuracy=97.25)
    store.write(result)
    assert store.read(RunConfig()) == result


def test_numbers_are_stored_with_six_digits_and_what_is_no_number_as_null(store):
    path = store.write(result_of(RunConfig(), clean_accuracy=100 / 3, robust_accuracy=math.nan))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    metrics = json.loads(path.read_text(), parse_constant=refuse)["metrics"]
    assert metrics["clean_accuracy"] == 33.3333
    assert metrics["robust_accuracy"] is None
    assert read_result(path).metrics["robust_accuracy"] is None


def test_a_run_that_was_not_run_has_no_result(store):
    store.write(result_of(RunConfig(seed=1)))
    assert store.read(RunConfig(seed=2)) is None


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"hash": 3}', "\x00\xff"])
def test_a_damaged_result_is_named_with_its_remedy(store, damage):
    path = store.write(result_of(RunConfig()))
    path.write_text(damage)
    with pytest.raises(ResultError, match=r"is damaged .*delete it, or run again with --force") as caught:
        store.read(RunConfig())
    assert str(path) in str(caught.value)


def test_an_unknown_key_is_damage(store):
    path = store.write(result_of(RunConfig()))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extra": 1}))
    with pytest.raises(ResultError, match="extra"):
        read_result(path)


def test_a_config_that_was_edited_is_damage(store):
    path = store.write(result_of(RunConfig()))
    content = json.loads(path.read_text())
    content["config"]["seed"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="damaged or from another version"):
        read_result(path)


def test_the_result_of_another_run_under_this_runs_name_is_refused(store):
    """A copied or renamed file must not pass for a run that never was."""
    other = store.write(result_of(RunConfig(seed=1)))
    shutil.copy(other, store.path(RunConfig(seed=2)))
    with pytest.raises(ResultError):
        store.read(RunConfig(seed=2))


def test_all_results_are_found_in_order_and_debris_is_not(tmp_path):
    for profile, seed in (("smoke", 1), ("laptop", 0), ("smoke", 0)):
        ResultStore(tmp_path, profile).write(result_of(RunConfig(seed=seed), profile))
    (tmp_path / "smoke" / ".digits.json-abc.tmp").write_text("half a fi")
    (tmp_path / "smoke" / ".digits.json").write_text("half a fi")
    assert [(run.profile, run.config.seed) for run in read_results(tmp_path)] == [
        ("laptop", 0),
        ("smoke", 0),
        ("smoke", 1),
    ]


def test_a_missing_folder_says_how_to_make_results(tmp_path):
    with pytest.raises(ResultError, match="nowhere does not exist; make results with `nab run`"):
        read_results(tmp_path / "nowhere")


def test_a_results_folder_that_is_a_file_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match=r"file.smoke cannot be written to .*choose another with --results"):
        ResultStore(tmp_path / "file", "smoke").check_writable()


def test_checking_leaves_nothing_behind(store):
    store.check_writable()
    assert list(store.folder.iterdir()) == []


def test_a_result_has_no_room_for_what_is_not_declared():
    content = result_of(RunConfig()).model_dump(mode="json")
    assert RunResult(**content).hash == RunConfig().hash
    with pytest.raises(ValueError, match="surprise"):
        RunResult(**content, surprise=1)


def test_every_result_that_comes_with_the_library_can_be_read():
    runs = read_results(REPOSITORY / "results")
    assert runs
    assert len({(run.profile, run.hash) for run in runs}) == len(runs)
    for path in (REPOSITORY / "results").rglob("*.json"):
        run = read_result(path)
        assert path == ResultStore(REPOSITORY / "results", path.parent.name).path(run.config)
