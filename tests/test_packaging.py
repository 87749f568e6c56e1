"""The files that say what is installed and who made it agree with each other, and hold nothing of one machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nab

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13"]
"""The versions that CI tests on."""


def requirements(*extras: str) -> list[Requirement]:
    """What ``pip install nab-defense[extras]`` asks for directly."""
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
    platform.python_version().rpartition(".")[0] not in PYTHONS
    or platform.system() != "Linux"
    or platform.machine() != "x86_64",
    reason="constraints.txt is complete for CPython 3.11 to 3.13 on Linux x86-64",
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


def test_the_distribution_is_not_called_like_a_stranger() -> None:
    """The package index has another project under the name that is imported."""
    assert PROJECT["name"] == "nab-defense"
    assert list(PROJECT["scripts"]) == ["nab"]
    assert version("nab-defense") == nab.__version__


def test_the_version_is_written_in_the_library_and_the_citation_has_the_same() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "nab/__init__.py"
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == nab.__version__
    assert f"## {nab.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_tests_can_use_all_that_the_extras_onnx_and_cluster_bring() -> None:
    assert {*EXTRAS["onnx"], *EXTRAS["cluster"]} <= set(EXTRAS["dev"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


def test_the_wheel_holds_the_library_with_its_data_and_nothing_else(wheel: Path) -> None:
    about = f"nab_defense-{nab.__version__}.dist-info"
    assert wheel.name == f"nab_defense-{nab.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"{about}/METADATA").decode()
    library = {name for name in names if name.startswith("nab/")}
    assert {name.split("/")[0] for name in names} == {"nab", about}
    assert f"{about}/licenses/LICENSE" in names
    assert {"nab/py.typed", "nab/report/reference.json", "nab/experiments/profiles/smoke.yaml"} <= library
    files = {path for path in (ROOT / "nab").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert library == {path.relative_to(ROOT).as_posix() for path in files}
    assert f"\nName: nab-defense\nVersion: {nab.__version__}\n" in metadata


def test_the_wheel_finds_its_data_where_there_is_no_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    code = "import nab; nab.load_profile('smoke'); print(nab.__file__)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()) == tmp_path / "unpacked" / "nab" / "__init__.py"


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Sangiovanni-Vincentelli", "Yue"]
    assert paper["identifiers"][0]["value"] == "arXiv:2307.15539"


def test_the_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 The nab authors" in text


def test_the_ci_script_is_strict_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_ci_script_makes_its_environment_with_the_python_it_is_told(tmp_path: Path) -> None:
    """A copy of the script, since it deletes the environment beside it; a `make` that only notes what it is asked."""
    for folder in (".ci", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    make = tmp_path / "bin" / "make"
    make.write_text('#!/bin/sh\necho "$@"\n')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{make.parent}:{os.environ['PATH']}", "PYTHON": sys.executable}
    done = subprocess.run([tmp_path / ".ci" / "run"], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    asked = [line for line in done.stdout.splitlines() if "VENV=" in line]
    assert ["install" in asked[0], "test" in asked[-1]] == [True, True]
    assert all(f"PYTHON={sys.executable}" in line for line in asked)


def workflow(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())
    return loaded


def test_ci_runs_on_every_python_that_the_project_names() -> None:
    assert workflow("ci")["jobs"]["test"]["strategy"]["matrix"]["python"] == PYTHONS
    language = "Programming Language :: Python :: "
    assert [text for text in PROJECT["classifiers"] if text.startswith(language)] == [language + own for own in PYTHONS]
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    tools = PYPROJECT["tool"]
    assert tools["mypy"]["python_version"] == PYTHONS[0]
    assert tools["ruff"]["target-version"] == f"py{PYTHONS[0].replace('.', '')}"


@pytest.mark.parametrize(("tag", "code"), [(f"v{nab.__version__}", 0), (nab.__version__, 1), ("v0.0.0", 1)])
def test_a_release_refuses_a_tag_that_is_not_the_version(tag: str, code: int) -> None:
    (compare,) = (step["run"] for step in workflow("release")["jobs"]["version"]["steps"] if "run" in step)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"GITHUB_REF_NAME": tag, "PATH": path}
    done = subprocess.run(["bash", "-e", "-c", compare], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert (f"expected the tag v{nab.__version__}" in done.stdout) == (code == 1)


def test_a_release_is_published_after_all_checks_and_without_a_token() -> None:
    jobs = workflow("release")["jobs"]
    assert jobs["checks"]["needs"] == "version"
    assert jobs["publish"]["needs"] == "checks"
    assert jobs["publish"]["environment"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets" not in str(jobs)


def test_the_hooks_before_a_commit_check_style_and_types() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    local = {hook["id"]: hook for repo in hooks["repos"] if repo["repo"] == "local" for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "mypy"} <= local.keys()
    assert {hook["language"] for hook in local.values()} == {"system"}


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
