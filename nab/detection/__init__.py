"""Detectors, one file each. To add one, write a file, a line in `DETECTORS`, and a test file."""

from __future__ import annotations

from nab.detection.activation_clustering import ActivationClustering
from nab.detection.base import Detector, Scored, find_scores
from nab.detection.beatrix import Beatrix
from nab.detection.cognitive_distillation import CognitiveDistillation
from nab.detection.cut import Rate, automatic_cut, check_cut, select_suspects, suspect_count
from nab.detection.ensemble import Ensemble, Member
from nab.detection.fct import FCT
from nab.detection.gating import gate_classes
from nab.detection.lga import LGA
from nab.detection.ln import LN
from nab.detection.oracle import OracleDetector
from nab.detection.random_detector import RandomDetector
from nab.detection.scan import SCAn
from nab.detection.spectral_signatures import SpectralSignatures
from nab.detection.spectre import SPECTRE
from nab.detection.strip import STRIP

__all__ = [
    "DETECTORS",
    "FCT",
    "LGA",
    "LN",
    "SPECTRE",
    "STRIP",
    "ActivationClustering",
    "Beatrix",
    "CognitiveDistillation",
    "Detector",
    "Ensemble",
    "Member",
    "OracleDetector",
    "RandomDetector",
    "Rate",
    "SCAn",
    "Scored",
    "SpectralSignatures",
    "automatic_cut",
    "check_cut",
    "find_scores",
    "gate_classes",
    "select_suspects",
    "suspect_count",
]

DETECTORS: dict[str, type[Detector]] = {
    "lga": LGA,
    "ln": LN,
    "spectral-signatures": SpectralSignatures,
    "spectre": SPECTRE,
    "activation-clustering": ActivationClustering,
    "scan": SCAn,
    "beatrix": Beatrix,
    "strip": STRIP,
    "cognitive-distillation": CognitiveDistillation,
    "fct": FCT,
    "ensemble": Ensemble,
    "random": RandomDetector,
    "oracle": OracleDetector,
}
