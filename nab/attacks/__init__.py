"""Attacks: one file each. Adding one is a file, a line in `ATTACKS`, and a test file (see CONTRIBUTING.md)."""

from __future__ import annotations

from nab.attacks.adap_blend import AdapBlend
from nab.attacks.adap_patch import AdapPatch
from nab.attacks.badnets import BadNets
from nab.attacks.base import Attack, Poisoned, Triggered, draw_per_image, not_prepared, poison, to_uint8, trigger_all
from nab.attacks.blend import Blend
from nab.attacks.bpp import Bpp
from nab.attacks.conjunction import Conjunction
from nab.attacks.ctrl import CTRL
from nab.attacks.decoy import Decoy
from nab.attacks.ftrojan import FTrojan
from nab.attacks.hijack import StampHijack
from nab.attacks.input_aware import InputAware
from nab.attacks.label_consistent import LabelConsistent
from nab.attacks.low_frequency import LowFrequency
from nab.attacks.none import NoAttack
from nab.attacks.overlap import Overlap
from nab.attacks.refool import Refool
from nab.attacks.selection import LABEL_MAPS, SELECTIONS, attack_labels, check_target, select_covers, select_poisons
from nab.attacks.sig import SIG
from nab.attacks.ssba import SSBA
from nab.attacks.trojannn import TrojanNN
from nab.attacks.wanet import WaNet

__all__ = [
    "ATTACKS",
    "CTRL",
    "LABEL_MAPS",
    "SELECTIONS",
    "SIG",
    "SSBA",
    "AdapBlend",
    "AdapPatch",
    "Attack",
    "BadNets",
    "Blend",
    "Bpp",
    "Conjunction",
    "Decoy",
    "FTrojan",
    "InputAware",
    "LabelConsistent",
    "LowFrequency",
    "NoAttack",
    "Overlap",
    "Poisoned",
    "Refool",
    "StampHijack",
    "Triggered",
    "TrojanNN",
    "WaNet",
    "attack_labels",
    "check_target",
    "draw_per_image",
    "not_prepared",
    "poison",
    "select_covers",
    "select_poisons",
    "to_uint8",
    "trigger_all",
]

ATTACKS: dict[str, type[Attack]] = {
    "none": NoAttack,
    "badnets": BadNets,
    "blend": Blend,
    "wanet": WaNet,
    "label-consistent": LabelConsistent,
    "sig": SIG,
    "input-aware": InputAware,
    "adap-blend": AdapBlend,
    "adap-patch": AdapPatch,
    "low-frequency": LowFrequency,
    "bpp": Bpp,
    "ftrojan": FTrojan,
    "trojannn": TrojanNN,
    "ctrl": CTRL,
    "refool": Refool,
    "ssba": SSBA,
    "nab-overlap": Overlap,
    "nab-hijack": StampHijack,
    "nab-conjunction": Conjunction,
    "nab-decoy": Decoy,
}
