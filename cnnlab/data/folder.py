"""Load your own images from folders, one folder per class."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnlab.data.balance import stratified_split
from cnnlab.data.image_files import (
    SUFFIXES,
    UnusableFile,
    check_all_usable,
    find_duplicates,
    find_images,
    list_folders,
    list_unusable,
    printable,
)
from cnnlab.data.images import DataBundle, ImageSet, Split, check_labels, unit
from cnnlab.errors import DataError


if TYPE_CHECKING:
    from PIL.Image import Image

# A list, because PIL also opens formats that have been used for attacks and hold no photographs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MEMORY_LIMIT = 2**30  # bytes of pixels; a larger data set stays on disk
PIXEL_LIMIT = 2**26  # per image, because a file of a few bytes can decode to gigabytes

_SPLIT_FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
_LAYOUT = "one folder per class, such as cat/ and dog/"

LabelledFile = tuple[Path, int]


class FileSet(Dataset[tuple[Tensor, int]]):
    """Images on disk that are decoded when they're needed: an `ImageSet` for large data sets.

    Args:
        paths: one file per image, N of them.
        labels: integers in 0 .. K-1, (N,).
        classes: the K names.
        size: crop and resize the images to squares of this side, in pixels; None keeps their size.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Tensor | Sequence[int],
        classes: Sequence[str],
        *,
        size: int | None = None,
    ) -> None:
        self.paths, self.classes, self.size = tuple(paths), tuple(classes), size
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        if len(self.paths) != len(self.labels):
            n_paths, n_labels = len(self.paths), len(self.labels)
            raise ValueError(f"got {n_paths} paths but {n_labels} labels; give one label per path")
        check_labels(self.labels, len(self.classes))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = decode(self.paths[0], self.size).shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return unit(decode(self.paths[index], self.size)), int(self.labels[index])

    def __repr__(self) -> str:
        return f"FileSet({len(self):,} images on disk, {len(self.classes)} classes)"

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (n, C, H, W)."""
        return torch.stack([decode(self.paths[i], self.size) for i in indices.tolist()])

    def select(self, indices: Tensor | Sequence[int]) -> "FileSet":
        """Return the images at `indices`, in that order, as a set of their own."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        paths = [self.paths[i] for i in chosen.tolist()]
        return FileSet(paths, self.labels[chosen], self.classes, size=self.size)

    def resized(self, size: int) -> "FileSet":
        """Return the same files, decoded to squares of another side, in pixels."""
        return FileSet(self.paths, self.labels, self.classes, size=size)


def from_folder(
    path: str | Path,
    *,
    valid: float = 0.2,
    size: int | None = None,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> DataBundle:
    """Load a data set from a folder that contains one folder per class.

    If `path` contains a folder `train`, the splits are the folders `train`, `valid` (or `val`) and
    `test`, as far as they exist, with the classes of `train`. Otherwise a fraction `valid` of each
    class becomes the validation set. Hidden folders and those of the operating system are ignored.
    Up to 1 GiB of pixels is kept in memory; a larger data set is read from disk in each epoch.

    Every file is decoded once here, so you learn about all unusable files at once. These are
    damaged images, images of more than 64 million pixels, and images that are in two splits.

    Args:
        path: the folder.
        valid: fraction of the images for validation if there is no folder for it; between 0 and 1.
        size: resize the shorter side to this many pixels and crop the centre to a square. None
            keeps the images as they are, which then must all have the same size.
        seed: determines which images are used for validation.
        on_error: "raise" raises an error that lists the unusable files. "skip" leaves them out and
            lists them with their reasons in `left_out` of the bundle. An image in two splits is
            removed from training, or from validation if its copy is in the test set.

    Raises:
        DataError: there is no such folder, an image can't be used, a class has no image left, or
            the folders don't form a data set.
        ValueError: valid, size or on_error has a value that isn't allowed.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         Path(folder, name).mkdir()
    ...         for i in range(5):
    ...             Image.new("RGB", (40, 30), (50 * i, 0, 0)).save(Path(folder, name, f"{i}.png"))
    ...     data = from_folder(folder, size=16)
    >>> data.classes, len(data.train), len(data.valid), data.train.shape
    (('cat', 'dog'), 8, 2, (3, 16, 16))
    """
    path = Path(path)
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "doesn't exist"
        raise DataError(
            f"{path.absolute()} {problem}. Give from_folder the folder that contains {_LAYOUT}"
        )
    if not 0 < valid < 1:
        raise ValueError(f"valid must be a fraction between 0 and 1, got {valid}; 0.2 is common")
    if size is not None and size < 1:
        raise ValueError(f"size must be 1 pixel or more, got {size}; try size=64")
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    try:
        classes, splits = _list_files(path)
    except OSError as error:
        raise DataError(
            f"cannot read the folder {error.filename}: {error.strerror}. Check its permissions"
        ) from None
    return _load_splits(path.absolute().name, splits, classes, size, valid, seed, on_error)


def _list_files(path: Path) -> tuple[tuple[str, ...], list[list[LabelledFile]]]:
    """Return the classes, and the labelled files of the three splits."""
    train, valid, test = (_split_folder(path, split) for split in _SPLIT_FOLDERS)
    train = train or path
    classes = _list_classes(train)
    return classes, [
        _label_files(train, classes),
        _label_files(valid, classes, train) if train != path and valid else [],
        _label_files(test, classes, train) if train != path and test else [],
    ]


def _load_splits(
    name: str,
    splits: Sequence[list[LabelledFile]],
    classes: tuple[str, ...],
    size: int | None,
    valid: float,
    seed: int,
    on_error: str,
) -> DataBundle:
    """Decode all splits together, to report every unusable file at once and compare all sizes."""
    decoded = _decode_all([path for path, _ in chain(*splits)], size)
    unusable = [file.unusable for file in decoded if file.unusable]
    damaged = {file.path for file in unusable}
    unusable += find_duplicates([[p for p, _ in split if p not in damaged] for split in splits])
    if on_error == "raise":
        check_all_usable(unusable, len(decoded))
    left_out = {file.path for file in unusable}
    decoded = [file for file in decoded if file.path not in left_out]
    splits = [[(p, k) for p, k in split if p not in left_out] for split in splits]
    _check_no_empty_class([label for _, label in splits[0]], classes, unusable)
    everything = _make_set(list(chain(*splits)), decoded, classes, size)
    ends = np.cumsum([len(split) for split in splits]).tolist()
    train_set: Split = everything.select(range(ends[0]))
    valid_set: Split = everything.select(range(ends[0], ends[1]))
    test_set = everything.select(range(ends[1], ends[2])) if splits[2] else None
    if not splits[1]:
        n_valid = max(1, round(valid * len(train_set)))
        rest, chosen = stratified_split(train_set.labels, n_valid, seed)
        if not len(chosen):
            raise DataError(
                f"{name} has only one image per class, so there is none for validation. Add images "
                "to its classes"
            )
        train_set, valid_set = train_set.select(rest), train_set.select(chosen)
    unusable.sort(key=lambda file: file.path)
    return DataBundle(name, train_set, valid_set, test_set, tuple(unusable))


def _check_no_empty_class(
    labels: list[int], classes: tuple[str, ...], unusable: list[UnusableFile]
) -> None:
    """Raise DataError if a class has no training image left; its label would never be learnt."""
    empty = [name for k, name in enumerate(classes) if k not in labels]
    if empty:
        raise DataError(
            f"no usable training image is left in the classes {empty}. Add images to their "
            f"folders, or delete the folders. These files can't be used:{list_unusable(unusable)}"
        )


def _split_folder(path: Path, split: str) -> Path | None:
    """Return the folder of a split; None if there is none, or it contains no folders itself."""
    existing = [path / name for name in _SPLIT_FOLDERS[split] if (path / name).is_dir()]
    return existing[0] if existing and any(list_folders(existing[0])) else None


def _list_classes(path: Path) -> tuple[str, ...]:
    """Return the names of the class folders, each of which must contain an image."""
    classes = tuple(folder.name for folder in list_folders(path))
    if not classes:
        raise DataError(
            f"{path} contains no folders. Give from_folder the folder that contains {_LAYOUT}"
        )
    empty = [name for name in classes if not any(find_images(path / name))]
    if empty:
        raise DataError(
            f"these class folders in {path} contain no image: {empty}. Add images "
            f"({', '.join(sorted(SUFFIXES))}), or delete these folders"
        )
    return classes


def _label_files(
    path: Path, classes: tuple[str, ...], train: Path | None = None
) -> list[LabelledFile]:
    """Return every image below `path` with its label, which is an index into the classes."""
    unknown = [folder.name for folder in list_folders(path) if folder.name not in classes]
    if unknown:
        raise DataError(
            f"{path} contains classes that are not in {train}: {unknown}. The classes of the "
            f"training set are {list(classes)}; rename the folders, or add these classes to it"
        )
    return [(image, k) for k, name in enumerate(classes) for image in find_images(path / name)]


class _DecodedFile(NamedTuple):
    """The result of decoding a file: why it can't be used, or its shape and perhaps its pixels."""

    path: Path
    unusable: UnusableFile | None = None
    shape: torch.Size | None = None
    pixels: Tensor | None = None

    @property
    def size(self) -> str:
        """Width x height."""
        assert self.shape is not None
        return f"{self.shape[2]} x {self.shape[1]}"


def _decode_all(paths: Sequence[Path], size: int | None) -> list[_DecodedFile]:
    """Decode every file once, and keep the pixels if all images fit in memory.

    The estimate assumes that all images are as large as the first one. Only images of its size are
    kept; if others turn up, it's an error anyway.
    """
    n_bytes = next((n for path in paths if (n := _decoded_bytes(path, size))), 0)
    keep = n_bytes if len(paths) * n_bytes <= MEMORY_LIMIT else 0
    with ThreadPoolExecutor() as pool:  # PIL releases Python's lock while it decodes
        return list(pool.map(partial(_decode_file, size=size, keep=keep), paths))


def _decoded_bytes(path: Path, size: int | None) -> int:
    """Return the size of one decoded image in bytes; 0 if it's damaged, which is reported later."""
    try:
        return 3 * size**2 if size else _decode(path, None).numel()
    except _DecodeError:
        return 0


def _decode_file(path: Path, size: int | None, keep: int) -> _DecodedFile:
    """Decode one file; keep its pixels if they have `keep` bytes."""
    try:
        image = _decode(path, size)
    except _DecodeError as error:
        return _DecodedFile(path, UnusableFile(path, str(error)))
    return _DecodedFile(path, None, image.shape, image if image.numel() == keep else None)


def _make_set(
    files: list[LabelledFile],
    decoded: list[_DecodedFile],
    classes: tuple[str, ...],
    size: int | None,
) -> ImageSet | FileSet:
    """Make a set of usable files: in memory if the pixels of all of them were kept."""
    for file in decoded:
        if file.shape != decoded[0].shape:
            raise DataError(
                f"the images have different sizes: {printable(decoded[0].path)} is "
                f"{decoded[0].size} pixels, {printable(file.path)} is {file.size}. Pass size=, for "
                "example size=64, to crop and resize all of them to squares"
            )
    labels = [label for _, label in files]
    pixels = [file.pixels for file in decoded if file.pixels is not None]
    if len(pixels) == len(files):
        return ImageSet(torch.stack(pixels), labels, classes)
    return FileSet([path for path, _ in files], labels, classes, size=size)


def decode(path: Path, size: int | None) -> Tensor:
    """Decode an image file to uint8 RGB (3, H, W), upright as its camera recorded it.

    Args:
        path: a file.
        size: side of the square to crop and resize it to, in pixels; None keeps the whole image.

    Raises:
        DataError: the file isn't an image, or is damaged; the message names the file.
    """
    try:
        return _decode(path, size)
    except _DecodeError as error:
        raise DataError(f"cannot read the image {printable(path)}: {error}") from None


class _DecodeError(Exception):
    """The reason why a file can't be decoded, without its name."""


def _decode(path: Path, size: int | None) -> Tensor:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not path.is_file():  # reading from a pipe would never end
            raise _DecodeError("it is not a regular file, or a link to a file that doesn't exist")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise _DecodeError(
                    f"{image.width} x {image.height} pixels is too large; reduce it to at most "
                    f"{PIXEL_LIMIT:,} pixels"
                )
            upright = to_rgb(ImageOps.exif_transpose(image), size)
    except _DecodeError:
        raise
    except UnidentifiedImageError:
        raise _DecodeError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001 - PIL raises a dozen types for a damaged file
        raise _DecodeError(getattr(error, "strerror", None) or error) from None
    # (H, W, 3) -> (3, H, W)
    return torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()


def to_rgb(image: "Image", size: int | None) -> "Image":
    """Convert a PIL image to RGB, on white where it's transparent.

    Args:
        image: in any mode.
        size: side of the square to crop and resize it to, in pixels; None keeps the whole image.
    """
    from PIL import Image, ImageOps

    if image.mode.startswith("I"):  # 16 bits per pixel, which PIL would clip at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR) if size else image
