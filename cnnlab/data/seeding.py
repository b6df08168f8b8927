"""Seed the random transforms of a data set, whichever random generator they draw from."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from cnnlab import rng


@contextmanager
def preserved(generators: Sequence[Any] = ()) -> Iterator[None]:
    """Restore the global generators of torch, numpy and Python, and the given ones, on exit."""
    with rng.fork_rng(), preserved_except_torch(generators):
        yield


@contextmanager
def preserved_except_torch(generators: Sequence[Any] = ()) -> Iterator[None]:
    """Restore the global generators of numpy and Python, and the given ones, on exit."""
    # Transforms by other authors draw from numpy's legacy global generator.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    with ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        stack.callback(np.random.set_state, numpy_state)
        for generator in generators:
            stack.callback(_restorer(generator))
        yield


@contextmanager
def seeded(*counters: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and restore their states on exit.

    Args:
        counters: determine every random number that is drawn inside.
    """
    with preserved():
        seed_everything(*counters)
        yield


def seed_everything(*counters: int, generators: Sequence[Any] = ()) -> None:
    """Seed the global generators of torch, numpy and Python.

    Args:
        counters: determine every random number that is drawn from now on.
        generators: other generators to seed, each with a stream of its own: see `find_generators`.
    """
    seed = rng.fold_in(*counters)
    rng.seed_at(*counters)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    for number, generator in enumerate(generators):
        seed_generator(generator, rng.fold_in(*counters, number))


def seed_generator(generator: Any, seed: int) -> None:
    """Seed one generator."""
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        generator.seed(seed)
    else:
        bits = _bits(generator)
        bits.state = type(bits)(seed).state


def _restorer(generator: Any) -> Callable[[], object]:
    """Return a function that restores the present state of a generator."""
    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    bits = _bits(generator)
    return partial(setattr, bits, "state", bits.state)


def _bits(generator: Any) -> Any:
    """Return the bit generator of a numpy `Generator` or `RandomState`."""
    is_new = isinstance(generator, np.random.Generator)
    return generator.bit_generator if is_new else generator._bit_generator


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_LEAVES = (
    type(None), str, bytes, int, float, torch.Tensor, np.ndarray, type, ModuleType, FunctionType
)  # fmt: skip
_MAX_ITEMS = 100  # a longer container holds files or numbers, not transforms
_MAX_DEPTH = 8


def find_generators(dataset: Any) -> list[Any]:
    """Return the random generators that a data set or its transforms hold, in attribute order.

    Each worker process gets a copy of such a generator. Unless it is seeded again for every image,
    all the copies draw the same numbers.

    >>> from types import SimpleNamespace
    >>> noisy = SimpleNamespace(draw=np.random.default_rng(0))
    >>> find_generators(SimpleNamespace(transforms=[noisy])) == [noisy.draw]
    True
    """
    return list(_walk(dataset, set(), _MAX_DEPTH))


def _walk(value: Any, visited: set[int], depth: int) -> Iterator[Any]:
    """Yield the generators in a value, depth first, each of them once."""
    if isinstance(value, _LEAVES) or id(value) in visited or not depth:
        return
    visited.add(id(value))
    if isinstance(value, _GENERATORS):
        yield value
    else:
        for child in _children(value):
            yield from _walk(child, visited, depth - 1)


def _children(value: Any) -> Sequence[Any]:
    """Return the items of a short container, or the attributes of an object."""
    if isinstance(value, dict | list | tuple):
        items = value.values() if isinstance(value, dict) else value
        return list(items) if len(items) <= _MAX_ITEMS else []
    if isinstance(value, MethodType):
        return [value.__self__]
    attributes = list(getattr(value, "__dict__", {}).values())
    if isinstance(value, partial):
        return [*attributes, value.args, value.keywords, value.func]
    return attributes
