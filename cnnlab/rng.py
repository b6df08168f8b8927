"""Random numbers that depend on where a run is, never on how it got there.

Every random number in cnnlab comes from a seed derived from a base seed and some counters: the
order of the images from (seed, epoch), dropout and mixing from (seed, epoch, step). So a run that
was killed and resumed, a cell that was run twice and a second process all draw the same numbers,
and no generator state has to be saved.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index

import torch


def fold_in(seed: int, *counters: int) -> int:
    """Derive a 63-bit seed from a base seed and counters; the same on every machine.

    Adding the numbers would not be enough: seed 0 in epoch 1 would repeat seed 1 in epoch 0.

    >>> fold_in(0, 1) != fold_in(1, 0)
    True
    """
    try:
        numbers = tuple(map(index, (seed, *counters)))  # numpy's integers have another repr
    except TypeError:
        raise TypeError(f"a seed must be an integer, got {(seed, *counters)}") from None
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *counters: int) -> torch.Generator:
    """Return a CPU generator seeded from `seed` and `counters`."""
    return torch.Generator().manual_seed(fold_in(seed, *counters))


def seed_at(seed: int, *counters: int) -> None:
    """Seed torch's global generators from `seed` and `counters`."""
    value = fold_in(seed, *counters)
    # Not torch.manual_seed, which formats a stack trace on every call before CUDA is initialised.
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(value)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(value)


@contextmanager
def fork_rng() -> Iterator[None]:
    """Restore the state of torch's global generators at the end of a `with` block."""
    # All of them, because `seed_at` seeds all of them.
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=cuda):
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)
