"""FCT: the similarity of centers and the transformation by hand, the two parts of the training, planted triggers."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import counting_keeper, quadrants, random_dataset

from nab.data import Dataset
from nab.detection import FCT
from nab.detection.fct import Separation, center_similarity, rotate_and_shift
from nab.errors import ConfigError, DataError, NabError
from nab.evaluation import auroc
from nab.models import ResNet9
from nab.needs import Given
from nab.training import Batches, Predictor, Recipe, Trainer

TRAINER = Trainer(recipe=Recipe(precision="float32"), architecture=ResNet9(width=4))


def train(dataset: Dataset, *, epochs: int, **params: Any) -> Predictor:
    """The network that FCT trains."""
    detector, step = FCT(epochs=epochs, **params), Separation(epochs, dataset.num_classes)
    return TRAINER.train(dataset, "detection (fct)", recipe=detector.recipe(TRAINER.recipe), step=step).predictor


def rotated(image: list[list[int]], degrees: float = 0.0, shift: tuple[int, int] = (0, 0)) -> list[list[int]]:
    """One gray image, rotated and shifted."""
    pixels = torch.tensor(image, dtype=torch.uint8)[None, None]
    moved = rotate_and_shift(pixels, torch.tensor([degrees], dtype=torch.float64), torch.tensor(shift)[:, None])
    assert moved.dtype == torch.uint8
    assert moved.shape == pixels.shape
    return moved[0, 0].tolist()


# The separation.


def test_the_similarity_of_two_centers_is_half_their_cosine():
    """Centers (2, 0) and (1, 1): cosine 1 / sqrt 2, twice off the diagonal, over 2^2 entries."""
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    found = center_similarity(features, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor(1 / math.sqrt(2) / 2))


def test_classes_that_a_batch_lacks_do_not_count():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    found = center_similarity(features, torch.tensor([4, 4, 7]), 10)
    torch.testing.assert_close(found, torch.tensor(1 / math.sqrt(2) / 2))


def test_three_centers_by_hand():
    """(1, 0), (0, 1) and (-1, 0): the pairs have 0, -1 and 0; twice their sum over 9."""
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    torch.testing.assert_close(center_similarity(features, torch.arange(3), 3), torch.tensor(-2 / 9))


def test_a_batch_of_one_class_pulls_nowhere():
    features = torch.ones(3, 2, requires_grad=True)
    loss = center_similarity(features, torch.ones(3, dtype=torch.long), 4)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(0.0))
    torch.testing.assert_close(features.grad, torch.zeros(3, 2))


def test_its_descent_moves_centers_apart():
    features = torch.tensor([[1.0, 0.2], [0.2, 1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(center_similarity(features, torch.arange(2), 2), features)
    moved = features.detach() - slope
    assert center_similarity(moved, torch.arange(2), 2) < center_similarity(features.detach(), torch.arange(2), 2)


# The transformation.


def test_a_quarter_turn_is_counter_clockwise():
    assert rotated([[1, 2], [3, 4]], 90) == [[2, 4], [1, 3]]
    assert rotated([[1, 2, 3], [4, 5, 6], [7, 8, 9]], -90) == [[7, 4, 1], [8, 5, 2], [9, 6, 3]]
    assert rotated([[1, 2], [3, 4]], 180) == [[4, 3], [2, 1]]


def test_a_shift_leaves_black_behind():
    assert rotated([[1, 2], [3, 4]], shift=(1, 0)) == [[0, 0], [1, 2]]
    assert rotated([[1, 2], [3, 4]], shift=(0, -1)) == [[2, 0], [4, 0]]


def test_the_image_is_rotated_first_and_then_shifted():
    """Rotated: 2 4 / 1 3. One down: 0 0 / 2 4. The other way round it would be 0 2 / 0 1."""
    assert rotated([[1, 2], [3, 4]], 90, (1, 0)) == [[0, 0], [2, 4]]


def test_what_the_turn_moves_out_of_the_frame_does_not_come_back():
    """White 9 x 9 rotated by 45 degrees has black corners; shifted up by 3, the new last rows are black too."""
    tilted = torch.tensor(rotated([[255] * 9] * 9, 45))
    assert tilted[0, 0] == tilted[0, 8] == tilted[8, 0] == 0
    assert tilted[4].eq(255).all()
    moved = torch.tensor(rotated([[255] * 9] * 9, 45, (-3, 0)))
    assert torch.equal(moved[:6], tilted[3:])
    assert moved[6:].eq(0).all()


def test_a_turn_in_an_image_that_is_no_square():
    assert rotated([[1, 2, 3, 4], [5, 6, 7, 8]], 180) == [[8, 7, 6, 5], [4, 3, 2, 1]]
    assert rotated([[1, 2, 3, 4], [5, 6, 7, 8]], 90) == [[0, 3, 7, 0], [0, 2, 6, 0]]


def test_every_image_and_channel_moves_as_one():
    images = random_dataset(2).images
    moved = rotate_and_shift(images, torch.tensor([0.0, 180.0]).double(), torch.zeros(2, 2, dtype=torch.long))
    assert torch.equal(moved[0], images[0])
    assert torch.equal(moved[1], images[1].flip(1, 2))


def test_shifts_reach_the_share_of_the_image_and_turns_the_angle(monkeypatch):
    seen = []
    monkeypatch.setattr("nab.detection.fct.rotate_and_shift", lambda images, *rest: seen.append(rest))
    generator = torch.Generator().manual_seed(0)
    FCT(rotation=30.0, translation=0.25).transform(torch.zeros(4000, 1, 8, 40, dtype=torch.uint8), generator)
    ((degrees, shifts),) = seen
    assert -30 <= degrees.min() < -29.5
    assert 29.5 < degrees.max() <= 30
    assert sorted(shifts[0].unique().tolist()) == list(range(-2, 3)), "a quarter of 8 rows"
    assert sorted(shifts[1].unique().tolist()) == list(range(-10, 11)), "a quarter of 40 columns"


# The training and the score.


def test_fct_trains_as_the_authors_do():
    """2 and 10 epochs, batches of 128, SGD 0.01 / 0.9 / 5e-4, no augmentation, a cosine over 100 epochs."""
    base = Recipe(nesterov=True, label_smoothing=0.1, weight_decay=0.5, schedule="one-cycle", optimizer="muon")
    recipe = FCT().recipe(base)
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (12, 128, 0.01)
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.9, 5e-4, False)
    assert (recipe.crop_padding, recipe.flip, recipe.cutout) == (0, False, 0)
    assert recipe.learning_rate(50, 1) == pytest.approx(0.005), "half of a cosine of 100 epochs"
    assert (recipe.optimizer, recipe.label_smoothing) == ("sgd", 0.0)


def test_the_last_layer_learns_in_the_first_part_alone():
    dataset = quadrants(32)
    short, long, longer = (
        train(dataset, epochs=epochs, separation_epochs=more, batch_size=16).network
        for epochs, more in ((1, 0), (1, 2), (3, 0))
    )
    assert torch.equal(short.classifier.weight, long.classifier.weight)
    assert not torch.equal(short.classifier.weight, longer.classifier.weight)
    assert not torch.equal(short.stem[0].weight, long.stem[0].weight), "the rest goes on"


def test_the_learning_rate_goes_on_from_one_part_to_the_next(monkeypatch):
    """At the first epoch of the second part, the cosine stands where the first part left it."""
    seen = []
    monkeypatch.setattr("torch.optim.SGD.step", lambda self: seen.append(self.param_groups[0]["lr"]))
    train(quadrants(32), epochs=1, separation_epochs=2, batch_size=32, cosine_extra_epochs=1, lr=0.4)
    expected = [0.2 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(3)]
    assert seen == pytest.approx(expected)


def test_the_second_part_moves_the_centers_apart():
    dataset = quadrants(64)

    def similarity(more):
        predictor = train(dataset, epochs=2, separation_epochs=more, batch_size=32, lr=0.05)
        return float(center_similarity(predictor.features(dataset.images), dataset.labels, 4))

    assert similarity(8) < similarity(0) / 10


def test_the_score_is_the_mean_squared_change_of_the_features(monkeypatch):
    """Features are the color of the corner: black images turned into white ones change by 1 in each of three."""

    class Corner:
        def features(self, images):
            return images[:, :, 0, 0] / 255 * torch.tensor([1.0, 2.0, 3.0])

    monkeypatch.setattr(Trainer, "train", lambda *_, **__: SimpleNamespace(predictor=Corner()))
    monkeypatch.setattr(FCT, "transform", lambda self, images, generator: images.new_full(images.shape, 255))
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    images[1] = 255
    images[2, 2] = 255
    dataset = dataclasses.replace(random_dataset(3), images=images)
    expected = torch.tensor([(1 + 4 + 9) / 3, 0, (1 + 4) / 3])
    torch.testing.assert_close(FCT(draws=2).score(dataset, TRAINER, Given()).scores, expected)


def test_one_draw_serves_all_and_more_are_averaged(monkeypatch):
    """A change of 1, 2, 3 ... in the order of the calls: the first two draws average to 1.5."""

    class Counting:
        calls = 0

        def features(self, images):
            return images[:, :1, 0, 0].float()

    def transform(self, images, generator):
        Counting.calls += 1
        return images.new_full(images.shape, 1) * Counting.calls

    monkeypatch.setattr(Trainer, "train", lambda *_, **__: SimpleNamespace(predictor=Counting()))
    monkeypatch.setattr(FCT, "transform", transform)
    dark = random_dataset(5).replace(images=torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
    assert FCT(draws=2).score(dark, TRAINER, Given()).scores.tolist() == [(1 + 4) / 2] * 5
    assert Counting.calls == 2


def test_fct_finds_planted_corners():
    """Classes are colors, which a turn leaves; a black and white corner with label 0 is then elsewhere or gone."""
    planted = torch.arange(120) % 8 == 7
    dataset = random_dataset(120, classes=3)
    images, labels = dataset.images // 8, dataset.labels.clone()
    images[torch.arange(120), labels] += 120
    images[planted, :, :3, :3] = (255 * torch.eye(3)).to(torch.uint8)
    labels[planted] = 0
    trainer = dataclasses.replace(TRAINER, architecture=ResNet9(width=8))
    detector = FCT(epochs=6, separation_epochs=2, batch_size=16, lr=0.05, translation=0.1, draws=4)
    scores = detector.score(dataset.replace(images=images, labels=labels), trainer, Given()).scores
    assert scores.dtype == torch.float32
    assert auroc(scores, planted) > 90


def test_one_class_has_no_centers_to_compare(noise):
    with pytest.raises(DataError, match="samples of at least two, got one"):
        FCT().check(noise.replace(labels=torch.zeros(64, dtype=torch.long)), Trainer())


def test_a_training_that_diverges_is_told():
    with pytest.raises(NabError, match=r"loss is nan after epoch \d+; use a lower learning rate"):
        FCT(lr=1e30, batch_size=8).score(quadrants(32), TRAINER, Given())


def test_nothing_is_augmented(monkeypatch, noise):
    """The trigger must stay where it is while it is learned."""
    seen = []
    plain = Batches.augment
    monkeypatch.setattr(Batches, "augment", lambda self, index: seen.append((index, plain(self, index))) or seen[-1][1])
    FCT(epochs=1, separation_epochs=1).score(noise, TRAINER, Given())
    assert len(seen) == 2
    for index, images in seen:
        torch.testing.assert_close(images, noise.normalization.apply(noise.images[index]))


def test_the_network_is_kept_for_other_transformations():
    """Rotation, translation and draws ask for the same network; another number of epochs for another one."""
    keeper, made = counting_keeper()
    trainer, dataset = dataclasses.replace(TRAINER, keeper=keeper), quadrants(32)
    plain = {"epochs": 1, "separation_epochs": 1, "batch_size": 16}
    for change in ({}, {"rotation": 30.0}, {"draws": 2}, {"epochs": 2, "separation_epochs": 0}):
        FCT(**(plain | change)).score(dataset, trainer, Given())
    assert made == ["detection (fct)"] * 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*got 0"),
        ({"separation_epochs": -1}, "separation_epochs.*got -1"),
        ({"batch_size": 1}, "batch_size"),
        ({"rotation": 0}, r"rotation in \(0, 180\], got 0"),
        ({"translation": 1}, r"translation in \[0, 1\), got 1"),
        ({"draws": 0}, "draws.*got 0"),
    ],
)
def test_fct_refuses_what_it_cannot_train_with(wrong, told):
    with pytest.raises(ConfigError, match=told):
        FCT(**wrong)
