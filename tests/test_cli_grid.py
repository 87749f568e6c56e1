"""`nab grid` and `nab cache` as they are typed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import yaml
from helpers import assert_one_line_error, result_of
from upath import UPath

from nab.experiments import Grid, ResultStore, StageCache, load_profile, read_results

TINY_RUN = {
    "dataset": {"name": "digits", "train_size": 100},
    "attack": "badnets",
    "defense": "none",
    "detector": "oracle",
    "labeler": "oracle",
    "detection_rate": 0.1,
    "model": {"name": "resnet9", "width": 4},
    "monitor_size": 20,
    "recipe": {"name": "paper", "epochs": 1, "batch_size": 32, "precision": "float32"},
}


def write_profile(folder: Path, grid: object, **run: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"summary": "of a test", "run": TINY_RUN | run, "grid": grid}))
    return path


@pytest.fixture
def mine(tmp_path) -> Path:
    """Three runs in two studies, of which one fails: its stamp is too large."""
    plain = {"name": "plain", "runs": {"defense": ["none"], "seed": [0]}}
    stamps = {"name": "stamps", "runs": {"defense": ["nab"], "defense.stamp.size": [17, 2]}}
    return write_profile(tmp_path, [plain, stamps])


@pytest.fixture
def executed(monkeypatch) -> dict:
    """What `make_executor` and `Grid.execute` are asked for; nothing runs."""
    seen: dict = {}
    monkeypatch.setattr("nab.experiments.make_executor", lambda backend, **how: seen.update(how, backend=backend))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def execute(grid, executor, jobs, **how):
        seen.update(how, jobs=jobs, grid=grid)

    monkeypatch.setattr(Grid, "execute", execute)
    return seen


# Real runs.


def test_a_grid_goes_on_when_a_run_fails_and_says_which_and_why(nab, mine, tmp_path):
    code, out, err = nab("grid", "--profile", mine, "--device", "cpu")
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "3 runs: 2 of 3 done, 1 failed; 0 of them were done before"
    too_large = "badnets nab (oracle + oracle) seed 0 defense.stamp.size=17: failed (expected a stamp of at most half"
    assert lines[1].startswith(too_large)
    assert len(lines) == 2
    assert err.count("\n") == 3, "a line per run that ends"
    assert "nab (oracle + oracle) seed 0 defense.stamp.size=2: done, ACC" in err
    assert "Traceback" not in err
    stored = read_results(tmp_path / "results")
    assert [(run.method("defense"), run.studies) for run in stored] == [("nab", ["stamps"]), ("none", ["plain"])]
    assert {run.profile for run in stored} == {"mine"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    code, out, err = nab("grid", "--profile", mine, "--device", "cpu", "--only", "defense=none")
    assert (code, out, err) == (0, "1 run: 1 of 1 done; 1 of them were done before\n", "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")} == before


def test_results_and_stages_may_lie_at_an_address(nab, mine, tmp_path):
    given = ["--results", f"file://{tmp_path}/there", "--stages", f"file://{tmp_path}/stages", "--device", "cpu"]
    code, out, _ = nab("grid", "--profile", mine, "--only", "defense=none", *given)
    assert (code, out.splitlines()[0]) == (0, "1 run: 1 of 1 done; 0 of them were done before")
    assert len(read_results(f"file://{tmp_path}/there")) == 1
    stages = {entry.stage for entry in StageCache(f"file://{tmp_path}/stages").entries()}
    assert stages == {"attack", "training", "evaluation"}
    code, out, _ = nab("show", f"file://{tmp_path}/there")
    assert code == 0
    assert "badnets" in out


# What is asked for.


def store_first(mine: Path, folder: Path, **changes: object) -> Path | UPath:
    """A result of the run without a defense, which was never run."""
    done = load_profile(str(mine)).config()
    return ResultStore(folder, "mine").write(result_of(done, "mine").model_copy(update=changes), done)


def test_a_dry_run_shows_what_there_is_to_do_and_does_nothing(nab, mine, tmp_path, executed):
    path = store_first(mine, tmp_path / "results", wall_seconds=7.0)
    before = path.read_bytes()
    code, out, err = nab("grid", "--profile", mine, "--dry-run", "--device", "cpu")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["digits", "badnets", "none", "1", "1", "7", "s"] in rows
    for size in ("17", "2"):
        nab_row = f"digits badnets nab (oracle + oracle) defense.stamp.size={size} 1 0 unknown unknown"
        assert nab_row.split() in rows
    assert out.splitlines()[-1] == "2 runs to do: time unknown for 2 runs, since nothing similar has finished"
    assert executed == {}
    assert not (tmp_path / "cache").exists()
    assert path.read_bytes() == before, "not even its studies"


def test_a_dry_run_adds_up_what_is_known_and_counts_what_is_not(nab, tmp_path, executed):
    studies = [{"name": "seeds", "runs": {"seed": [0, 1, 2]}}, {"name": "other", "runs": {"defense": ["nab"]}}]
    mine = write_profile(tmp_path, studies)
    given = ["grid", "--profile", mine, "--dry-run", "--device", "cpu", "--jobs", 2, "--threads", 3]
    assert nab(*given)[1].splitlines()[-1].startswith("4 runs to do: time unknown for 4 runs")
    store_first(mine, tmp_path / "results", wall_seconds=600.0)
    assert nab(*given)[1].splitlines()[-1] == (
        "3 runs to do: about 10:00 min with --jobs 2, 1.00 core-hours; "
        "unknown for 1 run, since nothing similar has finished"
    )
    assert nab(*given, "--only", "seed=0", "--only", "seed=1", "--only", "study=seeds")[1].splitlines()[-1] == (
        "1 run to do: about 5:00 min with --jobs 2, 0.50 core-hours"
    )
    assert nab(*given, "--only", "seed=0", "--only", "study=seeds")[1].splitlines()[-1] == "0 runs to do"


def test_results_that_cannot_be_read_are_counted_and_do_not_block(nab, mine, tmp_path, executed):
    path = store_first(mine, tmp_path / "results")
    path.with_name("half.json").write_text('{"hash": "12')
    code, _, err = nab("grid", "--profile", mine, "--device", "cpu")
    assert code == 0
    assert err.startswith("1 file left out:\n")
    assert "half.json is damaged" in err
    assert [cell.state for cell in executed["grid"].cells] == ["done", "waiting", "waiting"]


def test_a_result_that_was_there_before_belongs_to_the_study_that_uses_it_now(nab, mine, tmp_path, executed):
    path = store_first(mine, tmp_path / "results", studies=["older"])
    nab("grid", "--profile", mine, "--device", "cpu")
    assert json.loads(path.read_text())["studies"] == ["older", "plain"]


@pytest.mark.parametrize(("jobs", "threads"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_the_processors_are_shared_among_the_jobs(nab, mine, executed, monkeypatch, jobs, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    code, _, _ = nab("grid", "--profile", mine, "--jobs", jobs, "--device", "cpu")
    assert code == 0
    assert (executed["jobs"], executed["threads"], executed["gpus"]) == (jobs, threads, 0)
    assert executed["grid"].settings.threads == threads


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"MKL_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "5,2", "MKL_NUM_THREADS": "4"}, 5),
        ({"OMP_NUM_THREADS": "many"}, 3),
        ({"OMP_NUM_THREADS": "0"}, 3),
    ],
    ids=str,
)
def test_as_many_threads_as_the_user_said_in_the_environment(nab, mine, executed, monkeypatch, environment, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    nab("grid", "--profile", mine, "--jobs", 2, "--device", "cpu")
    assert executed["grid"].settings.threads == threads
    nab("grid", "--profile", mine, "--jobs", 2, "--device", "cpu", "--threads", 2)
    assert executed["grid"].settings.threads == 2


def test_threads_can_be_given_and_a_cluster_may_have_the_gpu_that_this_machine_lacks(nab, mine, executed):
    nab("grid", "--profile", mine, "--backend", "ray", "--jobs", "16", "--threads", "3", "--gpu-share", "0.25")
    assert (executed["threads"], executed["grid"].settings.threads, executed["gpus"]) == (3, 3, 0.25)


def test_options_reach_the_grid(nab, mine, executed, tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 500.0)
    given = "--backend dask --address tcp://somewhere:1 --time-budget 9m --results there --stages kept --data-root data"
    nab("grid", "--profile", mine, "--device", "cpu", *given.split())
    settings = executed["grid"].settings
    assert (executed["backend"], executed["address"], executed["deadline"]) == ("dask", "tcp://somewhere:1", 1040.0)
    assert settings.profile == "mine"
    assert settings.results == str(tmp_path / "there"), "workers may have another folder"
    assert settings.stages == str(tmp_path / "kept")
    assert settings.data_root == str(tmp_path / "data")


def test_addresses_stay_as_they_are(nab, mine, executed, monkeypatch):
    monkeypatch.setenv("NAB_STAGES", "memory://shared/stages")
    nab("grid", "--profile", mine, "--device", "cpu", "--results", "memory://shared/results")
    settings = executed["grid"].settings
    assert (settings.results, settings.stages) == ("memory://shared/results", "memory://shared/stages")


@pytest.mark.parametrize(
    ("only", "count"),
    [
        (["defense=none"], 1),
        (["defense=nab"], 2),
        (["defense=nab", "defense=none"], 3),
        (["seed=0"], 3),
        (["study=plain"], 1),
        (["study=stamps", "defense.stamp.size=2"], 1),
        (["poison_rate=1e-1"], 3),
        (["recipe.epochs=1.0"], 3),
    ],
    ids=str,
)
def test_only_some_runs(nab, mine, executed, only, count):
    nab("grid", "--profile", mine, "--device", "cpu", *(part for pair in only for part in ("--only", pair)))
    assert len(executed["grid"].cells) == count


def test_the_smoke_grid_has_every_attack_against_every_defense(nab, executed):
    from nab.attacks import ATTACKS
    from nab.defenses import DEFENSES

    nab("grid", "--profile", "smoke", "--device", "cpu")
    pairs = {(cell.config.attack.name, cell.config.defense.name) for cell in executed["grid"].cells}
    assert pairs == {(attack, defense) for attack in ATTACKS for defense in DEFENSES}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["grid", "--jobs", "0"], ["--jobs", "0"]),
        (["grid", "--backend", "slurm"], ["slurm", "loky"]),
        (["grid", "--time-budget", "soon"], ["'soon'", "9m"]),
        (["grid", "--only", "seed"], ["KEY=VALUE", "'seed'"]),
        (["grid", "--only", "sead=1"], ["unknown key 'sead'", "did you mean 'seed'"]),
        (["grid", "--only", "detector.epoch=1"], ["unknown key 'detector.epoch'", "did you mean 'detector.epochs'"]),
        (["grid", "--only", "study=mine"], ["none of the grid's", "study mine"]),
        (["grid", "--only", "seed=77"], ["none of the grid's", "77"]),
        (["grid", "--profile", "smok"], ["did you mean 'smoke'"]),
        (["grid", "--device", "tpu"], ["'tpu'"]),
        (["grid", "--gpu-share", "2"], ["--gpu-share"]),
        (["grid", "--stages", "nosuch://x"], ["nosuch://x cannot be used"]),
        (["grid", "--results", "nosuch://x"], ["nosuch://x cannot be used"]),
        (["cache", "size", "--stages", "nosuch://x"], ["nosuch://x cannot be used"]),
        (["cache", "prune", "--limit", "-1"], ["--limit"]),
        (["cache", "prune", "--limit", "x"], ["--limit", "x"]),
        (["cache", "sise"], ["sise"]),
    ],
    ids=" ".join,
)
def test_mistakes_have_their_line(nab, executed, arguments, parts):
    assert_one_line_error(nab(*arguments), *parts)
    assert executed == {}


def test_a_results_folder_that_cannot_be_written_to_has_its_line(nab, mine, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert_one_line_error(nab("grid", "--profile", mine, "--device", "cpu", "--results", "taken"), "--results")


def test_a_cache_folder_that_cannot_be_made_costs_only_the_cache(nab, executed, monkeypatch, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("NAB_CACHE", str(tmp_path / "taken"))
    code, out, err = nab("run", "--train-size", 100, "--epochs", 1, "--width", 4, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["found_stages"] == []
    assert "stages cannot be kept" in caplog.text
    assert nab("grid", "--device", "cpu")[0] == 0
    assert nab("cache", "size")[0] == 0


@pytest.mark.parametrize(("backend", "module"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_is_named(nab, mine, monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    answer = nab("grid", "--profile", mine, "--device", "cpu", "--backend", backend)
    assert_one_line_error(answer, f"'{backend}' needs {module}", "pip install 'nab-defense[cluster]'")
