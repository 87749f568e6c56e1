"""Defences: one file each. All answer the same call, `Defense.defend`."""

from __future__ import annotations

from nab.defenses.audit import Audit
from nab.defenses.base import Defended, Defense, Suspicion
from nab.defenses.guard import REJECTED, Guard
from nab.defenses.nab import NAB, DefendedDataset
from nab.defenses.none import NoDefense

__all__ = [
    "DEFENSES",
    "NAB",
    "REJECTED",
    "Audit",
    "Defended",
    "DefendedDataset",
    "Defense",
    "Guard",
    "NoDefense",
    "Suspicion",
]

DEFENSES: dict[str, type[Defense]] = {
    "none": NoDefense,
    "nab": NAB,
    "audit": Audit,
}
