"""Random streams do not overlap and do not touch torch's global generator."""

from __future__ import annotations

import torch

from nab.models import ResNet9
from nab.seeding import derive, stream


def test_same_seed_and_purpose_give_the_same_numbers():
    assert torch.equal(torch.rand(5, generator=stream(1, "a")), torch.rand(5, generator=stream(1, "a")))


def test_streams_of_other_seeds_and_purposes_differ():
    seeds = {derive(seed, purpose) for seed in range(20) for purpose in ("weights", "batches", "poison selection")}
    assert len(seeds) == 60
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seeds_stay_what_they_are():
    """BLAKE2b of "0/weights", first 8 bytes, halved: a change would change every published run."""
    import hashlib

    digest = hashlib.blake2b(b"0/weights", digest_size=8).digest()
    assert derive(0, "weights") == int.from_bytes(digest, "big") // 2


def test_the_global_generator_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ResNet9(width=2).build(2, (3, 8, 8), seed=1)
    stream(3, "anything")
    assert torch.equal(torch.rand(3), expected)
