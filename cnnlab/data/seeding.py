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
def seeded(*counters: int, generators: Sequence[Any] = ()) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and restore their states on exit.

    Args:
        counters: determine every random number that is drawn inside.
        generators: other generators to seed, each with a stream of its own: see `find_generators`.
    """
    # Transforms by other authors draw from numpy's legacy global generator.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    seed = rng.fold_in(*counters)
    with rng.fork_rng(), ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        stack.callback(np.random.set_state, numpy_state)
        rng.seed_at(*counters)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        random.seed(seed)
        for number, generator in enumerate(generators):
            stack.callback(_seed(generator, rng.fold_in(*counters, number)))
        yield


def _seed(generator: Any, seed: int) -> Callable[[], object]:
    """Seed one generator, and return a function that restores its state."""
    restore: Callable[[], object]
    if isinstance(generator, torch.Generator):
        restore = partial(generator.set_state, generator.get_state())
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random):
        restore = partial(generator.setstate, generator.getstate())
        generator.seed(seed)
    else:
        is_new = isinstance(generator, np.random.Generator)  # else a RandomState
        bits = generator.bit_generator if is_new else generator._bit_generator
        restore = partial(setattr, bits, "state", bits.state)
        bits.state = type(bits)(seed).state
    return restore


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
