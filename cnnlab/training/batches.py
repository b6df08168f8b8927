"""Batches from any kind of loader, in an order that depends only on the seed and the epoch."""

import copy
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from traceback import walk_tb
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from cnnlab.data.loaders import explain_stacking
from cnnlab.data.samplers import sampler_of
from cnnlab.data.seeding import (
    find_generators,
    preserved_except_torch,
    seed_everything,
    seed_generator,
)
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
    sampler: Any = sampler_of(loader)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    with _seeded_sources(loader, seed, epoch):
        seed_at(seed, epoch)
        iterator = _explained(iter(loader), loader)
        for number in count():
            seed_everything(seed, epoch, number, 1)
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if number >= start:
                yield batch


@contextmanager
def _seeded_sources(loader: Any, seed: int, epoch: int) -> Iterator[None]:
    """Seed the generators that a foreign loader holds, and restore them afterwards.

    They may be in its samplers, its data set or its transforms. numpy's and Python's global
    generators are restored as well; torch's belong to the trainer. Workers that outlive an epoch
    would go on with the random numbers of the epoch before, so they are started again.
    """
    if getattr(loader, "persistent_workers", False):
        loader._iterator = None
    generators = find_generators(loader)
    with preserved_except_torch(generators):
        for number, generator in enumerate(generators):
            seed_generator(generator, fold_in(seed, epoch, number, 3))
        yield


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
    sampler: Any = getattr(loader, "sampler", None)
    if isinstance(loader, DataLoader):
        ordered, chosen = _complete(loader)
        if chosen and by_position:
            own = loader.batch_sampler
            _refuse_order(sampler_of(loader) if type(own) in (BatchSampler, type(None)) else own)
        return _explained(None, ordered)
    if not hasattr(loader, "ordered"):
        return loader
    ordered = loader.ordered()
    if hasattr(sampler, "weights"):
        ordered.sampler = None
    elif sampler is not None and by_position:
        _refuse_order(sampler)
    return ordered


def _refuse_order(sampler: Any) -> None:
    raise DataError(
        f"the results are rows in the order of the data set, but {type(sampler).__name__} decides "
        "which samples the loader reads, and in which order: use a loader without a sampler, on "
        "a Subset if you need only some of the samples"
    )


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
                    "raised StopIteration, which would end the epoch early. __getitem__ must "
                    "return the item: look for a next(...) in it on an iterator that is exhausted"
                ) from None
            return
        except (TypeError, RuntimeError) as error:
            explanation = explain_stacking(str(error))
            if explanation is None:
                raise
            raise DataError(explanation) from error
        yield batch


def _complete(loader: DataLoader) -> tuple[DataLoader, bool]:
    """Return a torch loader that drops nothing, and whether its sampler still decides the order.

    Shuffling and sampling by weights are for training, so such a loader is read in order.
    """
    batch_sampler = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or type(batch_sampler) is not BatchSampler:
        sequential = isinstance(loader.sampler, SequentialSampler) and batch_sampler is None
        return loader, not (sequential or isinstance(loader.dataset, IterableDataset))
    sampler: Any = batch_sampler.sampler
    in_order = isinstance(sampler, SequentialSampler) or sampler == range(len(loader.dataset))  # type: ignore[arg-type]
    for_training = isinstance(sampler, RandomSampler) or hasattr(sampler, "weights")
    if not for_training and not batch_sampler.drop_last:
        return loader, not in_order
    if for_training:
        sampler, in_order = SequentialSampler(loader.dataset), True  # type: ignore[arg-type]
    twin = copy.copy(loader)
    # DataLoader refuses to have these set; a new one would lose the options of a subclass.
    vars(twin)["batch_sampler"] = BatchSampler(sampler, batch_sampler.batch_size, False)
    vars(twin)["sampler"], vars(twin)["drop_last"], vars(twin)["_iterator"] = sampler, False, None
    return twin, not in_order
