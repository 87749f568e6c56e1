"""`nab show` and `nab list`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import result_of

from nab.experiments import Method, ResultStore, RunConfig
from nab.methods import KINDS
from nab.report.terminal import listed

LISTED = [*(kind.plural for kind in KINDS.values()), "profiles"]


@pytest.mark.parametrize("kind", LISTED)
def test_list_shows_every_name_with_its_line_and_source(nab, kind):
    code, out, err = nab("list", kind)
    assert (code, err) == (0, "")
    rows = [row.split() for row in out.splitlines()[1:]]
    known = listed(kind)
    assert [row[0] for row in rows] == [name for name, *_ in known]
    for row, columns in zip(rows, known, strict=True):
        assert row == " ".join(columns).split()
        assert columns[1]
        assert columns[3]


def test_list_covers_every_registered_method():
    for kind in KINDS.values():
        assert [name for name, *_ in listed(kind.plural)] == list(kind.registry)


@pytest.mark.parametrize(
    ("kind", "name", "needs"),
    [
        ("defenses", "none", ""),
        ("defenses", "nab", "suspected samples, pseudo labels"),
        ("defenses", "fine-tune", "verified images, the attacked model"),
        ("detectors", "ln", "self-supervised features"),
        ("detectors", "oracle", "the truth"),
        ("labelers", "vd", "verified images"),
    ],
)
def test_list_says_what_a_method_needs(nab, kind, name, needs):
    ((_, summary, told, source),) = [row for row in listed(kind) if row[0] == name]
    assert told == needs
    (line,) = [line for line in nab("list", kind)[1].splitlines() if line.split()[0] == name]
    assert line.split() == f"{name} {summary} {needs} {source}".split()


def write_results(folder: Path, *configs: RunConfig, **changes: object) -> list[str]:
    """Stored results of runs that were never run; how `nab show` names them."""
    store = ResultStore(folder, "smoke")
    for config in configs:
        store.write(result_of(config).model_copy(update=changes), config)
    return [config.hash[:8] for config in configs]


def row_of(out: str, run: str) -> str:
    (row,) = [line for line in out.splitlines() if run in line]
    return row


def test_show_has_a_row_per_run(nab, tmp_path):
    store = ResultStore(tmp_path / "results", "smoke")
    nab_with_oracles: dict[str, Any] = {"defense": "nab", "detector": "oracle", "labeler": "oracle"}
    plain, defended = RunConfig(seed=0), RunConfig(seed=1, **nab_with_oracles)
    store.write(result_of(plain), plain)
    result = result_of(defended, clean_accuracy=91.26, detection_precision=33.3, pseudo_label_accuracy=66.6)
    store.write(result, defended)
    code, out, err = nab("show")
    assert (code, err) == (0, "")
    assert row_of(out, plain.hash[:8]).split() == (
        f"smoke digits badnets 10 % none 0 90.0 10.0 80.0 2 {plain.hash[:8]}".split()
    )
    assert row_of(out, defended.hash[:8]).split() == (
        f"smoke digits badnets 10 % nab (oracle + oracle) 1 91.3 10.0 80.0 33.3 66.6 2 {defended.hash[:8]}".split()
    )


def test_show_tells_runs_apart_whose_methods_have_the_same_names(nab, tmp_path):
    blends = [RunConfig(attack=Method(name="blend", params={"alpha": alpha})) for alpha in (0.2, 0.5)]
    others = [RunConfig(), RunConfig(attack=Method(name="wanet"))]
    weak, strong, *plain = write_results(tmp_path / "results", *blends, *others)
    out = nab("show")[1]
    assert row_of(out, weak).endswith(f"{weak}  attack.alpha=0.2")
    assert row_of(out, strong).endswith(f"{strong}  attack.alpha=0.5")
    assert [row_of(out, run).endswith(run) for run in plain] == [True, True]


def test_show_leaves_out_what_it_cannot_read_and_counts_it(nab, tmp_path):
    (run,) = write_results(tmp_path / "results", RunConfig())
    folder = tmp_path / "results" / "smoke"
    whole = json.loads(next(folder.glob("*.json")).read_text())
    for name, text in {
        "half": '{"hash": "12',
        "list": "[]",
        "other": "{}",
        "old": json.dumps(whole | {"schema_version": 1}),
        "costless": json.dumps({key: value for key, value in whole.items() if key != "cost"}),
    }.items():
        (folder / f"{name}.json").write_text(text)
    code, out, err = nab("show")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("smoke ")]) == 1
    assert run in out
    first, *lines = err.splitlines()
    assert first == "5 files left out:"
    assert [name for name in ("costless", "half", "list", "old", "other") if f"{name}.json" in err] == [
        line.partition(".json")[0].rpartition("/")[2] for line in lines
    ]


def test_show_of_nothing_but_unreadable_files_says_so(nab, tmp_path):
    (tmp_path / "half.json").write_text('{"hash": "12')
    code, out, err = nab("show", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("1 file left out:\n")
    assert err.splitlines()[-1].startswith("error: no results in")


def test_a_run_whose_cost_nobody_wrote_down_has_an_empty_cell(nab, tmp_path):
    (run,) = write_results(tmp_path / "results", RunConfig(), cost={})
    code, out, err = nab("show")
    assert (code, err) == (0, "")
    assert row_of(out, run).split() == f"smoke digits badnets 10 % none 0 90.0 10.0 80.0 {run}".split()


SHOW = """
import resource, sys
from nab import cli
sys.argv = ["nab", "show", sys.argv[1]]
try:
    cli.main()
except SystemExit:
    used = resource.getrusage(resource.RUSAGE_SELF)
    heavy = {"torch", "numpy", "pandas", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
    print(used.ru_utime + used.ru_stime, sorted(heavy))
"""


def test_show_of_150_results_takes_under_a_second_and_waits_for_nothing_heavy(tmp_path, spare_environment):
    """Seconds of the processor. Every result has a curve of 100 epochs, as the paper's have."""
    result = result_of(RunConfig())
    curve = [{"epoch": epoch, "loss": 0.5, "lr": 0.1, "clean_accuracy": 90.0} for epoch in range(100)]
    stored = result.model_copy(update={"curves": {"training": curve}}).model_dump(mode="json")
    for seed in range(150):
        of_seed = stored | {"hash": f"{seed:016}", "settings": stored["settings"] | {"seed": seed}}
        (tmp_path / f"{seed}.json").write_text(json.dumps(of_seed))
    command = [sys.executable, "-c", SHOW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=spare_environment, check=True)
    *table, last = done.stdout.splitlines()
    seconds, heavy = last.split(maxsplit=1)
    assert len([row for row in table if row.startswith("smoke")]) == 150
    assert heavy == "[]"
    assert float(seconds) < 1
