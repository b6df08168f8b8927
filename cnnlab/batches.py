"""Batches in an order that belongs to the epoch, whatever kind of loader gives them."""

from collections.abc import Generator, Iterable
from itertools import count
from typing import Any

from cnnlab.rng import seed_at


def training_batches(
    loader: Iterable, seed: int, epoch: int, start: int
) -> Generator[Any, None, None]:
    """Yield the batches of an epoch from number `start` on; the same ones in every run.

    A `cnnlab.loader` goes there directly. Any other iterable is read from its beginning under seeds that
    belong to the epoch and the batch, so that a plain torch `DataLoader` resumes exactly as well, as long as
    its draws come from torch's global generator.
    """
    if hasattr(loader, "seek"):
        loader.seek(epoch, start)
        yield from loader
        return
    sampler: Any = getattr(loader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    seed_at(seed, epoch)
    iterator = iter(loader)
    for number in count():
        seed_at(seed, epoch, number, 1)
        try:
            batch = next(iterator)
        except StopIteration:
            return
        if number >= start:
            yield batch


def n_batches(loader: Iterable) -> int | None:
    """Return the batches in one pass, or None when the loader cannot know."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


def in_order(loader: Iterable) -> Iterable:
    """Return the loader to measure with: all samples, in the order of the data set, where it knows one."""
    return loader.ordered() if hasattr(loader, "ordered") else loader
