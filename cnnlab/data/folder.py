"""Load your own images from folders, one folder per class."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnlab.data.arrays import as_indices, as_labels
from cnnlab.data.balance import stratified_split
from cnnlab.data.decoding import (
    Decoded,
    DecodeError,
    Whites,
    check_size,
    common_whites,
    decode,
    level,
    read_image,
    to_rgb,
)
from cnnlab.data.image_files import (
    UnusableFile,
    check_all_usable,
    digests,
    find_duplicates,
    list_unusable,
    printable,
)
from cnnlab.data.images import DataBundle, ImageSet, Split, check_labels, unit
from cnnlab.data.layout import LAYOUT, LabelledFile, Layout, find_layout
from cnnlab.errors import DataError
from cnnlab.files import user_path
from cnnlab.rng import fold_in


__all__ = ["FileSet", "decode", "from_folder", "to_rgb"]

MEMORY_LIMIT = 2**30  # bytes of pixels; a larger data set stays on disk
TEST = 1  # folded into the seed, so that the test set is drawn independently of the validation set


class FileSet(Dataset[tuple[Tensor, int]]):
    """Images on disk that are decoded when they're needed: an `ImageSet` for large data sets.

    Args:
        paths: one file per image, N of them.
        labels: integers in 0 .. K-1, (N,).
        classes: the K names.
        size: crop and resize the images to squares of this side, in pixels; None keeps their size.
        whites: what is white in images of more than 8 bits, if not 65535 among integers and 1 among
            floats; for all images, so that their brightness stays comparable.

    Raises:
        ValueError: there isn't one label per path, or a label is not in 0 .. K-1.
        TypeError: the labels are None, or the data set that has the labels.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Any,
        classes: Sequence[str],
        *,
        size: int | None = None,
        whites: Whites = Whites(),  # noqa: B008
    ) -> None:
        self.paths = tuple(map(user_path, paths))
        self.classes, self.size, self.whites = tuple(classes), size, whites
        self.labels = as_labels(labels, whole_floats=True)
        if len(self.paths) != len(self.labels):
            n_paths, n_labels = len(self.paths), len(self.labels)
            raise ValueError(f"got {n_paths} paths but {n_labels} labels; give one label per path")
        check_labels(self.labels, self.classes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self._decode(0).shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return unit(self._decode(index)), int(self.labels[index])

    def __repr__(self) -> str:
        return f"FileSet({len(self):,} images on disk, {len(self.classes)} classes)"

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images at `indices` as uint8 (n, C, H, W)."""
        return torch.stack([self._decode(i) for i in indices.tolist()])

    def _decode(self, index: int) -> Tensor:
        return decode(self.paths[index], self.size, self.whites)

    def select(self, indices: Tensor | Sequence[int]) -> "FileSet":
        """Return the images at `indices`, in that order, or of a mask, as a set of their own."""
        chosen = as_indices(indices, len(self))
        paths = [self.paths[i] for i in chosen.tolist()]
        labels = self.labels[chosen]
        return FileSet(paths, labels, self.classes, size=self.size, whites=self.whites)

    def resized(self, size: int) -> "FileSet":
        """Return the same files, decoded to squares of another side, in pixels."""
        return FileSet(self.paths, self.labels, self.classes, size=size, whites=self.whites)


def from_folder(
    path: str | Path,
    *,
    valid: float = 0.2,
    test: float | None = None,
    size: int | None = None,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> DataBundle:
    """Load a data set from a folder that contains one folder per class.

    If `path` contains a folder `train`, the splits are the folders `train`, `valid` (or `val`) and
    `test`, as far as they exist, with the classes of `train`. Otherwise a fraction `valid` of each
    class becomes the validation set, and a fraction `test`, if you pass it, the test set; identical
    files stay in the same split.

    Other usual names of splits are understood too, such as `Training` or `validation`, and so are
    folders around the data set that contain nothing else. Any guess about the layout is printed on
    one line. Hidden folders and those of the operating system are ignored. Up to 1 GiB of pixels is
    kept in memory; a larger data set is read from disk in each epoch.

    Every file is decoded once here, so you learn about all unusable files at once. These are
    damaged images, images of more than 64 million pixels, images that are in two splits, and images
    that are in two classes.

    Grey images of more than 8 bits, and of floats, are reduced to 8 bits. White is the smallest of
    1, 255, 1023, 4095, 16383 and 65535 that no value in the whole data set exceeds, so all images
    keep their brightness relative to each other. Negative and larger values are refused.

    Args:
        path: the folder; a leading `~` is your home folder.
        valid: fraction of the images for validation if there is no folder for it; between 0 and 1.
        test: fraction of the images for the test set. None creates no test set, so `data.test` is
            the folder `test`, or None if there is no such folder. If you split photographs of the
            same object or the same afternoon at random, the test set looks easier than new
            photographs are; sort those into folders `train` and `test` yourself.
        size: resize the shorter side to this many pixels and crop the centre to a square. None
            keeps the images as they are, which then must all have the same size.
        seed: determines which images are used for validation and for the test.
        on_error: "raise" raises an error that lists the unusable files. "skip" leaves them out and
            lists them with their reasons in `left_out` of the bundle. An image in two splits is
            removed from training, or from validation if its copy is in the test set. Of an image
            in two classes, no copy is used. Files that are no images are listed there in any case.

    Raises:
        DataError: there is no such folder, an image can't be used, a class has no image left, or
            the folders don't form a data set.
        ValueError: valid, test, size or on_error has a value that isn't allowed, or there is a
            folder for the test set already.
        TypeError: size isn't a whole number.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         Path(folder, name).mkdir()
    ...         for i in range(5):
    ...             image = Image.new("RGB", (40, 30), (50 * i, 80 * len(name), ord(name[0])))
    ...             image.save(Path(folder, name, f"{i}.png"))
    ...     data = from_folder(folder, size=16, test=0.2)
    >>> data.classes, len(data.train), len(data.valid), len(data.test), data.train.shape
    (('cat', 'dog'), 6, 2, 2, (3, 16, 16))
    """
    if not os.fspath(path):
        raise DataError(f"the path is empty. Give from_folder the folder that contains {LAYOUT}")
    path = user_path(path)
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "doesn't exist"
        raise DataError(
            f"{path.absolute()} {problem}. Give from_folder the folder that contains {LAYOUT}"
        )
    size = _check_arguments(valid, test, size, on_error)
    try:
        layout = find_layout(path)
        _check_fractions(path, layout, valid, test)
        bundle = _load_splits(path.absolute().name, layout, size, valid, test, seed, on_error)
    except OSError as error:
        raise DataError(
            f"cannot read the folder {error.filename}: {error.strerror}. Check its permissions"
        ) from None
    if layout.notes:
        sys.stdout.write(f"{bundle.name}: {'; '.join(layout.notes)}\n")
    return bundle


def _check_arguments(valid: Any, test: Any, size: Any, on_error: str) -> int | None:
    """Raise ValueError or TypeError for arguments that can't work; return the size as an int."""
    fractions = {"valid": valid} if test is None else {"valid": valid, "test": test}
    for name, value in fractions.items():
        if not isinstance(value, float | int | np.number) or not 0 < value < 1:
            raise ValueError(
                f"{name} must be a fraction between 0 and 1, got {value!r}; 0.2 is common"
            )
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    return None if size is None else check_size(size)


def _check_fractions(path: Path, layout: Layout, valid: float, test: float | None) -> None:
    """Raise ValueError if there is a test set already, or nothing would be left to train on."""
    if test is None:
        return
    if layout.splits[2]:
        raise ValueError(
            f"{path.absolute()} has a folder for the test set already. Leave out test={test:g}, or "
            "remove that folder"
        )
    if not layout.splits[1] and valid + test >= 1:
        raise ValueError(
            f"valid={valid:g} and test={test:g} leave no images for training: together they must "
            "be less than 1, such as valid=0.2, test=0.2"
        )


def _load_splits(
    name: str,
    layout: Layout,
    size: int | None,
    valid: float,
    test: float | None,
    seed: int,
    on_error: str,
) -> DataBundle:
    """Decode all splits together, to report every unusable file at once and compare all sizes."""
    classes, splits = layout.classes, layout.splits
    decoded, whites = _decode_all([path for path, _ in chain(*splits)], size)
    layout.notes.extend(
        f"{white} is white in images of {kind}"
        for kind, white, usual in zip(whites._fields, whites, Whites(), strict=True)
        if white != usual
    )
    unusable = [file.unusable for file in decoded if file.unusable]
    splits = _without(splits, unusable)
    contents = digests(path for path, _ in chain(*splits))
    unusable += find_duplicates(splits, contents)
    if on_error == "raise":
        check_all_usable(unusable, len(decoded))
    for before, split, after in zip(
        layout.splits, ("train", "valid", "test"), _without(splits, unusable), strict=True
    ):
        if split != "train" and before and not after:
            raise DataError(
                f"no usable image is left in the {split} folder. Repair it, or remove it. These "
                f"files can't be used:{list_unusable(unusable)}"
            )
    splits = _without(splits, unusable)
    left_out = {file.path for file in unusable}
    decoded = [file for file in decoded if file.path not in left_out]
    _check_no_empty_class([label for _, label in splits[0]], classes, unusable)
    everything = _make_set(list(chain(*splits)), decoded, classes, size, whites)
    ends = np.cumsum([len(split) for split in splits]).tolist()
    train_set: Split = everything.select(range(ends[0]))
    valid_set: Split = everything.select(range(ends[0], ends[1]))
    test_set: Split | None = everything.select(range(ends[1], ends[2])) if splits[2] else None
    numbers: dict[bytes, int] = {}  # of the different files
    copies = torch.tensor(
        [numbers.setdefault(contents[path], len(numbers)) for path, _ in splits[0]]
    )
    n = len(train_set)
    if test is not None:
        n_test = max(1, round(test * n))
        rest, chosen = stratified_split(train_set.labels, n_test, fold_in(seed, TEST), copies)
        _check_split_off(chosen, name, "for the test")
        test_set, train_set, copies = train_set.select(chosen), train_set.select(rest), copies[rest]
    if not splits[1]:
        rest, chosen = stratified_split(train_set.labels, max(1, round(valid * n)), seed, copies)
        _check_split_off(chosen, name, "for validation" + " beside the test" * (test is not None))
        train_set, valid_set = train_set.select(rest), train_set.select(chosen)
    unusable = sorted([*unusable, *layout.passed_over], key=lambda file: file.path)
    return DataBundle(name, train_set, valid_set, test_set, tuple(unusable))


def _check_split_off(chosen: Tensor, name: str, purpose: str) -> None:
    """Raise DataError if no image could be split off without leaving a class empty."""
    if not len(chosen):
        raise DataError(
            f"{name} has too few images per class, so there is none {purpose} (copies count as "
            "one). Add images to its classes"
        )


def _without(
    splits: Sequence[list[LabelledFile]], unusable: Sequence[UnusableFile]
) -> list[list[LabelledFile]]:
    """Return the files of the splits that can be used."""
    left_out = {file.path for file in unusable}
    return [[(path, k) for path, k in split if path not in left_out] for split in splits]


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


class _DecodedFile(NamedTuple):
    """The result of decoding a file: why it can't be used, or its shape and perhaps its pixels."""

    path: Path
    unusable: UnusableFile | None = None
    image: Decoded | None = None  # its pixels are there only if they are kept
    shape: torch.Size | None = None
    kept: bool = False

    @property
    def size(self) -> str:
        """Width x height."""
        assert self.shape is not None
        return f"{self.shape[2]} x {self.shape[1]}"


def _decode_all(paths: Sequence[Path], size: int | None) -> tuple[list[_DecodedFile], Whites]:
    """Decode every file once, and keep the pixels if all images fit in memory.

    The estimate assumes that all images are as large as the first one. Only images of its size are
    kept; if others turn up, it's an error anyway. Images of more than 8 bits are decoded again if
    another image shows that their white is brighter.
    """
    n_bytes = next((n for path in paths if (n := _decoded_bytes(path, size))), 0)
    keep = n_bytes if len(paths) * n_bytes <= MEMORY_LIMIT else 0
    with ThreadPoolExecutor() as pool:  # PIL releases Python's lock while it decodes
        decoded = list(pool.map(partial(_decode_file, size=size, keep=keep), paths))
        images = [file.image for file in decoded if file.image]
        whites = common_whites(images)
        again = [i for i, file in enumerate(decoded) if _is_darker(file.image, whites)]
        decode_again = partial(_decode_file, size=size, keep=keep, whites=whites)
        for i, file in zip(again, pool.map(decode_again, [paths[i] for i in again]), strict=True):
            decoded[i] = file
    colours = [image.largest for image in images if image.kind == "colours"]
    if colours and max(colours) < 16:  # a value of 12 bits, without the lower 8
        decoded = [_name_dark_colours(file) for file in decoded]
    return decoded, whites


def _is_darker(image: Decoded | None, whites: Whites) -> bool:
    """Return whether an image was decoded with a lower white level than that of the data set."""
    if image is None or image.kind not in whites._fields:
        return False
    return level(image.largest) != getattr(whites, image.kind)


def _name_dark_colours(file: _DecodedFile) -> _DecodedFile:
    """Return a file of 16-bit colours as unusable, because PIL keeps only their upper 8 bits."""
    if file.image is None or file.image.kind != "colours":
        return file
    why = (
        "its 16-bit colours use only the lower 12 bits, of which Pillow keeps 4, so it would be "
        "nearly black; save it with 8 bits per channel"
    )
    return _DecodedFile(file.path, UnusableFile(file.path, why))


def _decoded_bytes(path: Path, size: int | None) -> int:
    """Return the size of one decoded image in bytes; 0 if it's damaged, which is reported later."""
    try:
        return 3 * size**2 if size else read_image(path, None, None).pixels.numel()
    except DecodeError:
        return 0


def _decode_file(
    path: Path, size: int | None, keep: int, whites: Whites | None = None
) -> _DecodedFile:
    """Decode one file; keep its pixels if they have `keep` bytes."""
    try:
        image = read_image(path, size, whites)
    except DecodeError as error:
        return _DecodedFile(path, UnusableFile(path, str(error)))
    shape, kept = image.pixels.shape, image.pixels.numel() == keep
    return _DecodedFile(
        path, None, image if kept else image._replace(pixels=torch.empty(0)), shape, kept
    )


def _make_set(
    files: list[LabelledFile],
    decoded: list[_DecodedFile],
    classes: tuple[str, ...],
    size: int | None,
    whites: Whites,
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
    pixels = [file.image.pixels for file in decoded if file.image and file.kept]
    if len(pixels) == len(files):
        return ImageSet(torch.stack(pixels), labels, classes)
    return FileSet([path for path, _ in files], labels, classes, size=size, whites=whites)
