"""Batches in an order that depends only on (seed, epoch), from memory or from any torch data set.

So a pass can be repeated or resumed in its middle, and two numbers are all there is to save. Random
transforms are seeded by (seed, epoch, index of the image). They don't depend on the number of
workers, on other loaders or on your own random numbers, and don't disturb them either.
"""

import copy
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_start_method
from multiprocessing.queues import Queue
from operator import index as as_index
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    TensorDataset,
    default_collate,
)

from cnnlab import rng
from cnnlab.data.arrays import as_indices, as_labels, as_pixels, as_tensor, channels_first, is_array
from cnnlab.data.images import ImageSet, unit
from cnnlab.data.samplers import check_sampler
from cnnlab.data.seeding import find_generators, preserved, seed_everything, seeded
from cnnlab.devices import to_device
from cnnlab.errors import DataError


Source = Any  # a data set of torch, a `Split`, or a pair (images, labels) of arrays
Batch = Any  # (images, labels) for our own sets; whatever the items collate to for others


class EpochSampler(Protocol):
    """A sampler that can compute the indices of any epoch directly."""

    def order(self, epoch: int) -> Tensor:
        """Return the indices of that epoch, int64 (n,)."""


def loader(
    dataset: Source,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = False,
    sampler: EpochSampler | Sampler[int] | Sequence[int] | Tensor | None = None,
    drop_last: bool | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
) -> "Loader":
    """Return the batches of a data set, in an order that depends only on (seed, epoch).

    Args:
        dataset: an `ImageSet`, a `TensorDataset` or a `Subset` of one, which are indexed one whole
            batch at a time; a pair (images, labels) of tensors or numpy arrays; or any data set
            with a length and an index, read by a torch `DataLoader`. In a pair, images of uint8
            become floats in [0, 1], the channels may be last, and numpy's float64 becomes float32.
        batch_size: images per batch.
        seed: determines the order, and the random transforms of the data set if it has any.
        shuffle: use a new random order in each epoch, instead of the order of the data set.
        sampler: determines which images to use, instead of `shuffle`: a torch sampler, indices, or
            an object with a method `order(epoch)`.
        drop_last: leave out a last batch that is too small. None drops it when shuffling or
            sampling, unless it's the only batch, because batch norm can't train on a batch of one;
            in data-set order nothing is dropped.
        workers: processes that read the data; data in memory needs none. They have a copy of the
            data set, so if you change an attribute of it, make a new loader.
        device: where the batches go. Data in memory is moved there once, and indexed there.

    Raises:
        ValueError: there would be no batch, or two arguments contradict each other.
        TypeError: the data set has no length or no index.
        DataError: the sampler was made for another data set, or the arrays of a pair don't have
            equal lengths.

    >>> from torch.utils.data import TensorDataset
    >>> batches = loader(TensorDataset(torch.arange(10)), 4, shuffle=True)
    >>> len(batches), len(batches.ordered()), [x.tolist() for (x,) in batches.ordered()][0]
    (2, 3, [0, 1, 2, 3])
    """
    dataset = _from_arrays(dataset)
    batch_size = _check_dataset(dataset, batch_size)
    check_sampler(sampler, dataset)
    if shuffle and sampler is not None:
        raise ValueError("a sampler determines the order: pass either shuffle=True or the sampler")
    batches = Loader(dataset, batch_size, seed, shuffle, sampler, drop_last, workers, device)
    batches.check()
    return batches


class Loader:
    """An iterable over the batches of the current epoch, as returned by `loader`.

    The epoch advances at the end of a complete pass. So `next(iter(batches))` changes nothing, and
    two simultaneous passes don't interfere.
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
        in_memory = _memory_reader(dataset, device)
        self._reader = in_memory or _DataLoaderReader(dataset, seed, workers, device)

    def __len__(self) -> int:
        full, rest = divmod(self._n_indices(), self.batch_size)
        return full + (rest > 0 and not self._drops_last(full))

    def __iter__(self) -> Iterator[Batch]:
        return self._pass(self.epoch, self._first_batch)

    def __repr__(self) -> str:
        size = f"{len(self)} batch{'es' * (len(self) != 1)} of {self.batch_size}"
        return f"Loader({size}, seed {self.seed}, epoch {self.epoch})"

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Start the next pass at a given batch of an epoch, without loading the batches before it.

        Args:
            epoch: number of finished epochs.
            batch: number of finished batches of that epoch.

        Raises:
            ValueError: the epoch has no such batch.
        """
        self._check_position(epoch, batch)
        self.epoch, self._first_batch = epoch, batch

    def epoch_batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Return the batches of an epoch from number `start` on, without moving the loader.

        Class indices stay on the CPU even if the images are on a GPU: the `Trainer`, which calls
        this, checks them there.

        Args:
            epoch: number of finished epochs.
            start: number of finished batches of that epoch.

        Raises:
            ValueError: the epoch has no such batch.
        """
        self._check_position(epoch, start)
        return self._read(epoch, start, labels_on_host=True)

    def _check_position(self, epoch: int, batch: int) -> None:
        if epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(
                f"cannot start at batch {batch} of epoch {epoch}: an epoch has {len(self)} "
                "batches, and epochs count from 0"
            )

    def ordered(self) -> "Loader":
        """Return a loader of the same data for evaluation: in data-set order, with every image.

        A sampler is kept, at its first epoch, because it determines which images are used.
        """
        twin = copy.copy(self)
        twin.shuffle, twin.drop_last = False, False
        twin.seek(0)
        return twin

    def indices(self, epoch: int) -> Tensor:
        """Return the indices of the images of an epoch, in order, int64 (n,).

        A last batch that is dropped is included.
        """
        n = len(cast(Any, self.dataset))
        if self.sampler is not None:
            return _check_indices(_sample(self.sampler, self.seed, epoch), n)
        if self.shuffle:
            return torch.randperm(n, generator=rng.generator(self.seed, epoch))
        return torch.arange(n)

    def check(self) -> None:
        """Raise ValueError if an epoch would have no batch."""
        n = self._n_indices()
        if n == 0:
            raise ValueError(
                f"the sampler selects none of the {len(cast(Any, self.dataset))} images"
            )
        if len(self) == 0:
            raise ValueError(
                f"drop_last=True leaves no batch, because {n} images are less than one batch of "
                f"{self.batch_size}. Use batch_size={n} or less, or drop_last=None"
            )
        if self.sampler is not None:
            self.indices(0)

    def _pass(self, epoch: int, first_batch: int) -> Iterator[Batch]:
        yield from self._read(epoch, first_batch)
        if self.epoch == epoch:  # unless another pass or a seek has changed it
            self.seek(epoch + 1)

    def _read(self, epoch: int, first_batch: int, labels_on_host: bool = False) -> Iterator[Batch]:
        batches = self.indices(epoch).split(self.batch_size)[: len(self)][first_batch:]
        return self._reader.read(batches, epoch, labels_on_host)

    def _drops_last(self, full_batches: int) -> bool:
        """Return whether a last batch that is too small is left out."""
        if self.drop_last is None:
            return (self.shuffle or self.sampler is not None) and full_batches > 0
        return self.drop_last

    def _n_indices(self) -> int:
        """Return the number of images per epoch, before a last batch is dropped."""
        counted = self.dataset if self.sampler is None else self.sampler
        return len(cast(Any, counted)) if hasattr(counted, "__len__") else len(self.indices(0))


class _MemoryReader:
    """Reads tensors with a common first axis: one indexing operation per tensor and batch."""

    def __init__(
        self, tensors: Iterable[Tensor], lookup: Tensor | None, is_images: bool, device: Any
    ) -> None:
        self.lookup, self.is_images = lookup, is_images
        self.given = tuple(tensors)
        self.tensors = self.given if device is None else tuple(x.to(device) for x in self.given)

    def read(
        self, batches: Sequence[Tensor], epoch: int, labels_on_host: bool = False
    ) -> Iterator[Batch]:
        """Yield the batches; they don't depend on the epoch, because nothing here is random."""
        tensors = [
            given.cpu() if labels_on_host and _are_labels(given) else moved
            for given, moved in zip(self.given, self.tensors, strict=True)
        ]
        for indices in batches:
            rows = indices if self.lookup is None else self.lookup[indices]
            first, *others = (x.index_select(0, to_device(rows, x.device)) for x in tensors)
            yield (unit(first) if self.is_images else first, *others)


def _are_labels(values: Tensor) -> bool:
    """Return whether these are class indices, one number per image."""
    return values.ndim == 1 and not (values.is_floating_point() or values.is_complex())


class _DataLoaderReader:
    """Reads any other data set with torch's DataLoader, and with worker processes if requested."""

    def __init__(self, dataset: Source, seed: int, workers: int, device: Any) -> None:
        self.dataset, self.workers, self.device = _SeededDataset(dataset, seed), workers, device
        # A DataLoader with persistent workers serves one pass at a time; idle ones are kept here.
        self.idle: list[DataLoader[Any]] = []

    def read(
        self, batches: Sequence[Tensor], epoch: int, labels_on_host: bool = False
    ) -> Iterator[Batch]:
        """Yield the batches; a pass that ends early ends its worker processes too."""
        data_loader = self.idle.pop() if self.idle else self._make_loader()
        cast(_BatchList, data_loader.batch_sampler).pairs = [
            [(epoch, i) for i in batch.tolist()] for batch in batches
        ]
        try:
            for batch in data_loader:
                batch = tuple(batch) if isinstance(batch, list) else batch
                yield _to_device(batch, self.device)
        except BaseException as error:
            with suppress(RuntimeError):  # another worker may die meanwhile
                _shut_down_workers(data_loader)
            if explanation := _explain_worker_error(error, self.workers):
                raise explanation from (None if isinstance(error, DataError) else error)
            raise
        self.idle.append(data_loader)

    def _make_loader(self) -> DataLoader[Any]:
        if self.workers:
            _check_importable(self.dataset.dataset)
        return DataLoader(
            self.dataset,
            batch_sampler=cast(Any, _BatchList()),
            collate_fn=collate,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            worker_init_fn=_exit_if_a_batch_is_lost,
            generator=torch.Generator(),  # so that iter() draws nothing from the global one
        )


class _BatchList:
    """The batch sampler of a DataLoader: lists of (epoch, index), set before each pass."""

    pairs: Sequence[list[tuple[int, int]]] = ()

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class _SeededDataset(Dataset[Any]):
    """A data set indexed by lists of (epoch, index), which also determine its random numbers."""

    def __init__(self, dataset: Source, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.generators = find_generators(dataset)

    def __getitems__(self, pairs: list[tuple[int, int]]) -> list[Any]:
        """Return the items of a batch; the generators' states are read once for all of them."""
        with preserved(self.generators):
            return [self._item(epoch, index) for epoch, index in pairs]

    def _item(self, epoch: int, index: int) -> Any:
        seed_everything(self.seed, epoch, index, generators=self.generators)
        try:
            return self.dataset[index]
        except StopIteration:  # would end the loop over the batches, as if there were no more
            raise DataError(
                f"item {index} of the data set ({type(self.dataset).__name__}) raised "
                "StopIteration, which would end the epoch early. __getitem__ must return the item: "
                "look for a next(...) in it on an iterator that is exhausted"
            ) from None


def collate(items: list[Any]) -> Any:
    """Stack the items of a batch as torch's `default_collate` does.

    Raises:
        DataError: they can't be stacked; the message says why.
    """
    try:
        return default_collate(items)
    except (TypeError, RuntimeError) as error:
        if explanation := _explain_items(items):
            raise DataError(explanation) from error
        raise


def _explain_items(items: list[Any]) -> str | None:
    """Return why the items of a batch can't be stacked, and what to do."""
    rows = [item if isinstance(item, list | tuple) else (item,) for item in items]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        return f"the items have different lengths, {lengths}: return (image, label) for each"
    for values in zip(*rows, strict=True):
        types = {type(value).__module__.split(".")[0] for value in values}
        if "PIL" in types:
            return f"the items contain PIL images, which can't be stacked: {_TO_TENSOR}"
        if any(value is None for value in values):
            return "an item contains None, which can't be stacked: leave out such samples"
        shapes = {tuple(np.shape(value)): None for value in values if hasattr(value, "shape")}
        if len(shapes) > 1:
            first, second = list(shapes)[:2]
            return (
                f"the items of a batch have different shapes, such as {first} and {second}, and "
                f"can't be stacked: {_RESIZE}"
            )
    return None


def explain_stacking(text: str) -> str | None:
    """Return a clearer sentence for an error of torch's `default_collate`; None for others."""
    if "default_collate" in text and "PIL" in text:
        return f"the items contain PIL images, which can't be stacked: {_TO_TENSOR}"
    if "stack expects each tensor to be equal size" in text:
        return f"the items of a batch have different shapes and can't be stacked: {_RESIZE}"
    return None


_TO_TENSOR = "convert them in the data set, with torchvision's transforms.ToTensor()"
_RESIZE = (
    "bring the images to one size in the data set, with torchvision's transforms.Resize((64, 64)), "
    "or from_folder(path, size=64)"
)


def _check_importable(dataset: Source) -> None:
    """Raise DataError if worker processes couldn't start, or import the class of the data set.

    Workers that start as new processes, as they do on Windows and macOS, and since Python 3.14 on
    Linux, can't import a class from a notebook, and run a script from its beginning.
    """
    if get_start_method() == "fork":
        return
    cls, main = type(_unwrap(dataset)[0]), sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if cls.__module__ == "__main__" and script is None:
        raise DataError(
            f"{cls.__name__} is defined in this notebook, where worker processes can't import it. "
            "Use workers=0, or move the class to a .py file and import it from there"
        )
    if script is not None and _has_no_guard(Path(script)):
        raise DataError(
            "worker processes run this script from its beginning, and would start workers in turn. "
            f'Put what {Path(script).name} does under if __name__ == "__main__":, or use workers=0'
        )


def _has_no_guard(script: Path) -> bool:
    """Return whether a script certainly has no `if __name__ == "__main__":`."""
    try:
        return script.suffix == ".py" and "__main__" not in script.read_text(errors="replace")
    except OSError:
        return False


def _explain_worker_error(error: BaseException, workers: int) -> DataError | None:
    """Return an explanation if worker processes failed; None for an error inside the data set."""
    text = str(error)
    if isinstance(error, DataError) and "in DataLoader worker" in text:
        return DataError(text.rpartition("DataError: ")[2].strip())  # without its traceback
    if workers and "in DataLoader worker" not in text and re.search("pickle|local object", text):
        return DataError(
            f"the data set can't be sent to worker processes ({text}). Replace lambdas, and move "
            "functions and classes to the top level of a .py file; or use workers=0"
        )
    if isinstance(error, ConnectionError | EOFError) and "in DataLoader worker" not in text:
        text = "exited unexpectedly"  # the broken pipe was noticed first
    elif not isinstance(error, RuntimeError):
        return None
    if re.search(r"shared memory|shm|/torch_\d+|ancdata|Too many open files", text):
        return DataError(
            "the memory that worker processes share with this one is full; containers often have "
            "only 64 MB of it. Use workers=0, smaller batches, or docker run --shm-size=2g"
        )
    if "exited unexpectedly" in text or "killed by signal" in text:
        guard = '. A script needs if __name__ == "__main__": around what it does'
        return DataError(
            "a worker process died; use workers=0 to see its error. In a container, the memory "
            "that worker processes share may be full: use docker run --shm-size=2g"
            + guard
            * (get_start_method() != "fork")
        )
    return None


def _exit_if_a_batch_is_lost(worker: int) -> None:
    """Make a worker exit if it can't send a batch; otherwise we would wait for it forever."""
    on_error = staticmethod(lambda error, batch: os._exit(1))
    Queue._on_queue_feeder_error = on_error  # type: ignore[attr-defined]


def _shut_down_workers(data_loader: DataLoader[Any]) -> None:
    """End the worker processes now; a traceback stored by a notebook would keep them alive."""
    iterator: Any = getattr(data_loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _memory_reader(dataset: Source, device: Any) -> _MemoryReader | None:
    """Return a reader of the tensors behind a data set; None if items must be read one by one."""
    dataset, lookup = _unwrap(dataset)
    get = type(dataset).__getitem__  # a subclass with its own method must be asked item by item
    if isinstance(dataset, ImageSet) and get is ImageSet.__getitem__:
        return _MemoryReader((dataset.images, dataset.labels), lookup, True, device)
    if isinstance(dataset, TensorDataset) and get in _TENSORS:
        return _MemoryReader(dataset.tensors, lookup, get is _Pixels.__getitem__, device)
    return None


def _unwrap(dataset: Source) -> tuple[Source, Tensor | None]:
    """Return the data set behind nested subsets, and the indices into it."""
    if type(dataset) is not Subset:
        return dataset, None
    inner, lookup = _unwrap(dataset.dataset)
    if np.asarray(dataset.indices).dtype == bool:
        raise DataError(
            "a Subset takes integer indices, and would read the booleans of a mask as 0 and 1: use "
            "Subset(dataset, mask.nonzero().flatten().tolist())"
        )
    n = len(cast(Any, dataset.dataset))
    indices = as_indices(dataset.indices, n)
    outside = indices[(indices < -n) | (indices >= n)]
    if len(outside):
        raise DataError(
            f"a Subset asks for index {int(outside[0])} of a data set with {n} items, whose "
            f"indices run from 0 to {n - 1}"
        )
    positions = indices % n  # -1 is the last item
    return inner, positions if lookup is None else lookup[positions]


def _to_device(batch: Batch, device: Any) -> Batch:
    """Move every tensor in a batch to the device."""
    if device is None:
        return batch
    if isinstance(batch, Tensor):
        return to_device(batch, torch.device(device))
    if isinstance(batch, dict):
        return {key: _to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_to_device(value, device) for value in batch)
    return batch


def _sample(sampler: Any, seed: int, epoch: int) -> Tensor:
    """Return the indices that a sampler gives in an epoch; its own generator isn't advanced."""
    if hasattr(sampler, "order"):
        return torch.as_tensor(sampler.order(epoch))
    if hasattr(sampler, "set_epoch"):  # torch's DistributedSampler
        sampler.set_epoch(epoch)
    generator = getattr(sampler, "generator", None)
    if not isinstance(generator, torch.Generator):
        with seeded(seed, epoch):
            return torch.as_tensor(list(sampler))
    state = generator.get_state()
    generator.manual_seed(rng.fold_in(seed, generator.initial_seed(), epoch))
    try:
        return torch.as_tensor(list(sampler))
    finally:
        generator.set_state(state)


def _check_indices(indices: Tensor, n: int) -> Tensor:
    """Return the indices as int64, unless they aren't indices into n images."""
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise TypeError(
            f"a sampler must give one integer per image, got {indices.dtype} of shape "
            f"{tuple(indices.shape)}. For a batch sampler, use torch's own DataLoader"
        )
    if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < n):
        raise ValueError(
            f"the sampler gave indices from {int(indices.min())} to {int(indices.max())}, but the "
            f"data set has {n} images, with indices 0 to {n - 1}"
        )
    return indices.to(torch.int64)


def _from_arrays(dataset: Source) -> Source:
    """Return (images, labels), or more arrays of one length, as a data set; others as they are."""
    if not (isinstance(dataset, list | tuple) and dataset and is_array(dataset[0])):
        return dataset
    # A list of tensors of one shape may be a list of images.
    is_pair = len(dataset) == 2 and np.shape(dataset[0]) != np.shape(dataset[1])
    if not is_pair and not (isinstance(dataset, tuple) and all(map(is_array, dataset))):
        return dataset
    lengths = [len(array) if hasattr(array, "__len__") else None for array in dataset]
    if len(set(lengths)) > 1:
        raise DataError(
            f"the images and labels have different lengths, {lengths}: give one label per image. "
            "For a single sample, use [(image, label)]"
        )
    images, *others = dataset
    return _pair(images, others)


def _pair(images: Any, others: list[Any]) -> Source:
    """Return images and their labels or other targets as a data set in memory."""
    targets = [_as_target(values) for values in others]
    inputs = as_tensor(images)
    if inputs.dtype == torch.uint8 and inputs.ndim in (3, 4):
        return _Pixels(as_pixels(inputs), *targets)
    if inputs.dtype == torch.float64 and not isinstance(images, Tensor):
        inputs = inputs.float()
    return TensorDataset(channels_first(inputs) if inputs.ndim == 4 else inputs, *targets)


class _Pixels(TensorDataset):
    """A `TensorDataset` whose first tensor has uint8 pixels, which are read as floats in [0, 1]."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        first, *others = super().__getitem__(index)
        return (unit(first), *others)


def _as_target(values: Any) -> Tensor:
    """Return targets as a tensor: class indices as int64, and numpy's float64 as float32."""
    target = values if isinstance(values, Tensor) else None
    if target is None:
        target = as_labels(values) if np.asarray(values).dtype.kind in "OUS" else as_tensor(values)
        target = target.float() if target.dtype == torch.float64 else target
    is_number = target.ndim == 1 and not (target.is_floating_point() or target.is_complex())
    return target.long() if is_number and target.dtype != torch.bool else target


_TENSORS = (TensorDataset.__getitem__, _Pixels.__getitem__)


def _check_dataset(dataset: Source, batch_size: Any) -> int:
    """Raise TypeError or ValueError if no batches can be made; return the batch size as an int."""
    name = type(dataset).__name__
    if dataset is None:
        raise TypeError(
            "got None instead of a data set. If it was data.test, the folder has no test set: "
            "cnnlab.from_folder(path, test=0.2) splits one off"
        )
    if hasattr(dataset, "train") and hasattr(dataset, "valid"):
        raise TypeError(f"got a {name} instead of one of its splits: use data.train or data.valid")
    if isinstance(dataset, dict | set | str):
        raise TypeError(f"expected a data set or a pair (images, labels), got a {name}")
    if isinstance(dataset, IterableDataset) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        raise TypeError(
            f"{name} has no length or no index, so it can't be shuffled. Give it "
            "__len__ and __getitem__, or use torch's own DataLoader"
        )
    if len(dataset) == 0:
        raise ValueError("the data set is empty: it has 0 images")
    try:
        size = as_index(batch_size)
    except TypeError:
        raise TypeError(f"batch_size must be a whole number, got {batch_size!r}; use 64") from None
    if size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {size}; 64 is common")
    return size
