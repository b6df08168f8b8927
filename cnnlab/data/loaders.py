"""Batches in an order that is a function of (seed, epoch), from memory or any torch dataset.

A pass can therefore be repeated, resumed in its middle, or watched, and nothing needs to be saved
but two numbers. Random transforms are seeded by (seed, epoch, index of the image): the number of
workers, the other loaders and your own random numbers do not matter to them, and are not disturbed
by them.
"""

import copy
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_start_method
from multiprocessing.queues import Queue
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, TensorDataset

from cnnlab import rng
from cnnlab.data.images import ImageSet, Part, unit
from cnnlab.data.seeding import generators_in, seeded
from cnnlab.errors import DataError


Source = Dataset[Any] | Part
Batch = Any  # (images, labels) for our own sets; whatever the dataset's items collate to for others


class Ordered(Protocol):
    """A sampler that knows the indices of any epoch without drawing those of the epochs before."""

    def order(self, epoch: int) -> Tensor:
        """Return the indices of that epoch, int64 (n,)."""


def loader(
    dataset: Source,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = False,
    sampler: Ordered | Sampler[int] | Sequence[int] | Tensor | None = None,
    drop_last: bool | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> "Loader":
    """Return the batches of a dataset, in an order that depends on (seed, epoch) alone.

    Args:
        dataset: an `ImageSet`, a `TensorDataset`, or a `Subset` of one (indexed a whole batch at
            once), or any dataset with `len` and an index (read by a torch `DataLoader`).
        batch_size: images in a batch.
        seed: chooses the order, and the random transforms of a dataset that has some.
        shuffle: a new random order each epoch; otherwise the order of the dataset.
        sampler: which images to take, instead of `shuffle`: a torch sampler, indices, or an object
            with `.order(epoch)`.
        drop_last: leave out a short last batch. None means: yes when shuffling or sampling, where
            batch norm cannot train on a batch of one, unless it is the only batch; no in dataset
            order.
        workers: processes that read the data; for data in memory there are none. They keep the
            dataset as it was when they started: to change its attributes, make a new loader.
        device: where the batches go. Data in memory moves there once, and is indexed there.

    Raises:
        ValueError: nothing would be left to iterate over, or the options contradict each other.
        TypeError: the dataset has no length or no index.

    >>> from torch.utils.data import TensorDataset
    >>> batches = loader(TensorDataset(torch.arange(10)), 4, shuffle=True)
    >>> len(batches), len(batches.ordered()), [x.tolist() for (x,) in batches.ordered()][0]
    (2, 3, [0, 1, 2, 3])
    """
    _check_dataset(dataset, batch_size)
    if shuffle and sampler is not None:
        raise ValueError(
            "a sampler decides the order itself: leave out shuffle=True, or the sampler"
        )
    made = Loader(dataset, batch_size, seed, shuffle, sampler, drop_last, workers, device)
    made.check()
    return made


class Loader:
    """What `loader` returns: iterate over it for the batches of the epoch it stands at.

    The epoch advances when a pass has come to its end, so a look at `next(iter(batches))` changes
    nothing, and two passes at the same time do not meet.
    """

    def __init__(
        self,
        dataset: Source,
        batch_size: int,
        seed: int,
        shuffle: bool,
        sampler: Any,
        drop_last: bool | None,
        workers: int,
        device: torch.device | str | None,
    ) -> None:
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.shuffle, self.sampler, self.workers, self.device = shuffle, sampler, workers, device
        self.drop_last = drop_last
        self.epoch = 0
        self._first_batch = 0
        self._source = _in_memory(dataset, device) or _Torch(dataset, seed, workers, device)

    def __len__(self) -> int:
        whole, rest = divmod(self._n_indices(), self.batch_size)
        return whole + (rest > 0 and not self._drops(whole))

    def __iter__(self) -> Iterator[Batch]:
        return self._pass(self.epoch, self._first_batch)

    def __repr__(self) -> str:
        size = f"{len(self)} batches of {self.batch_size}"
        return f"Loader({size}, seed {self.seed}, epoch {self.epoch})"

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Make the next pass begin at a batch of an epoch, without loading what is skipped.

        Args:
            epoch: epochs finished before it.
            batch: batches of it finished before.

        Raises:
            ValueError: the epoch has no such batch.
        """
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(f"no batch {batch} in epoch {epoch}: an epoch has {len(self)} batches")
        self.epoch, self._first_batch = epoch, batch

    def ordered(self) -> "Loader":
        """Return a loader of the same data for measuring: in dataset order, nothing left out.

        A sampler is kept, at its first epoch: it says which images there are.
        """
        twin = copy.copy(self)
        twin.shuffle, twin.drop_last = False, False
        twin.seek(0)
        return twin

    def indices(self, epoch: int) -> Tensor:
        """Return which images that epoch takes, in order and before batches are cut, int64 (n,)."""
        n = len(cast(Any, self.dataset))
        if self.sampler is not None:
            return _check_indices(_sampled(self.sampler, self.seed, epoch), n)
        if self.shuffle:
            return torch.randperm(n, generator=rng.generator(self.seed, epoch))
        return torch.arange(n)

    def check(self) -> None:
        """Raise ValueError when an epoch would have no batch."""
        n = self._n_indices()
        if n == 0:
            raise ValueError(f"the sampler takes none of {len(cast(Any, self.dataset))} images")
        if len(self) == 0:
            raise ValueError(
                f"drop_last=True leaves no batch: {n} images, batch_size={self.batch_size}. "
                f"Use batch_size={n} or less, or drop_last=None"
            )
        if self.sampler is not None:
            self.indices(0)

    def _pass(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        batches = self.indices(epoch).split(self.batch_size)[: len(self)][first_batch:]
        yield from self._source.fetch(batches, epoch)
        if self.epoch == epoch:  # else another pass, or a seek, has moved on
            self.seek(epoch + 1)

    def _drops(self, whole_batches: int) -> bool:
        if self.drop_last is None:
            return (self.shuffle or self.sampler is not None) and whole_batches > 0
        return self.drop_last

    def _n_indices(self) -> int:
        counted = self.dataset if self.sampler is None else self.sampler
        return len(cast(Any, counted)) if hasattr(counted, "__len__") else len(self.indices(0))


class _Memory:
    """Tensors that share their first axis: a batch is one indexing operation on each."""

    def __init__(self, tensors: Iterable[Tensor], lookup: Tensor | None, is_images: bool) -> None:
        self.tensors, self.lookup, self.is_images = tuple(tensors), lookup, is_images

    def fetch(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield the batches; the epoch plays no part, since nothing here is random."""
        for indices in batches:
            rows = indices if self.lookup is None else self.lookup[indices]
            first, *others = (tensor[rows.to(tensor.device)] for tensor in self.tensors)
            yield (unit(first) if self.is_images else first, *others)


class _Torch:
    """Any other dataset, read through torch's DataLoader."""

    def __init__(self, dataset: Source, seed: int, workers: int, device: Any) -> None:
        self.dataset, self.workers, self.device = _Seeded(dataset, seed), workers, device
        # A DataLoader that keeps its workers can serve one pass at a time; those at rest wait here.
        self.idle: list[DataLoader[Any]] = []

    def fetch(self, batches: Sequence[Tensor], epoch: int) -> Iterator[Batch]:
        """Yield the batches; a pass that is given up takes its workers with it."""
        served = self.idle.pop() if self.idle else self._start()
        cast(_Batches, served.batch_sampler).pairs = [
            [(epoch, i) for i in batch.tolist()] for batch in batches
        ]
        try:
            for batch in served:
                yield _moved(tuple(batch) if isinstance(batch, list) else batch, self.device)
        except BaseException as error:
            with suppress(RuntimeError):  # the death of another worker may be told while they end
                _end_workers(served)
            if fault := _explained(error):
                raise fault from error
            raise
        self.idle.append(served)

    def _start(self) -> DataLoader[Any]:
        if self.workers:
            _check_can_travel(self.dataset.dataset)
        # With a generator of its own, iter() draws nothing from the global one.
        return DataLoader(
            self.dataset,
            batch_sampler=cast(Any, _Batches()),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=_end_with_a_lost_batch,
            generator=torch.Generator(),
        )


class _Batches:
    """The batch sampler of one DataLoader: lists of (epoch, index), laid down before each pass."""

    pairs: Sequence[list[tuple[int, int]]] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class _Seeded(Dataset[Any]):
    """A dataset asked by (epoch, index), whose random numbers depend on nothing else."""

    def __init__(self, dataset: Source, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.own = generators_in(dataset)

    def __getitem__(self, pair: tuple[int, int]) -> Any:
        epoch, index = pair
        with seeded(self.seed, epoch, index, own=self.own):
            return self.dataset[index]


def _check_can_travel(dataset: Source) -> None:
    """Refuse worker processes that could not find the class of the dataset.

    Raises:
        DataError: the class was written in a notebook, and workers begin as new processes, as on Windows and
            macOS, and since Python 3.14 on Linux.
    """
    kind = type(_unwrap(dataset)[0])
    typed_in = kind.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    if typed_in and get_start_method() != "fork":
        raise DataError(
            f"{kind.__name__} is defined in this notebook, where worker processes cannot find it: use "
            "workers=0, or move the class into a file of its own and import it"
        )


def _explained(error: BaseException) -> DataError | None:
    """What happened to the workers, if it was not an error raised in the dataset."""
    told = str(error)
    if isinstance(error, ConnectionError | EOFError) and "in DataLoader worker" not in told:
        told = "exited unexpectedly"  # it was noticed at the pipe first
    elif not isinstance(error, RuntimeError):
        return None
    if re.search(r"shared memory|shm|/torch_\d+|ancdata|Too many open files", told):
        return DataError(
            "the memory that worker processes share with this one is full (a container often has 64 MB of it); "
            "use workers=0, smaller batches, or docker run --shm-size=2g"
        )
    if "exited unexpectedly" in told or "killed by signal" in told:
        return DataError(
            "a worker process died; workers=0 shows its error. In a container the memory that worker processes "
            "share may be full: docker run --shm-size=2g"
        )
    return None


def _end_with_a_lost_batch(worker: int) -> None:
    """Called in each worker: a batch that cannot be sent would be dropped, and waited for without an end."""
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))  # type: ignore[attr-defined]


def _end_workers(served: DataLoader[Any]) -> None:
    """End the processes now: the traceback of an error, which a notebook keeps, would keep them alive."""
    iterator: Any = getattr(served, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _in_memory(dataset: Source, device: Any) -> _Memory | None:
    """The tensors behind the dataset, or None where its items have to be asked for one by one."""
    dataset, lookup = _unwrap(dataset)
    get = type(dataset).__getitem__  # a subclass with a way of its own is not passed over
    if isinstance(dataset, ImageSet) and get is ImageSet.__getitem__:
        return _Memory(_moved((dataset.images, dataset.labels), device), lookup, is_images=True)
    if isinstance(dataset, TensorDataset) and get is TensorDataset.__getitem__:
        return _Memory(_moved(dataset.tensors, device), lookup, is_images=False)
    return None


def _unwrap(dataset: Source) -> tuple[Source, Tensor | None]:
    """Look through nested subsets: the dataset at the bottom, and the indices into it."""
    if type(dataset) is not Subset:
        return dataset, None
    inner, lookup = _unwrap(dataset.dataset)
    indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
    return inner, indices if lookup is None else lookup[indices]


def _moved(batch: Batch, device: Any) -> Batch:
    """The batch with each of its tensors on the device."""
    if device is None:
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: _moved(value, device) for key, value in batch.items()}
    return tuple(_moved(value, device) for value in batch) if isinstance(batch, tuple) else batch


def _sampled(sampler: Any, seed: int, epoch: int) -> Tensor:
    """The indices a sampler gives in an epoch; its own random state is left as it was found."""
    if hasattr(sampler, "order"):
        return torch.as_tensor(sampler.order(epoch))
    if hasattr(sampler, "set_epoch"):  # torch's DistributedSampler
        sampler.set_epoch(epoch)
    own = getattr(sampler, "generator", None)
    if not isinstance(own, torch.Generator):
        with seeded(seed, epoch):
            return torch.as_tensor(list(sampler))
    state = own.get_state()
    own.manual_seed(rng.fold_in(seed, own.initial_seed(), epoch))
    try:
        return torch.as_tensor(list(sampler))
    finally:
        own.set_state(state)


def _check_indices(indices: Tensor, n: int) -> Tensor:
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise TypeError(
            "a sampler must give one integer an image; give batch samplers to torch itself"
        )
    if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < n):
        raise ValueError(
            f"the sampler gave indices from {int(indices.min())} to {int(indices.max())}, but the "
            f"dataset has {n} images, numbered 0 to {n - 1}"
        )
    return indices.to(torch.int64)


def _check_dataset(dataset: Source, batch_size: int) -> None:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{type(dataset).__name__} has no length and no index, which an order needs"
        )
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: 0 images")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
