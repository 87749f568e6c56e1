"""Second likely and random: labelers that need no verified data, and never keep a label."""

from __future__ import annotations

import torch
from helpers import random_dataset

from nab.needs import Given
from nab.pseudolabels import RandomLabeler, SecondLikely
from nab.pseudolabels.second_likely import second_likely
from nab.stamp import Stamp
from nab.training import Recipe, Trained, Trainer

# Second likely.


def test_second_likely_is_the_best_class_but_the_observed_one():
    """The label is the best, the second, the last; one whose rivals tie; and one among logits below zero."""
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 2.0, 1.0], [-3.0, -2.0, -1.0]])
    assert second_likely(logits, torch.tensor([0, 1, 2, 1, 2])).tolist() == [1, 0, 0, 0, 1]


def test_second_likely_leaves_the_logits_as_they_were():
    logits = torch.tensor([[3.0, 2.0, 1.0]])
    second_likely(logits, torch.tensor([0]))
    assert logits.tolist() == [[3.0, 2.0, 1.0]]


def attacked(fake_training, noise) -> Trained:
    """A trained network that answers as the test says."""
    return Trainer(Recipe()).train(noise, "training")


def test_second_likely_asks_the_attacked_model(fake_training, noise):
    """The network says: class 1, else class 3. Who is labeled 1 gets 3, everybody else 1."""
    fake_training.answer = lambda x: torch.tensor([0.0, 5.0, -1.0, 2.0]).expand(len(x), 4)
    given = Given(attacked=attacked(fake_training, noise))
    assert SecondLikely().label(noise, Trainer(), given).tolist() == [1, 3, 1, 1] * 16
    assert len(fake_training.calls) == 1, "it trains nothing"


def test_second_likely_sees_images_without_a_stamp_unless_told_otherwise(fake_training, noise):
    """The network answers 2 if the upper left pixel is the stamp's value, else 3; no label is either."""
    fake_training.answer = lambda x: torch.nn.functional.one_hot(3 - (x[:, 0, 0, 0] == 5.0).long(), 4).float()
    dataset = noise.replace(labels=noise.labels % 2)
    given = Given(attacked=attacked(fake_training, noise))
    for labeler, expected in ((SecondLikely(), 3), (SecondLikely(Stamp(value=5.0)), 2)):
        assert labeler.label(dataset, Trainer(), given).tolist() == [expected] * 64


# Random.


def test_a_random_label_is_never_the_observed_one_and_each_other_is_as_likely():
    """Three others for 6,000 samples: 2,000 each, with a deviation of 37."""
    dataset = random_dataset(6000)
    labels = RandomLabeler().label(dataset, Trainer(), Given())
    shift = (labels - dataset.labels) % 4
    assert shift.bincount(minlength=4)[0] == 0
    assert (shift.bincount(minlength=4)[1:] - 2000).abs().max() < 4 * 37
    assert labels.unique().tolist() == [0, 1, 2, 3]


def test_random_labels_come_from_the_seed(noise):
    one, same, other = (RandomLabeler().label(noise, Trainer(seed=seed), Given()) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_of_two_classes_the_random_label_is_the_other_one():
    dataset = random_dataset(20, classes=2)
    labels = RandomLabeler().label(dataset, Trainer(), Given())
    assert torch.equal(labels, 1 - dataset.labels)
