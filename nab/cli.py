"""The ``nab`` command. Thin: every command reads its options, calls the library, prints.

Nothing heavy is imported at the top, so that ``nab --help`` answers at once.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Annotated, Any, Literal

import typer

from nab.cli_grid import cache_app, grid
from nab.cli_options import DataRootOption, DeviceOption, ProfileOption, ResultsOption, StagesOption, parse_settings
from nab.errors import ConfigError, NabError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Backdoor attacks on training data, and the non-adversarial backdoor (NAB) against them.",
)

app.command("grid")(grid)
app.add_typer(cache_app, name="cache")


@app.command("run")
def run_command(
    profile: ProfileOption = "smoke",
    dataset: Annotated[str | None, typer.Option(help="See `nab list datasets`.")] = None,
    attack: Annotated[str | None, typer.Option(help="See `nab list attacks`.")] = None,
    poison_rate: Annotated[
        float | None, typer.Option(help="Share that is poisoned: of all, or of the target class.")
    ] = None,
    target: Annotated[int | None, typer.Option(help="Class that the backdoor answers.")] = None,
    defense: Annotated[str | None, typer.Option(help="See `nab list defenses`.")] = None,
    detector: Annotated[str | None, typer.Option(help="See `nab list detectors`.")] = None,
    labeler: Annotated[str | None, typer.Option(help="See `nab list labelers`.")] = None,
    encoder: Annotated[str | None, typer.Option(help="See `nab list encoders`.")] = None,
    detection_rate: Annotated[
        str | None, typer.Option(help="Share of the training set that is suspected, or auto.", metavar="SHARE|auto")
    ] = None,
    model: Annotated[str | None, typer.Option(help="See `nab list models`.")] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the network's first stage.")] = None,
    recipe: Annotated[str | None, typer.Option(help="See `nab list recipes`; the profile's by default.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training set.")] = None,
    train_size: Annotated[int | None, typer.Option(help="Train on a class-balanced part of this many images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, e.g. recipe.lr=0.05 or detector.epochs=8."),
    ] = None,
    device: DeviceOption = "auto",
    data_root: DataRootOption = None,
    results: ResultsOption = "results",
    stages: StagesOption = None,
    force: Annotated[bool, typer.Option("--force", help="Run again even if there is a result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Poison, defend, train and evaluate once. A finished run is read back. Options override the profile."""
    from nab.experiments import StageCache, load_profile, run

    overrides: dict[str, Any] = {
        "dataset": dataset,
        "attack": attack,
        "poison_rate": poison_rate,
        "target": target,
        "defense": defense,
        "detector": detector,
        "labeler": labeler,
        "encoder": encoder,
        "detection_rate": detection_rate,
        "model": model,
        "width": width,
        "recipe": recipe,
        "recipe.epochs": epochs,
        "train_size": train_size,
        "seed": seed,
    }
    chosen = load_profile(profile)
    config = chosen.config(**(overrides | parse_settings(settings or [])))
    keeper = StageCache(stages)
    result = run(
        config,
        profile=chosen.name,
        results=results,
        data_root=data_root,
        device=device,
        force=force,
        keeper=keeper,
    )
    if as_json:
        print(json.dumps(result.model_dump(mode="json")))
        return
    from nab.report.terminal import print_results

    print_results([result])


@app.command()
def show(
    folder: Annotated[
        str, typer.Argument(help="Folder or fsspec address of results, searched with its sub-folders.")
    ] = "results",
) -> None:
    """Show stored results as a table."""
    from nab.experiments import read_results
    from nab.report.terminal import print_results

    found = read_results(folder)
    if not found:
        raise ConfigError(f"no results in {folder}; make some with `nab run`")
    print_results(found)


Kind = Literal["attacks", "detectors", "labelers", "encoders", "defenses", "datasets", "models", "recipes", "profiles"]


@app.command("list")
def list_command(kind: Annotated[str, typer.Argument(metavar="|".join(Kind.__args__))]) -> None:
    """List what can be named: name, one line, source."""
    from nab.report.terminal import print_registry

    print_registry(kind)


@app.command()
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


_ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")
"""The base of all errors of the command-line parser; typer carries its own copy of click and does not export it."""


def main() -> None:
    """Entry point: a mistake of the user's is one line on standard error and exit code 2."""
    arguments = _join_pairs(sys.argv[1:]) or ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
    except NabError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; finished runs are kept", file=sys.stderr)
        sys.exit(130)
    except _ClickException as error:
        _fail(error.format_message() + _given(error, arguments))
    if code == 130:  # some versions of typer turn an interruption into this exit code
        print("interrupted; finished runs are kept", file=sys.stderr)
    sys.exit(code or 0)


def _join_pairs(arguments: list[str]) -> list[str]:
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


def _given(error: Any, arguments: list[str]) -> str:
    """The value that an option was given, where the parser's message leaves it out."""
    options = getattr(getattr(error, "param", None), "opts", [])
    for option, value in itertools.pairwise(arguments):
        if option in options and repr(value) not in error.format_message():
            return f", got {value!r}"
    return ""


def _fail(message: str) -> None:
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)
