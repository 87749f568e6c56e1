"""What files of deployed defenses promise, tried by those who would break it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from helpers import TINY
from safetensors import safe_open
from safetensors.torch import save_file
from test_promises import Shifted, dropping

import nab
from nab.data import IDENTITY
from nab.defenses import NAB, Plain
from nab.errors import ConfigError, DataError
from nab.models import ResNet9
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


def test_what_a_guard_deploys_can_be_loaded(noise, tmp_path):
    model = dropping(4).eval()
    guard = NAB().guard(model, IDENTITY)
    path = nab.save_deployed(guard.deployed, tmp_path / "d.safetensors")
    loaded = nab.load_deployed(path, device="cpu", network=dropping(4))
    images = noise.images.float()
    assert torch.equal(loaded.labels(images), guard.deployed.labels(images))
