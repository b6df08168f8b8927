"""Data sets, image folders, loaders and class balance.

| `load(...)` | what it is | network |
|---|---|---|
| `"pocket"` | 12 traffic signs, 32 x 32, with eleven nuisances to turn up and down | no |
| `"digits"` | 1,797 real handwritten digits, painted over photographs | no |
| `"glyphs"` | 97 printed letters and symbols, the source task of transfer | no |
| `"cifar10"`, `"cifar100"` | 60,000 small photographs | once |
| `"fashion_mnist"` | 70,000 pieces of clothing, grey, 28 x 28 | once |
| `"pets"`, `"flowers"` | 37 breeds of cats and dogs, 102 flowers; `size=64` | once |
"""

import difflib
import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from cnnlab.data.balance import (
    BalancedSampler,
    balanced_sampler,
    class_weights,
    imbalance,
    label_noise,
    logit_adjustment,
)
from cnnlab.data.folder import FileSet, from_folder
from cnnlab.data.images import DataBundle, ImageSet
from cnnlab.data.loaders import Loader, loader


__all__ = [
    "BalancedSampler",
    "DataBundle",
    "FileSet",
    "ImageSet",
    "Loader",
    "balanced_sampler",
    "class_weights",
    "from_folder",
    "imbalance",
    "label_noise",
    "load",
    "loader",
    "logit_adjustment",
]

GENERATED = ("pocket", "glyphs", "digits")
DOWNLOADED = ("cifar10", "cifar100", "fashion_mnist", "pets", "flowers")


def load(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    **knobs: Any,
) -> DataBundle:
    """Return a data set by its name.

    Args:
        name: one of the names in the table above.
        root: where downloaded sets lie; by default a folder in the cache of this user. The
            generated sets, the first three, need none.
        download: fetch the set when it is not there yet.
        seed: makes the generated sets, and chooses the validation part of the others.
        knobs: those of the set: see `cnnlab.data.pocket.load`, `digits.load`, `glyphs.load`.

    Raises:
        ValueError: an unknown name or knob.
        DownloadError: the set is not on this machine and was not to be had.

    >>> load("pocket", n_train=120, n_valid=24, n_test=24, level="easy")
    pocket: 12 classes, 3 x 32 x 32; train 120, valid 24, test 24
    """
    _check(name, (*GENERATED, *DOWNLOADED), "data set")
    make = _maker(name, root, download)
    allowed = [knob for knob in inspect.signature(make).parameters if knob not in _OWN]
    for knob in knobs:
        _check(knob, allowed, f"knob of {name}")
    bundle: DataBundle = make(seed=seed, **knobs)
    return bundle


_OWN = ("seed", "name", "root", "download")


def _maker(name: str, root: str | Path | None, download: bool) -> Callable[..., DataBundle]:
    """The function that makes a set; its module is imported only now."""
    if name in GENERATED:
        make: Callable[..., DataBundle] = import_module(f"cnnlab.data.{name}").load
        return make
    from cnnlab.data import torchvision_sets

    return partial(getattr(torchvision_sets, name), root=root, download=download)


def _check(given: str, allowed: tuple[str, ...] | list[str], what: str) -> None:
    """Raise ValueError, with the nearest guess, unless `given` is allowed."""
    if given not in allowed:
        near = difflib.get_close_matches(given, allowed, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no {what} is called {given!r}; there is {', '.join(allowed)}.{guess}")
