"""Random transforms whose draws are a function of counters, whatever generator they take them from."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

from cnnlab import rng


_LONG = 100  # a longer list holds files or numbers, not transforms
_DEEP = 8


@contextmanager
def seeded(*counters: int, own: Sequence[Any] = ()) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python, and put their states back on exit.

    Args:
        counters: decide all the draws inside.
        own: other generators that are seeded alike, each with a stream of its own: see `generators_in`.
    """
    # Transforms written by others draw from numpy's legacy global generator, so that one it must
    # be.
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    value = rng.fold_in(*counters)
    with rng.fork_rng(), ExitStack() as stack:
        stack.callback(random.setstate, python_state)
        stack.callback(np.random.set_state, numpy_state)
        rng.seed_at(*counters)
        np.random.seed(value % 2**32)  # noqa: NPY002
        random.seed(value)
        for number, generator in enumerate(own):
            stack.callback(*_seed(generator, rng.fold_in(*counters, number)))
        yield


def _seed(generator: Any, value: int) -> tuple[Any, ...]:
    """Seed one generator; return what to call, and with what, to put its state back."""
    if isinstance(generator, torch.Generator):
        before = generator.get_state()
        generator.manual_seed(value)
        return generator.set_state, before
    if isinstance(generator, random.Random):
        state = generator.getstate()
        generator.seed(value)
        return generator.setstate, state
    bits = (
        generator.bit_generator
        if isinstance(generator, np.random.Generator)
        else generator._bit_generator
    )
    old = bits.state
    bits.state = type(bits)(value).state
    return setattr, bits, "state", old


def generators_in(thing: Any) -> list[Any]:
    """Return the random generators that a dataset or its transforms hold, in the order of their attributes.

    A generator that was made once is copied into every worker process, and there again in every epoch: all
    the copies would draw the same numbers.

    >>> from types import SimpleNamespace
    >>> noisy = SimpleNamespace(draw=np.random.default_rng(0))
    >>> generators_in(SimpleNamespace(transforms=[noisy])) == [noisy.draw]
    True
    """
    return list(_search(thing, set(), _DEEP))


_LEAVES = (str, bytes, int, float, torch.Tensor, np.ndarray, type, ModuleType, FunctionType)


def _search(thing: Any, seen: set[int], depth: int) -> Iterator[Any]:
    if thing is None or isinstance(thing, _LEAVES) or id(thing) in seen or not depth:
        return
    seen.add(id(thing))
    if isinstance(
        thing, np.random.Generator | np.random.RandomState | torch.Generator | random.Random
    ):
        yield thing
        return
    inside: Any = ()
    if isinstance(thing, dict):
        inside = thing.values() if len(thing) <= _LONG else ()
    elif isinstance(thing, list | tuple):
        inside = thing if len(thing) <= _LONG else ()
    elif isinstance(thing, MethodType):
        inside = (thing.__self__,)
    elif hasattr(thing, "__dict__"):
        inside = [
            *vars(thing).values(),
            *(getattr(thing, name, None) for name in ("args", "keywords")),
        ]
    for part in inside:
        yield from _search(part, seen, depth - 1)
