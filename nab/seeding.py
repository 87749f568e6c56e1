"""Random streams. Every random choice in the library draws from a stream with a name, never from a global generator."""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed that depends on ``seed`` and on the purpose, so that streams do not overlap."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stream(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` for one purpose, for example ``stream(0, "poison selection")``."""
    return torch.Generator(device=device).manual_seed(derive(seed, purpose))
