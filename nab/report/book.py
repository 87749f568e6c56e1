"""The book: notebooks run by papermill, pages built by Jupyter Book."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nab.errors import ConfigError, NabError
from nab.experiments import load_profile
from nab.paths import RESULTS
from nab.paths import data_root as _data_root
from nab.progress import track
from nab.report.measurements import FOLDER as MEASURED
from nab.report.places import checkout

NOTEBOOKS = Path("notebooks")
BOOK = Path("book")
BUILD = Path("_build")


def notebook_sources(root: Path) -> list[Path]:
    """The text notebooks of a checkout, sorted."""
    return sorted((root / NOTEBOOKS).glob("*.md"))


def digest_of(paths: list[Path]) -> str:
    """16 hexadecimal digits that depend on the files' names and content."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(paths):
        digest.update(path.name.encode() + b"\0" + hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()


def results_digest(results: Path, root: Path) -> str:
    """What the kept notebooks were made from: the results that are kept, and what the checkout's programs measured."""
    kept = [path for name in ("laptop", "paper") for path in (results / name).glob("*.json")]
    return digest_of(kept + list((root / MEASURED).rglob("*.json")))


def execute(
    source: Path,
    target: Path,
    profile: str,
    parameters: Mapping[str, Any],
    *,
    results: Path,
    data_root: str | Path | None,
    root: Path,
) -> None:
    """Run one text notebook with papermill, in the checkout ``root``.

    The data folder reaches the notebook through ``NAB_DATA``, and results in the checkout by their relative path, so
    that no path of this machine stands in what is kept.

    Raises:
        NabError: a cell failed; the message names the notebook and the last line of the traceback.
    """
    import jupytext
    import papermill
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    jupytext.write(notebook, target, fmt="ipynb")
    folder = results.resolve()
    told = folder.relative_to(root.resolve()) if folder.is_relative_to(root.resolve()) else folder
    given = {"profile": profile, "results": str(told), **parameters}
    try:
        with _environment(data_root):
            papermill.execute_notebook(
                str(target),
                str(target),
                parameters=given,
                cwd=str(root),
                progress_bar=False,
                extra_arguments=["--log-level=50"],  # the kernel's remarks on its own transport
            )
    except PapermillExecutionError as error:
        raise NabError(
            f"{source}: a cell failed with {error.ename}: {error.evalue}; the notebook as it stopped is {target}"
        ) from None
    _tidy(source, target, profile, results_digest(results, root))


@contextmanager
def _environment(data_root: str | Path | None) -> Iterator[None]:
    """Kernels find the data, and this interpreter's own kernel rather than one that another environment registered."""
    changed = {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    root = _data_root(data_root)
    if root is not None:
        changed["NAB_DATA"] = str(root.resolve())
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _tidy(source: Path, target: Path, profile: str, results: str) -> None:
    """Leave out times and paths of this run; write down what the notebook was made from."""
    import nbformat

    notebook = nbformat.read(target, as_version=4)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": notebook.metadata["kernelspec"],
            "language_info": {"name": "python"},
            "nab": {
                "profile": profile,
                "source": digest_of([source]),
                "results": results,
            },
        }
    )
    notebook.cells = _merge_parameters(notebook.cells)
    for position, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.id = f"cell-{position}"
    nbformat.write(notebook, target)


def _merge_parameters(cells: list[Any]) -> list[Any]:
    """The parameters and those that papermill set, in one cell that a reader can open."""
    kept: list[Any] = []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            kept[-1].source += "\n\n" + cell.source.replace("# Parameters", "# set for this page")
            continue
        if "parameters" in tags:
            tags.append("hide-input")
        kept.append(cell)
    return kept


def build_html(folder: Path) -> Path:
    """Build the book in ``folder`` with warnings as errors.

    Returns:
        The first page.

    Raises:
        NabError: the build failed; the builder's own output is on standard error.
    """
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        str(folder),
        "-W",
        "-n",
        "--keep-going",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        raise NabError(f"jupyter-book could not build {folder} without warnings; its output is above")
    return folder / "_build" / "html" / "index.html"


def build_book(
    profile: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    data_root: str | Path | None = None,
    results: str | Path = RESULTS,
    in_place: bool = False,
) -> Path:
    """Run every notebook of the checkout, then build the HTML book.

    The checkout is the working directory, or the one that this library belongs to.

    Args:
        profile: what the notebooks run.
        parameters: further notebook parameters.
        data_root: see `nab.data.load`.
        results: where results are kept and read; in the checkout, if it is relative and not in the working directory.
        in_place: replace the executed notebooks that are kept in ``book/``; otherwise the book is made in
            ``_build/book-PROFILE`` and the checkout stays as it is.

    Returns:
        The path of the first page.

    Raises:
        ConfigError: the profile is unknown, or there is no checkout.
        NabError: a cell failed, or the build gave a warning.
    """
    if "://" in str(results):
        raise ConfigError(f"expected a local folder of results, got {results}: copy what is at that address into one")
    name, root = load_profile(profile).name, checkout()
    folder = root / (BOOK if in_place else BUILD / f"book-{name}")
    if not in_place:
        copy_pages(folder, root)
    kept = Path(results).expanduser()
    if profile.endswith((".yaml", ".yml")):
        profile = os.path.relpath(profile, root)  # where the notebooks run
    for source in track(notebook_sources(root), "running notebooks"):
        execute(
            source,
            folder / f"{source.stem}.ipynb",
            profile,
            parameters or {},
            results=kept if kept.is_dir() else root / kept,
            data_root=data_root,
            root=root,
        )
    return build_html(folder)


def copy_pages(folder: Path, root: Path) -> None:
    """Everything of ``book/`` but the executed notebooks and earlier builds, with links resolved."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / BOOK, folder, ignore=shutil.ignore_patterns("_build", "*.ipynb", "__pycache__"))
