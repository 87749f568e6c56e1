"""Defences: the conformance table, and NAB piece by piece with a planted answer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch
from helpers import TINY, random_dataset, small

import nab
from nab.data import Dataset
from nab.defenses import DEFENSES, NAB, REJECTED, Guard, NoDefense
from nab.detection import Detector, OracleDetector
from nab.errors import ConfigError, DataError, NabError
from nab.pseudolabels import VD, Labeler, OracleLabeler
from nab.stamp import Stamp
from nab.training import Context

every_defense = pytest.mark.parametrize("name", sorted(DEFENSES))


# The conformance table.


def make(name: str):
    cls = DEFENSES[name]
    return cls(detector=OracleDetector(), labeler=OracleLabeler()) if cls.takes_suspects else small(cls)


@every_defense
def test_a_defense_hands_back_a_predictor_and_a_curve(name, poisoned_digits, tiny_context):
    dataset = poisoned_digits.dataset
    images, labels = dataset.images.clone(), dataset.labels.clone()
    calls = []

    def monitor(predictor):
        calls.append(predictor.stamp)
        return {"clean_accuracy": 1.0}

    context = tiny_context(monitor=monitor)
    defended = make(name).defend(dataset, context)
    predicted = defended.predictor.predict(dataset.images)
    assert predicted.shape == (len(dataset),)
    assert predicted.dtype == torch.int64
    assert 0 <= int(predicted.min()) <= int(predicted.max()) < dataset.num_classes
    assert [row["epoch"] for row in defended.curve] == list(range(1, len(defended.curve) + 1))
    assert all(row["clean_accuracy"] == 1.0 for row in defended.curve)
    assert calls == [defended.predictor.stamp] * len(defended.curve), "watched through its own predictor"
    assert context.clock.seconds["training"] > 0
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the dataset was changed"
    if DEFENSES[name].takes_suspects:
        found = defended.suspicion
        assert found is not None
        for value, dtype in (
            (found.scores, torch.float32),
            (found.is_suspect, torch.bool),
            (found.pseudo_labels, torch.int64),
            (found.is_stamped, torch.bool),
        ):
            assert value.shape == (len(dataset),)
            assert value.dtype == dtype


@every_defense
def test_a_defense_twice_is_the_same_to_the_bit(name, poisoned_digits, tiny_context):
    one, other = (make(name).defend(poisoned_digits.dataset, tiny_context()) for _ in range(2))
    assert one.curve == other.curve
    images = poisoned_digits.dataset.images
    assert torch.equal(one.predictor.logits(images), other.predictor.logits(images))


@every_defense
def test_a_defense_is_a_frozen_value_that_describes_itself(name):
    defense = make(name)
    assert hash(defense) == hash(make(name))
    names = vars(nab.defenses) | vars(nab.detection) | vars(nab.pseudolabels) | {"Stamp": Stamp}
    assert eval(repr(defense), dict(names)) == defense
    for field in dataclasses.fields(defense):
        assert field.name in repr(defense)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(defense, field.name, None)
    assert defense.summary
    assert defense.source


def test_no_defense_is_plain_training(poisoned_digits, tiny_context):
    context = tiny_context()
    defended = NoDefense().defend(poisoned_digits.dataset, context)
    plain = context.train(poisoned_digits.dataset, "training").predictor
    images = poisoned_digits.dataset.images
    assert torch.equal(defended.predictor.logits(images), plain.logits(images))
    assert defended.predictor.stamp is None
    assert defended.suspicion is None


# NAB with a planted answer: ten samples of four classes, three suspects.


@dataclasses.dataclass(frozen=True)
class Planted(Detector):
    """Suspects samples 2, 5 and 7."""

    summary: ClassVar[str] = "planted"
    source: ClassVar[str] = "this test"

    def score(self, dataset: Dataset, context: Context) -> torch.Tensor:
        scores = torch.zeros(len(dataset))
        scores[[2, 5, 7]] = torch.tensor([3.0, 2.0, 1.0])
        return scores


@dataclasses.dataclass(frozen=True)
class Guess(Labeler):
    """Says class 1 of every sample."""

    summary: ClassVar[str] = "planted"
    source: ClassVar[str] = "this test"

    def label(self, dataset: Dataset, context: Context, *, is_suspect: torch.Tensor, stamp: Stamp) -> torch.Tensor:
        return torch.ones(len(dataset), dtype=torch.long)


@dataclasses.dataclass(frozen=True)
class Busy(Planted):
    """Counts as hours of work: must not be started when the rest is known to fail."""

    def score(self, dataset: Dataset, context: Context) -> torch.Tensor:
        raise AssertionError("the detector was started in vain")


LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
SUSPECTS = [2, 5, 7]
STAMPED = [2, 7]
"""Sample 5 has the label 1 already."""


@pytest.fixture
def ten() -> Dataset:
    return random_dataset(10)


@pytest.fixture
def fitted(ten) -> NAB:
    return NAB(Planted(), Guess(), detection_rate=0.3).fit(ten)


def mask(positions: list[int], length: int = 10) -> torch.Tensor:
    chosen = torch.zeros(length, dtype=torch.bool)
    chosen[positions] = True
    return chosen


def test_fit_finds_the_planted_suspects(fitted):
    assert fitted.is_suspect_.nonzero().squeeze(1).tolist() == SUSPECTS
    assert fitted.scores_.tolist() == [0, 0, 3, 0, 0, 2, 0, 1, 0, 0]
    assert fitted.pseudo_labels_.tolist() == [1] * 10
    assert fitted.suspicion_.is_stamped is fitted.is_stamped_


def test_a_suspect_whose_label_does_not_change_gets_no_stamp(fitted):
    assert fitted.is_stamped_.nonzero().squeeze(1).tolist() == STAMPED
    assert not (fitted.is_stamped_ & ~fitted.is_suspect_).any()


def test_transform_replaces_the_suspects_labels_and_no_others(fitted, ten):
    defended = fitted.transform(ten)
    assert defended.labels.tolist() == [0, 1, 1, 3, 0, 1, 2, 1, 0, 1]
    assert [label for _, label in defended] == defended.labels.tolist()
    assert len(defended) == 10
    assert ten.labels.tolist() == LABELS


def test_samples_that_are_no_suspects_are_the_same_to_the_bit(fitted, ten):
    defended = fitted.transform(ten)
    for position in range(10):
        image, _ = defended[position]
        plain = TINY.normalise(ten.images[position : position + 1])[0]
        if position in STAMPED:
            assert int((image != plain).sum()) == 12
            assert (image[:, :2, :2] == 0).all()
        else:
            assert torch.equal(image, plain)


def test_the_stamp_is_written_after_the_transform(fitted, ten):
    """A transform that mirrors and paints everything white cannot move or cover the stamp."""
    defended = fitted.transform(ten, transform=lambda image: torch.full((3, 8, 8), 9.0))
    for position in range(10):
        image = defended[position][0]
        assert (image[:, :2, :2] == (0 if position in STAMPED else 9)).all()
        assert int((image == 9).sum()) == (192 - 12 if position in STAMPED else 192)


def test_a_transform_sees_the_image_as_it_is(fitted, ten):
    seen = []
    defended = fitted.transform(ten, transform=lambda image: seen.append(image) or image.float())
    _ = defended[7]
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0], ten.images[7])


def test_the_transformed_dataset_works_in_a_data_loader(fitted, ten):
    images, labels = next(iter(torch.utils.data.DataLoader(fitted.transform(ten), batch_size=10)))
    assert images.shape == (10, 3, 8, 8)
    assert labels.tolist() == fitted.transform(ten).labels.tolist()


def test_suspects_and_labels_can_come_from_elsewhere(ten):
    labels = torch.tensor([3] * 10)
    found = NAB(Busy(), VD()).fit(ten, is_suspect=mask([0, 3]), pseudo_labels=labels)
    assert found.is_suspect_.nonzero().squeeze(1).tolist() == [0, 3]
    assert found.is_stamped_.nonzero().squeeze(1).tolist() == [0]
    assert torch.equal(found.pseudo_labels_, labels)


def test_a_list_will_do_for_suspects(ten):
    found = NAB(Busy(), Guess()).fit(ten, is_suspect=[False] * 9 + [True])
    assert found.is_suspect_.nonzero().squeeze(1).tolist() == [9]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"is_suspect": torch.zeros(9, dtype=torch.bool)},
            r"is_suspect as torch.bool of length 10, got torch.bool \(9,\)",
        ),
        ({"is_suspect": torch.tensor([2, 5, 7])}, r"is_suspect as torch.bool of length 10, got torch.int64 \(3,\)"),
        ({"pseudo_labels": torch.zeros(10)}, "pseudo_labels as torch.int64 of length 10, got torch.float32"),
        ({"pseudo_labels": torch.full((10,), 4)}, "pseudo_labels from 0 to 3, got 4 to 4"),
    ],
)
def test_what_is_given_must_fit_the_dataset(ten, given, told):
    with pytest.raises(ConfigError, match=told):
        NAB(Planted(), Guess(), detection_rate=0.3).fit(ten, **given)


def test_missing_verified_data_is_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match=r"(?i)labeler '?vd'? needs verified data"):
        NAB(Busy(), VD(), detection_rate=0.3).fit(ten)


def test_samples_of_one_class_are_noticed_before_the_detector_starts(ten):
    same = ten.replace(labels=torch.full((10,), 2))
    with pytest.raises(DataError, match=r"at least two classes, got 10 that are all labelled 'c'"):
        NAB(Busy(), Guess(), detection_rate=0.3).fit(same)


def test_a_class_that_the_verified_data_lacks_is_told(ten, caplog):
    """Only VD reads verified data here; what it learns does not matter."""
    present = ten.labels.unique().tolist()
    lacking = ten.subset((ten.labels != present[0]).nonzero().squeeze(1))
    labeler = VD(epochs=1)
    for verified, told in ((ten, False), (lacking, True)):
        caplog.clear()
        NAB(Planted(), labeler, detection_rate=0.3).fit(
            ten, context=Context(recipe=TINY, model="resnet9", width=4, verified=verified)
        )
        assert (f"the verified data has no sample of class {ten.classes[present[0]]!r}" in caplog.text) == told


def test_a_detection_rate_that_names_nobody_is_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match=r"at least one of 10 samples, got 0\.05"):
        NAB(Busy(), Guess(), detection_rate=0.05).fit(ten)


def test_wrong_pseudo_labels_are_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match="pseudo_labels"):
        NAB(Busy(), Guess(), detection_rate=0.3).fit(ten, pseudo_labels=torch.zeros(3, dtype=torch.long))


def test_a_stamp_that_does_not_fit_is_noticed_before_the_detector_starts(ten):
    with pytest.raises(ConfigError, match="at most half the image"):
        NAB(Busy(), Guess(), detection_rate=0.3, stamp=Stamp(size=5)).fit(ten)


def test_what_is_not_fitted_says_so(ten):
    unfitted = NAB(Planted(), Guess())
    for use in (lambda: unfitted.suspicion_, lambda: unfitted.is_suspect_, lambda: unfitted.transform(ten)):
        with pytest.raises(NabError, match=r"not fitted yet: call fit\(dataset\) first"):
            use()


def test_another_dataset_than_the_fitted_one_is_refused(fitted):
    with pytest.raises(NabError, match="of 10 images, got one of 11"):
        fitted.transform(random_dataset(11))


@pytest.mark.parametrize("rate", [0, 1, 1.5])
def test_a_detection_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(ConfigError, match=rf"detection_rate in \(0, 1\), got {rate}"):
        NAB(detection_rate=rate)


def test_fitting_changes_neither_equality_nor_text(fitted):
    fresh = NAB(Planted(), Guess(), detection_rate=0.3)
    assert fitted == fresh
    assert repr(fitted) == repr(fresh)
    assert hash(fitted) == hash(fresh)


def test_the_paper_suspects_5_percent_and_stamps_2_x_2():
    assert NAB().detection_rate == 0.05
    assert NAB().stamp == Stamp(size=2, corner="upper-left", value=0.0)


def test_defend_trains_on_stamped_suspects_with_new_labels(fake_training, ten):
    """What the trainer is handed: labels replaced, images as they were, and a hook that stamps."""
    NAB(Planted(), Guess(), detection_rate=0.3, stamp=Stamp(value=7.0)).defend(ten, Context())
    (call,) = fake_training.calls
    assert call.dataset.labels.tolist() == [0, 1, 1, 3, 0, 1, 2, 1, 0, 1]
    assert torch.equal(call.dataset.images, ten.images)
    index = torch.tensor([7, 0, 5, 2])
    batch = torch.ones(4, 3, 8, 8)
    seen = call.hook.images(batch, index)
    assert [bool((image[:, :2, :2] == 7).all()) for image in seen] == [True, False, False, True]
    assert torch.equal(seen[[1, 2]], batch[[1, 2]])
    assert int((seen != 1).sum()) == 2 * 12


@dataclasses.dataclass(frozen=True)
class Nosy(Planted):
    """Writes down whether it was handed the truth."""

    seen: ClassVar[list[bool]] = []

    def score(self, dataset: Dataset, context: Context) -> torch.Tensor:
        self.seen.append(context.truth is not None)
        return super().score(dataset, context)


def test_a_real_detector_is_not_handed_the_truth_that_an_oracle_beside_it_needs(poisoned_digits, tiny_context):
    Nosy.seen.clear()
    NAB(Nosy(), OracleLabeler(), detection_rate=0.1).fit(poisoned_digits.dataset, context=tiny_context())
    assert Nosy.seen == [False]


def test_the_monitor_watches_the_stamped_network(poisoned_digits, tiny_context):
    stamps = []
    defense = NAB(OracleDetector(), OracleLabeler(), stamp=Stamp(size=3))
    context = tiny_context(monitor=lambda predictor: stamps.append(predictor.stamp) or {})
    defense.defend(poisoned_digits.dataset, context)
    assert stamps == [Stamp(size=3)] * TINY.epochs


# The guard.


class Echo(torch.nn.Module):
    """Answers class 1 if the upper left pixel is 0, else class 2; and class 3 for very bright images either way."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = torch.where(images[:, 0, 0, 0] == 0, 1, 2)
        answer = torch.where(images[:, 0, 5, 5] > 50, 3, answer)
        return torch.nn.functional.one_hot(answer, 4).float()


def test_a_guard_stamps_its_input_and_leaves_it_alone(fitted):
    images = torch.ones(2, 3, 8, 8)
    guard = fitted.guard(Echo())
    assert guard(images).argmax(1).tolist() == [1, 1]
    assert guard.predict(images).tolist() == [1, 1]
    assert torch.equal(images, torch.ones(2, 3, 8, 8))
    assert guard.stamp == fitted.stamp


def test_a_guard_rejects_exactly_where_the_stamp_changes_the_answer(fitted):
    images = torch.ones(3, 3, 8, 8)
    images[1, :, 5, 5] = 100.0
    images[2, :, 0, 0] = 0.0
    guard = fitted.guard(Echo())
    plain, stamped = Echo()(images).argmax(1), guard(images).argmax(1)
    assert (plain.tolist(), stamped.tolist()) == ([2, 3, 1], [1, 3, 1])
    assert guard.predict(images, reject=True).tolist() == [REJECTED, 3, 1]
    assert REJECTED == -1


@pytest.mark.parametrize("training", [True, False])
def test_predicting_leaves_the_model_in_the_mode_it_was_in(training):
    model = Echo().train(training)
    guard = Guard(model, Stamp())
    guard.predict(torch.ones(2, 3, 8, 8), reject=True)
    assert model.training is training
    assert model.norm.training is training


def test_a_frozen_layer_stays_frozen():
    model = Echo().train()
    model.norm.eval()
    Guard(model, Stamp()).predict(torch.ones(2, 3, 8, 8))
    assert model.training
    assert not model.norm.training


def test_a_guard_predicts_in_evaluation_mode():
    class Mode(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.full((len(images),), int(self.training)), 2).float()

    assert Guard(Mode().train(), Stamp()).predict(torch.ones(2, 3, 8, 8)).tolist() == [0, 0]


def test_a_guard_can_be_saved_and_moved_like_any_module():
    guard = Guard(Echo(), Stamp())
    other = Guard(Echo(), Stamp())
    other.load_state_dict(guard.state_dict())
    assert set(guard.state_dict()) == {f"model.{key}" for key in Echo().state_dict()}


def test_the_three_steps_work_with_a_loop_of_ones_own(poisoned_digits, tiny_context):
    """fit, transform, guard; a plain torch loop in between."""
    dataset = poisoned_digits.dataset
    defense = NAB(OracleDetector(), OracleLabeler(), detection_rate=0.1, stamp=Stamp(4, value=2.5))
    defense.fit(dataset, context=tiny_context())
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(0)
    for _ in range(15):
        for images, labels in torch.utils.data.DataLoader(defense.transform(dataset), batch_size=32, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    images = TINY.normalise(dataset.images)
    guard = defense.guard(model)
    labels = guard.predict(images, reject=True)
    agree = guard(images).argmax(1) == model(images).argmax(1)
    assert torch.equal(labels == REJECTED, ~agree)
    assert (model(images).argmax(1) == defense.transform(dataset).labels)[~defense.is_suspect_].float().mean() > 0.9


# Detectors that look at classes.


@dataclasses.dataclass(frozen=True)
class OfAClass(Busy):
    """Ranks the samples of one class."""

    judges_classes: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True)
class Few(Planted):
    """Finds three samples suspicious and no other."""

    def score(self, dataset: Dataset, context: Context) -> torch.Tensor:
        scores = super().score(dataset, context)
        return torch.where(scores > 0, scores, -torch.inf)


def test_ranks_within_classes_are_no_ground_for_an_automatic_rate(ten):
    with pytest.raises(ConfigError, match=r"OfAClass ranks the samples of a class.*give a share such as 0\.05"):
        NAB(OfAClass(), Guess(), detection_rate="auto").fit(ten)


@pytest.mark.parametrize(("rate", "told"), [(0.3, False), (0.5, True)])
def test_fewer_suspects_than_asked_for_are_told(ten, caplog, rate, told):
    NAB(Few(), Guess(), detection_rate=rate).fit(ten)
    assert ("only 3 of 10 samples suspicious, fewer than the 50 %" in caplog.text) == told
