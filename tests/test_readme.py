"""README and CONTRIBUTING do what they say: the table is in step with the results, and the code runs."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import nab
from nab.attacks import Attack, poison
from nab.errors import ConfigError
from nab.experiments import ResultStore

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def execute(code: str, module: ModuleType) -> dict[str, Any]:
    """The names that a code block leaves behind, run as the module that dataclasses ask for."""
    sys.modules[module.__name__] = module
    try:
        exec(compile(code, module.__name__, "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module.__dict__


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """``tools/update_readme.py``, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "tools" / "update_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_result_table_is_in_step_with_the_results(tool: ModuleType) -> None:
    assert tool.main(["--check"]) == 0


def test_the_first_screen_has_a_picture_a_table_and_exactly_two_commands() -> None:
    first_screen = README.partition("\n## ")[0]
    assert [block.split("\n") for block in blocks(first_screen, "sh")] == [["make book", "make test", ""]]
    assert "](book/images/nab.png)" in first_screen
    assert first_screen.index("<!-- results:start -->") < first_screen.index("<!-- results:end -->")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_is_linked_exists(name: str) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b", "".join(blocks(README + CONTRIBUTING, "sh"))))
    assert named
    assert named <= targets


def test_the_code_in_the_readme_runs() -> None:
    (code,) = blocks(README, "python")
    torch.manual_seed(0)
    names = execute(code, ModuleType("readme_example"))
    answers, test = names["answers"], names["test"]
    assert answers.shape == test.labels.shape
    assert answers.dtype == torch.int64
    assert -1 <= int(answers.min()) <= int(answers.max()) < test.num_classes
    defense = names["defense"]
    assert int(defense.is_suspect_.sum()) == int(defense.detection_rate * len(names["untrusted"]))


def test_the_attack_in_contributing_works() -> None:
    (code,) = blocks(CONTRIBUTING, "python")
    frame = execute(code, ModuleType("contributing_example"))["Frame"]
    assert issubclass(frame, Attack)
    train, _ = nab.load("digits")
    before = train.images[:4].clone()
    triggered = frame(thickness=2).trigger(before, 0)
    assert torch.equal(before, train.images[:4])
    assert torch.equal(triggered[:, :, 2:-2, 2:-2], before[:, :, 2:-2, 2:-2])
    assert (triggered[:, 0, :2] == 255).all()
    assert (triggered[:, 1, :, -2:] == 0).all()
    assert frame().trigger(before[:, :1], 0).shape == before[:, :1].shape
    poisoned = poison(train, frame(), rate=0.1, target=0, seed=0)
    assert (poisoned.dataset.labels[poisoned.truth.is_poisoned] == 0).all()
    with pytest.raises(ConfigError, match="thickness"):
        frame(thickness=0)
    with pytest.raises(ConfigError, match="300"):
        frame(colour=(300, 0, 0))


def store(folder: Path, metrics: dict[str, float], **settings: Any) -> None:
    """Keep a result of the smoke profile with these metrics, as if it had been run."""
    config = nab.load_profile("smoke").config(**settings)
    result = nab.RunResult(
        hash=config.hash,
        profile="smoke",
        config=config,
        metrics=dict(metrics),
        curve=[],
        data={"provenance": "published", "train_images": 1438, "test_images": 359},
        seconds={"total": 60.0},
        images_per_second=1000.0,
        peak_memory_mb={"host": 500.0},
        device={"name": "a processor", "threads": 2, "precision": "bfloat16"},
        versions={"torch": "2.11.0"},
        commit=None,
        finished="2026-01-01T00:00:00Z",
    )
    ResultStore(folder, "smoke").write(result)


def test_the_table_shows_mean_and_deviation_over_the_seeds(tool: ModuleType, tmp_path: Path) -> None:
    results, readme = tmp_path / "results", tmp_path / "README.md"
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "attack_success_rate_unstamped")
    for seed, attack_rate in enumerate((98.0, 100.0)):
        store(results, dict(zip(names, (90.0, attack_rate, 1.0), strict=False)), defense="none", seed=seed)
        store(results, dict(zip(names, (88.0, 4.0, 80.0, 97.0), strict=True)), defense="nab", seed=seed)
    # A study of another setting lies in the same folder and must not be mixed in.
    store(results, dict.fromkeys(names, 0.0), defense="nab", seed=0, detection_rate=0.2)
    readme.write_text("before\n<!-- results:start -->\nold\n<!-- results:end -->\nafter\n")
    options = ["--profile", "smoke", "--results", str(results), "--readme", str(readme)]
    assert tool.main([*options, "--check"]) == 1
    assert tool.main(options) == 0
    assert tool.main([*options, "--check"]) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    heads, _, undefended, defended = rows
    plain, stamped = (dict(zip(heads, row, strict=True)) for row in (undefended, defended))
    assert (plain["attack"], plain["defense"], plain["ACC"]) == ("badnets", "none", "90.0 ± 0.0")
    assert (plain["ASR"], plain["DER"], plain["seeds"]) == ("99.0 ± 1.4", "", "2")
    # DER per seed: (94 - 2 + 100) / 2 and (96 - 2 + 100) / 2.
    assert (stamped["ASR"], stamped["RA"], stamped["DER"]) == ("4.0 ± 0.0", "80.0 ± 0.0", "96.5 ± 0.7")
    assert stamped["ASR, no stamp"] == "97.0 ± 0.0"
    for word in (
        "`smoke`",
        "digits",
        "1,438 training",
        "359 test",
        "a processor",
        "threads: 2",
        "bfloat16",
        "torch 2.11.0",
    ):
        assert word in text


def test_the_table_says_when_there_is_nothing_to_show(tool: ModuleType, tmp_path: Path) -> None:
    assert "No results of the `laptop` profile" in tool.block(tmp_path, "laptop")


def test_missing_markers_are_named(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers\n")
    assert tool.main(["--results", str(tmp_path), "--readme", str(readme)]) == 2
    assert "results:start" in capsys.readouterr().err
    assert readme.read_text() == "no markers\n"
