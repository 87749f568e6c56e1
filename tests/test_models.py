"""Networks: shapes, sizes, and a memory layout that does not kill the process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nab.errors import ConfigError
from nab.models import MODELS, build_model
from nab.training import Runtime, resolve_device
from nab.training.runtime import resolve_precision

every_model = pytest.mark.parametrize("name", sorted(MODELS))


@every_model
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_a_network_maps_images_of_any_size_to_logits(name, channels, size):
    model = build_model(name, num_classes=7, channels=channels, width=4).eval()
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("name", "expansion"), [("resnet9", 1), ("resnet18", 1), ("resnet34", 1), ("resnet50", 4)])
def test_features_are_eight_widths_wide(name, expansion):
    """Four stages of w, 2w, 4w, 8w channels; a bottleneck block hands out four times as many."""
    model = build_model(name, num_classes=3, width=4).eval()
    features = model.features(torch.randn(2, 3, 32, 32))
    assert features.shape == (2, 32 * expansion)


def test_the_classifier_reads_the_features():
    model = build_model("resnet9", num_classes=3, width=4).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), model.linear(model.features(images)))


def test_resnet18_has_the_standard_number_of_parameters():
    """11,173,962 for ten classes: the usual CIFAR ResNet-18."""
    model = build_model("resnet18", num_classes=10, width=64)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_173_962


def test_the_last_stage_of_a_32_pixel_image_is_4_x_4():
    model = build_model("resnet18", num_classes=10, width=2).eval()
    assert model.stages(model.stem(torch.randn(1, 3, 32, 32))).shape == (1, 16, 4, 4)


@every_model
def test_weights_come_from_the_seed_alone(name):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in build_model(name, num_classes=2, width=2, seed=seed).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@every_model
def test_every_model_says_what_it_is(name):
    assert MODELS[name].summary
    assert MODELS[name].source


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown model 'resnet19'.*resnet18.*did you mean 'resnet"):
        build_model("resnet19", num_classes=2)


@pytest.mark.parametrize("width", [0, -4, 1.5])
def test_a_width_below_one_is_refused(width):
    with pytest.raises(ConfigError, match=rf"width to be a whole number of at least 1, got {width}"):
        build_model("resnet18", num_classes=2, width=width)


# Where and how a network computes.


@pytest.mark.parametrize(
    ("width", "expected"), [(1, False), (4, False), (8, False), (12, False), (15, False), (16, True), (64, True)]
)
def test_channels_last_is_used_on_a_cpu_only_from_16_channels_up(width, expected):
    runtime = Runtime.choose(torch.device("cpu"), "auto", width)
    assert runtime.channels_last is expected
    weight = runtime.place(build_model("resnet9", num_classes=2, width=width)).stages[0].conv1[0].weight
    if width > 1:
        assert weight.is_contiguous(memory_format=torch.channels_last) is expected
        assert weight.is_contiguous() is not expected


NARROW = """
import torch
from nab import Dataset, Recipe, train
images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
dataset = Dataset(images, torch.arange(512) % 10, tuple("0123456789"))
trained = train(dataset, Recipe(epochs=4, batch_size=64), model="resnet9", width={width})
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
        with Runtime.choose(cpu, precision, 64).autocast():
            assert layer(torch.ones(1, 4)).dtype == dtype
