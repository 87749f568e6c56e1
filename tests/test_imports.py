"""Imports go one way, and `import nab` waits for nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import nab

PACKAGE = Path(nab.__file__).parent

BASE = {"errors", "registry", "checks", "seeding", "paths", "files", "progress", "source_code", "digest"}
CORE = BASE | {"data", "models", "training", "stamp", "needs"}
FINDERS = {"selfsupervised", "detection", "pseudolabels"}
METHODS = CORE | FINDERS | {"attacks", "defenses", "evaluation"}
ALLOWED = {
    "errors": set(),
    "registry": {"errors"},
    "checks": {"errors"},
    "seeding": set(),
    "paths": {"errors"},
    "files": set(),
    "progress": set(),
    "source_code": set(),
    "digest": {"source_code"},
    "data": BASE,
    "models": BASE,
    "stamp": BASE | {"data"},
    "training": BASE | {"data", "models"},
    "needs": BASE | {"data", "models", "training"},
    "attacks": CORE - {"needs"},
    "selfsupervised": CORE,
    "detection": CORE | {"selfsupervised"},
    "pseudolabels": CORE | {"selfsupervised"},
    "defenses": CORE | FINDERS,
    "evaluation": CORE | {"attacks", "defenses"},
    "methods": BASE,
    "experiments": METHODS | {"methods"},
    "report": METHODS | {"methods", "experiments"},
    "cli": METHODS | {"methods", "experiments", "report"},
    "__main__": {"cli"},
}
"""What each part of the library may import from the others; see "Imports go one way" in the design. The table of
methods names its modules and imports none of them."""


def parts() -> dict[str, list[Path]]:
    """Every part of the library and its files."""
    found: dict[str, list[Path]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        inside = file.relative_to(PACKAGE)
        if inside != Path("__init__.py"):
            found.setdefault(inside.parts[0].removesuffix(".py"), []).append(file)
    return found


def imported_parts(file: Path) -> set[str]:
    """The parts of `nab` that a file imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules |= {f"nab.{alias.name}" for alias in node.names} if node.module == "nab" else {str(node.module)}
    return {module.split(".")[1] for module in modules if module.startswith("nab.")} - {"__version__"}


def test_every_part_of_the_library_has_its_place_in_the_order():
    assert set(parts()) == set(ALLOWED)


def test_every_part_imports_only_from_those_before_it():
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {other}"
        for part, files in parts().items()
        for file in files
        for other in imported_parts(file) - ALLOWED[part] - {part}
    ]
    assert not wrong


def test_the_allowed_imports_have_no_circle():
    done: set[str] = set()
    while len(done) < len(ALLOWED):
        ready = {part for part, needs in ALLOWED.items() if part not in done and needs <= done}
        assert ready, f"circle among {set(ALLOWED) - done}"
        done |= ready


def test_every_public_name_can_be_had():
    for name in nab.__all__:
        assert getattr(nab, name) is not None
    assert sorted(nab.__all__, key=str.lower) == sorted(dir(nab), key=str.lower)


def test_a_missing_name_is_an_attribute_error():
    assert not hasattr(nab, "no_such_name")


LIGHT = ["nab", "nab.methods", "nab.registry", "nab.experiments", "nab.experiments.result", "nab.digest"]


def test_results_can_be_read_and_methods_named_without_waiting_for_torch():
    code = f"import sys, {', '.join(LIGHT)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_takes_under_two_seconds_and_leaves_torch_out():
    code = "import sys, nab; sys.exit('torch' in sys.modules)"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
