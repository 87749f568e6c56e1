"""The stage cache: found again to the bit, damage told and mended, a full disk survived."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kept import Maker, files, fill_disk, refuse

from nab.experiments import StageCache
from nab.training import Output, Trainer

DTYPES = [torch.uint8, torch.int64, torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.fixture
def cache(tmp_path) -> StageCache:
    return StageCache(tmp_path / "stages")


def raw(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


# Found again.


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), max_size=3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
    values=st.dictionaries(st.text(max_size=6), JSON, max_size=3),
)
def test_what_is_kept_is_found_again_to_the_bit(tmp_path_factory, shapes, dtype, seed, values):
    """Whatever the bytes say: not-a-numbers and subnormal numbers too."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, shape in enumerate(shapes):
        count = int(torch.tensor(shape).prod()) * torch.empty((), dtype=dtype).element_size()
        content = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
        tensors[f"t{number}"] = content.view(dtype).view(shape)
    cache = StageCache(tmp_path_factory.mktemp("bits"))
    made = cache("any", {"seed": seed}, lambda: Output(tensors, values))
    assert not made.is_found
    found = cache("any", {"seed": seed}, refuse)
    assert found.is_found
    assert found.values == values
    assert set(found.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert found.tensors[name].shape == tensor.shape
        assert raw(found.tensors[name]) == raw(tensor)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.permute(0, 3, 1, 2),
        lambda x: x[:, ::2],
        lambda x: x[0, 0, 0].expand(7, -1),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x[1],
        lambda x: x.float().requires_grad_(),
    ],
    ids=["permuted", "sliced", "expanded", "channels-last", "part", "with gradient"],
)
def test_tensors_in_any_layout_are_kept(cache, view):
    tensor = view(torch.arange(120).view(2, 3, 4, 5))
    cache("any", {}, lambda: Output({"x": tensor}))
    assert torch.equal(cache("any", {}, refuse).tensors["x"], tensor)


def test_one_tensor_may_have_two_names(cache):
    """As a detector's scores that are a note as well."""
    scores = torch.arange(6.0)
    cache("any", {}, lambda: Output({"scores": scores, "note scores": scores, "note first": scores[:4]}))
    found = cache("any", {}, refuse).tensors
    assert torch.equal(found["scores"], scores)
    assert torch.equal(found["note scores"], scores)
    assert torch.equal(found["note first"], scores[:4])


def test_an_output_may_be_empty(cache):
    cache("any", {}, Output)
    found = cache("any", {}, refuse)
    assert (found.tensors, found.values, found.is_found) == ({}, {}, True)


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [("other", {"a": 1}), ("any", {"a": 2}), ("any", {"b": 1}), ("any", {"a": 1, "b": None}), ("any", {})],
)
def test_another_stage_or_other_inputs_are_made_by_themselves(cache, stage, inputs):
    cache("any", {"a": 1}, Maker())
    maker = Maker()
    cache(stage, inputs, maker)
    assert maker.count == 1
    assert len(cache.entries()) == 2


def test_inputs_that_cannot_be_told_apart_are_refused(cache):
    with pytest.raises(TypeError, match="got object"):
        cache("any", {"thing": object()}, Maker())


def test_a_maker_that_fails_leaves_nothing_and_the_next_one_makes_it(cache):
    with pytest.raises(RuntimeError, match="out of memory"):
        cache("any", {}, lambda: (_ for _ in ()).throw(RuntimeError("out of memory")))
    assert cache.entries() == []
    maker = Maker()
    cache("any", {}, maker)
    assert maker.count == 1


def test_a_record_says_what_the_output_depends_on_and_what_it_cost(cache):
    cache("pseudo labels", {"rate": 0.1, "x": torch.zeros(2)}, Maker())
    record = json.loads(files(cache)[0].read_text())
    assert record["inputs"]["stage"] == "pseudo labels"
    assert record["inputs"]["rate"] == 0.1
    assert record["inputs"]["x"].startswith("float32 2 ")
    assert record["costs"]["a key"]["seconds"] == 1.5
    assert record["values"] == {"note": "made"}


def test_a_stage_within_a_stage_is_kept_too(cache):
    inner = Maker()
    cache("outer", {}, lambda: Output({"y": cache("inner", {}, inner).tensors["x"] + 1}))
    assert cache("outer", {}, refuse).tensors["y"].tolist() == [1, 2, 3, 4, 5]
    assert cache("inner", {}, refuse).tensors["x"].tolist() == [0, 1, 2, 3, 4]
    assert inner.count == 1


def by(monkeypatch, commit: str, cache: StageCache) -> Trainer:
    """A trainer whose stages are made by this commit from now on."""
    monkeypatch.setattr("nab.experiments.stages.describe_maker", lambda: {"commit": commit})
    return Trainer(keeper=cache)


def test_what_is_found_says_what_it_cost_and_what_made_it(cache, monkeypatch):
    """Another commit's output is used, for its key says that it is the same; but it is told."""
    by(monkeypatch, "old", cache).keep("inner", {}, Output)
    new = by(monkeypatch, "new", cache)
    new.keep("outer", {}, lambda: new.keep("inner", {}, Output))
    assert [(cost.stage, cost.is_found) for cost in new.ledger.costs.values()] == [("inner", True), ("outer", False)]
    last = by(monkeypatch, "last", cache)
    last.keep("outer", {}, refuse)
    assert {cost.stage: cost.maker["commit"] for cost in last.ledger.costs.values()} == {"inner": "old", "outer": "new"}
    assert last.ledger.seconds == new.ledger.seconds


@pytest.mark.parametrize("stage", ["../../outside", "a/b", "..", "x" * 300, "défense: ü", ""])
def test_whatever_a_stage_is_called_it_lies_in_the_cache(tmp_path, stage):
    cache = StageCache(tmp_path / "stages")
    cache(stage, {}, Maker())
    assert cache(stage, {}, refuse).is_found
    (entry,) = cache.entries()
    assert entry.record.parent.parent == tmp_path / "stages"
    assert [path.name for path in tmp_path.iterdir()] == ["stages"]
    assert len(cache.clear(stage)) == 1


# Damage.


def remade(cache: StageCache, caplog) -> bool:
    """Whether damage was told and the output made again; what is handed back is right in any case."""
    caplog.clear()
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        output = cache("any", {}, maker)
    assert output.tensors["x"].tolist() == [0, 1, 2, 3, 4]
    assert output.values == {"note": "made"}
    assert output.costs["a key"].seconds == 1.5
    told = "is damaged" in caplog.text
    assert told == bool(maker.count)
    caplog.clear()
    assert cache("any", {}, refuse).is_found
    assert caplog.text == ""
    return told


def flip(path: Path, place: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(30))
def test_one_wrong_bit_among_the_tensors_is_told_and_they_are_made_again(cache, caplog, seed):
    cache("any", {}, Maker())
    place, bit = torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()
    flip(files(cache)[1], place, int(bit * 8))
    assert remade(cache, caplog)


def test_one_wrong_bit_in_the_record_is_told_or_changes_nothing(cache, caplog):
    """Only the date is not covered by the checksum, and nothing depends on it."""
    cache("any", {}, Maker())
    record = files(cache)[0]
    whole = record.read_bytes()
    dated = range(whole.index(b'"made"'), whole.index(b'"checksum"'))
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(whole), (80,), generator=generator).tolist():
        data = bytearray(whole)
        data[place] ^= 1 << int(torch.randint(8, (), generator=generator))
        record.write_bytes(data)
        is_space = chr(whole[place]).isspace() and chr(data[place]).isspace()
        assert remade(cache, caplog) or place in dated or is_space, (place, whole, data)


def test_damage_is_told_once(cache, caplog):
    cache("any", {}, Maker())
    flip(files(cache)[1], 0.9, 3)
    with caplog.at_level(logging.WARNING):
        cache("any", {}, Maker())
    assert caplog.text.count("is damaged") == 1
    assert str(files(cache)[0]) in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[]", b"3", b"{}", b'{"checksum": "x"}', b"\xff\x00"])
def test_a_record_that_is_none_is_told(cache, caplog, content):
    cache("any", {}, Maker())
    files(cache)[0].write_bytes(content)
    assert remade(cache, caplog)


@pytest.mark.parametrize("part", [0, 1], ids=["record", "tensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_a_file_is_told(cache, caplog, part, share):
    cache("any", {}, Maker())
    file = files(cache)[part]
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    assert remade(cache, caplog)


@pytest.mark.parametrize("part", [0, 1], ids=["record", "tensors"])
def test_half_an_entry_is_made_again_without_a_word(cache, caplog, part):
    """A writer was killed between the two files, or another process is deleting it."""
    cache("any", {}, Maker())
    files(cache)[part].unlink()
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        cache("any", {}, maker)
    assert (maker.count, caplog.text) == (1, "")
    assert cache("any", {}, refuse).is_found


def test_the_tensors_of_another_entry_are_damage(cache, caplog):
    cache("any", {}, Maker())
    cache("any", {"other": 1}, Maker(Output({"x": torch.zeros(5, dtype=torch.int64)}, {"note": "made"})))
    tensors = {entry.key: entry.tensors for entry in cache.entries()}
    one, other = tensors.values()
    other.write_bytes(one.read_bytes())
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        for inputs in ({}, {"other": 1}):
            cache("any", inputs, maker)
    assert maker.count == 1
    assert "is damaged" in caplog.text


def test_a_place_that_cannot_be_written_to_is_told_and_the_work_is_done(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = StageCache(tmp_path / "file" / "stages")
    for count in (1, 2):
        maker = Maker()
        with caplog.at_level(logging.WARNING):
            assert cache("any", {}, maker).tensors is maker.output.tensors
        assert maker.count == 1
        assert caplog.text.count("stages cannot be kept in") == count


def test_a_full_disk_is_told_and_the_work_is_handed_on(cache, caplog, monkeypatch):
    fill_disk(monkeypatch)
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        assert cache("any", {}, maker).tensors is maker.output.tensors
    assert "No space left on device" in caplog.text
    assert "will be made again next time" in caplog.text
    assert cache.entries() == []
    assert [path for path in cache.where.glob("any/*") if path.is_file()] == []
