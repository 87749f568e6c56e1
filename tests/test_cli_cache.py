"""`nab cache` as it is typed."""

from __future__ import annotations

import functools

import pytest
from helpers import assert_one_line_error

from nab.digest import digest
from nab.experiments import StageCache
from nab.training import Cost, Output


@pytest.fixture(params=["cache folder", "folder", "file address"])
def filled(request, tmp_path, cache_folder) -> tuple[StageCache, list[str]]:
    """Three outputs, and the options that name their place."""
    places = {"cache folder": None, "folder": str(tmp_path / "kept"), "file address": f"file://{tmp_path}/kept"}
    place = places[request.param]
    cache = StageCache(place)
    for stage, seconds in (("network", 90.0), ("pseudo labels", 2.5), ("scores", 3.0)):
        key = digest({"stage": stage})
        costs = {key: Cost(stage, seconds), "of another stage": Cost("other", 1000.0)}
        cache(stage, {}, functools.partial(Output, values={"x": 1}, costs=costs))
    return cache, [] if place is None else ["--stages", place]


def test_cache_size(nab, filled):
    cache, where = filled
    code, out, err = nab("cache", "size", *where)
    assert (code, err) == (0, "")
    assert out.startswith("3 outputs, 0.00")
    assert "of at most 20.000 GB" in out
    assert str(cache.where) in out.replace("\n", "")


def test_cache_list(nab, filled):
    cache, where = filled
    code, out, err = nab("cache", "list", *where)
    assert (code, err) == (0, "")
    assert "pseudo-labels" in out
    assert "90.0 s" in out
    for entry in cache.entries():
        assert entry.key in out


def test_cache_prune(nab, filled, monkeypatch):
    cache, where = filled
    assert nab("cache", "prune", *where)[1].startswith("0 outputs deleted")
    limit = (cache.size() - 1) / 1e9
    assert nab("cache", "prune", "--limit", f"{limit:.12f}", *where)[1].startswith("1 outputs deleted")
    monkeypatch.setenv("NAB_CACHE_LIMIT", "0")
    assert nab("cache", "prune", *where)[1].startswith("2 outputs deleted")
    assert cache.entries() == []


def test_cache_clear(nab, filled):
    cache, where = filled
    assert nab("cache", "clear", "--stage", "pseudo-labels", *where)[1].startswith("1 outputs deleted")
    assert sorted(entry.stage for entry in cache.entries()) == ["network", "scores"]
    assert nab("cache", "clear", *where)[1].startswith("2 outputs deleted")
    assert cache.size() == 0


def test_cache_of_nothing(nab):
    assert nab("cache", "size")[1].startswith("0 outputs")
    code, out, _ = nab("cache", "list")
    assert code == 0
    assert "stage" in out
    assert nab("cache", "clear")[1].startswith("0 outputs deleted")


def test_an_unknown_limit_has_its_line(nab, monkeypatch):
    monkeypatch.setenv("NAB_CACHE_LIMIT", "much")
    assert_one_line_error(nab("cache", "size"), "NAB_CACHE_LIMIT", "'much'")
