"""STRIP at test time: scores by hand, the threshold's false positives, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import FixedLogits, random_dataset

from nab.data import IDENTITY, Dataset
from nab.defenses import REFUSED, STRIPFilter, STRIPFiltered
from nab.errors import ConfigError
from nab.needs import Given
from nab.training import Predictor, Runtime, Trained, Trainer

CPU = Runtime(torch.device("cpu"), torch.float32, channels_last=False)
TRIGGER = 40.0
"""What a trigger adds to a logit."""


def attacked() -> Trained:
    """The logits are the first four pixels, divided by 50; a bright last pixel adds to the first one."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        logits = images[:, 0, 0, :4] / 50
        is_triggered = (images[:, 0, -1, -1] >= 255).float()
        return logits + TRIGGER * is_triggered[:, None] * torch.tensor([1.0, 0, 0, 0])

    return Trained(Predictor(FixedLogits(answer), IDENTITY, CPU, shape=(3, 8, 8)), [], 1.0)


def images_of(count: int, seed: int, *, triggered: bool = False) -> torch.Tensor:
    """Noise, with a last pixel that no sum of two makes a trigger, or with one that is."""
    images = random_dataset(count, seed=seed).images
    images[:, :, -1, -1] = 255 if triggered else 0
    return images


def judge(deployed: STRIPFiltered, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and refusals."""
    answers = deployed.answer(images)
    assert answers.scores is not None
    assert answers.is_refused is not None
    return answers.scores, answers.is_refused


def verified_of(count: int) -> Dataset:
    return random_dataset(count).replace(images=images_of(count, 0))


def entropy_of(logits: list[float]) -> float:
    total = sum(math.exp(value) for value in logits)
    shares = [math.exp(value) / total for value in logits]
    return -sum(share * math.log(share) for share in shares)


def pixels_of(*first: int) -> torch.Tensor:
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    images[0, :, 0, :4] = torch.tensor(first, dtype=torch.uint8)
    return images


def test_the_score_is_minus_the_mean_entropy_under_the_overlays():
    overlays = torch.cat([pixels_of(0, 0, 0, 0), pixels_of(0, 50, 100, 0)])
    image = pixels_of(100, 0, 0, 50)
    plain, overlaid = entropy_of([2, 0, 0, 1]), entropy_of([2, 1, 2, 1])
    scores, _ = judge(STRIPFiltered(attacked().predictor, overlays, threshold=0.0), image)
    assert scores.item() == pytest.approx(-(plain + overlaid) / 2, abs=1e-6)
    halves = (entropy_of([1, 0, 0, 0.5]) + entropy_of([1, 0.5, 1, 0.5])) / 2
    convex, _ = judge(STRIPFiltered(attacked().predictor, overlays, 0.0, alpha=0.5, blend="convex"), image)
    assert convex.item() == pytest.approx(-halves, abs=1e-6)


def test_an_image_above_the_threshold_is_refused_and_one_at_it_is_not():
    overlays, image = pixels_of(0, 0, 0, 0), pixels_of(100, 0, 0, 50)
    score = judge(STRIPFiltered(attacked().predictor, overlays, 0.0), image)[0].item()
    for threshold, is_refused in ((score, False), (score - 1e-3, True)):
        deployed = STRIPFiltered(attacked().predictor, overlays, threshold)
        answers = deployed.answer(image)
        assert answers.is_refused is not None
        assert answers.is_refused.tolist() == [is_refused]
        assert deployed.labels(image).tolist() == [REFUSED if is_refused else 0]
        assert answers.labels.tolist() == answers.variants["unguarded"].tolist() == [0]


def defend(verified: Dataset, **changes) -> STRIPFiltered:
    given = Given(verified=verified, attacked=attacked())
    deployed = STRIPFilter(**changes).defend(verified, Trainer(), given).deployed
    assert isinstance(deployed, STRIPFiltered)
    return deployed


def test_triggered_images_are_refused_and_score_above_all_clean_ones():
    deployed = defend(verified_of(80), overlays=10)
    triggered = images_of(60, 1, triggered=True)
    clean_scores, _ = judge(deployed, images_of(60, 1))
    scores, is_refused = judge(deployed, triggered)
    assert scores.min() > clean_scores.max()
    assert bool(is_refused.all())
    assert deployed.answer(triggered).labels.tolist() == [0] * 60


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_the_threshold_refuses_the_asked_share_of_clean_images(rate):
    """Of 1,000 fresh images; their share varies by what 200 calibrating and 1,000 judged images vary."""
    deployed = defend(verified_of(210), overlays=10, false_positive_rate=rate)
    refused = judge(deployed, images_of(1000, 7))[1].double().mean().item()
    deviation = math.sqrt(rate * (1 - rate) * (1 / 200 + 1 / 1000))
    assert abs(refused - rate) < 4 * deviation


@pytest.mark.parametrize(("rate", "refused"), [(0.05, 2), (0.1, 4), (0.5, 20)])
def test_of_the_calibrating_images_no_more_than_the_share_is_refused(rate, refused):
    """Of 41 scores, those above the ceil(40 (1 - rate))-th, counted from 0."""
    deployed = defend(verified_of(51), overlays=10, false_positive_rate=rate)
    others = calibrating(verified_of(51), deployed)
    assert len(others) == 41
    assert int(judge(deployed, others)[1].sum()) == refused


def calibrating(verified: Dataset, deployed: STRIPFiltered) -> torch.Tensor:
    """The verified images that are not among the overlays."""
    is_overlay = (verified.images[:, None] == deployed.overlays[None]).flatten(2).all(2).any(1)
    return verified.images[~is_overlay]


@pytest.mark.parametrize(("size", "overlays"), [(30, 10), (12, 6), (3, 1)])
def test_images_that_calibrate_are_no_overlays(size, overlays, monkeypatch):
    seen = []
    original = STRIPFilter.threshold
    monkeypatch.setattr(
        STRIPFilter, "threshold", lambda self, deployed, images: seen.append(images) or original(self, deployed, images)
    )
    verified = verified_of(size)
    deployed = defend(verified, overlays=10)
    assert len(deployed.overlays) == overlays
    both = torch.cat([deployed.overlays, seen[0]]).flatten(1)
    assert sorted(both.tolist()) == sorted(verified.images.flatten(1).tolist()), "each verified image has one use"


def test_images_of_another_size_than_the_overlays_are_refused():
    deployed = defend(verified_of(20))
    height = deployed.overlays.shape[2]
    with pytest.raises(ConfigError, match=rf"expected images of {height} x {height} pixels, as the overlays are"):
        deployed.respond(torch.zeros(1, 3, height + 2, height, dtype=torch.uint8))


def test_logits_alone_take_one_pass():
    passes = []
    trained = attacked()
    inner = trained.predictor.network.answer
    trained.predictor.network.answer = lambda images: passes.append(len(images)) or inner(images)
    deployed = STRIPFiltered(trained.predictor, images_of(5, 0), 0.0)
    assert deployed.respond(images_of(3, 1), is_full=False).scores is None
    assert passes == [3]
    deployed.respond(images_of(3, 1))
    assert passes[1:] == [3] * 6, "one batch at a time, however many overlays there are"


@pytest.mark.parametrize(("alpha", "blend"), [(1.0, "sum"), (0.3, "convex")])
def test_an_export_lays_all_overlays_at_once_over_each_image(monkeypatch, alpha, blend):
    passes = []
    trained = attacked()
    inner = trained.predictor.network.answer
    trained.predictor.network.answer = lambda images: passes.append(len(images)) or inner(images)
    deployed = STRIPFiltered(trained.predictor, images_of(5, 0), 0.0, alpha, blend)
    one_by_one = deployed.respond(images_of(3, 1)).scores
    passes.clear()
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    at_once = deployed.respond(images_of(3, 1)).scores
    torch.testing.assert_close(at_once, one_by_one)
    assert passes == [3, 15]


def test_overlays_and_threshold_are_part_of_the_key():
    predictor = Predictor(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)), IDENTITY, CPU)
    variants = [
        STRIPFiltered(predictor, images_of(2, 0), 0.0),
        STRIPFiltered(predictor, images_of(2, 1), 0.0),
        STRIPFiltered(predictor, images_of(2, 0), 0.5),
        STRIPFiltered(predictor, images_of(2, 0), 0.0, alpha=0.5),
    ]
    assert len({each.key for each in variants}) == 4


@pytest.mark.parametrize(
    "wrong",
    [{"overlays": 0}, {"alpha": 0.0}, {"blend": "product"}, {"false_positive_rate": 0.0}, {"false_positive_rate": 1.0}],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match="expected"):
        STRIPFilter(**wrong)
