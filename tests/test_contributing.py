"""The examples in CONTRIBUTING.md, written into a copy of the package where the text says, and tried there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"`((?:nab|tests)/[\w/]+\.py)`:?\n\n```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
LINES = re.findall(r"`(nab/\w+/__init__\.py)`:\n\n```text\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

TOGETHER = """
from pathlib import Path

import nab
from nab.experiments import make_config, run


def test_the_attack_and_the_defense_make_a_run(tmp_path):
    assert Path(nab.__file__).parent == Path(__file__).parent / "nab", "the copy"
    config = make_config({
        "dataset": {"name": "digits", "params": {"train_size": 200}},
        "attack": {"name": "frame", "params": {"thickness": 2}},
        "defense": {"name": "clp", "params": {"threshold": 1.0}},
        "model": {"name": "resnet9", "params": {"width": 4}},
        "recipe": {"name": "paper", "params": {"epochs": 1}},
    })
    result = run(config, results=tmp_path)
    assert (result.method("attack"), result.params("defense")) == ("frame", {"threshold": 1.0})
    assert {"clean_accuracy", "attack_success_rate"} <= result.metrics.keys()
"""


def register(file: Path, lines: str) -> None:
    """Add the import, the exported name and the registry's entry to a package, as the text shows them."""
    text = file.read_text()
    imported, exported, entry = (
        re.search(pattern, lines, re.MULTILINE).group()  # type: ignore[union-attr]
        for pattern in (r"^from .*$", r'^    "\w+",$', r'^    "[\w-]+": \w+,$')
    )
    (registry,) = re.findall(r"^[A-Z]+: .* = \{$", lines, re.MULTILINE)
    assert registry in text
    text = re.sub(r"^from nab", f"{imported}\nfrom nab", text, count=1, flags=re.MULTILINE)
    text = text.replace("__all__ = [\n", f"__all__ = [\n{exported}\n")
    file.write_text(text.replace(f"{registry}\n", f"{registry}\n{entry}\n"))


def passed(folder: Path, *arguments: str) -> int:
    """How many tests passed in a folder with a library of its own, if none failed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    (count,) = re.findall(r"^(\d+) passed", done.stdout, re.MULTILINE)
    return int(count)


def test_an_attack_and_a_defense_are_a_file_a_line_and_a_test_each(tmp_path: Path) -> None:
    assert list(FILES) == [
        "nab/attacks/frame.py",
        "tests/test_attack_frame.py",
        "nab/defenses/repair/clp.py",
        "tests/test_defense_clp.py",
    ]
    assert [path for path, _ in LINES] == ["nab/attacks/__init__.py", "nab/defenses/__init__.py"]
    shutil.copytree(ROOT / "nab", tmp_path / "nab", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "tests").glob("*.py"):
        if not file.name.startswith("test_"):
            shutil.copy(file, tmp_path)
    for path, code in FILES.items():
        target = tmp_path / path.removeprefix("tests/")
        assert not target.exists(), f"{path} is in the library: take another example"
        target.write_text(code)
    for path, lines in LINES:
        register(tmp_path / path, lines)
    (tmp_path / "test_together.py").write_text(TOGETHER)
    assert passed(tmp_path, ".") == 8
    shutil.copy(ROOT / "tests" / "test_defenses.py", tmp_path)  # the conformance tests
    assert passed(tmp_path, "test_defenses.py", "-k", "clp") > 5
