"""The real data sets, read by torchvision; fetched only when asked to."""

import socket
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnlab.data import cache
from cnnlab.data.archives import unpack
from cnnlab.data.balance import split
from cnnlab.data.download import fetch
from cnnlab.data.folder import rgb
from cnnlab.data.images import DataBundle, ImageSet
from cnnlab.errors import DataError, DownloadError


VALID_SHARE = 0.1  # of the official training part, where there is no official validation part
TIMEOUT = 5.0  # seconds, for the first sign of life of a server


class _Source(NamedTuple):
    """Where a set comes from, as torchvision's class of that name has it too."""

    server: str
    files: dict[str, str]  # what is asked of the server -> its MD5 digest
    folder: str  # below the root, where it is unpacked
    instead: str  # what to use without a network


_SOURCES = {
    "CIFAR10": _Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        "",
        "pocket",
    ),
    "CIFAR100": _Source(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        "",
        "pocket",
    ),
    "FashionMNIST": _Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        "FashionMNIST/raw",
        "digits",
    ),
    "OxfordIIITPet": _Source(
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
        {
            "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
            "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
        },
        "oxford-iiit-pet",
        "pocket",
    ),
    "Flowers102": _Source(
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        {
            "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
        "flowers-102",
        "pocket",
    ),
}

Root = str | Path | None


def cifar10(*, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images, 3 x 32 x 32."""
    return _arrays("cifar10", "CIFAR10", seed, root, download)


def cifar100(*, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return CIFAR-100: 45,000 training, 5,000 validation and 10,000 test images, 3 x 32 x 32."""
    return _arrays("cifar100", "CIFAR100", seed, root, download)


def fashion_mnist(*, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return Fashion-MNIST: 54,000 training, 6,000 validation, 10,000 test images, 1 x 28 x 28."""
    return _arrays("fashion_mnist", "FashionMNIST", seed, root, download)


def pets(*, size: int = 64, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return Oxford-IIIT Pet, 37 breeds: squares of `size` pixels, cut from the middle."""
    read = partial(_pictures, "OxfordIIITPet", root, download, size)
    return _with_valid("pets", read(split="trainval"), read(split="test"), seed)


def flowers(
    *, size: int = 64, seed: int = 0, root: Root = None, download: bool = False
) -> DataBundle:
    """Return Flowers-102 in its three official parts, which no seed changes."""
    read = partial(_pictures, "Flowers102", root, download, size)
    return DataBundle("flowers", read(split="train"), read(split="val"), read(split="test"))


def _arrays(name: str, kind: str, seed: int, root: Root, download: bool) -> DataBundle:
    """A set that torchvision holds in memory."""
    parts = [_open(kind, root, download, train=train) for train in (True, False)]
    train, test = (ImageSet(_planes(p.data), p.targets, p.classes) for p in parts)
    return _with_valid(name, train, test, seed)


def _planes(pixels: Any) -> Tensor:
    """Pixels as (N, C, H, W), from (N, H, W, C) or from (N, H, W) without colour."""
    images = torch.as_tensor(pixels)
    images = images[..., None] if images.ndim == 3 else images
    return images.permute(0, 3, 1, 2).contiguous()


def _pictures(kind: str, root: Root, download: bool, size: int, *, split: str) -> ImageSet:
    """A part of a set that torchvision reads file by file."""
    part = _open(kind, root, download, split=split, transform=partial(rgb, size=size))
    with ThreadPoolExecutor() as pool:
        pairs = list(pool.map(part.__getitem__, range(len(part))))
    pixels = np.stack([np.asarray(image) for image, _ in pairs])
    return ImageSet(_planes(pixels), [label for _, label in pairs], part.classes)


def _with_valid(name: str, whole: ImageSet, test: ImageSet, seed: int) -> DataBundle:
    rest, taken = split(whole.labels, round(VALID_SHARE * len(whole)), seed)
    return DataBundle(name, whole.select(rest), whole.select(taken), test)


def _open(kind: str, root: Root, download: bool, **options: Any) -> Any:
    """Open a torchvision set: from the disk if it is there, else from the network if allowed."""
    import torchvision.datasets

    folder = Path(root) if root is not None else cache.folder() / "datasets"
    make = partial(getattr(torchvision.datasets, kind), folder, **options)
    source = _SOURCES[kind]
    offline = f"offline, load({source.instead!r}) needs no network"
    with patience():
        try:
            return make(download=False)
        except RuntimeError:
            if not download:
                raise DownloadError(
                    f"{kind} is not in {folder}: pass download=True to fetch it; {offline}"
                ) from None
        try:
            _bring(source, folder / source.folder)
            return make(download=False)
        except (OSError, RuntimeError, DataError) as error:
            raise DownloadError(
                f"{kind} did not come from {source.server} ({error}); {offline}"
            ) from None


def _bring(source: _Source, folder: Path) -> None:
    """Fetch and unpack: torchvision would take part of a file for the whole, and ask again without https."""
    for name, md5 in source.files.items():
        path = fetch(source.server + name, md5, folder)
        if path.suffix in (".gz", ".tgz"):
            unpack(path, folder)
            path.unlink()


def knock(server: str) -> None:
    """Raise OSError at once when nobody answers: torchvision itself would wait without limit."""
    try:
        request = urllib.request.Request(server, method="HEAD")
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # an answer, if not a friendly one


@contextmanager
def patience() -> Iterator[None]:
    """Limit the silence of a server, and hide numpy's warning about the old pickles of CIFAR."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(6 * TIMEOUT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            yield
    finally:
        socket.setdefaulttimeout(before)
