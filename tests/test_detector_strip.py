"""STRIP: entropies by hand, how an overlay is laid, and that a planted trigger shows through."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import FixedLogits, random_dataset
from planted import UNIT, given_around

import nab
from nab.data import Dataset
from nab.detection import STRIP
from nab.detection.strip import entropy
from nab.errors import ConfigError
from nab.training import Trainer


def flat(*levels: int) -> torch.Tensor:
    """Images of one level each; uint8, N x 3 x 8 x 8."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()


def test_entropy_is_in_nats():
    """Certain: 0. Even over four: log 4. One half and two quarters: 1.5 log 2."""
    logits = torch.tensor([[100.0, 0, 0, 0], [0, 0, 0, 0], [math.log(2), 0, 0, -math.inf]])
    logits[2, 3] = -100
    torch.testing.assert_close(entropy(logits), torch.tensor([0, math.log(4), 1.5 * math.log(2)]))


def test_answers_that_are_all_but_certain_still_differ():
    """p = 1 - e^-25 and 1 - e^-30: both are 1 in single precision, and both less than the customary 1e-8 away."""
    entropies = entropy(torch.tensor([[25.0, 0.0], [30.0, 0.0]]))
    torch.testing.assert_close(entropies[0], torch.tensor(26 * math.exp(-25)), rtol=1e-3, atol=0)
    assert entropies[0] > entropies[1] > 0


@pytest.mark.parametrize(
    ("detector", "expected"),
    [
        (STRIP(), 0.2 + 0.6),
        (STRIP(alpha=0.5), 0.2 + 0.5 * 0.6),
        (STRIP(alpha=0.25, blend="convex"), 0.75 * 0.2 + 0.25 * 0.6),
    ],
    ids=repr,
)
def test_an_overlay_is_added_to_the_normalized_image_unless_told_otherwise(detector, expected):
    laid = detector.superimpose(torch.full((2, 3, 8, 8), 0.2), torch.full((3, 8, 8), 0.6))
    torch.testing.assert_close(laid, torch.full((2, 3, 8, 8), expected))


def scores_by(
    answer, dataset: Dataset, verified: Dataset, detector: STRIP | None = None, seed: int = 0
) -> torch.Tensor:
    """Scores from a network whose logits are ``answer`` of images in [0, 1]."""
    given = given_around(FixedLogits(answer), UNIT, verified=verified)
    return (detector or STRIP()).score(dataset, Trainer(seed=seed), given).scores


def corner(images: torch.Tensor) -> torch.Tensor:
    """Logits that are the first four pixels."""
    return images[:, 0, 0, :4]


def test_the_score_is_minus_the_entropy_averaged_over_the_overlays():
    """Of two classes, the first has the logit log 3 where image and overlay together are brighter than 1: p = 3/4.

    The bright image is so under both overlays, the middle one under the bright overlay only, the dark one under none.
    """

    def answer(images):
        return torch.stack([(images[:, 0, 0, 0] > 1) * math.log(3), torch.zeros(len(images))], 1)

    dataset = random_dataset(3, classes=2).replace(images=flat(255, 128, 0))
    verified = random_dataset(2, classes=2).replace(images=flat(51, 204))
    scores = scores_by(answer, dataset, verified)
    sure, torn = 0.75 * math.log(4 / 3) + 0.25 * math.log(4), math.log(2)
    torch.testing.assert_close(scores, -torch.tensor([sure, (sure + torn) / 2, torn]))
    assert scores.argsort(descending=True).tolist() == [0, 1, 2], "the surer, the more suspicious"


def test_a_trigger_that_shows_through_gives_its_samples_the_highest_scores():
    """The network reads a bright corner as class 0, whatever else there is; all else it answers by the middle."""

    def answer(images):
        is_triggered = (images[:, 0, 0, 0] >= 1) * 50.0
        return torch.stack([is_triggered, *(images[:, c, 4, 4] for c in range(3))], 1)

    planted = torch.arange(64) % 9 == 0
    images = random_dataset().images
    images[:, :, 0, 0] = 0
    images[planted, :, 0, 0] = 255
    verified = random_dataset(30, seed=1)
    verified.images[:, :, 0, 0] //= 2
    scores = scores_by(answer, random_dataset().replace(images=images), verified)
    assert scores[planted].min() > scores[~planted].max()


def test_all_samples_get_the_same_overlays(noise):
    """Twins get one score, although elsewhere every sample has overlays of its own."""
    twins = noise.replace(images=noise.images[:1].repeat(64, 1, 1, 1))
    scores = scores_by(corner, twins, random_dataset(20, seed=1), STRIP(overlays=3))
    assert scores.unique().numel() == 1


@pytest.mark.parametrize(("overlays", "expected"), [(1, 1), (5, 5), (20, 20), (100, 20)])
def test_so_many_verified_images_are_laid_over_or_all_if_there_are_fewer(noise, overlays, expected):
    seen = []

    def answer(images):
        seen.append(images[0, :, 4, 4])
        return torch.zeros(len(images), 4)

    dark = noise.replace(images=torch.zeros_like(noise.images))
    verified = random_dataset(20, seed=1)
    scores_by(answer, dark, verified, STRIP(overlays=overlays))
    assert len(seen) == expected
    known = [pixel.tolist() for pixel in verified.images[:, :, 4, 4]]
    found = [(255 * pixel).round().int().tolist() for pixel in seen]
    assert all(pixel in known for pixel in found)
    assert len({tuple(pixel) for pixel in found}) == expected, "none twice"


def test_the_overlays_are_drawn_by_the_seed(noise):
    one, same, other = (
        scores_by(corner, noise, random_dataset(20, seed=1), STRIP(overlays=3), seed) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_gray_images_can_be_laid_over_one_another():
    gray = random_dataset(10, channels=1)
    assert scores_by(corner, gray, gray).isfinite().all()


def test_verified_images_of_another_size_are_refused_before_anything_is_trained(noise):
    with pytest.raises(ConfigError, match="image size of the training set"):
        nab.find_suspects(noise, STRIP(), verified=random_dataset(10, size=9))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"overlays": 0}, "overlays.*got 0"),
        ({"alpha": 0}, r"alpha in \(0, inf\), got 0"),
        ({"alpha": 1.0, "blend": "convex"}, r"alpha in \(0, 1\), got 1"),
        ({"blend": "screen"}, "blend to be one of sum, convex, got 'screen'"),
    ],
)
def test_strip_refuses_what_it_cannot_lay(wrong, told):
    with pytest.raises(ConfigError, match=told):
        STRIP(**wrong)
