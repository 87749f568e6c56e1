"""The ``nab`` command. Every command is a thin module: it reads its options, calls the library and prints.

No module imports anything heavy at its top, so that ``nab --help`` answers at once.
"""

from __future__ import annotations

import itertools
import sys
from typing import Annotated, Any

import typer

from nab import __version__
from nab.cli import book, cache, grid, run, show, streams
from nab.errors import NabError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Backdoor attacks on training data, and the non-adversarial backdoor (NAB) against them.",
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"nab {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("show")(show.show)
app.command("list")(show.list_kind)
app.command("grid")(grid.grid)
app.add_typer(cache.app, name="cache")
app.command("book")(book.book)

_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""The base of all errors of the command-line parser; typer carries its own copy of click and does not export it."""


def main() -> None:
    """Entry point. A mistake of the user's is one line on standard error and exit code 2."""
    streams.prepare()
    try:
        code = _call(book.join_pairs(sys.argv[1:]) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output wants no more of it
        code = 1
    except OSError as error:
        code = _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
    streams.close()
    sys.exit(code)


def _call(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    try:
        for argument in arguments:
            _check_encoding(argument)
        code = app(arguments, standalone_mode=False)
    except NabError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SystemExit as asked:
        code = asked.code
    except _ClickException as error:
        return _fail(error.format_message() + _given(error, arguments))
    if code == 130:  # some versions of typer turn an interruption into this exit code
        print("interrupted; finished runs are kept", file=sys.stderr)
    return int(code or 0)


def _check_encoding(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise NabError(f"expected arguments in UTF-8, got {argument!a}") from None


def _given(error: Any, arguments: list[str]) -> str:
    """The value that an option was given, where the parser's message leaves it out."""
    options = getattr(getattr(error, "param", None), "opts", [])
    for option, value in itertools.pairwise(arguments):
        if option in options and repr(value) not in error.format_message():
            return f", got {value!r}"
    return ""


def _fail(message: str) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 2
