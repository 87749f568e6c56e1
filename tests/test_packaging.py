"""The files that say what is installed and who made it agree with each other, and hold nothing of one machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nab

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras: str) -> list[Requirement]:
    """What ``pip install nab[extras]`` asks for directly."""
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [Requirement(line) for line in listed]


def pinned(lines: list[str]) -> dict[str, str]:
    """Versions by package name; every line must be ``name==version``."""
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), [pair for pair in pairs if len(pair) != 2]
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs)
    return {canonicalize_name(name): version for name, version in pairs}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return pinned([line for line in lines if line and not line.startswith("#")])


def conda_pip_lines() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (lines,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    return list(lines)


@pytest.mark.parametrize("requirement", requirements(*EXTRAS), ids=str)
def test_constraints_pin_every_direct_dependency_within_its_range(requirement: Requirement) -> None:
    pins = constraints()
    name = canonicalize_name(requirement.name)
    assert name in pins
    assert requirement.specifier.contains(pins[name])


def test_constraints_pin_the_promised_torch() -> None:
    pins = constraints()
    assert (pins["torch"], pins["torchvision"]) == ("2.11.0", "0.26.0")


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or platform.system() != "Linux" or platform.machine() != "x86_64",
    reason="constraints.txt is complete for CPython 3.11 on Linux x86-64",
)
def test_constraints_pin_everything_that_is_installed_for_the_book_and_the_tests() -> None:
    pins = constraints()
    waiting = requirements("book", "dev")
    seen: set[tuple[str, frozenset[str]]] = set()
    missing = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if name not in pins:
            missing.add(name)
        for inner in map(Requirement, _requires(name)):
            wanted = ("", *requirement.extras)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in wanted):
                waiting.append(inner)
    assert not missing


def _requires(name: str) -> list[str]:
    """What an installed package needs; nothing if it is not installed: torch without a GPU may lack its libraries."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def test_the_conda_environment_has_the_versions_of_the_constraints() -> None:
    lines = conda_pip_lines()
    assert lines[:2] == ["-c constraints.txt", "-e .[book,dev]"]
    pins = constraints()
    direct = {canonicalize_name(requirement.name) for requirement in requirements("book", "dev")}
    assert pinned(lines[2:]) == {name: pins[name] for name in direct}


def test_the_conda_environment_has_a_python_that_the_project_allows() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = (entry for entry in environment["dependencies"] if str(entry).startswith("python="))
    requirement = Requirement(f"python{PROJECT['requires-python']}")
    assert requirement.specifier.contains(python.removeprefix("python="))


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == nab.__version__ == str(citation["version"])
    assert f"## {nab.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Sangiovanni-Vincentelli", "Yue"]
    assert paper["identifiers"][0]["value"] == "arXiv:2307.15539"


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 The nab authors" in text


def test_the_ci_script_is_strict_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.fixture(scope="module")
def tracked() -> dict[str, str]:
    """Every text file that is, or is about to be, under version control, by its path."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, done.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            texts[name] = content.decode("utf-8", errors="replace")
    return texts


def places(texts: dict[str, str], pattern: str) -> list[str]:
    """``file:line`` of every match; this file, which has to name what it looks for, is left out."""
    found = re.compile(pattern)
    return [
        f"{name}:{number}"
        for name, text in texts.items()
        if name != Path(__file__).relative_to(ROOT).as_posix()
        for number, line in enumerate(text.splitlines(), 1)
        if found.search(line)
    ]


def test_no_tracked_file_holds_a_path_of_this_machine(tracked: dict[str, str]) -> None:
    folders = {
        ROOT,
        Path.home(),
        *(Path(os.environ[name]).resolve() for name in ("NAB_DATA", "NAB_CACHE") if os.environ.get(name)),
    }
    own = "|".join(re.escape(str(folder)) for folder in sorted(folders) if folder != Path("/"))
    assert places(tracked, rf"(?<![\w.~-])(?:{own})(?![\w.-])|/(?:home|Users)/\w+/|/tmp/(?:ipykernel|tmp)\w*") == []


def test_no_tracked_file_holds_the_address_of_a_package_registry(tracked: dict[str, str]) -> None:
    address = r"index-url|find-links|trusted-host|pythonhosted\.org|download\.pytorch\.org|https?://[^\s\"')]*/simple\b"
    assert places(tracked, address) == []
