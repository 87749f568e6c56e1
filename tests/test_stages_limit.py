"""The stage cache: how much is kept, where, and what goes first."""

from __future__ import annotations

import logging
import os
import re
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Maker, files, fill, names_of, refuse
from upath import UPath

from nab.errors import ConfigError
from nab.experiments import StageCache
from nab.experiments.locks import Lease
from nab.experiments.stages import GIGABYTE


@pytest.fixture
def cache(tmp_path) -> StageCache:
    return StageCache(tmp_path / "stages")


def one_size(tmp_path: Path) -> int:
    probe = StageCache(tmp_path / "probe")
    fill(probe, "x")
    return probe.size()


def test_entries_stand_in_the_order_of_their_use_with_their_sizes(cache):
    fill(cache, "a", "b", "c")
    assert names_of(cache) == ["a", "b", "c"]
    fill(cache, "a")
    assert names_of(cache) == ["b", "c", "a"]
    for entry in cache.entries():
        assert entry.size == entry.record.stat().st_size + entry.tensors.stat().st_size
        assert entry.stage == "any"
        assert re.fullmatch("[0-9a-f]{32}", entry.key)
    assert cache.size() == sum(entry.size for entry in cache.entries())


def test_what_was_not_used_for_the_longest_time_goes_when_there_is_too_much(tmp_path):
    cache = StageCache(tmp_path / "stages", limit=int(3.5 * one_size(tmp_path)))
    fill(cache, "a", "b", "c")
    fill(cache, "a", "d")
    assert names_of(cache) == ["c", "a", "d"]
    fill(cache, "e", "f")
    assert names_of(cache) == ["d", "e", "f"]
    assert cache.size() <= cache.limit


@settings(deadline=None, max_examples=15)
@given(uses=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=10), limit=st.integers(1, 5))
def test_what_is_kept_are_the_last_ones_used(tmp_path_factory, uses, limit):
    folder = tmp_path_factory.mktemp("limit")
    cache = StageCache(folder / "stages", limit=int((limit + 0.5) * one_size(folder)))
    kept: list[str] = []
    for name in uses:
        fill(cache, name)
        kept = [*(other for other in kept if other != name), name][-limit:]
        assert names_of(cache) == kept


def test_pruning_and_clearing_say_what_is_gone(cache, tmp_path):
    fill(cache, "a", "b", "c")
    cache("pseudo labels", {"name": "l"}, Maker())
    gone = cache.prune(cache.size() - 1)
    assert len(gone) == 1
    assert not gone[0].record.exists()
    assert not gone[0].tensors.exists()
    assert names_of(cache) == ["b", "c", "l"]
    assert cache.prune() == []
    assert [entry.stage for entry in cache.clear("pseudo labels")] == ["pseudo-labels"]
    assert names_of(cache) == ["b", "c"]
    with pytest.raises(ConfigError, match=r"unknown stage 'no such stage': expected one of any"):
        cache.clear("no such stage")
    assert len(cache.clear()) == 2
    assert (cache.entries(), cache.size()) == ([], 0)


def test_a_cache_that_was_never_used_is_empty(tmp_path):
    cache = StageCache(tmp_path / "nowhere")
    assert (cache.entries(), cache.size(), cache.prune(), cache.clear()) == ([], 0, [], [])
    assert not (tmp_path / "nowhere").exists()


def test_clearing_leaves_no_debris_of_killed_writers(cache):
    cache("any", {}, Maker())
    record, tensors = files(cache)
    orphan = tensors.with_name("0" * 32 + ".safetensors")
    half = tensors.with_name(f".{tensors.name}-abc.tmp")
    for path in (orphan, half):
        path.write_bytes(b"left behind")
        os.utime(path, (0, 0))
    cache.clear()
    assert [path for path in record.parent.iterdir() if path.is_file()] == []


@pytest.mark.parametrize(("given", "limit"), [("0.5", GIGABYTE // 2), ("3", 3 * GIGABYTE), ("0", 0)])
def test_the_environment_sets_the_limit_in_gigabytes(monkeypatch, tmp_path, given, limit):
    monkeypatch.setenv("NAB_CACHE_LIMIT", given)
    assert StageCache(tmp_path).limit == limit
    assert StageCache(tmp_path, limit=7).limit == 7


def test_stages_lie_in_the_cache_folder_unless_told_otherwise(monkeypatch, tmp_path, cache_folder):
    assert StageCache().where == cache_folder / "stages"
    monkeypatch.setenv("NAB_STAGES", str(tmp_path / "elsewhere"))
    assert StageCache().where == tmp_path / "elsewhere"
    monkeypatch.setenv("NAB_STAGES", "memory://elsewhere")
    assert str(StageCache().where).startswith("memory://elsewhere")
    assert StageCache(tmp_path).where == tmp_path


def test_an_address_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="nosuch://bucket cannot be used"):
        StageCache("nosuch://bucket")


# At an address.


@pytest.fixture(params=["memory", "file"])
def address(request, tmp_path) -> UPath:
    """Made by hand, for a ``file://`` in words is taken for the folder that it is."""
    return UPath(f"memory://{uuid.uuid4().hex}/stages" if request.param == "memory" else f"file://{tmp_path}/stages")


@pytest.fixture
def _quick_leases(monkeypatch) -> None:
    monkeypatch.setattr(Lease.__init__, "__kwdefaults__", {"seconds": 1.0, "settle": 0.02})


@pytest.mark.usefixtures("_quick_leases")
def test_an_address_keeps_stages_as_a_folder_does(address, caplog):
    cache = StageCache(address)
    cache("pseudo labels", {"name": "l"}, Maker())
    fill(cache, "a", "b")
    again = StageCache(address)
    found = again("pseudo labels", {"name": "l"}, refuse)
    assert found.tensors["x"].tolist() == [0, 1, 2, 3, 4]
    assert sorted(names_of(again)) == ["a", "b", "l"]
    assert again.size() == sum(entry.size for entry in again.entries()) > 2000
    (record,) = [entry.record for entry in again.entries() if entry.stage == "pseudo-labels"]
    record.write_bytes(record.read_bytes()[:-5])
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        again("pseudo labels", {"name": "l"}, maker)
    assert maker.count == 1
    assert "is damaged" in caplog.text
    assert len(again.clear("any")) == 2
    assert len(again.prune(0)) == 1
    assert not [path for path in (again.where / "locks").iterdir() if path.is_file()], "leases are given back"
