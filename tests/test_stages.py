"""The stage cache: found again to the bit, damage told, one process makes and the others wait."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from nab.errors import ConfigError
from nab.experiments import StageCache
from nab.experiments.locks import Lease, only_one
from nab.experiments.stages import GIGABYTE
from nab.training import Context, Output

DTYPES = [torch.uint8, torch.int64, torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.float64]
FORK = multiprocessing.get_context("fork")
"""Real processes that need not import torch again."""


@pytest.fixture
def cache(tmp_path) -> StageCache:
    return StageCache(tmp_path / "stages")


class Maker:
    """Makes an output and counts how often."""

    def __init__(self, output: Output | None = None) -> None:
        self.output = output or Output({"x": torch.arange(5)}, {"note": "made"}, 1.5)
        self.count = 0

    def __call__(self) -> Output:
        self.count += 1
        return self.output


def refuse() -> Output:
    raise AssertionError("it was made again")


def raw(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


def files(cache: StageCache) -> tuple[Path, Path]:
    """Record and tensors of the only entry."""
    (entry,) = cache.entries()
    return entry.record, entry.tensors


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
    made = cache("any", {"seed": seed}, lambda: Output(tensors, values, 2.5))
    assert not made.is_found
    found = cache("any", {"seed": seed}, refuse)
    assert found.is_found
    assert (found.values, found.seconds) == (values, 2.5)
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


def test_a_raised_version_makes_it_again(cache):
    counts = []
    for version in (1, 2, 1):
        maker = Maker()
        cache("scores", {"version": version, "detector": "x"}, maker)
        counts.append(maker.count)
    assert counts == [1, 1, 0]


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
    assert record["seconds"] == 1.5
    assert record["values"] == {"note": "made"}


def test_a_stage_within_a_stage_is_kept_too(cache):
    inner = Maker()
    cache("outer", {}, lambda: Output({"y": cache("inner", {}, inner).tensors["x"] + 1}))
    assert cache("outer", {}, refuse).tensors["y"].tolist() == [1, 2, 3, 4, 5]
    assert cache("inner", {}, refuse).tensors["x"].tolist() == [0, 1, 2, 3, 4]
    assert inner.count == 1


# Damage.


def remade(cache: StageCache, caplog) -> bool:
    """Whether damage was told and the output made again; what is handed back is right in any case."""
    caplog.clear()
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        output = cache("any", {}, maker)
    assert output.tensors["x"].tolist() == [0, 1, 2, 3, 4]
    assert output.values == {"note": "made"}
    assert output.seconds == 1.5
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
    cache("any", {"other": 1}, Maker(Output({"x": torch.zeros(5, dtype=torch.int64)}, {"note": "made"}, 1.5)))
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
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nab.experiments.stages.write_whole", full)
    maker = Maker()
    with caplog.at_level(logging.WARNING):
        assert cache("any", {}, maker).tensors is maker.output.tensors
    assert "No space left" in caplog.text
    assert cache.entries() == []


# The limit.


def fill(cache: StageCache, *names: str, size: int = 1000) -> None:
    """Outputs of ``size`` bytes and a little, used one after the other."""
    for name in names:
        cache("any", {"name": name}, lambda: Output({"x": torch.zeros(size, dtype=torch.uint8)}))
        time.sleep(0.01)


def names_of(cache: StageCache) -> list[str]:
    return [json.loads(entry.record.read_text())["inputs"]["name"] for entry in cache.entries()]


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
    assert cache.clear("no such stage") == []
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


@pytest.mark.parametrize("given", ["", "much", "5 GB", "nan", "inf", "-1"])
def test_a_limit_that_is_none_is_refused(monkeypatch, tmp_path, given):
    monkeypatch.setenv("NAB_CACHE_LIMIT", given)
    with pytest.raises(ConfigError, match=rf"NAB_CACHE_LIMIT .*gigabytes, got {re.escape(repr(given))}"):
        StageCache(tmp_path)


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


# Several processes.


def worker(where: Path | UPath, log: Path, seconds: float, name: str) -> None:
    """One output, slowly; a line in ``log`` when it begins to be made and when it is there."""

    def say(word: str) -> None:
        with log.open("a") as file:
            file.write(f"{word} {name}\n")

    def make() -> Output:
        say("makes")
        time.sleep(seconds)
        return Output({"x": torch.arange(5)}, {"by": name})

    output = StageCache(where)("any", {}, make)
    say(f"{'found' if output.is_found else 'made'} {output.values['by']}'s as")


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., multiprocessing.process.BaseProcess]]:
    """Starts workers on one stage and ends them with the test."""
    log, started = tmp_path / "log", []

    def begin(name: str, seconds: float, where: object = tmp_path / "stages") -> multiprocessing.process.BaseProcess:
        process = FORK.Process(target=worker, args=(where, log, seconds, name), daemon=True)
        process.start()
        started.append(process)
        return process

    log.touch()
    yield begin
    for process in started:
        process.kill()
        process.join()


def wait_until(is_so: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_what_is_found_says_what_made_it(tmp_path, monkeypatch):
    """Another commit's output is used, for its key says that it is the same; but it is told."""
    monkeypatch.setattr("nab.experiments.stages.describe_maker", lambda: {"commit": "abc", "torch": "1", "threads": 3})
    cache = StageCache(tmp_path / "stages")
    assert cache("any", {"x": 1}, lambda: Output(values={"by": 1}, seconds=1.0)).maker == {}
    context = Context(keeper=cache)
    for _ in range(2):
        context.keep("mine", {}, lambda: Output())
        context.keep("other", {}, lambda: Output())
    assert context.clock.makers == [{"commit": "abc", "torch": "1", "threads": 3}]
    assert cache("any", {"x": 1}, refuse).maker == {"commit": "abc", "torch": "1", "threads": 3}


def test_of_several_processes_one_makes_it_and_the_others_find_it(start, tmp_path):
    workers = [start(name, 0.5) for name in "abcd"]
    for process in workers:
        process.join(30)
        assert process.exitcode == 0
    lines = (tmp_path / "log").read_text().splitlines()
    (maker,) = [line.split()[1] for line in lines if line.startswith("makes")]
    assert sorted(lines[1:]) == sorted(f"{'made' if name == maker else 'found'} {maker}'s as {name}" for name in "abcd")


def test_when_the_first_is_killed_the_second_takes_over_at_once(start, tmp_path):
    log = tmp_path / "log"
    first = start("first", 600)
    wait_until(lambda: "makes first" in log.read_text())
    second = start("second", 0)
    time.sleep(0.5)
    assert "second" not in log.read_text(), "it waits"
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: "makes second" in log.read_text())
    assert time.monotonic() - killed < 2
    second.join(30)
    assert log.read_text().splitlines()[-1] == "made second's as second"
    assert StageCache(tmp_path / "stages")("any", {}, refuse).values == {"by": "second"}


def test_waiting_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    entered = threading.Event()

    def wait() -> None:
        with only_one(tmp_path / "locks" / "x", "the stage 'scores'"):
            entered.set()

    with only_one(tmp_path / "locks" / "x", "it"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: "waiting for another process that makes the stage 'scores'" in caplog.text)
        assert not entered.is_set()
    assert entered.wait(10)
    waiting.join()


@pytest.mark.usefixtures("_quick_leases")
def test_at_an_address_one_makes_it_and_the_other_waits(start, tmp_path):
    where, log = UPath(f"file://{tmp_path}/stages"), tmp_path / "log"
    first = start("first", 2.5, where)
    wait_until(lambda: "makes first" in log.read_text())
    second = start("second", 0, where)
    for process in (first, second):
        process.join(30)
    assert log.read_text().splitlines() == ["makes first", "made first's as first", "found first's as second"]


@pytest.mark.usefixtures("_quick_leases")
def test_at_an_address_a_dead_process_is_succeeded_when_its_lease_is_over(start, tmp_path):
    where, log = UPath(f"file://{tmp_path}/stages"), tmp_path / "log"
    first = start("first", 600, where)
    wait_until(lambda: "makes first" in log.read_text())
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    start("second", 0, where)
    wait_until(lambda: "made second" in log.read_text())
    assert 0.9 < time.monotonic() - killed < 15


# Leases.


@pytest.fixture(params=["memory", "file"])
def lease_file(request, tmp_path) -> UPath:
    return UPath(f"memory://{uuid.uuid4().hex}/lease" if request.param == "memory" else f"file://{tmp_path}/lease")


def lease(path: UPath, seconds: float = 1.0) -> Lease:
    return Lease(path, seconds=seconds, settle=0.02)


def test_a_free_lease_is_had_at_once_and_given_back(lease_file):
    began = time.monotonic()
    for _ in range(2):
        with lease(lease_file, seconds=60).held():
            assert lease_file.read_text()
        assert not lease_file.exists()
    assert time.monotonic() - began < 5


def test_a_lease_is_given_back_when_the_work_fails(lease_file):
    with pytest.raises(RuntimeError), lease(lease_file).held():
        raise RuntimeError
    assert not lease_file.exists()


def test_a_lease_that_is_not_renewed_is_taken_over_and_not_before_its_time(lease_file):
    lease_file.write_text("a process that is gone 1")
    began = time.monotonic()
    with lease(lease_file).held():
        assert 1.0 <= time.monotonic() - began < 15
        assert "gone" not in lease_file.read_text()


def test_a_lease_that_is_renewed_is_not_taken_over(lease_file):
    entered = threading.Event()

    def wait() -> None:
        with lease(lease_file).held():
            entered.set()

    with lease(lease_file).held():
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not entered.wait(3.0), "three times its length"
    assert entered.wait(10)
    waiting.join()
    assert not lease_file.exists()


def test_a_lease_that_went_to_somebody_else_is_left_to_them(lease_file):
    with lease(lease_file, seconds=60).held():
        lease_file.write_text("somebody else 1")
    assert lease_file.read_text() == "somebody else 1"


def test_a_waiting_process_that_sees_an_empty_lease_does_not_take_it_at_once(lease_file):
    """A writer empties a file before it fills it."""
    lease_file.write_text("")
    began = time.monotonic()
    with lease(lease_file).held():
        assert time.monotonic() - began >= 1.0
