"""`nab run`: its options, one JSON object on request, and quick starts."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from helpers import NAB, assert_one_line_error, result_of

from nab import __version__, load_deployed
from nab.cli.book import join_pairs
from nab.experiments import read_results
from nab.methods import KINDS

QUICK = ["--train-size", "200", "--epochs", "2", "--width", "4", "--device", "cpu"]


def test_an_interruption_is_no_traceback(nab, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nab.experiments.run", interrupt)
    code, out, err = nab("run")
    assert (code, out) == (130, "")
    assert "interrupted" in err
    assert err.count("\n") == 1


# What it prints when all is well.


def test_no_command_shows_the_help(nab):
    code, out, _ = nab()
    assert code == 0
    for command in ("run", "show", "list", "book"):
        assert command in out


def test_the_version_is_told(nab):
    assert nab("--version") == (0, f"nab {__version__}\n", "")


def test_options_override_the_profile(nab, monkeypatch):
    seen = []

    def spy(config, **options):
        seen.append((config, options))
        return result_of(config)

    monkeypatch.setattr("nab.experiments.run", spy)
    given = (
        "run --profile smoke --dataset folder --attack blend --poison-rate 0.2 --target 3 --defense nab "
        "--detector oracle --labeler nc --encoder barlow-twins --detection-rate 0.1 --model resnet18 --width 8 "
        "--recipe quick --epochs 7 --train-size 99 --seed 4 --device cpu --data-root here --results there --force "
        "--save kept.safetensors --set recipe.lr=3e-1 --set detector.accuracy=0.5 --json"
    )
    code, out, err = nab(*given.split())
    assert (code, err) == (0, "")
    ((config, options),) = seen
    assert (config.dataset.name, config.attack.name, config.poison_rate, config.target) == ("folder", "blend", 0.2, 3)
    assert (config.defense.name, config.detection_rate) == ("nab", 0.1)
    assert (config.detector.name, config.labeler.name, config.encoder.name) == ("oracle", "nc", "barlow-twins")
    assert config.make_detector().accuracy == 0.5
    assert (config.model.name, config.make_architecture().width) == ("resnet18", 8)
    assert (config.make_source().train_size, config.seed) == (99, 4)
    recipe = config.make_recipe()
    assert (recipe.optimizer, recipe.epochs, recipe.lr) == ("muon", 7, 0.3)
    assert options["device"] == "cpu"
    assert (options["data_root"], options["results"]) == (Path("here"), "there")
    assert options["force"] is True
    assert options["save"] == Path("kept.safetensors")
    assert json.loads(out)["hash"] == config.hash


def test_there_is_an_option_for_every_kind_of_method(nab):
    out = nab("run", "--help")[1]
    for kind in KINDS.values():
        assert f"--{kind.name} " in out
        assert f"nab list {kind.plural}" in " ".join(out.replace("│", " ").split())


def test_what_was_deployed_is_saved(nab, tmp_path):
    """Also by a run that is finished."""
    given = ["run", "--train-size", 100, "--epochs", 1, "--width", 4, "--device", "cpu"]
    assert nab(*given)[0] == 0
    file = tmp_path / "new" / "kept.safetensors"
    code, _, err = nab(*given, "--save", file)
    assert (code, err) == (0, "")
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    assert load_deployed(file, device="cpu").labels(images).shape == (3,)
    assert list(tmp_path.rglob("*.safetensors")) == [file]


def test_a_run_keeps_freed_memory(nab, monkeypatch):
    seen = []
    monkeypatch.setattr("nab.training.memory.keep_freed_memory", lambda: seen.append("kept"))
    monkeypatch.setattr("nab.experiments.run", lambda config, **_: seen.append("run") or result_of(config))
    assert nab("run", "--device", "cpu")[0] == 0
    assert seen == ["kept", "run"]


def test_book_parameters_may_be_two_words_as_papermill_has_them():
    given = ["book", "-p", "seed", "3", "--profile", "smoke", "-p", "name=value", "-p"]
    assert join_pairs(given) == ["book", "-p", "seed=3", "--profile", "smoke", "-p", "name=value", "-p"]


# In a process of its own.


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Seconds of the processor that a command takes, and its standard output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "silent when it is not on a terminal"
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_json_is_one_object_alone_on_standard_output_and_later_starts_take_under_three_seconds(
    tmp_path, spare_environment
):
    """The second start finds the result; the third is forced and finds the stages. A slower processor may take longer,
    as it does to import torch, which takes a second and a half."""
    command = [NAB, "run", *QUICK, "--results", str(tmp_path), "--json"]
    limit = 3 * max(1, measured([sys.executable, "-c", "import torch"], spare_environment)[0] / 1.5)
    first = json.loads(measured(command, spare_environment)[1])
    (stored,) = read_results(tmp_path)
    assert 0 <= first["metrics"]["attack_success_rate"] <= 100
    assert first == stored.model_dump(mode="json")
    seconds, out = measured(command, spare_environment)
    assert json.loads(out) == first
    assert seconds < limit
    seconds, out = measured([*command, "--force"], spare_environment)
    again = json.loads(out)
    assert again["metrics"] == first["metrics"]
    assert (first["found_stages"], set(again["found_stages"])) == ([], {"attack", "training", "evaluation"})
    assert seconds < limit


def test_a_mistake_in_a_process_of_its_own_ends_with_code_2(tmp_path, spare_environment):
    command = [NAB, "run", "--attack", "badnet"]
    done = subprocess.run(command, capture_output=True, text=True, env=spare_environment, cwd=tmp_path, check=False)
    assert_one_line_error((done.returncode, done.stdout, done.stderr), "did you mean 'badnets'?")


def test_help_takes_under_a_second(spare_environment):
    seconds, out = measured([NAB, "--help"], spare_environment)
    assert "run" in out
    assert seconds < 1


def test_a_killed_run_leaves_no_broken_file_and_the_next_start_finishes(tmp_path, spare_environment):
    results = tmp_path / "results"
    options = [*QUICK, "--epochs", "9", "--results", str(results), "--json"]
    killed = 0
    for delay in (0.0, 0.7):
        with subprocess.Popen([NAB, "run", *options], env=spare_environment, stdout=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while not results.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)  # from here on it works
            time.sleep(delay if results.exists() else 0)
            process.kill()
        killed += process.returncode == -9
        for path in results.rglob("*.json"):
            json.loads(path.read_text())
    assert killed >= 1, "none was killed in the middle"
    _, out = measured([NAB, "run", *options], spare_environment)
    (finished,) = read_results(results)
    assert finished.model_dump(mode="json") == json.loads(out)
