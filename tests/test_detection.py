"""Detectors: the conformance table, LGA and the oracle. The rule that turns scores into suspects: `test_cut`."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import TINY, alternatives, counting_keeper, random_dataset, small, truth_of

from nab import detection as package
from nab.detection import DETECTORS, LGA, OracleDetector, select_suspects
from nab.detection.lga import GradientAscentHook
from nab.errors import ConfigError, NabError
from nab.evaluation import auroc
from nab.training import Context, Recipe

every_detector = pytest.mark.parametrize("name", sorted(DETECTORS))


# The conformance table.


@every_detector
def test_every_sample_gets_a_score_the_same_one_twice(name, poisoned_digits, tiny_context):
    dataset = poisoned_digits.dataset
    images, labels = dataset.images.clone(), dataset.labels.clone()
    one, other = (small(DETECTORS[name]).score(dataset, tiny_context()) for _ in range(2))
    assert one.shape == (len(dataset),)
    assert one.dtype == torch.float32
    assert one.device.type == "cpu"
    assert not one.isnan().any()
    assert one.max().isfinite(), "only minus infinity says something: never a suspect"
    assert torch.equal(one, other)
    assert one.unique().numel() > 1
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset.labels, labels), "the dataset was changed"


@every_detector
def test_only_an_oracle_needs_the_truth_and_nobody_else_reads_it(name, poisoned_digits, tiny_context):
    detector = small(DETECTORS[name])
    if detector.is_oracle:
        with pytest.raises(ConfigError, match=f"detector '{name}' needs the ground truth"):
            detector.score(poisoned_digits.dataset, tiny_context(truth=None))
    else:
        blind = detector.score(poisoned_digits.dataset, tiny_context(truth=None))
        assert torch.equal(blind, detector.score(poisoned_digits.dataset, tiny_context()))


@every_detector
def test_another_seed_gives_other_scores(name, poisoned_digits, tiny_context):
    detector = small(DETECTORS[name])
    one, other = (detector.score(poisoned_digits.dataset, tiny_context(seed=seed)) for seed in (0, 1))
    assert not torch.equal(one, other)


@every_detector
def test_a_detector_is_a_frozen_value_that_describes_itself(name):
    detector = DETECTORS[name]()
    assert hash(detector) == hash(DETECTORS[name]())
    assert eval(repr(detector), vars(package)) == detector
    for field in dataclasses.fields(detector):
        assert field.name in repr(detector)
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(detector, field.name, None)
    assert detector.summary
    assert detector.source


SHOWN_ELSEWHERE = {
    ("ensemble", "rate"),
    ("beatrix", "percentile"),
    ("beatrix", "threshold"),
    ("spectre", "components"),
    ("spectre", "alpha"),
}
"""What may leave the order as it is on so few samples; the detector's own test file shows what it does."""


@every_detector
def test_every_hyper_parameter_changes_the_scores_or_is_checked(name, poisoned_digits, tiny_context):
    """The attacked model, which they share, has learned something: else all classes look alike."""
    learned, keeper = dataclasses.replace(TINY, epochs=8), counting_keeper()[0]
    base = small(DETECTORS[name])
    plain = base.score(poisoned_digits.dataset, tiny_context(recipe=learned, keeper=keeper))
    for field in dataclasses.fields(base):
        values = alternatives(getattr(base, field.name))
        changed = False
        for value in values:
            try:
                detector = dataclasses.replace(base, **{field.name: value})
                scores = detector.score(poisoned_digits.dataset, tiny_context(recipe=learned, keeper=keeper))
            except NabError:
                continue
            changed = not torch.equal(scores, plain)
            if changed:
                break
        if not values:
            with pytest.raises(NabError):
                dataclasses.replace(base, **{field.name: "no such thing"})
            changed = True
        assert changed or (name, field.name) in SHOWN_ELSEWHERE, f"{field.name} does nothing"


# LGA.


@pytest.mark.parametrize("level", [0.1, 0.4, 0.6, 3.0])
def test_the_gradient_is_turned_round_below_gamma(level):
    """|L - g| + g has the gradient sign(L - g) dL of ABL's other form."""
    raw = torch.tensor([0.5, 1.0, 1.5], requires_grad=True)
    losses = raw**2 * level
    mean = losses.mean()
    (expected,) = torch.autograd.grad(torch.sign(mean.detach() - 0.5) * mean, raw, retain_graph=True)
    hook = GradientAscentHook(gamma=0.5, count=3, device=torch.device("cpu"))
    hook.begin_epoch(0)
    flooded = hook.loss(losses, torch.zeros(3, 4), torch.arange(3))
    (found,) = torch.autograd.grad(flooded, raw)
    torch.testing.assert_close(found, expected)
    assert float(flooded.detach()) >= 0.5


def test_the_hook_keeps_every_samples_loss_of_every_epoch_in_its_place():
    """Two epochs of four samples in batches of two, in shuffled order."""
    hook = GradientAscentHook(gamma=0.5, count=4, device=torch.device("cpu"))
    epochs = [[([0.3, 0.1], [3, 1]), ([0.0, 0.2], [0, 2])], [([1.2, 1.3], [2, 3]), ([1.0, 1.1], [0, 1])]]
    for epoch, batches in enumerate(epochs):
        hook.begin_epoch(epoch)
        for losses, index in batches:
            hook.loss(torch.tensor(losses, requires_grad=True), torch.zeros(2, 4), torch.tensor(index))
    torch.testing.assert_close(hook.history(), torch.tensor([[0.0, 0.1, 0.2, 0.3], [1.0, 1.1, 1.2, 1.3]]))


def test_a_sample_that_an_epoch_left_out_keeps_a_gap_in_that_epoch():
    hook = GradientAscentHook(gamma=0.5, count=3, device=torch.device("cpu"))
    for epoch, index in enumerate(([2, 0], [1, 2])):
        hook.begin_epoch(epoch)
        hook.loss(torch.tensor([0.5, 0.7], requires_grad=True), torch.zeros(2, 4), torch.tensor(index))
    assert hook.history().isnan().tolist() == [[False, True, False], [True, False, False]]


def test_lga_scores_are_minus_the_cross_entropy_of_each_sample(fake_training):
    """Logits by hand: the network is sure of class 0 on bright images, and knows nothing of dark ones."""
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[[1, 2]] = 255
    dataset = random_dataset(4).replace(images=images, labels=torch.tensor([0, 0, 1, 1]))
    fake_training.answer = lambda x: torch.stack([(x[:, 0, 0, 0] > 0) * 10.0, *[torch.zeros(len(x))] * 3], 1)
    scores = LGA().score(dataset, Context())
    sure = float(torch.log(torch.exp(torch.tensor(10.0)) + 3))
    torch.testing.assert_close(scores, torch.tensor([-1.386294, 10 - sure, -sure, -1.386294]))
    assert select_suspects(scores, 0.25).tolist() == [False, True, False, False]


def test_lga_trains_as_the_authors_do(fake_training, noise):
    """20 epochs, batches of 64, SGD 0.1 / 0.9 / 1e-4 without Nesterov, no augmentation, cosine 80 epochs too long."""
    base = Recipe(nesterov=True, label_smoothing=0.1, weight_decay=0.5, schedule="one-cycle", mean=(0.1, 0.2, 0.3))
    LGA().score(noise, Context(recipe=base))
    (call,) = fake_training.calls
    recipe = call.recipe
    assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.momentum, recipe.weight_decay) == (
        20,
        64,
        0.1,
        0.9,
        1e-4,
    )
    assert (recipe.nesterov, recipe.label_smoothing, recipe.schedule) == (False, 0.0, "cosine")
    assert (recipe.crop_padding, recipe.flip, recipe.cutout) == (0, False, 0)
    assert recipe.mean == (0.1, 0.2, 0.3), "normalised as the final network"
    assert recipe.learning_rate(19 * 10, 10) > 0.092 * 0.99
    assert call.dataset is noise


def test_lga_finds_planted_samples(digits):
    """Images that all look alike and share a label are learned first: their loss is the least."""
    train = digits[0]
    planted = torch.zeros(len(train), dtype=torch.bool)
    planted[::8] = True
    images, labels = train.images.clone(), train.labels.clone()
    images[planted] = 255
    labels[planted] = 0
    context = Context(model="resnet9", width=16, recipe=Recipe())
    detector = LGA(epochs=10, cosine_extra_epochs=0)
    scores = detector.score(train.replace(images=images, labels=labels), context)
    assert auroc(scores, planted) > 90
    assert planted[select_suspects(scores, 0.05)].float().mean() > 0.9


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*got 0"),
        ({"gamma": 0}, "gamma.*got 0"),
        ({"lr": -1}, "lr.*got -1"),
        ({"batch_size": 1}, "batch_size"),
    ],
)
def test_lga_refuses_what_it_cannot_train_with(wrong, told):
    with pytest.raises(ConfigError, match=told):
        LGA(**wrong)


# The oracle.


@pytest.mark.parametrize("accuracy", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_the_oracles_dial_is_exact_for_every_detection_rate(accuracy, rate):
    truth = truth_of([0] * 2000, list(range(5, 405, 2)))
    dataset = random_dataset(2000, size=8)
    scores = OracleDetector(accuracy).score(dataset, Context(truth=truth))
    is_suspect = select_suspects(scores, rate)
    count = int(is_suspect.sum())
    assert int(truth.is_poisoned[is_suspect].sum()) == int(accuracy * count + 0.5)


def test_the_oracles_scores_are_a_ranking_without_ties():
    scores = OracleDetector(0.5).score(random_dataset(50), Context(truth=truth_of([0] * 50, list(range(10)))))
    assert scores.sort().values.tolist() == list(range(1, 51))


def test_a_perfect_oracle_has_an_auroc_of_100():
    truth = truth_of([0] * 50, list(range(10)))
    assert auroc(OracleDetector().score(random_dataset(50), Context(truth=truth)), truth.is_poisoned) == 100


@pytest.mark.parametrize("accuracy", [-0.1, 1.1])
def test_an_oracle_cannot_be_right_more_than_always(accuracy):
    with pytest.raises(ConfigError, match=rf"accuracy in \[0, 1\], got {accuracy}"):
        OracleDetector(accuracy)
