"""Defenses: one file each, in three folders by when they act. All answer the same call, `Defense.defend`."""

from __future__ import annotations

from nab.defenses.base import Defended, Defense, attacked_model
from nab.defenses.deployed import REFUSED, Answers, Deployed, Plain, Response
from nab.defenses.guard import Guard
from nab.defenses.inference.strip import STRIPFilter, STRIPFiltered
from nab.defenses.repair.fine_pruning import FinePruning
from nab.defenses.repair.fine_tune import FineTune
from nab.defenses.supply import Supply
from nab.defenses.suspects import defend, find_suspects, known_suspects
from nab.defenses.training.abl import ABL
from nab.defenses.training.nab import NAB, DefendedDataset, Stamped
from nab.defenses.training.none import Audit, NoDefense
from nab.defenses.training.pdb import PDB, Patched
from nab.defenses.training.suspects import DropSuspects, RelabelSuspects

__all__ = [
    "ABL",
    "DEFENSES",
    "NAB",
    "PDB",
    "REFUSED",
    "Answers",
    "Audit",
    "Defended",
    "DefendedDataset",
    "Defense",
    "Deployed",
    "DropSuspects",
    "FinePruning",
    "FineTune",
    "Guard",
    "NoDefense",
    "Patched",
    "Plain",
    "RelabelSuspects",
    "Response",
    "STRIPFilter",
    "STRIPFiltered",
    "Stamped",
    "Supply",
    "attacked_model",
    "defend",
    "find_suspects",
    "known_suspects",
]

DEFENSES: dict[str, type[Defense]] = {
    "none": NoDefense,
    "audit": Audit,
    "nab": NAB,
    "drop-suspects": DropSuspects,
    "relabel-suspects": RelabelSuspects,
    "abl": ABL,
    "pdb": PDB,
    "fine-tune": FineTune,
    "fine-pruning": FinePruning,
    "strip": STRIPFilter,
}
