"""Batches from any kind of loader, in an order that depends only on the seed and the epoch."""

import copy
import random
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from traceback import walk_tb
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from cnnlab.data.loaders import explain_stacking
from cnnlab.errors import DataError
from cnnlab.rng import fold_in, seed_at
from cnnlab.training.checks import check_loader


def training_batches(
    loader: Iterable, seed: int, epoch: int, start: int
) -> Generator[Any, None, None]:
    """Yield the batches of an epoch from number `start` on, the same ones in every run.

    A `cnnlab.loader` jumps there directly. Any other iterable is read from its beginning, with the
    global generators of torch, numpy and Python, and those of the loader and its sampler, seeded
    for the epoch and for each batch. So a plain torch `DataLoader` resumes exactly as well.
    """
    if hasattr(loader, "epoch_batches"):
        yield from loader.epoch_batches(epoch, start)
        return
    sampler: Any = getattr(loader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    with _seeded_sources(loader, seed, epoch):
        seed_at(seed, epoch)
        iterator = _explained(iter(loader), loader)
        for number in count():
            _seed_globals(seed, epoch, number, 1)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if number >= start:
                yield batch


@contextmanager
def _seeded_sources(loader: Any, seed: int, epoch: int) -> Iterator[None]:
    """Seed the generators of a foreign loader and its samplers, and restore them afterwards.

    numpy's and Python's global generators are restored as well; torch's belong to the trainer.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    holders = [loader, getattr(loader, "sampler", None), batch_sampler]
    holders.append(getattr(batch_sampler, "sampler", None))
    generators = (getattr(holder, "generator", None) for holder in holders)
    own = list({id(g): g for g in generators if isinstance(g, torch.Generator)}.values())
    states = [generator.get_state() for generator in own]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    for number, generator in enumerate(own):
        generator.manual_seed(fold_in(seed, epoch, number, 3))
    try:
        yield
    finally:
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _seed_globals(*counters: int) -> None:
    seed_at(*counters)
    value = fold_in(*counters)
    np.random.seed(value % 2**32)  # noqa: NPY002 - the data sets of others draw from it
    random.seed(value)


def evaluation_batches(loader: Iterable, by_position: bool = False) -> Iterable:
    """Return the batches for an evaluation: every sample once, in the order of the data set.

    A `cnnlab.loader` or a torch `DataLoader` that shuffles, drops the last batch or samples by
    weights is read in data-set order and completely. Other iterables are read as they are.

    Args:
        loader: whatever yields batches.
        by_position: whether row i of the result must belong to sample i of the data set.

    Raises:
        TypeError: the loader can't be iterated over.
        DataError: it has no batch; or the order matters, and its sampler decides it.
    """
    check_loader(loader)
    sampler = getattr(loader, "sampler", None)
    if isinstance(loader, DataLoader):
        ordered = _ordered(loader)
    elif hasattr(loader, "ordered"):
        ordered = loader.ordered()
        if hasattr(sampler, "weights"):
            ordered.sampler = sampler = None
        elif sampler is None:
            return ordered
    else:
        return loader
    if ordered is None or (sampler is not None and not isinstance(loader, DataLoader)):
        if by_position:
            name = type(sampler).__name__
            raise DataError(
                f"the results are rows in the order of the data set, but {name} decides which "
                "samples the loader reads, and in which order: use a loader without a sampler, on "
                "a Subset if you need only some of the samples"
            )
        return _explained_passes(loader if ordered is None else ordered)
    return _explained_passes(ordered)


def _explained_passes(loader: Iterable) -> Iterable:
    """Return a torch loader with its errors explained, and any other loader as it is."""
    return _explained(None, loader) if isinstance(loader, DataLoader) else loader


def _explained(iterator: Iterator | None, loader: Iterable) -> Iterator:
    """Yield the batches of a torch loader, with its errors explained.

    Args:
        iterator: the pass in progress; None starts one.
        loader: where it comes from.

    Raises:
        DataError: items couldn't be stacked, or one of them raised StopIteration, which would end
            the epoch early, without a word.
    """
    iterator = iter(loader) if iterator is None else iterator
    dataset = getattr(loader, "dataset", None)
    for number in count():
        try:
            batch = next(iterator)
        except StopIteration as end:
            functions = {frame.f_code.co_name for frame, _ in walk_tb(end.__traceback__)}
            from_an_item = isinstance(loader, DataLoader) and functions & {"fetch", "reraise"}
            if from_an_item and not isinstance(dataset, IterableDataset):
                raise DataError(
                    f"an item in batch {number} of the data set ({type(dataset).__name__}) "
                    "raised StopIteration, which means the end of an iterator: __getitem__ must "
                    "return the item. Is there a next(...) in it, on something that has ended?"
                ) from None
            return
        except (TypeError, RuntimeError) as error:
            explanation = explain_stacking(str(error))
            if explanation is None:
                raise
            raise DataError(explanation) from error
        yield batch


def _ordered(loader: DataLoader) -> Iterable | None:
    """Return a torch loader that reads everything in order; None if its sampler decides."""
    if isinstance(loader.dataset, IterableDataset):
        return loader
    sampler = loader.sampler
    whole = isinstance(sampler, RandomSampler | SequentialSampler) or hasattr(sampler, "weights")
    if loader.batch_size is None or not whole:
        return None
    if isinstance(sampler, SequentialSampler) and not loader.drop_last:
        return loader
    twin = copy.copy(loader)
    # DataLoader refuses to have these set; a new one would lose the options of a subclass.
    order = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    vars(twin)["sampler"], vars(twin)["drop_last"] = order, False
    vars(twin)["batch_sampler"] = torch.utils.data.BatchSampler(order, loader.batch_size, False)
    vars(twin)["_iterator"] = None
    return twin
