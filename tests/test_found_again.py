"""A run whose stages are in the cache has the same result, at the same cost, and says what it found."""

from __future__ import annotations

import pytest

from nab.experiments import RunResult, StageCache, load_profile, run
from nab.experiments.provenance import describe_maker

STAGES = ["attack", "detection", "pseudo labels (vd)", "pseudo labels", "training (nab)", "evaluation"]
"""Those that are kept, in the order in which they end."""

UNKEPT = {"detection (lga)", "defense: NAB"}
"""The losses that LGA's training collects are no part of its network, so it is kept within the detection alone. What a
defense does between its stages is measured in every run."""

PROFILE = load_profile("smoke")
QUICK = {"dataset.train_size": 200, "recipe.epochs": 4, "detector.epochs": 2, "labeler.epochs": 2, "model.width": 4}

SHARED = {"dataset.train_size": 200, "recipe.epochs": 4, "model.width": 4}


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> tuple[RunResult, RunResult]:
    """One run of NAB, made, and found after its result was lost."""
    folder = tmp_path_factory.mktemp("twice")
    config = PROFILE.config(defense="nab", **QUICK)
    one, other = (
        run(config, results=folder / f"results-{number}", device="cpu", keeper=StageCache(folder / "stages"))
        for number in range(2)
    )
    return one, other


@pytest.mark.parametrize("part", ["hash", "metrics", "curves", "examples", "detection_curve", "data", "settings"])
def test_a_run_that_is_found_has_the_same_result(twice, part):
    first, second = (result.model_dump(mode="json") for result in twice)
    assert second[part] == first[part]
    assert first[part]


def test_a_run_that_is_found_says_so_and_who_made_it(twice):
    first, second = twice
    assert (first.found_stages, first.found_makers) == ([], [])
    assert [stage for stage in second.found_stages if stage not in UNKEPT] == STAGES
    assert second.found_makers == [describe_maker()]


def test_a_run_that_is_found_costs_what_it_cost(twice):
    first, second = twice
    assert set(second.cost) == set(first.cost) == {*STAGES, *UNKEPT}
    assert second.wall_seconds < first.wall_seconds
    for name in first.cost.keys() - {"defense: NAB"}:
        assert second.cost[name] == pytest.approx(first.cost[name], abs=1e-6), name
    assert second.images_per_second == pytest.approx(first.images_per_second, rel=1e-6)


def test_the_cost_of_nab_has_its_detector_and_its_labels_and_is_what_its_run_took(twice):
    first, _ = twice
    assert first.seconds == pytest.approx(sum(first.cost.values()))
    assert first.seconds > sum(first.cost[name] for name in ("detection (lga)", "pseudo labels (vd)", "training (nab)"))
    assert first.seconds <= first.wall_seconds
    assert all(seconds > 0 for seconds in first.cost.values())


def test_a_stage_that_two_parts_of_a_run_share_costs_once(tmp_path):
    """The detector asks for the attacked model, and the audit deploys it."""
    config = PROFILE.config(defense="audit", detector="spectral-signatures", labeler="second-likely", **SHARED)
    cache = StageCache(tmp_path / "stages")
    audit = run(config, results=tmp_path / "results", device="cpu", keeper=cache)
    none = run(PROFILE.config(defense="none", **SHARED), results=tmp_path / "results", device="cpu", keeper=cache)
    assert audit.cost["training"] == none.cost["training"]
    assert audit.seconds <= audit.wall_seconds
    assert none.found_stages == ["attack", "training", "evaluation"]
    assert none.seconds > none.wall_seconds, "it costs what it would have cost alone"


def test_a_fresh_cache_makes_every_stage_anew_once(tmp_path):
    """After somebody changed a method of the library, whose code is no part of the keys."""
    config = PROFILE.config(defense="nab", **QUICK)
    kept = run(config, results=tmp_path / "one", device="cpu", keeper=StageCache(tmp_path / "stages"))
    keeper = StageCache(tmp_path / "stages", is_fresh=True)
    anew = run(config, results=tmp_path / "two", device="cpu", keeper=keeper)
    again = run(config, results=tmp_path / "three", device="cpu", keeper=keeper)
    assert (anew.found_stages, anew.metrics) == ([], kept.metrics)
    assert [stage for stage in again.found_stages if stage not in UNKEPT] == STAGES
