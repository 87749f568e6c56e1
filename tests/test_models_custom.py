"""Networks of others: how they take part, what of them is a classifier, a block, a map, and what is refused."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torchvision
from helpers import EASY, plain_network, quadrants
from torch import nn
from torch.nn import functional as F

from nab.detection import LGA, select_suspects
from nab.digest import digest
from nab.errors import ConfigError
from nab.methods import make
from nab.models import Adapted, Custom, Network, as_network
from nab.needs import Given
from nab.source_code import NoSource
from nab.training import Predictor, Recipe, Trainer

SHAPE = (3, 32, 32)


def resnet(num_classes: int) -> nn.Module:
    return torchvision.models.resnet18(num_classes=num_classes)


def mobilenet(num_classes: int) -> nn.Module:
    return torchvision.models.mobilenet_v3_small(num_classes=num_classes)


def vgg(num_classes: int) -> nn.Module:
    return torchvision.models.vgg11_bn(num_classes=num_classes)


class Wrapped(nn.Module):
    """The classifier is defined first and passed last; the network is one part of it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.unused = nn.Linear(3, 5)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.MaxPool2d(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.body(images).mean((2, 3)), 0.5, self.training))


EXPECTED = {
    resnet: ("fc", ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]),
    mobilenet: ("classifier.3", [f"features.{k}" for k in range(13)]),
    vgg: ("classifier.6", [f"features.{k}" for k in range(28)]),  # the last pooling layer is left out
    plain_network: ("9", ["0", "1", "2", "3", "4", "5", "6"]),
    Wrapped: ("head", ["body.0", "body.1", "body.2"]),
}
every_network = pytest.mark.parametrize("function", EXPECTED, ids=lambda function: function.__name__)


def built(function: Callable[..., nn.Module], seed: int = 0) -> Adapted:
    network = Custom(function=function).build(10, SHAPE, seed)
    assert isinstance(network, Adapted)
    return network.eval()


@every_network
def test_the_parts_of_a_network_are_found(function):
    network, images = built(function), torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    classifier, blocks = EXPECTED[function]
    assert isinstance(network, Network)
    assert network.classifier is network.module.get_submodule(classifier)
    assert list(network.blocks) == blocks
    assert network(images).shape == (2, 10)
    torch.testing.assert_close(network.classifier(network.features(images)), network(images))
    heard = []
    list(network.blocks.values())[-1].register_forward_hook(lambda _, __, output: heard.append(output))
    assert network.maps(images) is heard[0]
    assert heard[0].ndim == 4


@pytest.mark.parametrize("function", [plain_network, Wrapped, mobilenet])
def test_looking_at_a_network_leaves_no_trace(function):
    """Neither hooks, nor a mode, nor statistics; weights come from the seed."""
    network = Custom(function=function).build(10, SHAPE, 1)
    for part in network.modules():
        assert not part._forward_hooks
        assert part.training
    statistics = [value for name, value in network.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(int(count) == 0 for count in statistics)
    network(torch.zeros(2, *SHAPE))
    again, other = (Custom(function=function).build(10, SHAPE, seed) for seed in (1, 2))
    state = [torch.cat([p.flatten() for p in each.parameters()]) for each in (network, again, other)]
    assert torch.equal(state[0], state[1])
    assert not torch.equal(state[0], state[2])
    for part in network.modules():
        assert not part._forward_hooks


def test_parts_in_evaluation_mode_stay_so():
    module = plain_network(4)
    module[1].eval()
    as_network(module, SHAPE)
    assert [part.training for part in module] == [position != 1 for position in range(10)]


def test_a_network_that_follows_the_protocol_is_taken_as_it_is():
    adapted = as_network(plain_network(4), SHAPE)
    assert isinstance(adapted, Adapted)
    assert as_network(adapted, SHAPE) is adapted


class Impostor(Wrapped):
    """Has all names of the protocol, but other things behind them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        blocks: dict[str, nn.Module] = {}
        self.classifier, self.blocks, self.maps, self.features = nn.ReLU(), blocks, None, None


def test_a_network_whose_classifier_is_no_linear_layer_is_adapted():
    module = Impostor(4)
    network = as_network(module, SHAPE)
    assert isinstance(network, Adapted)
    assert network.classifier is module.head


def test_a_network_without_convolutions_has_no_maps():
    network: Any = as_network(nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 4)), SHAPE)
    assert network.blocks == {}
    assert network.features(torch.zeros(2, *SHAPE)).shape == (2, 8)
    with pytest.raises(ConfigError, match="expected a network with convolutions, got Sequential without maps"):
        network.maps(torch.zeros(2, *SHAPE))


class Pair(Wrapped):
    def forward(self, images: torch.Tensor) -> Any:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


def test_further_outputs_in_training_are_an_error_that_says_so():
    network = as_network(Pair(4), SHAPE)
    assert network.eval()(torch.zeros(2, *SHAPE)).shape == (2, 4)
    with pytest.raises(ConfigError, match="a tensor of logits in training too, got tuple"):
        network.train()(torch.zeros(2, *SHAPE))


class Softmax(Wrapped):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).softmax(1)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten()), "output of a linear layer, got Sequential.*another layer"),
        (Softmax(4), "output of a linear layer, got Softmax.*another layer or function at its end"),
        (nn.Sequential(nn.Conv2d(1, 4, 3)), "Sequential fails on images of 3 x 32 x 32: .*channels"),
        (nn.Conv2d(3, 4, 3), r"expected Conv2d to return logits, N x K, got shape \(2, 4, 30, 30\)"),
        (nn.LSTM(32, 4), "LSTM fails on images of 3 x 32 x 32"),
    ],
)
def test_what_is_no_classifier_of_such_images_is_refused(module, told):
    with pytest.raises(ConfigError, match=told):
        as_network(module, SHAPE)


# By function and by path.


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[Path]:
    """A user's own module on disk."""
    (tmp_path / "theirs.py").write_text("from helpers import plain_network as net\nnumber = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "theirs.py"
    sys.modules.pop("theirs", None)


def test_a_network_is_made_by_its_path_and_arguments(package):
    custom = make("model", "custom", {"path": "theirs:net", "arguments": {"width": 20}})
    assert custom.build(7, SHAPE).classifier.weight.shape == (7, 40)
    assert custom.digest == Custom(function=plain_network, arguments={"width": 20}).digest
    assert custom.digest != Custom(path="theirs:net").digest


@pytest.mark.parametrize(
    ("custom", "told"),
    [
        (Custom(), "model.path as 'package.module:name', got ''"),
        (Custom(path="theirs"), "model.path as 'package.module:name', got 'theirs'"),
        (Custom(path="no_such_module:net"), "model.path 'no_such_module:net' cannot be imported: No module"),
        (Custom(path="theirs:no"), "model.path 'theirs:no' cannot be imported: .*no"),
        (Custom(path="theirs:number"), "function or class at model.path 'theirs:number', got 3"),
        (Custom(path="theirs:net", arguments={"depth": 3}), "theirs:net cannot be called.*depth"),
        (Custom(function=cast("Any", dict)), "expected dict to make a torch.nn.Module, got dict"),
    ],
)
def test_what_makes_no_network_is_told(package, custom, told):
    with pytest.raises(ConfigError, match=told):
        custom.build(7, SHAPE)


def test_a_changed_file_is_another_network(package):
    package.write_text("from torch import nn\n\ndef net(num_classes):\n    return nn.Linear(3, num_classes)\n")
    one = digest(Custom(path="theirs:net"))
    assert digest(Custom(path="theirs:net")) == one
    package.write_text(package.read_text() + "\n# changed\n")
    assert digest(Custom(path="theirs:net")) == one, "what was imported is still what it was"
    sys.modules.pop("theirs")
    assert digest(Custom(path="theirs:net")) != one


def test_a_function_in_a_function_can_be_used_and_not_told_apart():
    custom = Custom(function=lambda num_classes: plain_network(num_classes))
    network: Any = custom.build(7, SHAPE)
    assert network.classifier.out_features == 7
    with pytest.raises(NoSource):
        _ = custom.digest
    assert Custom(function=functools.partial(plain_network, width=8)).digest


# In use.


def test_a_network_of_others_learns_is_kept_and_gives_suspects():
    dataset = quadrants()
    trainer = Trainer(EASY, Custom(function=plain_network))
    trained, found = (trainer.train(dataset, "x") for _ in range(2))
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"]
    assert torch.equal(found.predictor.logits(dataset.images), trained.predictor.logits(dataset.images))
    assert len(trainer.ledger.costs) == 1
    features = trained.predictor.features(dataset.images)
    assert features.shape == (64, trained.predictor.network.classifier.in_features)
    scores = LGA(epochs=1, batch_size=32).score(dataset, trainer, Given()).scores
    assert int(select_suspects(scores, 0.1).sum()) == 6


@pytest.mark.parametrize("function", [resnet, mobilenet, vgg])
def test_large_networks_of_others_can_be_trained(function):
    dataset = quadrants(8)
    dataset = dataset.replace(images=dataset.images.repeat_interleave(4, 2).repeat_interleave(4, 3))
    trainer = Trainer(Recipe(epochs=1, batch_size=8, lr=0.01, precision="float32"), Custom(function=function))
    predictor: Predictor = trainer.train(dataset, "x").predictor
    assert predictor.logits(dataset.images).isfinite().all()
    assert next(predictor.maps(dataset.images)).ndim == 4
