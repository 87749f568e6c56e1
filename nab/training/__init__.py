"""One trainer for all: recipe, batches on the device, loop, predictor."""

from nab.training.batches import Batches
from nab.training.clock import Clock
from nab.training.context import Context
from nab.training.hook import Hook
from nab.training.predictor import Predictor, fitting
from nab.training.recipe import RECIPES, Recipe
from nab.training.runtime import Runtime, resolve_device
from nab.training.stages import Keeper, Output
from nab.training.trainer import Monitor, Trained, train

__all__ = [
    "RECIPES",
    "Batches",
    "Clock",
    "Context",
    "Hook",
    "Keeper",
    "Monitor",
    "Output",
    "Predictor",
    "Recipe",
    "Runtime",
    "Trained",
    "fitting",
    "resolve_device",
    "train",
]
