"""What files of deployed defenses promise, tried by those who would break it."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, result_of
from safetensors import safe_open
from safetensors.torch import save_file
from test_promises import Shifted, dropping

import nab
from nab.data import IDENTITY
from nab.defenses import NAB, Plain, Stamped
from nab.errors import ConfigError, DataError
from nab.experiments import Grid, ResultStore, RunConfig, Settings, find_results
from nab.methods import KINDS
from nab.models import ResNet9
from nab.stamp import Stamp
from nab.training import Trainer


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(TINY, ResNet9(4))


def rewritten(path: Any, **fields: Any) -> Any:
    """The file, with other entries in its predictor's header."""
    with safe_open(path, framework="pt") as old:
        header = json.loads(old.metadata()["nab"])
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
    header["fields"]["predictor"] |= fields
    save_file(tensors, path, metadata={"nab": json.dumps(header)})
    return path


def test_a_file_that_names_code_does_not_run_it(noise, trainer, tmp_path, capsys):
    path = nab.save_deployed(Plain(trainer.fresh(noise, "test")), tmp_path / "d.safetensors")
    rewritten(path, architecture={"name": "custom", "params": {"path": "this:d"}})
    with pytest.raises(ConfigError, match="unknown model 'custom'"):
        nab.load_deployed(path, device="cpu")
    assert "Zen" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "fields", [{"shape": []}, {"shape": [3]}, {"normalization": [1]}, {"precision": "foo"}, {"architecture": 3}]
)
def test_a_header_that_makes_no_sense_is_one_line(noise, trainer, tmp_path, fields):
    path = nab.save_deployed(Plain(trainer.fresh(noise, "test")), tmp_path / "d.safetensors")
    with pytest.raises((DataError, ConfigError)):
        nab.load_deployed(rewritten(path, **fields), device="cpu")


def test_a_network_that_was_changed_is_not_stored_as_the_plain_one(noise, trainer, tmp_path):
    fresh = trainer.fresh(noise, "test")
    changed = dataclasses.replace(fresh, network=Shifted(fresh.network, 1))
    path = nab.save_deployed(Plain(changed), tmp_path / "d.safetensors")
    with pytest.raises(ConfigError, match="network of somebody's own"):
        nab.load_deployed(path, device="cpu")
    loaded = nab.load_deployed(path, device="cpu", network=Shifted(fresh.network, 1))
    assert torch.equal(loaded.labels(noise.images), Plain(changed).labels(noise.images))


@pytest.fixture
def crafted(noise, tmp_path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """A stored defense, and a file in which somebody changed its header's fields."""
    predictor = Trainer(TINY, ResNet9(4)).fresh(noise, "test")
    stored = nab.save_deployed(Stamped(predictor, Stamp()), tmp_path / "d.safetensors")

    def craft(change: Callable[[dict[str, Any]], None]) -> Path:
        with safe_open(stored, framework="pt") as file:
            header = json.loads(file.metadata()["nab"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        change(header["fields"])
        save_file(tensors, stored, metadata={"nab": json.dumps(header)})
        return stored

    return craft


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(stamp=None),
        lambda fields: fields.update(predictor="x"),
        lambda fields: fields.update(predictor={"predictor": {}}),
        lambda fields: fields["predictor"].update(shape=[10**9, 16, 16]),
        lambda fields: fields["predictor"]["architecture"]["params"].update(width=4096),
    ],
    ids=["no stamp", "a word", "a mapping", "a giant image", "a giant network"],
)
def test_a_crafted_file_is_one_clear_error_and_takes_no_memory(crafted, change):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="does not fit this version of Stamped"):
        nab.load_deployed(crafted(change), device="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "KiB"


def test_a_folder_is_no_deployed_file(tmp_path):
    with pytest.raises(DataError, match="is a folder, not a file"):
        nab.load_deployed(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"device": {}},
        {"device": {"type": "cpu", "name": 3}},
        {"settings": {"seed": 0}},
        {"settings": RunConfig().settings | {"dataset": None}},
        {"settings": RunConfig().settings | {"poison_rate": "x"}},
    ],
    ids=str,
)
def test_a_foreign_result_blocks_no_other(tmp_path, change):
    good = result_of(RunConfig(seed=1))
    store = ResultStore(tmp_path, "smoke")
    store.write(good, RunConfig(seed=1))
    (tmp_path / "smoke" / "x.json").write_text(json.dumps(good.model_dump(mode="json") | change))
    os.mkfifo(tmp_path / "smoke" / "y.json")
    found = find_results(tmp_path)
    assert [result.hash for result in found.results] == [good.hash]
    assert len(found.problems) == 2
    assert Grid([], Settings("smoke", str(tmp_path), str(tmp_path / "s"), None, "cpu", 1)).found.problems


def test_a_result_on_other_images_than_the_published_ones_is_compared():
    """The name CIFAR-10 does not say which images lay in a folder, unless their fingerprint was the known one."""
    source = KINDS["dataset"].make("cifar10")
    assert source.fixes("published")
    assert not source.fixes("differs from the published data")
    assert KINDS["dataset"].make("digits").fixes("no published fingerprint")
    assert not KINDS["dataset"].make("folder").fixes("no published fingerprint")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.rand(4, 3, 8, 8), "from 0 to 255, got none above .*: these look like the output of ToTensor; multiply"),
        (torch.full((4, 3, 8, 8), torch.nan), "from 0 to 255, got nan to nan"),
        (torch.full((4, 3, 8, 8), -1.0), "from 0 to 255, got -1 to -1"),
        (torch.zeros(4, 3, 16, 16), "images of N x 3 x 8 x 8, got 4 x 3 x 16 x 16"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), "as uint8 or float32, got int64"),
        (torch.zeros(3, 8, 8), "got 3 x 8 x 8"),
        ("x", "as a tensor, uint8, N x 3 x 8 x 8, got str"),
    ],
    ids=["unit range", "NaN", "negative", "another size", "whole numbers", "one image", "a word"],
)
def test_images_that_would_be_misread_are_refused(noise, images, told):
    deployed = Plain(Trainer(TINY, ResNet9(4)).fresh(noise, "test"))
    for answer in (deployed.labels, nab.Guard(deployed).predict):
        with pytest.raises(ConfigError, match=told):
            answer(images)
    assert len(deployed.labels(torch.zeros(2, 3, 8, 8))) == 2, "black images are images"


def test_what_a_guard_deploys_can_be_loaded(noise, tmp_path):
    model = dropping(4).eval()
    guard = NAB().guard(model, IDENTITY)
    path = nab.save_deployed(guard.deployed, tmp_path / "d.safetensors")
    loaded = nab.load_deployed(path, device="cpu", network=dropping(4))
    images = noise.images.float()
    assert torch.equal(loaded.labels(images), guard.deployed.labels(images))


class Shifting(torch.nn.Sequential):
    """Adds what torch does not store."""

    def __init__(self, shift: float) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(192, 4))
        self.register_buffer("shift", torch.full((192,), shift), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self[1](self[0](images) + self.shift)


def test_buffers_that_torch_does_not_store_are_stored(noise, tmp_path):
    guard = NAB().guard(Shifting(1.0).eval(), IDENTITY)
    path = nab.save_deployed(guard.deployed, tmp_path / "d.safetensors")
    loaded = nab.load_deployed(path, device="cpu", network=Shifting(0.0))
    images = noise.images.float()
    logits = [each.respond(images).logits for each in (guard.deployed, loaded)]
    assert torch.equal(*logits)
    assert loaded.key == guard.deployed.key


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    class Odd(Shifting):
        def get_extra_state(self) -> str:
            return "odd"

    with pytest.raises(ConfigError, match="whole state is in tensors, got something else for _extra_state"):
        nab.save_deployed(NAB().guard(Odd(0.0), IDENTITY).deployed, tmp_path / "d.safetensors")
