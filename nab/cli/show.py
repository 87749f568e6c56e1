"""The commands ``nab show`` and ``nab list``."""

from __future__ import annotations

from typing import Annotated

import typer

from nab.errors import ConfigError
from nab.methods import KINDS

LISTED = (*(kind.plural for kind in KINDS.values()), "profiles")


def show(
    folder: Annotated[
        str, typer.Argument(help="Folder or fsspec address of results, searched with its sub-folders.")
    ] = "results",
) -> None:
    """Show stored results as a table."""
    from nab.experiments.store import find_results, tell_problems
    from nab.report.terminal import print_results

    found = find_results(folder)
    tell_problems(found)
    if not found.results:
        raise ConfigError(f"no results in {folder}; make some with `nab run`")
    print_results(found.results)


def list_kind(kind: Annotated[str, typer.Argument(metavar="|".join(LISTED))]) -> None:
    """List what can be named: name, what it needs, one line, source."""
    from nab.report.terminal import print_kind

    print_kind(kind)
