"""The recipe, the batches and the one training loop."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import EASY, TINY, quadrants, random_dataset

from nab.data import Dataset
from nab.errors import ConfigError, NabError
from nab.seeding import stream
from nab.stamp import Stamp
from nab.training import Batches, Context, Hook, Recipe, train
from nab.training.predictor import fitting

CPU = torch.device("cpu")


def batches(images: torch.Tensor, seed: int = 0, **changes) -> Batches:
    plain = Recipe(batch_size=16).without_augmentation()
    return Batches(images, dataclasses.replace(plain, **changes), CPU, stream(seed, "test"))


def weights_of(predictor) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in predictor.model.parameters()])


def weights(trained) -> torch.Tensor:
    return weights_of(trained.predictor)


def tiny_train(dataset: Dataset, recipe: Recipe = TINY, **options):
    return train(dataset, recipe, **{"model": "resnet9", "width": 4, "seed": 0} | options)


# Learning rates, worked by hand from the specification.


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.1), (50, 0.053737), (90, 0.004952), (99, 0.000804)])
def test_the_papers_cosine(epoch, expected):
    for step in (0, 781):
        assert Recipe().learning_rate(epoch * 782 + step, 782) == pytest.approx(expected, abs=5e-7)


def test_one_cycle_rises_to_the_top_at_the_end_of_warmup_and_falls_to_almost_nothing():
    """Ten epochs of ten steps, peak after a fifth: 101 intervals, the top at step 20.2."""
    recipe = Recipe(epochs=10, lr=0.4, schedule="one-cycle", warmup=0.2)
    rates = [recipe.learning_rate(step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.4 * (1 / 101) / 0.2)
    assert rates[9] == pytest.approx(0.4 * (10 / 101) / 0.2)
    assert rates.index(max(rates)) == 19
    assert max(rates) == pytest.approx(0.4 * (20 / 101) / 0.2)
    assert rates[99] == pytest.approx(0.4 * (1 / 101) / 0.8)
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("warmup", [0, 1])
def test_one_cycle_without_rise_or_fall(warmup):
    recipe = Recipe(epochs=2, lr=1.0, schedule="one-cycle", warmup=warmup)
    rates = [recipe.learning_rate(step, 2) for step in range(4)]
    rising = pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert (rates if warmup else rates[::-1]) == rising


def test_steps_divide_at_every_milestone():
    recipe = Recipe(epochs=100, lr=0.01, schedule="steps", milestones=(20, 60), step_factor=0.1)
    for epoch, expected in ((0, 0.01), (19, 0.01), (20, 0.001), (59, 0.001), (60, 0.0001), (99, 0.0001)):
        assert recipe.learning_rate(epoch * 7, 7) == pytest.approx(expected)


def test_constant_is_constant():
    assert {Recipe(lr=0.3, schedule="constant").learning_rate(step, 5) for step in range(50)} == {0.3}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epochs": 0}, "epochs.*at least 1, got 0"),
        ({"batch_size": 1}, "batch_size of at least 2"),
        ({"batch_size": 0}, "batch_size.*got 0"),
        ({"lr": 0}, "lr in .*got 0"),
        ({"lr": math.inf}, "lr.*got inf"),
        ({"momentum": 1}, r"momentum in \[0, 1\), got 1"),
        ({"optimizer": "adam"}, "sgd, muon, got 'adam'"),
        ({"filter_lr": 0}, "filter_lr in .*got 0"),
        ({"nesterov": True, "momentum": 0}, "(?=.*nesterov)(?=.*momentum)"),
        ({"weight_decay": -1}, "weight_decay.*got -1"),
        ({"label_smoothing": 1}, r"label_smoothing in \[0, 1\), got 1"),
        ({"schedule": "linear"}, "cosine, constant, steps, one-cycle, got 'linear'"),
        ({"cosine_extra_epochs": -100}, "cosine_extra_epochs.*got -100"),
        ({"step_factor": -1.0}, "step_factor.*got -1"),
        ({"warmup": 1.5}, r"warmup in \[0, 1\], got 1.5"),
        ({"crop_padding": -1}, "crop_padding.*got -1"),
        ({"crop_padding": 1.5}, "crop_padding.*got 1.5"),
        ({"cutout": -1}, "cutout.*got -1"),
        ({"cutout": 2.5}, "cutout.*got 2.5"),
        ({"cutout": 1}, "cutout.*at least 2, got 1"),
        ({"std": (0.2, 0.0, 0.2)}, "std above 0"),
        ({"precision": "float16"}, "auto, bfloat16, float32, got 'float16'"),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_a_recipe_that_cannot_be_trained_is_refused(wrong, told):
    with pytest.raises(ConfigError, match=told):
        Recipe(**wrong)


CHANGES = {
    "epochs": ({}, 3),
    "batch_size": ({}, 16),
    "lr": ({}, 0.02),
    "momentum": ({}, 0.5),
    "nesterov": ({}, True),
    "weight_decay": ({}, 0.1),
    "label_smoothing": ({}, 0.2),
    "schedule": ({}, "constant"),
    "cosine_extra_epochs": ({}, 1),
    "milestones": ({"schedule": "steps"}, (1,)),
    "step_factor": ({"schedule": "steps", "milestones": (1,)}, 0.5),
    "warmup": ({"schedule": "one-cycle"}, 0.7),
    "crop_padding": ({}, 2),
    "flip": ({}, False),
    "cutout": ({}, 0),
    "mean": ({}, (0.5, 0.5, 0.5)),
    "std": ({}, (0.3, 0.3, 0.3)),
    "precision": ({}, "bfloat16"),
    "optimizer": ({}, "muon"),
    "filter_lr": ({"optimizer": "muon"}, 0.05),
}
"""For every field of `Recipe`: settings under which it matters, and another value."""


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_every_field_of_the_recipe_changes_what_is_learned(name):
    settings, value = CHANGES[name]
    base = dataclasses.replace(TINY, **settings)
    dataset = random_dataset()
    changed = tiny_train(dataset, dataclasses.replace(base, **{name: value}))
    assert not torch.equal(weights(tiny_train(dataset, base)), weights(changed))


# Batches.


def test_every_sample_is_met_once_per_epoch_in_another_order():
    supply = batches(random_dataset(50).images)
    epochs = [torch.cat(list(supply.epoch())) for _ in range(2)]
    for seen in epochs:
        assert seen.sort().values.tolist() == list(range(50))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize(("count", "sizes"), [(48, [16, 16, 16]), (50, [16, 16, 16, 2]), (49, [16, 16, 16]), (5, [5])])
def test_a_last_batch_is_kept_unless_it_is_one_sample(count, sizes):
    supply = batches(random_dataset(count).images)
    assert [len(index) for index in supply.epoch()] == sizes
    assert len(supply) == len(sizes)


def test_images_come_with_their_positions_and_normalised():
    dataset = random_dataset(40)
    supply = batches(dataset.images)
    for index in supply.epoch():
        expected = (dataset.images[index] / 255 - torch.tensor(Recipe().mean).view(3, 1, 1)) / torch.tensor(
            Recipe().std
        ).view(3, 1, 1)
        torch.testing.assert_close(supply.augment(index), expected)


def test_grey_images_are_normalised_with_the_average_over_the_channels():
    recipe = Recipe(mean=(0.1, 0.2, 0.6), std=(0.2, 0.3, 0.4))
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    torch.testing.assert_close(recipe.normalise(images).flatten(), torch.tensor([-1.0, 7 / 3]))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_grey_level_survives_normalising_and_back(channels):
    images = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1).repeat(1, channels, 1, 1)
    recipe = Recipe()
    assert torch.equal(recipe.denormalise(recipe.normalise(images)), images)


def test_normalising_leaves_floats_as_they_were():
    images = torch.full((1, 3, 2, 2), 7.0)
    Recipe().normalise(images)
    assert (images == 7).all()


def test_flips_mirror_half_of_the_images_and_nothing_else():
    dataset = random_dataset(1)
    images = dataset.images.repeat(400, 1, 1, 1)
    seen = batches(images, flip=True, batch_size=400).augment(torch.arange(400))
    plain = Recipe().normalise(dataset.images)
    is_plain = torch.isclose(seen, plain).flatten(1).all(1)
    is_mirrored = torch.isclose(seen, plain.flip(3)).flatten(1).all(1)
    assert torch.equal(is_plain, ~is_mirrored)
    assert 150 < int(is_mirrored.sum()) < 250


def test_crops_are_shifts_over_black_and_every_shift_occurs():
    """A single white pixel in the middle of 9 x 9 turns up at each of the 25 places within two pixels."""
    image = torch.zeros(1, 3, 9, 9, dtype=torch.uint8)
    image[:, :, 4, 4] = 255
    seen = batches(image.repeat(800, 1, 1, 1), crop_padding=2, mean=(0, 0, 0), std=(1, 1, 1)).augment(torch.arange(800))
    assert (seen.sum((1, 2, 3)) - 3).abs().max() < 1e-4, "one white pixel, the rest black"
    places = {tuple(place[2:]) for place in seen.round().nonzero().tolist()}
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}


def test_cutout_holes_have_the_areas_of_the_authors():
    """Length 3 cuts [c - 1, c + 1): of 1,024 centres on 32 x 32, 961 give 4 pixels, 62 give 2 and one gives 1."""
    made = batches(torch.full((1024, 1, 32, 32), 255, dtype=torch.uint8), cutout=Recipe().cutout)
    centres = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    draws = iter(centres.T[:, :, None])
    made._integers = lambda below, shape: next(draws)
    areas = (made.augment(torch.arange(1024)) == 0).sum((1, 2, 3))
    assert areas.bincount().tolist() == [0, 1, 62, 0, 961]


def test_cutout_writes_the_mean_colour_in_one_square_per_image():
    images = torch.full((300, 3, 8, 8), 255, dtype=torch.uint8)
    seen = batches(images, cutout=4).augment(torch.arange(300))
    untouched = Recipe().normalise(images[:1])
    holes = (seen == 0).all(1)
    assert torch.equal(torch.where(holes[:, None], untouched, seen), untouched.expand_as(seen))
    for hole in holes:
        rows, columns = hole.any(1).nonzero().squeeze(1), hole.any(0).nonzero().squeeze(1)
        for span in (rows, columns):
            assert span.tolist() == list(range(int(span[0]), int(span[-1]) + 1))
            assert 2 <= len(span) <= 4
        assert int(hole.sum()) == len(rows) * len(columns)
    assert {int(hole.sum()) for hole in holes} == {4, 6, 8, 9, 12, 16}


def test_the_same_generator_gives_the_same_batches():
    images = random_dataset(40).images
    supplies = [Batches(images, Recipe(batch_size=16), CPU, stream(seed, "t")) for seed in (1, 1, 2)]
    one, other, third = (torch.cat([supply.augment(index) for index in supply.epoch()]) for supply in supplies)
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


# The loop.


@pytest.mark.parametrize("width", [4, 16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(noise, width, precision):
    recipe = dataclasses.replace(TINY, precision=precision)
    one, other, third = (tiny_train(noise, recipe, width=width, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(weights(one), weights(other))
    assert one.curve == other.curve
    assert not torch.equal(weights(one), weights(third))


def test_grey_images_can_be_trained_on():
    trained = tiny_train(random_dataset(channels=1))
    assert trained.predictor.predict(random_dataset(channels=1).images).shape == (64,)


def test_training_learns():
    trained = tiny_train(quadrants(), EASY)
    assert trained.curve[-1]["loss"] < 0.5 * trained.curve[0]["loss"]
    fresh = quadrants(200)
    assert (trained.predictor.predict(fresh.images) == fresh.labels).float().mean() > 0.9


def test_the_curve_has_a_row_per_epoch_with_what_the_monitor_says(noise):
    recipe = dataclasses.replace(TINY, epochs=3)
    seen = []

    def monitor(predictor):
        seen.append(weights_of(predictor))
        return {"clean_accuracy": 10.0 * len(seen)}

    curve = tiny_train(noise, recipe, monitor=monitor).curve
    assert [row["epoch"] for row in curve] == [1, 2, 3]
    assert [row["clean_accuracy"] for row in curve] == [10, 20, 30]
    assert [row["lr"] for row in curve] == [recipe.learning_rate(epoch * 2 + 1, 2) for epoch in range(3)]
    assert all(0 < row["loss"] < 10 for row in curve)
    assert not torch.equal(seen[0], seen[1]), "the monitor is shown the network as it is"


def test_epochs_begin_with_their_number_and_the_speed_is_measured(noise):
    class Counter(Hook):
        def __init__(self) -> None:
            self.begun: list[int] = []

        def begin_epoch(self, epoch):
            self.begun.append(epoch)

    counter = Counter()
    assert tiny_train(noise, hook=counter).images_per_second > 0
    assert counter.begun == [0, 1]


def test_watching_does_not_change_what_is_learned(noise):
    watched = tiny_train(noise, monitor=lambda predictor: {"x": float(predictor.predict(noise.images)[0])})
    assert torch.equal(weights(watched), weights(tiny_train(noise)))


def test_the_network_is_handed_over_in_evaluation_mode(noise):
    assert not tiny_train(noise).predictor.model.training


class Witness(Hook):
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.losses: list[tuple[torch.Tensor, torch.Tensor]] = []

    def images(self, images, index):
        self.batches.append((images.clone(), index.clone()))
        return images

    def loss(self, losses, logits, index):
        assert logits.shape == (len(index), 4)
        self.losses.append((losses.detach().clone(), index.clone()))
        return losses.mean()


def test_a_hook_is_shown_every_sample_with_its_position(noise):
    witness = Witness()
    recipe = TINY.without_augmentation()
    tiny_train(noise, recipe, hook=witness)
    assert len(witness.batches) == len(witness.losses) == 4
    for (images, index), (losses, again) in zip(witness.batches, witness.losses, strict=True):
        assert torch.equal(index, again)
        torch.testing.assert_close(images, recipe.normalise(noise.images[index]))
        assert losses.shape == index.shape
    for epoch in (witness.batches[:2], witness.batches[2:]):
        assert torch.cat([index for _, index in epoch]).sort().values.tolist() == list(range(64))


def test_a_hook_that_changes_nothing_changes_nothing(noise):
    assert torch.equal(weights(tiny_train(noise, hook=Hook())), weights(tiny_train(noise)))


def test_what_a_hook_makes_of_the_images_is_what_the_network_learns(noise):
    class Grey(Hook):
        def images(self, images, index):
            return torch.zeros_like(images)

    one = tiny_train(noise, hook=Grey())
    other = tiny_train(noise.replace(images=255 - noise.images), hook=Grey())
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(tiny_train(noise)))


def test_a_loss_that_diverges_is_an_error_that_names_the_remedy(noise):
    with pytest.raises(NabError, match=r"test run: the loss is (nan|inf) after epoch \d.*lower learning rate \(lr\)"):
        tiny_train(noise, dataclasses.replace(TINY, lr=1e18, epochs=5), title="test run")


def test_a_single_image_cannot_be_trained_on(noise):
    """Batch normalisation needs two; say so instead of falling over."""
    with pytest.raises(NabError, match="two"):
        tiny_train(noise.subset(torch.tensor([0])))


# The predictor and the context.


def test_predictions_do_not_depend_on_the_batch_they_are_made_in(noise, monkeypatch):
    predictor = tiny_train(noise).predictor
    whole = predictor.logits(noise.images)
    monkeypatch.setattr("nab.training.predictor.BATCH_SIZE", 7)
    torch.testing.assert_close(predictor.logits(noise.images), whole)
    assert torch.equal(predictor.predict(noise.images), whole.argmax(1))
    assert whole.shape == (64, 4)
    assert whole.dtype == torch.float32


def test_a_predictor_writes_its_stamp_on_what_the_network_sees(noise):
    predictor = tiny_train(noise).predictor
    stamp = Stamp(size=3, value=2.5)
    by_hand = predictor.model(stamp.apply(predictor.recipe.normalise(noise.images)))
    torch.testing.assert_close(predictor.with_stamp(stamp).logits(noise.images), by_hand)
    assert not torch.allclose(predictor.logits(noise.images), by_hand)
    assert torch.equal(
        predictor.with_stamp(stamp).with_stamp(None).logits(noise.images), predictor.logits(noise.images)
    )


@pytest.mark.parametrize("other", [{"size": 16}, {"channels": 1}, {"classes": 5}])
def test_verified_data_must_be_like_the_training_set(noise, other):
    with pytest.raises(ConfigError, match="classes and image size of the training set"):
        Context(verified=random_dataset(**other)).require_verified("labeler 'x'", noise)
    with pytest.raises(ConfigError, match=r"labeler 'x' needs verified data of at least two images, got 1"):
        Context(verified=noise.subset(torch.tensor([0]))).require_verified("labeler 'x'", noise)
    assert Context(verified=noise).require_verified("labeler 'x'", noise) is noise


def test_each_purpose_of_a_context_has_seeds_of_its_own(noise):
    context = Context(recipe=TINY, model="resnet9", width=4, seed=5)
    one, other, third = (context.train(noise, purpose) for purpose in ("a", "a", "b"))
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(third))


def test_stages_add_up_their_seconds():
    context = Context()
    for _ in range(2):
        with context.stage("detection"):
            before = context.clock.seconds.get("detection", 0.0)
    assert context.clock.seconds["detection"] > before
    with pytest.raises(RuntimeError), context.stage("training"):
        raise RuntimeError
    assert context.clock.seconds["training"] > 0, "a stage that fails took time too"


def test_what_a_context_lacks_it_asks_for(noise):
    with pytest.raises(ConfigError, match=r"labeler 'x' needs verified data.*as verified"):
        Context().require_verified("labeler 'x'", noise)
    with pytest.raises(ConfigError, match=r"detector 'y' needs the ground truth.*ablations only"):
        Context().require_truth("detector 'y'")


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 500), (28, 500), (32, 500), (64, 125), (224, 10), (4000, 1)], ids=str
)
def test_batches_of_large_images_are_small(side, expected):
    """500 images of 32 x 32 have 512,000 pixels."""
    assert fitting(500, torch.empty(3, side, side)) == expected
