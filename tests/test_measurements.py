"""Files of measurements and their notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_benchmarks import planted

from nab.errors import ResultError
from nab.report import benchmarks


def test_any_measurement_can_be_shown_as_it_is() -> None:
    measured = {"clean_accuracy": [90.0, 92.0], "cells": {"attack": 3, "rate": 0.256, "note": "x"}}
    rows = [planted("precision", {"precision": p}, measured) for p in ("bfloat16", "float32")]
    table = benchmarks.settings_and_figures(rows)
    assert table["precision"].tolist() == ["bfloat16", "float32"]
    assert table["clean accuracy"].tolist() == ["91.00 ± 1.41 (2)"] * 2
    assert table["cells attack"].tolist() == ["3", "3"]
    assert table["cells rate"].tolist() == ["0.3", "0.3"]
    assert "width" not in table  # the same in all


def test_one_machine_is_left_to_the_note_and_two_are_not() -> None:
    rows = [planted("grid", {"jobs": 1}, {"seconds": 2.0}), planted("grid", {"jobs": 2}, {"seconds": 1.0})]
    assert list(benchmarks.without_machine(benchmarks.settings_and_figures(rows))) == ["jobs", "seconds"]
    rows.append(planted("grid", {}, {}, device={"type": "cuda", "name": "NVIDIA H200", "threads": 8}))
    assert "machine" in benchmarks.without_machine(benchmarks.settings_and_figures(rows))


def test_note_names_machine_and_day_and_a_missing_gpu() -> None:
    found = [planted("grid", {}, {})]
    assert benchmarks.note("grid", found) == (
        "Measured by `benchmarks/grid.py` on a processor, 2 threads, 2026-01-02, torch 2.11.0. "
        "The same was not measured on a GPU."
    )
    gpu = planted("grid", {}, {}, device={"type": "cuda", "name": "NVIDIA H200", "threads": 8})
    assert "not measured" not in benchmarks.note("grid", [*found, gpu])


def test_what_was_never_measured_is_a_note_and_no_error(tmp_path: Path) -> None:
    assert benchmarks.read_measurements("grid", tmp_path) == []
    assert "python benchmarks/grid.py" in benchmarks.note("grid", [])
    assert benchmarks.settings_and_figures([]).empty


@pytest.mark.parametrize("damage", ["", "{}", "[1, 2]", '{"benchmark": "grid"'])
def test_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "broken.json").write_text(damage)
    with pytest.raises(ResultError, match=r"broken\.json.*delete it"):
        benchmarks.read_measurements("grid", tmp_path)


def test_measurement_of_another_program_or_with_unknown_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    content = json.loads(planted("others", {}, {}).model_dump_json())
    path = tmp_path / "grid" / "one.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="'others', expected 'grid'"):
        benchmarks.read_measurements("grid", tmp_path)
    path.write_text(json.dumps(content | {"benchmark": "grid", "color": "red"}))
    with pytest.raises(ResultError, match=r"one\.json"):
        benchmarks.read_measurements("grid", tmp_path)


def test_measurement_that_lacks_a_number_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ResultError, match=r"throughput\.py again"):
        benchmarks.throughput_table([planted("throughput", {}, {"seconds": {"ours": [1.0]}})], "training")
