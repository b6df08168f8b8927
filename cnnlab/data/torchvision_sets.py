"""The real data sets, read by torchvision; they are downloaded only if you ask for it."""

import gzip
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnlab.data import cache
from cnnlab.data.archives import unpack
from cnnlab.data.balance import stratified_split
from cnnlab.data.decoding import check_size, to_rgb
from cnnlab.data.download import download_file
from cnnlab.data.images import DataBundle, ImageSet
from cnnlab.errors import DataError, DownloadError
from cnnlab.files import user_path


VALID_FRACTION = 0.1  # of the official training set, if there is no official validation set
TEST_FRACTION = 0.2  # of all images, if there is no official test set
# Where Debian's package dataset-fashion-mnist puts its files.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


class _Source(NamedTuple):
    """Where a data set comes from; the same values as in torchvision's class of that name."""

    name: str  # in `load`
    server: str
    files: dict[str, str]  # file name on the server -> its MD5 digest
    folder: str  # below the root, where the files are unpacked
    alternative: str  # a data set that works offline


_SOURCES = {
    "CIFAR10": _Source(
        "cifar10",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"},
        "",
        "pocket",
    ),
    "CIFAR100": _Source(
        "cifar100",
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"},
        "",
        "pocket",
    ),
    "FashionMNIST": _Source(
        "fashion_mnist",
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
        "pets",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/",
        {
            "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
            "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
        },
        "oxford-iiit-pet",
        "pocket",
    ),
    "Flowers102": _Source(
        "flowers",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        {
            "102flowers.tgz": "52808999861908f626f3c1f4e79d11fa",
            "imagelabels.mat": "e0620be6f572b9609742df49c70aed4d",
            "setid.mat": "a5357ecc9cb78c4bef273ce3793fc85c",
        },
        "flowers-102",
        "pocket",
    ),
    "EuroSAT": _Source(
        "eurosat",
        "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
        "c877bcd43f099cd0196738f714544e355477f3fd/",
        {"EuroSAT.zip": "c8fa014336c82ac7804f0398fcb19387"},
        "eurosat",
        "pocket",
    ),
}
# Imagenette comes as three archives; in each, the shorter side of an image has this many pixels.
_IMAGENETTE_FILES = {
    "160px": {"imagenette2-160.tgz": "e793b78cc4c9e9a4ccc0c1155377a412"},
    "320px": {"imagenette2-320.tgz": "3df6f0d01a2c9592104656642f5e78a3"},
    "full": {"imagenette2.tgz": "fe2fc210e6bb7c5664d602c3cd71e612"},
}
_SOURCES |= {
    f"Imagenette-{archive}": _Source(
        "imagenette", "https://s3.amazonaws.com/fast-ai-imageclas/", files, "", "pocket"
    )
    for archive, files in _IMAGENETTE_FILES.items()
}

Root = str | Path | None


def cifar10(*, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return CIFAR-10: 45,000 training, 5,000 validation and 10,000 test images, 3 x 32 x 32."""
    return _load_arrays("CIFAR10", seed, root, download)


def cifar100(*, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return CIFAR-100: 45,000 training, 5,000 validation and 10,000 test images, 3 x 32 x 32."""
    return _load_arrays("CIFAR100", seed, root, download)


def fashion_mnist(*, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return Fashion-MNIST: 54,000 training, 6,000 validation, 10,000 test images, 1 x 28 x 28.

    Debian's package `dataset-fashion-mnist` is used if it's installed, so nothing is downloaded.
    """
    return _load_arrays("FashionMNIST", seed, root, download)


def pets(*, size: int = 64, seed: int = 0, root: Root = None, download: bool = False) -> DataBundle:
    """Return Oxford-IIIT Pet, 37 breeds: the central square of each image, `size` pixels wide."""
    read = partial(_load_files, "OxfordIIITPet", root, download, size)
    return _split_off_valid("pets", read(split="trainval"), read(split="test"), seed)


def flowers(
    *, size: int = 64, seed: int = 0, root: Root = None, download: bool = False
) -> DataBundle:
    """Return Flowers-102 in its three official splits, which don't depend on the seed."""
    read = partial(_load_files, "Flowers102", root, download, size)
    return DataBundle("flowers", read(split="train"), read(split="val"), read(split="test"))


def imagenette(
    *, size: int = 64, seed: int = 0, root: Root = None, download: bool = False
) -> DataBundle:
    """Return Imagenette, ten easy classes of ImageNet: 8,522 training and 947 validation images.

    The 3,925 images for validation in ImageNet's sense are the test set. Up to `size=160` comes
    from an archive of 94 MB, up to `size=320` from one of 326 MB, and more from one of 1.5 GB.
    """
    size = check_size(size)
    archive = "160px" if size <= 160 else "320px" if size <= 320 else "full"
    read = partial(_load_files, f"Imagenette-{archive}", root, download, size)
    official, test = (read(split=split, size=archive) for split in ("train", "val"))
    return _split_off_valid("imagenette", official, test, seed)


def eurosat(
    *, size: int = 64, seed: int = 0, root: Root = None, download: bool = False
) -> DataBundle:
    """Return EuroSAT, ten kinds of land use seen by a satellite, originally 64 x 64 pixels.

    Of its 27,000 images, 20 % of each class are the test set. EuroSAT has no official one, so it's
    drawn here, once and for all: only the 10 % of the rest for validation depend on the seed.
    """
    everything = _load_files("EuroSAT", root, download, size)
    n_test = round(TEST_FRACTION * len(everything))
    rest, in_test = stratified_split(everything.labels, n_test)
    return _split_off_valid("eurosat", everything.select(rest), everything.select(in_test), seed)


def _load_arrays(class_name: str, seed: int, root: Root, download: bool) -> DataBundle:
    """Load a data set that torchvision keeps in memory."""
    datasets = [_open(class_name, root, download, train=train) for train in (True, False)]
    train, test = (ImageSet(_to_nchw(d.data), d.targets, d.classes) for d in datasets)
    return _split_off_valid(_SOURCES[class_name].name, train, test, seed)


def _to_nchw(pixels: Any) -> Tensor:
    """Return pixels as (N, C, H, W), from (N, H, W, C) or, for grey images, (N, H, W)."""
    images = torch.as_tensor(pixels)
    images = images[..., None] if images.ndim == 3 else images
    return images.permute(0, 3, 1, 2).contiguous()


def _load_files(key: str, root: Root, download: bool, side: int, **options: Any) -> ImageSet:
    """Load the images that torchvision reads file by file, as squares of `side` pixels."""
    side = check_size(side)
    dataset = _open(key, root, download, transform=partial(to_rgb, size=side), **options)
    pixels = np.empty((len(dataset), 3, side, side), np.uint8)  # a second copy might not fit

    def read(i: int) -> int:
        image, label = dataset[i]
        pixels[i] = np.asarray(image).transpose(2, 0, 1)  # (H, W, 3) -> (3, H, W)
        return int(label)

    with ThreadPoolExecutor() as pool:
        labels = list(pool.map(read, range(len(dataset))))
    # Old versions of torchvision have no names for the 102 flowers.
    names = getattr(dataset, "classes", [f"flower {label}" for label in range(102)])
    # Imagenette gives each class all its names; the first is the usual one.
    classes = [name if isinstance(name, str) else name[0] for name in names]
    return ImageSet(pixels, labels, classes)


def _split_off_valid(name: str, official: ImageSet, test: ImageSet, seed: int) -> DataBundle:
    """Split the official training set into a training and a validation set."""
    n_valid = round(VALID_FRACTION * len(official))
    train, valid = stratified_split(official.labels, n_valid, seed)
    return DataBundle(name, official.select(train), official.select(valid), test)


def _open(key: str, root: Root, download: bool, **options: Any) -> Any:
    """Open a torchvision data set from the disk, after a download if needed and allowed."""
    import torchvision.datasets

    class_name = key.partition("-")[0]
    folder = user_path(root) if root is not None else cache.folder() / "datasets"
    make = partial(getattr(torchvision.datasets, class_name), folder, download=False, **options)
    source = _SOURCES[key]
    offline = f"load({source.alternative!r}), which works offline"
    with warnings.catch_warnings():
        # The old pickles of CIFAR.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        try:
            return make()
        except RuntimeError:
            if class_name == "FashionMNIST" and _has_debian_fashion():
                return _read_debian_fashion(**options)
            if not download:
                raise DownloadError(
                    f"{class_name} is not in {folder}. To download it, pass download=True, as in "
                    f"load({source.name!r}, download=True); or use {offline}"
                ) from None
        try:
            _download_and_unpack(source, folder / source.folder)
            return make()
        except (OSError, RuntimeError, DataError) as error:
            raise DownloadError(
                f"{class_name} could not be downloaded from {source.server} ({error}). "
                f"Try again later, or use {offline}"
            ) from None


def _download_and_unpack(source: _Source, folder: Path) -> None:
    """Download and unpack the files of a data set.

    torchvision's own download mistakes an incomplete file for a complete one, and falls back from
    https to http.
    """
    for name, md5 in source.files.items():
        path = download_file(source.server + name, md5, folder)
        if path.suffix in (".gz", ".tgz", ".zip"):
            unpack(path, folder)
            path.unlink()


def _has_debian_fashion() -> bool:
    return all((DEBIAN_FASHION / name).is_file() for name in _SOURCES["FashionMNIST"].files)


def _read_debian_fashion(*, train: bool) -> Any:
    """Read Fashion-MNIST from Debian's package, in the form of torchvision's data set."""
    from torchvision.datasets import FashionMNIST

    part = "train" if train else "t10k"
    try:
        pixels = _read_idx(DEBIAN_FASHION / f"{part}-images-idx3-ubyte.gz")
        labels = _read_idx(DEBIAN_FASHION / f"{part}-labels-idx1-ubyte.gz")
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise DataError(
            f"the files in {DEBIAN_FASHION} are damaged ({error}). Install Debian's package again: "
            "apt-get install --reinstall dataset-fashion-mnist"
        ) from None
    return SimpleNamespace(data=pixels, targets=labels, classes=FashionMNIST.classes)


def _read_idx(path: Path) -> np.ndarray:
    """Read a compressed file of bytes in the IDX format: the shape in its header, then the values.

    The fourth byte is the number of axes, and each length is a big-endian integer of four bytes.
    """
    with gzip.open(path) as file:
        content = bytearray(file.read())
    n_axes = content[3]
    shape = np.frombuffer(content, ">u4", n_axes, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)
