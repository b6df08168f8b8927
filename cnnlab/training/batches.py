"""Batches from any kind of loader, in an order that depends only on the seed and the epoch."""

from collections.abc import Generator, Iterable
from itertools import count
from typing import Any

from cnnlab.rng import seed_at
from cnnlab.training.checks import check_loader


def training_batches(
    loader: Iterable, seed: int, epoch: int, start: int
) -> Generator[Any, None, None]:
    """Yield the batches of an epoch from number `start` on, the same ones in every run.

    A `cnnlab.loader` jumps there directly. Any other iterable is read from its beginning, with
    torch's global generator seeded for the epoch and for each batch. So a plain torch `DataLoader`
    resumes exactly as well, as long as its random numbers come from the global generator.
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


def evaluation_batches(loader: Iterable) -> Iterable:
    """Return the loader for evaluation: all samples, in data-set order where the loader knows one.

    Raises:
        TypeError: it can't be iterated over.
        DataError: it has no batch.
    """
    check_loader(loader)
    return loader.ordered() if hasattr(loader, "ordered") else loader
