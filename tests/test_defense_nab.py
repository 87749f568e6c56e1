"""NAB piece by piece with a planted answer, and its guard: ten samples of four classes, three suspects."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from helpers import TINY, random_dataset

import nab
from nab.data import IDENTITY, IMAGENET, Dataset
from nab.defenses import NAB, REFUSED, Guard, Stamped, known_suspects
from nab.errors import ConfigError
from nab.needs import Given, Suspicion
from nab.stamp import Stamp
from nab.training import Batch, Predictor, Runtime, Trainer

LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
SUSPECTS = [2, 5, 7]
STAMPED = [2, 7]
"""Sample 5 has the label 1 already."""


@pytest.fixture
def ten() -> Dataset:
    return random_dataset(10)


@pytest.fixture
def suspicion(ten) -> Suspicion:
    """Samples 2, 5 and 7 are suspected to be of class 1."""
    is_suspect = torch.zeros(10, dtype=torch.bool)
    is_suspect[SUSPECTS] = True
    return known_suspects(ten, is_suspect, torch.ones(10, dtype=torch.int64))


def test_a_suspect_whose_label_does_not_change_gets_no_stamp(ten, suspicion):
    assert NAB().stamped_samples(ten, suspicion).nonzero().squeeze(1).tolist() == STAMPED


def test_transform_replaces_the_suspects_labels_and_no_others(ten, suspicion):
    defended: Any = NAB().transform(ten, suspicion)  # for mypy, what has only `__getitem__` cannot be iterated over
    assert defended.labels.tolist() == [0, 1, 1, 3, 0, 1, 2, 1, 0, 1]
    assert [label for _, label in defended] == defended.labels.tolist()
    assert len(defended) == 10
    assert ten.labels.tolist() == LABELS


def test_samples_that_are_no_suspects_are_the_same_to_the_bit(ten, suspicion):
    defended = NAB().transform(ten, suspicion)
    for position in range(10):
        image, _ = defended[position]
        plain = IMAGENET.apply(ten.images[position : position + 1])[0]
        if position in STAMPED:
            assert int((image != plain).sum()) == 12
            assert (image[:, :2, :2] == 0).all()
        else:
            assert torch.equal(image, plain)


def test_the_stamp_is_written_after_the_transform(ten, suspicion):
    """A transform that paints everything white cannot cover the stamp."""
    defended = NAB().transform(ten, suspicion, transform=lambda image: torch.full((3, 8, 8), 9.0))
    for position in range(10):
        image = defended[position][0]
        assert (image[:, :2, :2] == (0 if position in STAMPED else 9)).all()
        assert int((image == 9).sum()) == (192 - 12 if position in STAMPED else 192)


def test_a_transform_sees_the_image_as_it_is(ten, suspicion):
    seen = []
    defended = NAB().transform(ten, suspicion, transform=lambda image: seen.append(image) or image.float())
    _ = defended[7]
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0], ten.images[7])


def test_the_transformed_dataset_works_in_a_data_loader(ten, suspicion):
    defended = NAB().transform(ten, suspicion)
    images, labels = next(iter(torch.utils.data.DataLoader(defended, batch_size=10)))
    assert images.shape == (10, 3, 8, 8)
    assert labels.tolist() == defended.labels.tolist()


def test_another_dataset_than_that_of_the_suspicion_is_refused(suspicion):
    with pytest.raises(ConfigError, match="of 10 images, got one of 11"):
        NAB().transform(random_dataset(11), suspicion)


def test_the_paper_stamps_2_x_2():
    assert NAB().stamp == Stamp(size=2, corner="upper-left", value=0.0)


def test_defend_trains_on_stamped_suspects_with_new_labels(fake_training, ten, suspicion):
    """What the trainer is handed: labels replaced, images as they were, and a step that stamps."""
    NAB(stamp=Stamp(value=7.0)).defend(ten, Trainer(), Given(suspicion=suspicion))
    (call,) = fake_training.calls
    assert call.dataset.labels.tolist() == [0, 1, 1, 3, 0, 1, 2, 1, 0, 1]
    assert torch.equal(call.dataset.images, ten.images)
    positions, images = torch.tensor([7, 0, 5, 2]), torch.ones(4, 3, 8, 8)
    seen = call.step.images(Batch(images, call.dataset.labels[positions], positions))
    assert [bool((image[:, :2, :2] == 7).all()) for image in seen] == [True, False, False, True]
    assert torch.equal(seen[[1, 2]], images[[1, 2]])
    assert int((seen != 1).sum()) == 2 * 12


def test_label_smoothing_of_the_recipe_reaches_the_step(fake_training, ten, suspicion):
    trainer = Trainer(recipe=dataclasses.replace(TINY, label_smoothing=0.25))
    NAB().defend(ten, trainer, Given(suspicion=suspicion))
    assert fake_training.calls[0].step.label_smoothing == 0.25


# What is deployed.


class Echo(torch.nn.Module):
    """Answers class 1 if the upper left pixel is 0, else class 2; and class 3 for very bright images either way."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = torch.where(images[:, 0, 0, 0] == 0, 1, 2)
        answer = torch.where(images[:, 0, 5, 5] > 50, 3, answer)
        return torch.nn.functional.one_hot(answer, 4).float()


def stamped(model: torch.nn.Module, stamp: Stamp | None = None) -> Stamped:
    runtime = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
    return Stamped(Predictor(model, IDENTITY, runtime, shape=(3, 8, 8)), stamp or Stamp())


def three_images() -> torch.Tensor:
    """The stamp changes the answer to the first alone."""
    images = torch.ones(3, 3, 8, 8)
    images[1, :, 5, 5] = 100.0
    images[2, :, 0, 0] = 0.0
    return images


def test_the_stamped_network_advises_to_refuse_where_the_stamp_changes_the_answer():
    answers = stamped(Echo()).answer(three_images())
    assert answers.labels.tolist() == [1, 3, 1]
    assert answers.variants["unstamped"].tolist() == [2, 3, 1]
    assert answers.is_refused is not None
    assert answers.is_refused.tolist() == [True, False, False]
    assert answers.accepted.tolist() == [REFUSED, 3, 1]
    assert REFUSED == -1
    assert stamped(Echo()).labels(three_images()).tolist() == [1, 3, 1], "a refusal is advice, not NAB's answer"


def test_stamps_that_differ_give_keys_that_differ():
    model = Echo()
    keys = {stamped(model, stamp).key for stamp in (Stamp(), Stamp(size=3), Stamp(value=1.0))}
    assert len(keys) == 3


def test_a_guard_stamps_its_input_and_leaves_it_alone():
    images = torch.ones(2, 3, 8, 8)
    guard = NAB().guard(Echo())
    assert guard(images).argmax(1).tolist() == [1, 1]
    assert guard.predict(images).tolist() == [1, 1]
    assert torch.equal(images, torch.ones(2, 3, 8, 8))


def test_a_guard_rejects_exactly_where_the_stamp_changes_the_answer():
    guard = NAB().guard(Echo())
    assert guard.predict(three_images()).tolist() == [1, 3, 1]
    assert guard.predict(three_images(), reject=True).tolist() == [REFUSED, 3, 1]


def test_a_guard_can_normalize_before_it_stamps():
    """A pixel of the mean color becomes 0, which this network takes for the stamp."""
    pixels = (torch.tensor(IMAGENET.mean) * 255).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    guard = NAB(stamp=Stamp(value=5.0)).guard(Echo(), IMAGENET)
    assert guard(pixels).argmax(1).tolist() == [2], "the stamp of 5 is not 0"
    assert NAB().guard(Echo(), IMAGENET)(pixels + 20).argmax(1).tolist() == [1]


@pytest.mark.parametrize("training", [True, False])
def test_predicting_leaves_the_model_in_the_mode_it_was_in(training):
    model = Echo().train(training)
    NAB().guard(model).predict(torch.ones(2, 3, 8, 8), reject=True)
    assert model.training is training
    assert model.norm.training is training


def test_a_frozen_layer_stays_frozen():
    model = Echo().train()
    model.norm.eval()
    NAB().guard(model).predict(torch.ones(2, 3, 8, 8))
    assert model.training
    assert not model.norm.training


def test_a_guard_predicts_in_evaluation_mode():
    class Mode(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.full((len(images),), int(self.training)), 2).float()

    assert NAB().guard(Mode().train()).predict(torch.ones(2, 3, 8, 8)).tolist() == [0, 0]


def test_a_guard_can_be_saved_and_moved_like_any_module():
    guard, other = NAB().guard(Echo()), NAB().guard(Echo())
    other.load_state_dict(guard.state_dict())
    assert set(guard.state_dict()) == {f"network.{key}" for key in Echo().state_dict()}
    assert isinstance(guard.to(torch.float32), Guard)


def test_the_three_steps_work_with_a_loop_of_ones_own(poisoned_digits):
    """Suspects, transform, guard; a plain torch loop in between."""
    dataset, truth = poisoned_digits.dataset, poisoned_digits.truth
    found = nab.find_suspects(
        dataset, nab.DETECTORS["oracle"](), nab.LABELERS["oracle"](), 0.1, trainer=Trainer(TINY), truth=truth
    )
    defense = NAB(stamp=Stamp(4, value=2.5))
    defended = defense.transform(dataset, found)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    for _ in range(15):
        for images, labels in torch.utils.data.DataLoader(defended, batch_size=32, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    images = IMAGENET.apply(dataset.images)
    guard = defense.guard(model)
    labels = guard.predict(images, reject=True)
    agree = guard(images).argmax(1) == model(images).argmax(1)
    assert torch.equal(labels == REFUSED, ~agree)
    assert (model(images).argmax(1) == defended.labels)[~found.is_suspect].float().mean() > 0.9
