"""Results are one JSON per run: written whole, read back exactly; what cannot be read is named and left alone."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
import timeit
from pathlib import Path

import pytest
from helpers import result_of

from nab.digest import SCHEMA
from nab.errors import ConfigError, ResultError
from nab.experiments import (
    ResultStore,
    RunConfig,
    RunResult,
    find_results,
    make_config,
    read_result,
    read_results,
)
from nab.experiments.store import tell_problems

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def store(tmp_path) -> ResultStore:
    return ResultStore(tmp_path, "smoke")


def keep(store: ResultStore, **fields) -> Path:
    """A result of the run that has these fields."""
    config = RunConfig(**fields)
    return Path(str(store.write(result_of(config, store.profile), config)))


# Written and read.


def test_a_result_is_kept_under_a_readable_name_with_the_hash(store, tmp_path):
    path = keep(store, seed=3)
    assert path == tmp_path / "smoke" / f"digits-badnets-none-s3-{RunConfig(seed=3).hash}.json"


def test_a_result_is_read_back_as_it_was_written(store):
    result = result_of(RunConfig(), clean_accuracy=97.25)
    store.write(result, RunConfig())
    assert store.read(RunConfig()) == result


def test_numbers_are_stored_with_six_digits_and_what_is_no_number_as_null(store):
    path = store.write(result_of(RunConfig(), clean_accuracy=100 / 3, robust_accuracy=math.nan), RunConfig())

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    metrics = json.loads(path.read_text(), parse_constant=refuse)["metrics"]
    assert metrics["clean_accuracy"] == 33.3333
    assert metrics["robust_accuracy"] is None
    assert read_result(path).metrics["robust_accuracy"] is None


def test_settings_are_stored_with_all_their_digits(store):
    config = make_config({"attack": {"name": "blend", "params": {"alpha": 0.123456789}}})
    store.write(result_of(config), config)
    assert store.read(config).params("attack")["alpha"] == 0.123456789


def test_a_result_says_what_its_run_was():
    chosen = make_config({"attack": {"name": "blend", "params": {"alpha": 0.3}}, "seed": 5})
    result = result_of(chosen)
    assert (result.method("attack"), result.params("attack")["alpha"], result.seed) == ("blend", 0.3, 5)
    assert (result.method("labeler"), result.params("labeler")) == ("", {})
    assert result.seconds == 2.0  # 1.5 of training, 0.5 of evaluation
    assert result.curve == [{"epoch": 1, "loss": 0.5, "lr": 0.1}]
    assert result.model_copy(update={"curves": {}}).curve == []


def test_a_run_that_was_not_run_has_no_result(store):
    keep(store, seed=1)
    assert store.read(RunConfig(seed=2)) is None


def test_checking_leaves_nothing_behind(store):
    store.check_writable()
    assert list(store.folder.iterdir()) == []


# Studies.


def test_a_result_joins_studies_without_a_run_and_tables_find_it_by_them(store):
    config, other = RunConfig(), RunConfig(seed=1)
    first = result_of(config, studies=["main"])
    store.write(first, config)
    store.write(result_of(other, studies=["rates"]), other)
    joined = store.join(first, config, ["rates", "main"])
    assert joined.studies == ["main", "rates"]
    found = read_results(store.folder)
    assert {result.seed for result in found if "rates" in result.studies} == {0, 1}
    assert {result.seed for result in found if "main" in result.studies} == {0}
    assert store.read(config).model_copy(update={"studies": ["main"]}) == first, "nothing else has changed"


def test_a_result_that_belongs_to_a_study_is_not_written_again(store, monkeypatch):
    result = result_of(RunConfig(), studies=["main"])
    store.write(result, RunConfig())
    monkeypatch.setattr("nab.experiments.store.write_whole", None)
    assert store.join(result, RunConfig(), ["main"]) is result
    assert store.join(result, RunConfig(), []) is result


# What cannot be read.

BROKEN = {
    "empty": (b"", "is damaged or no result (it is no JSON)"),
    "half": (b'{"hash": "x", "metr', "is damaged or no result (it is no JSON)"),
    "bytes": (b"\xff\xfe\x00", "is damaged or no result (it is no JSON)"),
    "deep": (b"[" * 100_000, "is damaged or no result (it is no JSON)"),
    "list": (b"[]", "is no result (it lacks a hash and metrics)"),
    "notes": (b'{"to do": "everything"}', "is no result (it lacks a hash and metrics)"),
    "old": (b'{"hash": "x", "metrics": {}}', f"another version (schema 1; this version reads {SCHEMA})"),
    "future": (b'{"hash": "x", "metrics": {}, "schema_version": 99}', "another version (schema 99;"),
    "poor": (b'{"hash": "x", "metrics": {}, "schema_version": %d}' % SCHEMA, "is damaged (profile: Field required"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_no_result_is_named_and_blocks_no_other(store, name, capsys):
    good = keep(store)
    content, told = BROKEN[name]
    path = store.folder / f"{name}.json"
    path.write_bytes(content)
    found = find_results(store.folder.parent)
    assert [result.hash for result in found.results] == [RunConfig().hash]
    (problem,) = found.problems
    assert problem.startswith(f"{path} ")
    assert told in problem
    assert "\n" not in problem
    assert path.read_bytes() == content
    assert good.exists()
    tell_problems(found)
    assert capsys.readouterr().err == f"1 file left out:\n  {problem}\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"surprise": 1}, "surprise"),
        ({"metrics": {"clean_accuracy": "high"}}, "metrics"),
        ({"settings": {}}, "expected a seed"),
        ({"settings": {"seed": 0, "attack": "badnets"}}, "expected attack as a mapping with name and params"),
    ],
    ids=str,
)
def test_a_result_that_was_edited_is_damage(store, change, told):
    path = keep(store)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultError, match=rf"is damaged \(.*{told}"):
        read_result(path)


@pytest.mark.parametrize("name", BROKEN)
def test_the_damaged_result_of_this_very_run_is_named_with_its_remedy(store, name):
    path = keep(store)
    path.write_bytes(BROKEN[name][0])
    with pytest.raises(ResultError, match="delete it, or run again with --force") as caught:
        store.read(RunConfig())
    assert str(caught.value).startswith(str(path))


def test_the_result_of_another_run_under_this_runs_name_is_refused(store):
    """A copied or renamed file must not pass for a run that never was."""
    other = keep(store, seed=1)
    shutil.copy(other, store.path(RunConfig(seed=2)))
    with pytest.raises(ResultError, match=r"holds another run .*--force"):
        store.read(RunConfig(seed=2))


def test_many_problems_are_counted(store, capsys):
    store.folder.mkdir()
    for number in range(12):
        (store.folder / f"{number:02}.json").write_text("{")
    tell_problems(find_results(store.folder))
    lines = capsys.readouterr().err.splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("12 files left out:", 12, "  and 2 more")
    tell_problems(find_results(keep(ResultStore(store.folder.parent, "fine")).parent))
    assert capsys.readouterr().err == ""


def test_what_is_no_file_is_named(store):
    (store.folder / "a.json").mkdir(parents=True)
    (store.folder / "b.json").symlink_to("nowhere")
    folder, link = find_results(store.folder).problems
    assert folder.endswith("a.json cannot be read (Is a directory)")
    assert link.endswith("b.json cannot be read (No such file or directory)")


def test_all_results_are_found_in_order_and_hidden_files_are_not(tmp_path):
    for profile, seed in (("smoke", 1), ("laptop", 0), ("smoke", 0)):
        keep(ResultStore(tmp_path, profile), seed=seed)
    hidden = tmp_path / "smoke" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(next((tmp_path / "smoke").glob("*.json")), hidden / "copy.json")
    (tmp_path / "smoke" / ".digits.json").write_text("half a fi")
    found = find_results(tmp_path)
    assert [(run.profile, run.seed) for run in found.results] == [("laptop", 0), ("smoke", 0), ("smoke", 1)]
    assert found.problems == []


# Folders.


def test_a_missing_folder_says_where_it_was_looked_for_and_how_to_make_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultError, match="does not exist; make results with `nab run`") as caught:
        read_results()
    assert str(tmp_path / "results") in str(caught.value)


def test_a_results_folder_that_is_a_file_cannot_be_written_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(ResultError, match=r"cannot be written to \(Not a directory\); choose another") as caught:
        ResultStore("file", "smoke").check_writable()
    assert str(tmp_path / "file" / "smoke") in str(caught.value)


@pytest.mark.parametrize("name", ["../other", "..", ".", "", "a/b", "/tmp/x", "a..b", ".hidden", "x" * 65, "a\nb", "ä"])
def test_a_profile_whose_name_is_no_folder_of_its_own_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="expected a profile's name of up to 64 letters"):
        ResultStore(tmp_path, name)


def test_names_of_files_are_short_whatever_a_method_is_called(store, monkeypatch):
    from nab.defenses import DEFENSES, NoDefense

    monkeypatch.setitem(DEFENSES, "x/" * 150, NoDefense)
    config = make_config({"defense": "x/" * 150})
    store.write(result_of(config), config)
    assert len(store.path(config).name) < 140
    assert store.read(config).hash == config.hash


def test_an_address_holds_results_as_a_folder_does():
    store = ResultStore("memory://results-of-tests", "smoke")
    store.check_writable()
    config = RunConfig()
    store.write(result_of(config), config)
    assert store.read(config) == result_of(config)
    assert [result.hash for result in read_results("memory://results-of-tests")] == [config.hash]


# What reading costs.


def test_a_hundred_and_fifty_results_are_read_in_a_moment(store):
    text = json.loads(keep(store).read_text())
    text["curves"] = {name: [{"epoch": e, "loss": 0.5, "lr": 0.1} for e in range(100)] for name in ("a", "b")}
    for number in range(150):
        (store.folder / f"{number}.json").write_text(json.dumps(text | {"hash": f"{number:016}"}))
    assert len(read_results(store.folder)) == 151
    # Without the garbage collector, which would look through what all the tests before have left.
    assert min(timeit.repeat(lambda: read_results(store.folder), timer=time.process_time, number=1, repeat=3)) < 0.3


def test_reading_results_imports_nothing_heavy(tmp_path, spare_environment):
    keep(ResultStore(tmp_path, "smoke"))
    program = (
        "import sys; from nab.experiments import read_results; "
        f"assert len(read_results({str(tmp_path)!r})) == 1; "
        "print([name for name in ('torch', 'pandas', 'sklearn', 'numpy', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=spare_environment)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_result_has_no_room_for_what_is_not_declared():
    content = result_of(RunConfig()).model_dump(mode="json")
    assert RunResult(**content).hash == RunConfig().hash
    with pytest.raises(ValueError, match="surprise"):
        RunResult(**content | {"surprise": 1})


def test_every_result_that_comes_with_the_library_can_be_read_and_made_again():
    """Its file is where a run with its settings would look for it."""
    found = find_results(REPOSITORY / "results")
    assert found.problems == []
    assert found.results
    assert len({(result.profile, result.hash) for result in found.results}) == len(found.results)
    for result in found.results:
        store = ResultStore(REPOSITORY / "results", result.profile)
        assert read_result(store.path(make_config(result.settings))).hash == result.hash
