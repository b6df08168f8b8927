"""Batches in an order that belongs to the epoch, whatever kind of loader gives them."""

from collections.abc import Generator, Iterable, Sized
from itertools import count
from typing import Any

from cnnlab.errors import DataError
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


def check_batches(loader: Any) -> None:
    """Refuse what gives no batches, such as a data set, whose samples would be taken for batches.

    Raises:
        TypeError: it cannot be iterated over, as a data set cannot.
        DataError: it has no batch.
    """
    if not isinstance(loader, Iterable):  # torch's data sets are not
        raise TypeError(
            f"batches are needed, got {type(loader).__name__}; make batches of a data set with "
            "cnnlab.loader(dataset, batch_size=64)"
        )
    if n_batches(loader) == 0:
        size = len(getattr(loader, "dataset", ()))
        raise DataError(
            f"the loader gave no batch, it is empty: {size} samples, batch size {getattr(loader, 'batch_size', '?')}, "
            f"drop_last={getattr(loader, 'drop_last', '?')}; add data, or make the batches smaller"
        )


def last_batch(loader: Any) -> int | None:
    """Return the size of the last batch, or None when the loader cannot know.

    >>> from torch.utils.data import DataLoader
    >>> last_batch(DataLoader(range(9), batch_size=4)), last_batch(DataLoader(range(9), 4, drop_last=True))
    (1, 4)
    """
    batch_size, batches = getattr(loader, "batch_size", None), n_batches(loader)
    counted = getattr(loader, "sampler", None)
    counted = getattr(loader, "dataset", None) if counted is None else counted
    if not batch_size or not batches or not isinstance(counted, Sized):
        return None
    return min(batch_size, len(counted) - (batches - 1) * batch_size)


def in_order(loader: Iterable) -> Iterable:
    """Return the loader to measure with: all samples, in the order of the data set, where it knows one."""
    check_batches(loader)
    return loader.ordered() if hasattr(loader, "ordered") else loader
