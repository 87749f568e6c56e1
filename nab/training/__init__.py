"""The one training loop and its parts: recipes, batches, steps, and the trainer that methods are handed."""

from nab.training.batches import Batch, Batches, BatchSource, RawBatches
from nab.training.keeping import Cost, Keeper, Ledger, Memory, Output
from nab.training.loop import Trained, fit
from nab.training.monitoring import Monitor, Watch, current_monitor, monitored
from nab.training.predictor import BATCH_SIZE, Change, Predictor, fitting, freeze, without_gradient
from nab.training.recipe import PRECISIONS, RECIPES, Recipe
from nab.training.runtime import Runtime, resolve_device
from nab.training.step import CrossEntropy, Step
from nab.training.trainer import Trainer
from nab.training.update import make_optimizer
from nab.training.weights import pack_weights, state_of, unpack_weights

__all__ = [
    "BATCH_SIZE",
    "PRECISIONS",
    "RECIPES",
    "Batch",
    "BatchSource",
    "Batches",
    "Change",
    "Cost",
    "CrossEntropy",
    "Keeper",
    "Ledger",
    "Memory",
    "Monitor",
    "Output",
    "Predictor",
    "RawBatches",
    "Recipe",
    "Runtime",
    "Step",
    "Trained",
    "Trainer",
    "Watch",
    "current_monitor",
    "fit",
    "fitting",
    "freeze",
    "make_optimizer",
    "monitored",
    "pack_weights",
    "resolve_device",
    "state_of",
    "unpack_weights",
    "without_gradient",
]
