"""Dropping and relabeling suspects: what the network is trained on."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY, random_dataset

from nab.defenses import DropSuspects, Plain, RelabelSuspects, known_suspects
from nab.errors import ConfigError, DataError
from nab.needs import Given
from nab.training import Trainer

SUSPECTS = [2, 5, 7]


def given_of(dataset, positions, labels=None) -> Given:
    is_suspect = torch.zeros(len(dataset), dtype=torch.bool)
    is_suspect[positions] = True
    return Given(suspicion=known_suspects(dataset, is_suspect, labels))


def test_dropped_samples_are_never_seen(fake_training):
    ten = random_dataset(10)
    defended = DropSuspects().defend(ten, Trainer(recipe=TINY), given_of(ten, SUSPECTS))
    (call,) = fake_training.calls
    rest = [0, 1, 3, 4, 6, 8, 9]
    assert torch.equal(call.dataset.images, ten.images[rest])
    assert torch.equal(call.dataset.labels, ten.labels[rest])
    assert (call.step, call.start, call.recipe, call.watch) == (None, None, TINY, Plain), "plain training"
    assert isinstance(defended.deployed, Plain)


def test_a_trained_network_has_not_seen_what_was_dropped(tiny_trainer, poisoned_digits):
    """Other pixels and labels in the dropped rows change nothing."""
    dataset = poisoned_digits.dataset
    given = given_of(dataset, [3, 50, 100])
    images, labels = dataset.images.clone(), dataset.labels.clone()
    images[[3, 50, 100]] = 255 - images[[3, 50, 100]]
    labels[[3, 50, 100]] = (labels[[3, 50, 100]] + 1) % 10
    keys = [
        DropSuspects().defend(each, tiny_trainer(), given).deployed.key
        for each in (dataset, dataset.replace(images=images, labels=labels))
    ]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("positions", [list(range(10)), [0, 1, 2, 4, 5, 6, 8, 9]])
def test_too_few_classes_left_are_told(fake_training, positions):
    """None is left, or samples 3 and 7, which are of one class."""
    ten = random_dataset(10)
    with pytest.raises(DataError, match="no two classes are left"):
        DropSuspects().defend(ten, Trainer(recipe=TINY), given_of(ten, positions))
    assert not fake_training.calls


def test_relabeled_samples_are_seen_with_their_pseudo_labels_and_as_they_are(fake_training):
    ten = random_dataset(10)
    given = given_of(ten, SUSPECTS, torch.full((10,), 3))
    RelabelSuspects().defend(ten, Trainer(recipe=TINY), given)
    (call,) = fake_training.calls
    assert torch.equal(call.dataset.images, ten.images)
    assert call.dataset.labels.tolist() == [0, 1, 3, 3, 0, 3, 2, 3, 0, 1]
    assert (call.step, call.start, call.recipe, call.watch) == (None, None, TINY, Plain), "plain training, no stamp"


def test_relabeling_without_labels_is_refused(fake_training):
    ten = random_dataset(10)
    with pytest.raises(ConfigError, match="got suspects alone: name a labeler"):
        RelabelSuspects().defend(ten, Trainer(recipe=TINY), given_of(ten, SUSPECTS))
