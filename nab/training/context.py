"""`Context`: what a method is handed besides the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nab.data import Dataset, GroundTruth
from nab.errors import ConfigError
from nab.seeding import derive
from nab.stamp import Stamp
from nab.training.clock import Clock
from nab.training.hook import Hook
from nab.training.predictor import Predictor
from nab.training.recipe import Recipe
from nab.training.runtime import resolve_precision
from nab.training.stages import Keeper, Output, keep_nothing
from nab.training.trainer import Monitor, Trained, fresh_predictor, train

TRAINING_VERSION = 1
"""Part of what every stage depends on; raised when the same settings come to train another network."""


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """How to train, where, with which seed, and what extra data there is.

    Attributes:
        recipe: of the final network; methods derive their own from it.
        model: a key of `nab.models.MODELS`.
        width: channels of the network's first stage.
        seed: every random choice of a method comes from it.
        device: where networks are trained.
        verified: a small clean, correctly labelled set, for methods that need one.
        encoder: the self-supervised training, one of `nab.selfsupervised`, of methods that need its features; that
            package's default if None.
        scores: float, N, how suspicious a detector finds each sample of the training set (minus infinity = not at all),
            for labellers that trust only some; None if suspects were found in another way.
        truth: only for oracles, which exist for ablations; None for every real method.
        monitor: measured after every epoch of the final network and of the attacked one.
        keeper: keeps the output of stages; by default nothing is kept.
        clock: what the parts of the run cost.
        notes: tensors that a method found on its way, for reports; no method reads them.
    """

    recipe: Recipe = Recipe()
    model: str = "resnet18"
    width: int = 64
    seed: int = 0
    device: torch.device = torch.device("cpu")
    verified: Dataset | None = None
    encoder: Any = None  # a class of a package that imports this one
    scores: Tensor | None = None
    truth: GroundTruth | None = None
    monitor: Monitor | None = None
    keeper: Keeper = keep_nothing
    clock: Clock = dataclasses.field(default_factory=Clock)
    notes: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def train(
        self,
        dataset: Dataset,
        purpose: str,
        *,
        title: str | None = None,
        recipe: Recipe | None = None,
        hook: Hook | None = None,
        stamp: Stamp | None = None,
        is_monitored: bool = False,
    ) -> Trained:
        """A fresh network on ``dataset``, or the very same one from the cache.

        Args:
            dataset: images and the labels to learn.
            purpose: gives it seeds of its own.
            title: names it in progress bars; ``purpose`` by default.
            recipe: how; the final network's by default.
            hook: what differs from plain training. One that does not say what it depends on is never kept.
            stamp: written on every input of the trained network, and of the monitored one.
            is_monitored: whether the context's monitor is called after every epoch.
        """
        recipe, monitor = recipe or self.recipe, self.monitor if is_monitored else None
        settings: dict[str, Any] = {"model": self.model, "width": self.width, "seed": derive(self.seed, purpose)}

        def make() -> Trained:
            return train(
                dataset,
                recipe,
                **settings,
                device=self.device,
                hook=hook,
                monitor=monitor,
                stamp=stamp,
                title=title or purpose,
            )

        inputs = {"version": TRAINING_VERSION, "dataset": dataset, "recipe": recipe.effective()} | settings
        for name, part in (("hook", hook), ("monitor", monitor)):
            inputs[name] = part and _stated_inputs(part)
            if part is not None and inputs[name] is None:
                return make()
        if self.keeper is keep_nothing:
            return make()
        if monitor is not None:
            inputs["stamp"] = stamp  # else it only stands in front of what was trained
        output = self.keep("network", inputs, lambda: _pack(make()))
        return _unpack(output, fresh_predictor(dataset, recipe, self.model, self.width, self.device), stamp)

    def train_plainly(self, dataset: Dataset) -> Trained:
        """The network that trains on the set as it is: the attacked model, which many methods share."""
        return self.train(dataset, "training", is_monitored=True)

    def keep(self, stage: str, inputs: Mapping[str, Any], make: Callable[[], Output]) -> Output:
        """What ``make`` returns, or the same from the cache.

        Args:
            stage: a short name.
            inputs: everything that the output depends on; see `nab.digest.describe`. The kind of device and the
                precision are added here.
            make: does the work; its tensors are on the CPU.
        """
        where: dict[str, Any] = {
            "device": self.device.type,
            "precision": resolve_precision(self.recipe.precision, self.device),
        }
        if TRAINING_VERSION > 1:  # like every default, the first one is left out of what is hashed
            where["training"] = TRAINING_VERSION
        clock, start = self.clock, self.clock.now

        def timed() -> Output:
            clock.count_as(0.0, start)  # waiting for another process that wanted to make it, and died
            others = clock.costs
            with clock.making() as within:
                output = make()
            own = clock.now - start - (clock.costs - others)
            return dataclasses.replace(output, seconds=own, within=within)

        output = self.keeper(stage, {**inputs, **where}, timed)
        seconds = output.seconds or 0.0
        cost = clock.count(stage, seconds, output.within, output.key)
        if output.is_found:
            clock.count_as(cost, start)
            clock.found.append(stage)
            if output.maker and output.maker not in clock.makers:
                clock.makers.append(output.maker)
        elif cost == 0:  # counted before, as part of a stage that was found, and yet not in the cache itself
            clock.count_as(clock.now - start - seconds, start)
        return output

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's cost to ``clock.seconds[name]``."""
        with self.clock.part(name):
            yield

    def require_verified(self, who: str, like: Dataset) -> Dataset:
        """The verified set of images like those of ``like``.

        Raises:
            ConfigError: there is none, or a single image, or its classes or image sizes are other ones.
        """
        if self.verified is None:
            raise ConfigError(
                f"{who} needs verified data: pass a small Dataset whose labels you have checked as verified"
            )
        ours, theirs = ((d.classes, tuple(d.images.shape[1:])) for d in (self.verified, like))
        if ours != theirs:
            raise ConfigError(
                "expected verified data with the classes and image size of the training set, "
                f"{theirs[0]} and {theirs[1]}, got {ours[0]} and {ours[1]}"
            )
        if len(self.verified) < 2:
            raise ConfigError(f"{who} needs verified data of at least two images, got {len(self.verified)}")
        return self.verified

    def require_truth(self, who: str) -> GroundTruth:
        """The ground truth.

        Raises:
            ConfigError: it was not handed over.
        """
        if self.truth is None:
            raise ConfigError(f"{who} needs the ground truth and exists for ablations only: pass it as truth")
        return self.truth


def _stated_inputs(part: Any) -> Any:
    """What a hook or monitor depends on; of a class that is not ours also its name, for `inputs` may be inherited."""
    inputs, kind = getattr(part, "inputs", None), type(part)
    if inputs is None or kind.__module__.startswith("nab."):
        return inputs
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "inputs": inputs}


def _pack(trained: Trained) -> Output:
    weights = {name: value.cpu() for name, value in trained.predictor.model.state_dict().items()}
    return Output(weights, {"curve": trained.curve, "images_per_second": trained.images_per_second})


def _unpack(output: Output, predictor: Predictor, stamp: Stamp | None) -> Trained:
    predictor.model.load_state_dict(output.tensors)
    predictor.model.eval()  # as training leaves it
    return Trained(predictor.with_stamp(stamp), list(output.values["curve"]), output.values["images_per_second"])
