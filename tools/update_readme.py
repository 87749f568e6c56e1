"""Writes the README's result table from stored results, so that no number in it is typed.

``python tools/update_readme.py`` rewrites the text between the two markers; with ``--check`` it changes nothing and
ends with exit code 1 if that text is out of step with the results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nab.errors import NabError
from nab.experiments import RunResult
from nab.files import write_atomically
from nab.report.records import age_note
from nab.report.tables import defense_table, main_runs

ROOT = Path(__file__).parents[1]
START, END = "<!-- results:start -->", "<!-- results:end -->"
TEXT_COLUMNS = ("attack", "poisoned", "defense")


def block(folder: Path, profile: str) -> str:
    """The text between the markers: a table and its caption, or that there is nothing to show."""
    runs = main_runs(folder, profile)
    if not runs:
        return f"*No results of the `{profile}` profile are stored in `results/{profile}/` yet.*"
    table = defense_table(runs)
    heads = [str(column) for column in table.columns]
    rules = [":---" if head in TEXT_COLUMNS else "---:" for head in heads]
    rows = [[str(value) for value in row] for row in table.itertuples(index=False)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, rules, *rows)]
    return "\n".join([*lines, "", caption(runs, profile)])


def caption(runs: list[RunResult], profile: str) -> str:
    """What the numbers are, and the settings and the machine they come from, all read from the results."""

    def each(read: Callable[[RunResult], Any]) -> str:
        return _listed(read(run) for run in runs)

    settings = [
        f"{each(lambda run: run.method('dataset'))} ({each(_provenance)})",
        f"{each(lambda run: run.data['train_images'])} training images",
        f"{each(lambda run: run.data['test_images'])} test images",
        f"{each(lambda run: run.method('model'))} of width {each(lambda run: run.params('model').get('width', '?'))}",
        f"{each(lambda run: run.params('recipe')['epochs'])} epochs",
        f"target class {each(lambda run: run.settings['target'])}",
    ]
    rates = [run.settings["detection_rate"] for run in runs if isinstance(run.settings["detection_rate"], float)]
    if rates:
        settings.append(f"{_listed(f'{100 * rate:g} %' for rate in rates)} of the images suspected")
    device = [
        each(lambda run: run.device["name"]),
        f"threads: {each(lambda run: run.device['threads'])}",
        each(lambda run: run.device["precision"]),
        f"torch {each(lambda run: run.versions['torch'])}",
    ]
    return (
        "Percent, mean ± standard deviation over the seeds. ACC: clean test images that are classified correctly. "
        "ASR and RA: triggered test images, the target class left out, that are classified as the target class, and as "
        "what they are. DER: 100 when the attack is gone at no cost in accuracy, 50 when nothing has changed. NAB is "
        "measured with its stamp on every test image; ASR, no stamp, is that of the same network on bare ones. "
        f"Profile `{profile}`: {', '.join(settings)}. Made on: {', '.join(device)}. "
        f"{age_note(run.versions for run in runs)}"
    ).rstrip()


def _provenance(run: RunResult) -> str:
    """Whether the images were those that everybody has."""
    return "the published data" if run.data["provenance"] == "published" else str(run.data["provenance"])


def _listed(values: Iterable[Any]) -> str:
    """The distinct values in the order of their first appearance."""
    return " / ".join(dict.fromkeys(f"{value:,}" if isinstance(value, int) else str(value) for value in values))


def with_block(readme: str, text: str) -> str:
    """The README with ``text`` between the markers.

    Raises:
        NabError: the markers are not there once each, in order.
    """
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in rest or END in after:
        raise NabError(f"expected {START} and then {END} in the README, once each")
    return f"{before}{START}\n{text}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Update, or check; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the README's result table from stored results.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the table is out of step")
    parser.add_argument("--profile", default="laptop", help="whose results are shown")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of the results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file that is rewritten")
    given = parser.parse_args(arguments)
    old = given.readme.read_text(encoding="utf-8")
    try:
        new = with_block(old, block(given.results, given.profile))
    except NabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if new == old:
        return 0
    if given.check:
        print(f"{given.readme.name} is out of step with the results: run python tools/update_readme.py")
        return 1
    write_atomically(given.readme, lambda temporary: temporary.write_text(new, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
