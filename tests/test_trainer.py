"""The trainer: seeds, starting weights, further sets, and which trainings are found in the cache."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from helpers import TINY, counting_keeper, fresh, plain_network, random_dataset, weights

from nab.data import Dataset, Normalization
from nab.defenses import Plain
from nab.digest import digest
from nab.errors import ConfigError, DataError
from nab.models import Custom, ResNet9, ResNet18
from nab.training import Batch, CrossEntropy, Memory, Output, Predictor, Step, Trained, monitored

PIXELS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Consistency(Step):
    """Reads what comes beside; cannot say what it depends on."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def loss(self, predictor: Predictor, batch: Batch, *beside: Batch) -> torch.Tensor:
        self.seen.append(torch.cat([other.images for other in beside]))
        return predictor.forward(torch.cat([batch.images, *(other.images for other in beside)])).square().mean()


class Weighted(CrossEntropy):
    """At the top of a file, so that it can be told apart; has its attributes as inputs."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def reduce(self, losses: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.weight * losses.mean()


class Carries(CrossEntropy):
    """Holds something and makes no use of it."""

    def __init__(self, thing: object) -> None:
        super().__init__()
        self.thing = thing


def local_step() -> Step:
    class Local(CrossEntropy):
        pass

    return Local()


# Seeds.


def test_each_purpose_has_seeds_of_its_own(tiny_trainer, noise):
    one, other, third = (tiny_trainer().train(noise, purpose) for purpose in ("a", "a", "b"))
    assert torch.equal(weights(one), weights(other))
    assert not torch.equal(weights(one), weights(third))
    assert not torch.equal(weights(one), weights(tiny_trainer(seed=4).train(noise, "a")))


def test_a_fresh_network_is_for_images_and_classes_like_those_of_the_set(tiny_trainer):
    predictor = tiny_trainer().fresh(random_dataset(8, channels=1, classes=5).replace(normalization=PIXELS), "x")
    assert predictor.shape == (1, 8, 8)
    assert predictor.classes == tuple("abcde")
    assert predictor.normalization == PIXELS
    assert predictor.architecture == ResNet9(width=4)
    assert predictor.logits(random_dataset(8, channels=1).images).shape == (8, 5)


def test_each_set_beside_has_an_order_of_its_own(tiny_trainer, noise):
    """The same set twice, under two names."""
    step = Consistency()
    tiny_trainer(recipe=dataclasses.replace(TINY.without_augmentation(), epochs=1)).train(
        noise, "x", step=step, beside={"batches": noise, "other": noise}
    )
    for one, other in (both.chunk(2) for both in step.seen):
        assert not torch.equal(one, other)
    for part in range(2):
        epoch = torch.cat([both.chunk(2)[part] for both in step.seen])
        expected = noise.normalization.apply(noise.images)
        assert torch.equal(epoch.flatten(1).sum(1).sort().values, expected.flatten(1).sum(1).sort().values)


def test_sets_need_two_images(tiny_trainer, noise):
    one = noise.subset(torch.tensor([0]))
    with pytest.raises(DataError, match="x: expected at least two training images, got 1"):
        tiny_trainer().train(one, "x")
    with pytest.raises(DataError, match="x: expected at least two other images, got 1"):
        tiny_trainer().train(noise, "x", step=Consistency(), beside={"other": one})


# Starting weights.


def test_the_network_from_which_a_training_goes_on_is_left_as_it_is(tiny_trainer, noise):
    for keeper in (Memory(), lambda stage, inputs, make: make()):
        trainer = tiny_trainer(keeper=keeper)
        start = trainer.train(noise, "first").predictor.frozen()
        before = {name: value.clone() for name, value in start.network.state_dict().items()}
        for step in (None, Consistency()):
            beside = {"other": noise} if step else None
            more = trainer.train(noise, "more", start=start, step=step, beside=beside)
            assert not torch.equal(weights(more), weights(Trained(start, [], 0.0)))
            assert all(torch.equal(value, before[name]) for name, value in start.network.state_dict().items())
        assert not any(p.requires_grad for p in start.network.parameters())
        assert not start.network.training


def test_a_training_goes_on_from_the_weights_it_is_given(tiny_trainer, noise):
    trainer = tiny_trainer()
    start = trainer.train(noise, "first").predictor
    still = dataclasses.replace(TINY, lr=1e-9, epochs=1)
    more = trainer.train(noise, "more", recipe=still, start=start)
    torch.testing.assert_close(weights(more), weights(Trained(start, [], 0.0)), rtol=0, atol=1e-6)


def test_a_training_that_goes_on_sees_images_as_its_start_did(tiny_trainer, noise):
    """Whatever normalization the set and those beside it bring along."""
    recipe = TINY.without_augmentation()
    start = fresh(noise.replace(normalization=PIXELS))
    others = [noise, noise.replace(normalization=PIXELS)]
    seen = []
    for dataset in others:
        step = Consistency()
        more = tiny_trainer(recipe=recipe).train(dataset, "x", start=start, step=step, beside={"other": dataset})
        assert more.predictor.normalization == PIXELS
        seen.append(torch.cat(step.seen))
    assert torch.equal(*seen)
    assert float(seen[0].min()) >= 0
    assert float(seen[0].max()) <= 1


def test_a_training_that_goes_on_computes_as_its_recipe_says(tiny_trainer, noise):
    start = fresh(noise, width=16)
    low = dataclasses.replace(TINY, precision="bfloat16", epochs=1)
    assert tiny_trainer().train(noise, "x", recipe=low, start=start).predictor.runtime.precision == torch.bfloat16
    assert start.runtime.precision == torch.float32


def test_a_network_for_other_classes_cannot_go_on(tiny_trainer, noise):
    with pytest.raises(ConfigError, match="for the classes a, b, c, d, got one for a, b, c, d, e"):
        tiny_trainer().train(noise, "x", start=fresh(random_dataset(classes=5)))


# What is kept.


def twice(trainer: Any, dataset: Dataset, **options: Any) -> tuple[Trained, Trained, list[str]]:
    keeper, made = counting_keeper()
    trainer = dataclasses.replace(trainer, keeper=keeper)
    return trainer.train(dataset, "x", **options), trainer.train(dataset, "x", **options), made


def same(one: Trained, other: Trained) -> bool:
    states = (trained.predictor.network.state_dict() for trained in (one, other))
    return all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))


@pytest.mark.parametrize("case", ["fresh", "start", "beside", "step"])
def test_what_is_found_is_what_was_trained(tiny_trainer, noise, case):
    cases: dict[str, dict[str, Any]] = {
        "fresh": {},
        "start": {"start": fresh(noise, seed=5)},
        "beside": {"beside": {"other": random_dataset(40, seed=2)}},
        "step": {"step": Weighted(0.5)},
    }
    options = cases[case]
    made, found, names = twice(tiny_trainer(), noise, **options)
    assert names == ["x"]
    anew = tiny_trainer(keeper=lambda stage, inputs, make: make()).train(noise, "x", **options)
    for other in (found, anew):
        assert same(made, other)
        assert other.curve == made.curve
        assert not other.predictor.network.training
        assert torch.equal(other.predictor.logits(noise.images), made.predictor.logits(noise.images))
    assert found.images_per_second == made.images_per_second


@pytest.mark.parametrize("step", [Consistency(), local_step(), Carries(lambda: 0), Carries(len)])
def test_what_cannot_be_told_apart_is_trained_again(tiny_trainer, noise, step, caplog):
    """A step without inputs, a class within a function, and steps that hold a lambda or a function of C."""
    with caplog.at_level(logging.INFO):
        one, other, names = twice(tiny_trainer(), noise, step=step, beside={"other": noise})
    assert names == []
    assert ("the stage 'x' is not kept" in caplog.text) is (step.inputs is not None)
    assert one.predictor.network is not other.predictor.network
    assert same(one, other)


def key_of(trainer: Any, dataset: Dataset, purpose: str = "x", **options: Any) -> str:
    """Nothing is trained."""

    class Asked(Exception):  # noqa: N818 - it is no error
        pass

    def keeper(stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        raise Asked(digest({**inputs, "stage": stage}))

    with pytest.raises(Asked) as asked:
        dataclasses.replace(trainer, keeper=keeper).train(dataset, purpose, **options)
    return str(asked.value)


class Ruler:
    """A monitor that can be described."""

    def __init__(self, size: int = 1) -> None:
        self.inputs = {"size": size}

    def __call__(self, deployed: object) -> dict[str, float]:
        return {"size": 1.0}


def test_everything_a_training_depends_on_is_in_its_key(tiny_trainer, noise):
    trainer, other = tiny_trainer(), random_dataset(40, seed=2)
    one, more = fresh(noise, seed=5), fresh(noise, seed=6)
    asks: dict[str, Callable[[], str]] = {
        "plain": lambda: key_of(trainer, noise),
        "data": lambda: key_of(trainer, other),
        "normalization": lambda: key_of(trainer, noise.replace(normalization=PIXELS)),
        "purpose": lambda: key_of(trainer, noise, "y"),
        "recipe": lambda: key_of(trainer, noise, recipe=dataclasses.replace(TINY, lr=0.06)),
        "trainer's recipe": lambda: key_of(tiny_trainer(recipe=dataclasses.replace(TINY, lr=0.07)), noise),
        "precision": lambda: key_of(trainer, noise, recipe=dataclasses.replace(TINY, precision="bfloat16")),
        "width": lambda: key_of(tiny_trainer(architecture=ResNet9(width=5)), noise),
        "architecture": lambda: key_of(tiny_trainer(architecture=ResNet18(width=4)), noise),
        "seed": lambda: key_of(tiny_trainer(seed=4), noise),
        "step": lambda: key_of(trainer, noise, step=Weighted(1.0)),
        "step's inputs": lambda: key_of(trainer, noise, step=Weighted(2.0)),
        "start": lambda: key_of(trainer, noise, start=one),
        "other start": lambda: key_of(trainer, noise, start=more),
        "beside": lambda: key_of(trainer, noise, beside={"a": other}),
        "name beside": lambda: key_of(trainer, noise, beside={"b": other}),
        "two beside": lambda: key_of(trainer, noise, beside={"a": other, "b": noise}),
        "two beside, turned round": lambda: key_of(trainer, noise, beside={"b": noise, "a": other}),
    }
    for size in (1, 2):
        asks[f"monitor {size}"] = functools.partial(watched_key, trainer, noise, size)
    keys = {name: ask() for name, ask in asks.items()}
    assert len(set(keys.values())) == len(keys)
    assert keys == {name: ask() for name, ask in asks.items()}


def watched_key(trainer: Any, dataset: Dataset, size: int) -> str:
    with monitored(Ruler(size)):
        assert key_of(trainer, dataset) == key_of(trainer, dataset, watch=None), "nobody watches"
        return key_of(trainer, dataset, watch=Plain)


def test_what_does_not_matter_is_not_in_the_key(tiny_trainer, noise):
    plain = key_of(tiny_trainer(), noise)
    assert key_of(tiny_trainer(), noise.replace(name="another")) == plain
    assert key_of(tiny_trainer(), noise, step=CrossEntropy()) == plain
    assert key_of(tiny_trainer(), noise, watch=Plain) == plain, "without a monitor"
    assert key_of(tiny_trainer(recipe=dataclasses.replace(TINY, warmup=0.9)), noise) == plain, "a cosine has no warmup"


def test_networks_by_a_function_that_cannot_be_told_apart_are_trained_again(tiny_trainer, noise):
    for function, expected in ((plain_network, ["x"]), (lambda num_classes: plain_network(num_classes), [])):
        one, other, names = twice(tiny_trainer(architecture=Custom(function=function)), noise)
        assert names == expected
        assert same(one, other)
