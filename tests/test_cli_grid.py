"""`nab grid` and `nab cache` as they are typed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import NAB, assert_one_line_error, result_of

from nab.experiments import Grid, ResultStore, StageCache, load_profile, read_results
from nab.training import Output

TINY_RUN = {
    "dataset": "digits",
    "train_size": 100,
    "attack": "badnets",
    "defense": "none",
    "detector": "oracle",
    "labeler": "oracle",
    "detection_rate": 0.1,
    "model": "resnet9",
    "width": 4,
    "monitor_size": 20,
    "recipe": {"epochs": 1, "batch_size": 32, "precision": "float32"},
}


def write_profile(folder: Path, grid: object, **run: object) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"summary": "of a test", "run": TINY_RUN | run, "grid": grid}))
    return path


@pytest.fixture
def mine(tmp_path) -> Path:
    """Three runs, of which one fails: its stamp is too large."""
    blocks = [{"defense": ["none"], "seed": [0]}, {"defense": ["nab"], "defense.stamp.size": [17, 2]}]
    return write_profile(tmp_path, blocks)


@pytest.fixture
def executed(monkeypatch) -> dict:
    """What `make_executor` and `Grid.execute` are asked for; nothing runs."""
    seen: dict = {}
    monkeypatch.setattr("nab.experiments.make_executor", lambda backend, **how: seen.update(how, backend=backend))

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
    assert lines[1].startswith("badnets nab (oracle + oracle) seed 0: failed (expected a stamp of at most half the")
    assert len(lines) == 2
    assert err.count("\n") == 3, "a line per run that ends"
    assert "Traceback" not in err
    stored = read_results(tmp_path / "results")
    assert {run.config.defense.name for run in stored} == {"none", "nab"}
    assert {run.profile for run in stored} == {"mine"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")}
    code, out, err = nab("grid", "--profile", mine, "--device", "cpu", "--only", "defense=none")
    assert (code, out, err) == (0, "1 runs: 1 of 1 done; 1 of them were done before\n", "")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("*.json")} == before


def test_results_and_stages_may_lie_at_an_address(nab, mine, tmp_path):
    given = ["--results", f"file://{tmp_path}/there", "--stages", f"file://{tmp_path}/stages", "--device", "cpu"]
    code, out, _ = nab("grid", "--profile", mine, "--only", "defense=none", *given)
    assert (code, out.splitlines()[0]) == (0, "1 runs: 1 of 1 done; 0 of them were done before")
    assert len(read_results(f"file://{tmp_path}/there")) == 1
    stages = {entry.stage for entry in StageCache(f"file://{tmp_path}/stages").entries()}
    assert stages == {"poisoned-data", "network", "evaluation"}
    code, out, _ = nab("show", f"file://{tmp_path}/there")
    assert code == 0
    assert "badnets" in out


def processor_seconds(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Of a command, and its standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_a_cached_run_starts_and_ends_in_under_three_seconds(tmp_path, spare_environment):
    """Where importing torch takes a second and a half; the result is forced, so that only the stages help."""
    command = [NAB, "run", "--train-size", "200", "--epochs", "2", "--device", "cpu", "--results", str(tmp_path)]
    seconds, found = [], []
    for _ in range(3):
        spent, out = processor_seconds([*command, "--force", "--json"], spare_environment)
        seconds.append(spent)
        found.append(json.loads(out)["found_stages"])
    assert found == [[], *[["poisoned data", "network", "evaluation"]] * 2]
    torch_takes, _ = processor_seconds([sys.executable, "-c", "import torch"], spare_environment)
    assert min(seconds[1:]) < 3 * max(1, torch_takes / 1.5)


# What is asked for.


def test_a_dry_run_shows_what_there_is_to_do_and_does_nothing(nab, mine, tmp_path, executed):
    done = load_profile(str(mine)).config()
    ResultStore(tmp_path / "results", "mine").write(
        result_of(done, "mine").model_copy(update={"seconds": {"total": 7}})
    )
    code, out, err = nab("grid", "--profile", mine, "--dry-run", "--device", "cpu")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert ["digits", "badnets", "none", "1", "1", "7", "s"] in rows
    assert ["digits", "badnets", "nab", "(oracle", "+", "oracle)", "2", "0", "unknown"] in rows
    assert "2 runs to do" in out
    assert "core-hours" in out
    assert "2 runs of which nothing similar has finished" in out
    assert executed == {}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(("jobs", "threads"), [(1, 6), (2, 3), (4, 1), (9, 1)])
def test_the_processors_are_shared_among_the_jobs(nab, mine, executed, monkeypatch, jobs, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    code, _, _ = nab("grid", "--profile", mine, "--jobs", jobs, "--device", "cpu")
    assert code == 0
    assert (executed["jobs"], executed["threads"], executed["gpus"]) == (jobs, threads, 0)
    assert executed["grid"].settings.threads == threads


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
    [(["defense=none"], 1), (["defense=nab"], 2), (["defense=nab", "defense=none"], 3), (["seed=0"], 3)],
    ids=str,
)
def test_only_some_runs(nab, mine, executed, only, count):
    nab("grid", "--profile", mine, "--device", "cpu", *(part for pair in only for part in ("--only", pair)))
    assert len(executed["grid"].cells) == count


def test_the_smoke_grid_has_every_attack_against_every_defence(nab, executed):
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
        (["grid", "--only", "sead=1"], ["unknown field 'sead'", "seed"]),
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
    code, out, err = nab("run", "--train-size", 100, "--epochs", 1, "--set", "detector.epochs=1", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["found_stages"] == []
    assert "stages cannot be kept" in caplog.text
    assert nab("grid", "--device", "cpu")[0] == 0
    assert nab("cache", "size")[0] == 0


def test_an_unknown_limit_has_its_line(nab, monkeypatch):
    monkeypatch.setenv("NAB_CACHE_LIMIT", "much")
    assert_one_line_error(nab("cache", "size"), "NAB_CACHE_LIMIT", "'much'")


@pytest.mark.parametrize(("backend", "module"), [("ray", "ray"), ("dask", "distributed")])
def test_an_engine_that_is_not_installed_is_named(nab, mine, monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    answer = nab("grid", "--profile", mine, "--device", "cpu", "--backend", backend)
    assert_one_line_error(answer, f"'{backend}' needs {module}", "nab[cluster]")


# The cache.


@pytest.fixture(params=["cache folder", "folder", "file address"])
def filled(request, tmp_path, cache_folder) -> tuple[StageCache, list[str]]:
    """Three outputs, and the options that name their place."""
    places = {"cache folder": None, "folder": str(tmp_path / "kept"), "file address": f"file://{tmp_path}/kept"}
    place = places[request.param]
    cache = StageCache(place)
    for stage, seconds in (("network", 90.0), ("pseudo labels", 2.5), ("scores", 3.0)):
        cache(stage, {}, lambda seconds=seconds: Output(values={"x": 1}, seconds=seconds))
    return cache, [] if place is None else ["--stages", place]


def test_cache_size(nab, filled):
    cache, where = filled
    code, out, err = nab("cache", "size", *where)
    assert (code, err) == (0, "")
    assert out.startswith("3 outputs, 0.00")
    assert "of at most 20.000 GB" in out
    assert str(cache.where) in out.replace("\n", "")


def test_cache_list(nab, filled):
    cache, where = filled
    code, out, err = nab("cache", "list", *where)
    assert (code, err) == (0, "")
    assert "pseudo-labels" in out
    assert "90.0 s" in out
    for entry in cache.entries():
        assert entry.key in out


def test_cache_prune(nab, filled, monkeypatch):
    cache, where = filled
    assert nab("cache", "prune", *where)[1].startswith("0 outputs deleted")
    limit = (cache.size() - 1) / 1e9
    assert nab("cache", "prune", "--limit", f"{limit:.12f}", *where)[1].startswith("1 outputs deleted")
    monkeypatch.setenv("NAB_CACHE_LIMIT", "0")
    assert nab("cache", "prune", *where)[1].startswith("2 outputs deleted")
    assert cache.entries() == []


def test_cache_clear(nab, filled):
    cache, where = filled
    assert nab("cache", "clear", "--stage", "pseudo-labels", *where)[1].startswith("1 outputs deleted")
    assert sorted(entry.stage for entry in cache.entries()) == ["network", "scores"]
    assert nab("cache", "clear", *where)[1].startswith("2 outputs deleted")
    assert cache.size() == 0


def test_cache_of_nothing(nab):
    assert nab("cache", "size")[1].startswith("0 outputs")
    code, out, _ = nab("cache", "list")
    assert code == 0
    assert "stage" in out
    assert nab("cache", "clear")[1].startswith("0 outputs deleted")
