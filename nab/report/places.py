"""Where a checkout of the project is: notebooks, book, results and measurements are found from anywhere."""

from __future__ import annotations

from pathlib import Path

from nab.errors import ConfigError, ResultError

HOME = Path(__file__).parents[2]
"""The folder that holds the package: the checkout, unless the library was installed apart from one."""


def checkout() -> Path:
    """The checkout: the working directory, else the one that this library belongs to.

    Raises:
        ConfigError: neither holds notebooks.
    """
    for root in (Path.cwd(), HOME):
        if any((root / "notebooks").glob("*.md")):
            return root
    looked = " and ".join(dict.fromkeys(str(root / "notebooks") for root in (Path.cwd(), HOME)))
    raise ConfigError(f"no notebooks in {looked}; run `nab book` in a checkout of the project")


def found(folder: str | Path) -> Path:
    """The folder; if it is relative and the working directory has none, the one of the checkout.

    Raises:
        ResultError: there is none in either place.
    """
    places = [Path(folder).expanduser()]
    places = [Path.cwd() / places[0], HOME / places[0]]  # an absolute path is the same in both
    for place in places:
        if place.is_dir():
            return place
    looked = " or ".join(dict.fromkeys(map(str, places)))
    raise ResultError(f"no folder {looked}; make results with `nab run`, or name the folder that holds them")
