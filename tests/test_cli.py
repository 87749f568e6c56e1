"""The `nab` command: quick, one JSON object on request, and one line for every mistake."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import NAB, assert_one_line_error, result_of
from PIL import Image

from nab import cli
from nab.experiments import ResultStore, RunConfig, load_profile, read_results
from nab.report.terminal import registries

QUICK = ["--train-size", "200", "--epochs", "2", "--device", "cpu"]


# The twelve wrong inputs of the contract.


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


TWELVE = [
    (unknown_attack, "'badnet'", "badnets, blend", "did you mean 'badnets'?"),
    (rate_above_one, "poison_rate", "less than 1", "got 1.5"),
    (target_ten, "target from 0 to 9", "'digits'", "got 10"),
    (missing_data_folder, "nowhere does not exist", "--data-root", "NAB_DATA"),
    (truncated_parquet, "train-00000-of-00001.parquet", "truncated", "fetch it again"),
    (text_named_png, "images/dogs/2.png", "not an image file", "remove or replace it"),
    (width_zero, "width", "greater than or equal to 1", "got 0"),
    (unknown_profile, "'smok'", "laptop, paper, smoke", "did you mean 'smoke'?"),
    (results_not_writable, "taken", "cannot be written to", "--results"),
    (damaged_result, "results/smoke/digits-badnets-none-s0-", "damaged", "delete it, or run again with --force"),
    (mixed_sizes, "images/dogs/2.png", "expected 8 x 8 pixels like 1.png, got 9 x 9", "resize all images"),
    (one_class_only, "images", "at least two class folders", "found only 'cats'"),
]


@pytest.mark.parametrize(
    ("make", "parts"), [(row[0], row[1:]) for row in TWELVE], ids=[row[0].__name__ for row in TWELVE]
)
def test_each_of_the_twelve_wrong_inputs_has_its_line(nab, tmp_path, monkeypatch, make, parts):
    def fail(*_, **__):
        raise AssertionError("something was trained")

    monkeypatch.setattr("nab.training.context.train", fail)
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
        (["run", "--profile", "my.yaml"], ["my.yaml does not exist"]),
        (["list", "atacks"], ["'atacks'", "did you mean 'attacks'"]),
        (["list"], ["issing argument", "attacks|detectors"]),
        (["rum"], ["rum"]),
        (["show", "nowhere"], ["nowhere does not exist", "nab run"]),
        (["show", "."], ["no results", "nab run"]),
    ],
    ids=" ".join,
)
def test_other_mistakes_have_their_line_too(nab, arguments, parts):
    assert_one_line_error(nab(*arguments), *parts)


def test_cuda_without_a_gpu_has_its_line(nab, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert_one_line_error(nab("run", "--device", "cuda"), "'cuda'", "use 'cpu' or 'auto'")


def test_a_damaged_result_is_named_by_show_too(nab, tmp_path):
    options = damaged_result(tmp_path)
    assert_one_line_error(nab("show", options[1]), "digits-badnets-none-s0-", "damaged", "delete it")


def test_an_interruption_is_no_traceback(nab, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nab.experiments.run", interrupt)
    code, out, err = nab("run")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert err.count("\n") == 1


# What it prints when all is well.


KINDS = ["attacks", "detectors", "labelers", "encoders", "defenses", "datasets", "models", "recipes", "profiles"]


@pytest.mark.parametrize("kind", KINDS)
def test_list_shows_every_name_with_its_line_and_source(nab, kind):
    code, out, err = nab("list", kind)
    assert (code, err) == (0, "")
    rows = out.strip().splitlines()
    known = registries()[kind]
    assert [row.split()[0] for row in rows] == list(known)
    for row, (summary, source) in zip(rows, known.values(), strict=True):
        assert " ".join(summary.split()) in " ".join(row.split())
        assert source.split()[0] in row


def test_no_command_shows_the_help(nab):
    code, out, _ = nab()
    assert code == 0
    for command in ("run", "show", "list", "book"):
        assert command in out


def test_show_has_a_row_per_run(nab, tmp_path):
    runs = [result_of(RunConfig(seed=seed), clean_accuracy=90 + seed) for seed in (0, 1)]
    for run in runs:
        ResultStore(tmp_path / "results", "smoke").write(run)
    code, out, err = nab("show")
    assert (code, err) == (0, "")
    for run in runs:
        (row,) = [line for line in out.splitlines() if run.hash[:8] in line]
        assert f"{run.metrics['clean_accuracy']:.1f}" in row
        assert "badnets" in row


def test_options_override_the_profile(nab, monkeypatch):
    seen = []

    def spy(config, **options):
        seen.append((config, options))
        return result_of(config)

    monkeypatch.setattr("nab.experiments.run", spy)
    given = (
        "run --profile smoke --dataset folder --attack blend --poison-rate 0.2 --target 3 --defense nab "
        "--detector oracle --labeler oracle --detection-rate 0.1 --model resnet18 --width 8 --epochs 7 "
        "--train-size 99 --seed 4 --device cpu --data-root here --results there --force "
        "--set recipe.lr=0.3 --set detector.accuracy=0.5 --json"
    )
    code, out, err = nab(*given.split())
    assert (code, err) == (0, "")
    ((config, options),) = seen
    assert (config.dataset, config.attack.name, config.poison_rate, config.target) == ("folder", "blend", 0.2, 3)
    assert (config.defense.name, config.detection_rate) == ("nab", 0.1)
    assert config.make_detector().accuracy == 0.5
    assert config.make_labeler().is_oracle
    assert (config.model, config.width, config.train_size, config.seed) == ("resnet18", 8, 99, 4)
    assert (config.recipe.epochs, config.recipe.lr) == (7, 0.3)
    assert options["device"] == "cpu"
    assert (options["data_root"], options["results"]) == (Path("here"), "there")
    assert options["force"] is True
    assert json.loads(out)["hash"] == config.hash


def test_book_parameters_may_be_two_words_as_papermill_has_them():
    given = ["book", "-p", "seed", "3", "--profile", "smoke", "-p", "name=value", "-p"]
    assert cli._join_pairs(given) == ["book", "-p", "seed=3", "--profile", "smoke", "-p", "name=value", "-p"]


# In a process of its own.


def test_json_is_one_object_alone_on_standard_output_and_a_second_start_takes_under_three_seconds(
    tmp_path, spare_environment
):
    """Seconds of the processor, which is what they are on a machine that does nothing else."""
    command = [NAB, "run", *QUICK, "--results", str(tmp_path), "--json"]
    seconds, answers = [], []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, env=spare_environment, timeout=120, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", "silent when it is not on a terminal"
        answers.append(json.loads(done.stdout))
    assert 0 <= answers[0]["metrics"]["attack_success_rate"] <= 100
    assert answers[0] == answers[1] == answers[2]
    assert min(seconds[1:]) < 3
    (stored,) = read_results(tmp_path)
    assert stored.hash == answers[0]["hash"]


def test_a_mistake_in_a_process_of_its_own_ends_with_code_2(tmp_path, spare_environment):
    command = [NAB, "run", "--attack", "badnet"]
    done = subprocess.run(command, capture_output=True, text=True, env=spare_environment, cwd=tmp_path, check=False)
    assert_one_line_error((done.returncode, done.stdout, done.stderr), "did you mean 'badnets'?")


def test_help_takes_under_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([NAB, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert "run" in done.stdout
    assert min(seconds) < 1


def test_a_killed_run_leaves_no_broken_file_and_the_next_start_finishes(tmp_path, spare_environment):
    results = tmp_path / "results"
    command = [
        NAB,
        "run",
        "--train-size",
        "200",
        "--epochs",
        "8",
        "--device",
        "cpu",
        "--results",
        str(results),
        "--json",
    ]
    killed = 0
    for delay in (0.0, 0.4, 1.0):
        with subprocess.Popen(command, env=spare_environment, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while not results.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)  # from here on it works
            time.sleep(delay if results.exists() else 0)
            process.kill()
        killed += process.returncode == -9
        for path in results.rglob("*.json"):
            json.loads(path.read_text())
    assert killed >= 1, "none was killed in the middle"
    done = subprocess.run(command, capture_output=True, text=True, env=spare_environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (finished,) = read_results(results)
    assert finished.model_dump(mode="json") == json.loads(done.stdout)
