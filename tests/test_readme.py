"""README and CONTRIBUTING do what they say: the table is in step with the results, and the code runs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import nab
from nab.experiments import ResultStore
from nab.report.records import CONVERTED

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


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


def test_the_code_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = ModuleType("readme_example")
    for code in blocks(README, "python"):
        exec(compile(code, module.__name__, "exec"), module.__dict__)
    names = module.__dict__
    answers, test = names["answers"], names["test"]
    assert answers.shape == test.labels.shape
    assert answers.dtype == torch.int64
    assert -1 <= int(answers.min()) <= int(answers.max()) < test.num_classes
    assert int(names["suspicion"].is_suspect.sum()) == int(0.05 * len(names["untrusted"]))
    assert 0 < int(names["ready"].is_stamped.sum()) <= int(names["suspicion"].is_suspect.sum())
    assert torch.equal(names["labels"], names["defended"].deployed.labels(test.images))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "book/grid.md", "book/index.md"])
def test_nobody_is_told_to_install_another_project(name: str) -> None:
    """``nab`` on the package index is not this library."""
    assert not re.search(r"pip install [^\n]*\bnab\b(?!-defense)", (ROOT / name).read_text(encoding="utf-8"))


def store(
    folder: Path, metrics: dict[str, float], *, studies: Sequence[str] = ("main",), made_by: str = "1", **settings: Any
) -> None:
    """Keep a result of the smoke profile with these metrics, as if it had been run."""
    config = nab.load_profile("smoke").config(**settings)
    result = nab.RunResult(
        hash=config.hash,
        profile="smoke",
        studies=list(studies),
        settings=config.settings,
        metrics=dict(metrics),
        data={"provenance": "published", "train_images": 1438, "test_images": 359},
        cost={"training": 60.0},
        wall_seconds=60.0,
        peak_memory_mb={"host": 500.0},
        device={"type": "cpu", "name": "a processor", "threads": 2, "precision": "bfloat16"},
        versions={"nab": made_by, "torch": "2.11.0"},
        commit=None,
        finished="2026-01-01T00:00:00Z",
    )
    ResultStore(folder, "smoke").write(result, config)


def test_the_table_shows_mean_and_deviation_over_the_seeds(tool: ModuleType, tmp_path: Path) -> None:
    results, readme = tmp_path / "results", tmp_path / "README.md"
    names = ("clean_accuracy", "attack_success_rate", "robust_accuracy", "attack_success_rate_unstamped")
    for seed, attack_rate in enumerate((98.0, 100.0)):
        store(results, dict(zip(names, (90.0, attack_rate, 1.0), strict=False)), defense="none", seed=seed)
        store(results, dict(zip(names, (88.0, 4.0, 80.0, 97.0), strict=True)), defense="nab", seed=seed)
    # A study of another setting lies in the same folder and must not be mixed in.
    store(results, dict.fromkeys(names, 0.0), studies=["rates"], defense="nab", seed=0, detection_rate=0.2)
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
    assert "earlier version" not in text


def test_the_table_says_what_an_earlier_version_made(tool: ModuleType, tmp_path: Path) -> None:
    metrics = {"clean_accuracy": 90.0, "attack_success_rate": 99.0, "robust_accuracy": 1.0}
    for seed, made_by in enumerate(("1", f"0, {CONVERTED}")):
        store(tmp_path, metrics, made_by=made_by, seed=seed)
    assert "1 of the 2 runs behind these numbers were made with an earlier version" in tool.block(tmp_path, "smoke")


def test_the_table_says_when_there_is_nothing_to_show(tool: ModuleType, tmp_path: Path) -> None:
    assert "No results of the `laptop` profile" in tool.block(tmp_path, "laptop")


def test_missing_markers_are_named(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers\n")
    assert tool.main(["--results", str(tmp_path), "--readme", str(readme)]) == 2
    assert "results:start" in capsys.readouterr().err
    assert readme.read_text() == "no markers\n"
