"""Files of deployed defenses: what goes in comes out, and whatever else is in a file is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from helpers import TINY
from safetensors import safe_open
from safetensors.torch import save_file

import nab
from nab.data import IMAGENET, Normalization
from nab.defenses import Deployed, Plain, Response, Stamped
from nab.defenses.export import export_onnx
from nab.errors import ConfigError, DataError
from nab.models import Custom, ResNet9
from nab.stamp import Stamp
from nab.training import Predictor, Runtime, Trainer


def tiny_cnn(num_classes: int, channels: int = 4) -> torch.nn.Module:
    """A network of somebody's own."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, channels, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * channels, num_classes),
    )


@pytest.fixture
def stamped(noise) -> Stamped:
    """A fresh network of its own normalization behind a stamp."""
    dataset = noise.replace(normalization=Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.25)))
    trainer = Trainer(recipe=TINY, architecture=ResNet9(width=4))
    return Stamped(trainer.fresh(dataset, "test"), Stamp(size=3, corner="lower-left", value=1.5))


def test_everything_comes_back(stamped, noise, tmp_path):
    path = nab.save_deployed(stamped, tmp_path / "sub" / "d.safetensors", run="0123456789abcdef")
    loaded = nab.load_deployed(path, device="cpu")
    assert isinstance(loaded, Stamped)
    assert loaded.stamp == stamped.stamp
    assert loaded.key == stamped.key
    for name in ("normalization", "architecture", "classes", "shape", "runtime"):
        assert getattr(loaded.predictor, name) == getattr(stamped.predictor, name)
    ours, theirs = (each.answer(noise.images) for each in (stamped, loaded))
    assert torch.equal(ours.labels, theirs.labels)
    assert torch.equal(ours.variants["unstamped"], theirs.variants["unstamped"])


def test_the_header_says_what_is_in_the_file(stamped, tmp_path):
    path = nab.save_deployed(stamped, tmp_path / "d.safetensors", run="0123456789abcdef")
    with safe_open(path, framework="pt") as stored:
        header = json.loads(stored.metadata()["nab"])
    assert header["class"] == "Stamped"
    assert header["run"] == "0123456789abcdef"
    assert header["versions"]["nab"] == nab.__version__
    predictor = header["fields"]["predictor"]
    assert predictor["architecture"] == {"name": "resnet9", "params": {"width": 4}}
    assert predictor["classes"] == ["a", "b", "c", "d"]
    assert predictor["normalization"]["std"] == [0.2, 0.2, 0.25]
    stamp = {"size": 3, "corner": "lower-left", "value": 1.5, "space": "normalized"}
    assert header["fields"]["stamp"] == {"values": stamp}


def test_a_network_of_ones_own_is_handed_over_when_it_is_loaded(noise, tmp_path):
    trainer = Trainer(recipe=TINY, architecture=Custom(function=tiny_cnn))
    deployed = Plain(trainer.fresh(noise, "test"))
    path = nab.save_deployed(deployed, tmp_path / "d.safetensors")
    with pytest.raises(ConfigError, match="network of somebody's own: pass one of its kind as network"):
        nab.load_deployed(path)
    loaded = nab.load_deployed(path, network=tiny_cnn(4), device="cpu")
    assert torch.equal(loaded.labels(noise.images), deployed.labels(noise.images))
    with pytest.raises(DataError, match="the weights belong to another network"):
        nab.load_deployed(path, network=tiny_cnn(4, channels=5))


def test_a_file_never_names_code_that_is_run(noise, tmp_path):
    """A network by import path is stored without the path: who loads the file says where the network comes from."""
    trainer = Trainer(recipe=TINY, architecture=Custom(path="test_storage:tiny_cnn"))
    path = nab.save_deployed(Plain(trainer.fresh(noise, "test")), tmp_path / "d.safetensors")
    assert b"test_storage" not in path.read_bytes()


@pytest.fixture
def stored(stamped, tmp_path):
    return nab.save_deployed(stamped, tmp_path / "d.safetensors")


def rewrite(path, **changes) -> None:
    """The same tensors under another header."""
    with safe_open(path, framework="pt") as old:
        header = json.loads(old.metadata()["nab"]) | changes
        tensors = {name: old.get_tensor(name) for name in old.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"nab": json.dumps(header)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.safetensors does not exist"):
        nab.load_deployed(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("length", [0, 7, 100, -5])
def test_a_truncated_file_is_damaged(stored, length):
    stored.write_bytes(stored.read_bytes()[:length])
    with pytest.raises(DataError, match=r"d\.safetensors is damaged or no safetensors file"):
        nab.load_deployed(stored)


def test_a_safetensors_file_of_somebody_else_is_told(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="was not written by save_deployed"):
        nab.load_deployed(tmp_path / "other.safetensors")


def test_another_version_is_refused_not_half_read(stored):
    rewrite(stored, schema=1)
    with pytest.raises(DataError, match=r"another version \(schema 1, this version reads \d+\)"):
        nab.load_deployed(stored)


def test_an_unknown_class_is_named(stored):
    rewrite(stored, **{"class": "Sorcery"})
    with pytest.raises(ConfigError, match="holds a 'Sorcery', which is not known here: import the module"):
        nab.load_deployed(stored)


def test_fields_of_another_version_are_told(stored):
    rewrite(stored, fields={"stamp": {"values": {"size": 2}}})
    with pytest.raises(DataError, match="does not fit this version of Stamped"):
        nab.load_deployed(stored)


def test_a_bad_value_in_a_header_is_refused(stored):
    with safe_open(stored, framework="pt") as old:
        fields = json.loads(old.metadata()["nab"])["fields"]
    rewrite(stored, fields=fields | {"stamp": {"values": {"size": -1}}})
    with pytest.raises(ConfigError, match="stamp size"):
        nab.load_deployed(stored)


def test_a_folder_that_cannot_be_written_is_told(stamped, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        nab.save_deployed(stamped, tmp_path / "file" / "d.safetensors")


@dataclasses.dataclass(frozen=True, eq=False)
class Everything(Deployed):
    """Has a field of every kind that can be stored."""

    threshold: float = 0.25
    overlays: torch.Tensor | None = None
    names: tuple[str, ...] = ()
    stamp: Stamp | None = None
    second: Predictor | None = None

    summary = "a test"

    def respond(self, pixels, *, is_full=True):
        logits = self.predictor.forward(self.predictor.normalize(pixels))
        scores = logits.amax(1) * self.threshold
        if self.overlays is not None:
            scores = scores + self.overlays.mean()
        return Response(logits, scores > 0, scores)


def test_every_kind_of_field_is_stored(stamped, noise, tmp_path):
    overlays = torch.arange(24.0).view(2, 3, 2, 2)
    whole = Everything(stamped.predictor, 0.5, overlays, ("a", "b"), Stamp(size=1), stamped.predictor.copy())
    loaded = nab.load_deployed(nab.save_deployed(whole, tmp_path / "d.safetensors"), device="cpu")
    assert isinstance(loaded, Everything)
    assert (loaded.threshold, loaded.names, loaded.stamp) == (0.5, ("a", "b"), Stamp(size=1))
    assert loaded.overlays is not None
    assert torch.equal(loaded.overlays, overlays)
    assert loaded.key == whole.key
    ours, theirs = (each.answer(noise.images) for each in (whole, loaded))
    assert ours.scores is not None
    assert theirs.scores is not None
    assert torch.equal(ours.scores, theirs.scores)


@dataclasses.dataclass(frozen=True, eq=False)
class Odd(Plain):
    """Has a field that no file can hold."""

    anything: object = None


def test_a_field_that_no_file_can_hold_is_named(stamped, tmp_path):
    with pytest.raises(ConfigError, match="field 'anything' cannot be stored: it is a set"):
        nab.save_deployed(Odd(stamped.predictor, {1, 2}), tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


# ONNX.


def onnx_answers(path, images: torch.Tensor) -> dict[str, torch.Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"pixels": images.numpy()})), strict=True))


def test_the_exported_model_answers_as_the_library_does_and_the_network_stays_as_it_was(stamped, noise, tmp_path):
    before = stamped.key
    stamped.predictor.network.requires_grad_(True)
    names = export_onnx(stamped, tmp_path / "d.onnx")
    assert names == ["logits", "is_refused"]
    assert stamped.key == before
    assert all(weights.requires_grad for weights in stamped.predictor.network.parameters())
    for count in (1, 64):  # any number of images
        images = noise.images[:count]
        said, ours = onnx_answers(tmp_path / "d.onnx", images), stamped.answer(images)
        assert torch.equal(said["logits"].argmax(1), ours.labels)
        assert torch.equal(said["is_refused"], ours.is_refused)
        with torch.no_grad():
            torch.testing.assert_close(said["logits"], stamped.respond(images).logits, rtol=1e-4, atol=1e-4)


def test_scores_and_tensors_are_exported_too(stamped, noise, tmp_path):
    whole = Everything(stamped.predictor, 0.5, torch.ones(2, 3, 2, 2))
    assert export_onnx(whole, tmp_path / "d.onnx") == ["logits", "is_refused", "scores"]
    said, ours = onnx_answers(tmp_path / "d.onnx", noise.images), whole.answer(noise.images)
    torch.testing.assert_close(said["scores"], ours.scores, rtol=1e-4, atol=1e-4)


def test_a_missing_exporter_is_told(stamped, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs onnx and onnxscript: pip install 'nab-defense\[onnx\]'"):
        export_onnx(stamped, tmp_path / "d.onnx")


def test_a_predictor_on_the_cpu_stays_where_it_is(stamped):
    moved = stamped.to(torch.device("cpu"))
    assert moved.key == stamped.key
    assert moved.predictor.runtime == Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    assert moved.predictor.normalization != IMAGENET
