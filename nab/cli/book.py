"""The command ``nab book``."""

from __future__ import annotations

from typing import Annotated

import typer

from nab.cli.options import DataRootOption, ProfileOption, parse_settings


def book(
    profile: ProfileOption = "smoke",
    parameters: Annotated[
        list[str] | None, typer.Option("-p", metavar="NAME VALUE", help="Another notebook parameter; may be repeated.")
    ] = None,
    data_root: DataRootOption = None,
    results: Annotated[str, typer.Option(help="Folder of the results; a folder per profile in it.")] = "results",
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Replace the executed notebooks that are kept in book/.")
    ] = False,
) -> None:
    """Run every notebook with papermill, then build the HTML book, and print where it is."""
    from nab.report.book import build_book

    given = parse_settings(parameters or [])
    page = build_book(profile, given, data_root=data_root, results=results, in_place=in_place)
    print(page)


def join_pairs(arguments: list[str]) -> list[str]:
    """``-p NAME VALUE``, as papermill has it, in the form that the parser knows: ``-p NAME=VALUE``."""
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        joined.append(argument)
        if argument == "-p":
            name = next(rest, None)
            value = next(rest, None) if name is not None and "=" not in name else None
            joined += [part for part in ["=".join(v for v in (name, value) if v is not None)] if part]
    return joined
