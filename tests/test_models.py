"""Networks: shapes, sizes, and a memory layout that does not kill the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from nab.errors import ConfigError
from nab.methods import make
from nab.models import MODELS, Network, ResNet9, ResNet18, narrowest
from nab.training import Runtime, resolve_device
from nab.training.runtime import resolve_precision

OURS = sorted(set(MODELS) - {"custom"})
every_model = pytest.mark.parametrize("name", OURS)


def build(name: str, num_classes: int = 3, shape: tuple[int, int, int] = (3, 32, 32), width: int = 4, seed: int = 0):
    return make("model", name, {"width": width}).build(num_classes, shape, seed).eval()


@every_model
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_a_network_maps_images_of_any_size_to_logits(name, channels, size):
    logits = build(name, 7, (channels, size, size))(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "expansion"), [("resnet9", 1), ("resnet18", 1), ("resnet34", 1), ("resnet50", 4)])
def test_features_are_eight_widths_wide(name, expansion):
    """Four stages of w, 2w, 4w, 8w channels; a bottleneck block hands out four times as many."""
    assert build(name).features(torch.randn(2, 3, 32, 32)).shape == (2, 32 * expansion)


@every_model
def test_a_network_follows_the_protocol(name):
    """Logits from features, features from maps, maps from the last block; an image passes the blocks in their order."""
    model, images = build(name), torch.randn(2, 3, 16, 16)
    assert isinstance(model, Network)
    torch.testing.assert_close(model(images), model.classifier(model.features(images)))
    torch.testing.assert_close(model.features(images), model.maps(images).mean((2, 3)))
    assert list(model.blocks) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    passed = images
    for block in model.blocks.values():
        passed = block(passed)
    torch.testing.assert_close(passed, model.maps(images))


def test_resnet18_has_the_standard_number_of_parameters():
    """11,173,962 for ten classes: the usual CIFAR ResNet-18."""
    model = ResNet18().build(10, (3, 32, 32))
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_the_last_stage_of_a_32_pixel_image_is_4_x_4():
    assert build("resnet18", width=2).maps(torch.randn(1, 3, 32, 32)).shape == (1, 16, 4, 4)


@every_model
def test_weights_come_from_the_seed_alone(name):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in build(name, width=2, seed=seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_says_what_it_is(name):
    assert MODELS[name].summary
    assert MODELS[name].source
    assert hash(MODELS[name]()) == hash(MODELS[name]())


def test_a_model_is_made_by_name_with_its_parameters():
    assert make("model", "resnet9", {"width": 16}) == ResNet9(width=16)
    with pytest.raises(ConfigError, match=r"unknown model 'resnet19'.*resnet18.*did you mean 'resnet"):
        make("model", "resnet19")
    with pytest.raises(ConfigError, match=r"unknown parameter of model 'resnet9' 'widht'.*did you mean 'width'"):
        make("model", "resnet9", {"widht": 16})


@pytest.mark.parametrize("width", [0, -4, 1.5, 4097])
def test_a_width_that_no_network_has_is_refused(width):
    with pytest.raises(ConfigError, match=rf"width to be a whole number from 1 to 4,096, got {width}"):
        ResNet18(width=width)


def test_the_narrowest_layer_is_the_convolution_of_fewest_outputs():
    assert narrowest(build("resnet9", width=4)) == 4
    assert narrowest(nn.Sequential(nn.Conv2d(3, 20, 1), nn.Conv2d(20, 7, 1), nn.Linear(7, 2))) == 7
    assert narrowest(nn.Linear(7, 2)) == 0


# Where and how a network computes.


@pytest.mark.parametrize(
    ("width", "expected"), [(1, False), (4, False), (8, False), (12, False), (15, False), (16, True), (64, True)]
)
def test_channels_last_is_used_on_a_cpu_only_from_16_channels_up(width, expected):
    network = ResNet9(width=width).build(2, (3, 8, 8))
    runtime = Runtime.choose(torch.device("cpu"), "auto", network)
    assert runtime.channels_last is expected
    weight = runtime.place(network).get_parameter("stages.0.0.conv1.0.weight")
    if width > 1:
        assert weight.is_contiguous(memory_format=torch.channels_last) is expected
        assert weight.is_contiguous() is not expected


@pytest.mark.parametrize(
    ("device", "width", "channels_last"), [("cuda", 4, True), ("cpu", 4, False), ("cpu", 15, False), ("cpu", 16, True)]
)
def test_the_layout_is_the_fastest_safe_one(device, width, channels_last):
    network = ResNet9(width=width).build(2, (3, 8, 8))
    assert Runtime.choose(torch.device(device), "float32", network).channels_last is channels_last


def test_one_channel_is_laid_out_as_its_strides_say():
    """A batch of one channel is contiguous both ways; the strides of the batch must be those of the layout."""
    images = torch.zeros(2, 1, 4, 4).to(memory_format=torch.channels_last)
    runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    assert runtime.lay_out(images).stride() == (16, 16, 4, 1)


NARROW = """
import torch
from nab import Dataset, Recipe, Trainer
from nab.models import ResNet9
images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
dataset = Dataset(images, torch.arange(512) % 10, tuple("0123456789"))
trained = Trainer(Recipe(epochs=4, batch_size=64), ResNet9(width={width})).train(dataset, "x")
assert len(trained.curve) == 4
print("done")
"""


@pytest.mark.parametrize("width", [8, 12])
def test_training_a_narrow_network_does_not_kill_the_process(width):
    """With the channels-last layout it dies of memory corruption after some of these 32 steps."""
    done = subprocess.run(
        [sys.executable, "-c", NARROW.format(width=width)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout == "done\n"


def test_device_names_are_checked():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="device to be one of auto, cpu, cuda, got 'tpu'"):
        resolve_device("tpu")


def test_cuda_without_a_gpu_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="use 'cpu' or 'auto'"):
        resolve_device("cuda")


def test_the_precision_asked_for_is_the_one_that_computes():
    cpu = torch.device("cpu")
    assert resolve_precision("float32", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    layer = torch.nn.Linear(4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Runtime.choose(cpu, precision, layer).autocast():
            assert layer(torch.ones(1, 4)).dtype == dtype
