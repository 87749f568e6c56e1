"""One trainer for all: recipe, batches on the device, loop, predictor."""

from nab.training.batches import Batches
from nab.training.context import Context
from nab.training.predictor import Predictor
from nab.training.recipe import Recipe
from nab.training.runtime import Runtime, resolve_device
from nab.training.trainer import Hook, Monitor, Trained, train

__all__ = [
    "Batches",
    "Context",
    "Hook",
    "Monitor",
    "Predictor",
    "Recipe",
    "Runtime",
    "Trained",
    "resolve_device",
    "train",
]
