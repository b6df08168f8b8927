"""Data sets, image folders, loaders and class balance.

| `load(...)` | contents | download |
|---|---|---|
| `"pocket"` | 12 traffic signs, 32 x 32, with eleven nuisances that you can adjust | no |
| `"digits"` | 1,797 real handwritten digits, painted over photographs | no |
| `"glyphs"` | 97 printed letters and symbols, the source task of transfer | no |
| `"photos"` | 23 photographs to look at, one of each thing; `size=224` | no |
| `"cifar10"`, `"cifar100"` | 60,000 small photographs | once |
| `"fashion_mnist"` | 70,000 pieces of clothing, grey, 28 x 28 | once |
| `"pets"`, `"flowers"` | 37 breeds of cats and dogs, 102 flowers; `size=64` | once |
| `"imagenette"` | 13,394 photographs of ten easy classes of ImageNet; `size=64` | once |
| `"eurosat"` | 27,000 satellite images, ten kinds of land use; `size=64` | once |

`"photos"` needs scikit-image. `"fashion_mnist"` needs no download if Debian's package
`dataset-fashion-mnist` is installed.
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
INSTALLED = ("photos",)
DOWNLOADED = (
    "cifar10", "cifar100", "fashion_mnist", "pets", "flowers", "imagenette", "eurosat"
)  # fmt: skip


def load(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    **knobs: Any,
) -> DataBundle:
    """Load a data set by its name.

    Args:
        name: one of the names in the table above.
        root: the folder of downloaded data sets; by default a folder in this user's cache. The
            generated sets (`"pocket"`, `"digits"` and `"glyphs"`) and `"photos"` need none.
        download: download the data set if it isn't on this machine yet.
        seed: determines the images of a generated set, and the validation images of the others. It
            has no effect on `"photos"`, where nothing is drawn, or on `"flowers"`, which has
            official splits.
        knobs: options of the data set: see `cnnlab.data.pocket.load`, `digits.load`,
            `glyphs.load` and `photos.load`. Data sets of image files have `size`, the side of the
            square to which each image is cropped and resized, in pixels.

    Raises:
        ValueError: the name or an option is unknown.
        DownloadError: the data set isn't on this machine, and wasn't or couldn't be downloaded.
        ImportError: scikit-image isn't installed, and you asked for `"photos"`.

    >>> load("pocket", n_train=120, n_valid=24, n_test=24, level="easy")
    pocket: 12 classes, 3 x 32 x 32; train 120, valid 24, test 24
    """
    names = [*GENERATED, *INSTALLED, *DOWNLOADED]
    if name not in names:
        raise ValueError(f"there is no data set {name!r}. {_suggest(str(name), names)}")
    make = _find_maker(name, root, download)
    options = [option for option in inspect.signature(make).parameters if option not in _COMMON]
    for option in knobs:
        if option not in options:
            raise ValueError(f"{name} has no option {option!r}. {_suggest(option, options)}")
    bundle: DataBundle = make(seed=seed, **knobs)
    return bundle


_COMMON = ("seed", "name", "root", "download")


def _find_maker(name: str, root: str | Path | None, download: bool) -> Callable[..., DataBundle]:
    """Return the function that makes a data set; its module is imported only now."""
    if name in (*GENERATED, *INSTALLED):
        make: Callable[..., DataBundle] = import_module(f"cnnlab.data.{name}").load
        return make
    from cnnlab.data import torchvision_sets

    return partial(getattr(torchvision_sets, name), root=root, download=download)


def _suggest(unknown: str, allowed: list[str]) -> str:
    """Return the most similar name as a suggestion, and all the names that are allowed."""
    similar = difflib.get_close_matches(unknown, allowed, n=1)
    guess = f"Did you mean {similar[0]!r}? " if similar else ""
    return f"{guess}Use one of: {', '.join(allowed)}" if allowed else "It has no options"
