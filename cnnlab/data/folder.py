"""Your own images: one folder a class, read with PIL, in memory where they fit."""

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

from cnnlab.data.balance import split
from cnnlab.data.image_files import LISTED, Fault, copies, folders, images, refuse, shown
from cnnlab.data.images import DataBundle, ImageSet, Part, check_labels, unit
from cnnlab.errors import DataError


if TYPE_CHECKING:
    from PIL.Image import Image

# Named one by one: PIL also opens formats that have been used for attacks and that hold no
# photographs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
MEMORY_LIMIT = 2**30  # bytes of pixels; above it images stay on disk
PIXEL_LIMIT = 2**26  # of one image: a few bytes of a file can stand for gigabytes

_PARTS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}

File = tuple[Path, int]


class FileSet(Dataset[tuple[Tensor, int]]):
    """Images on disk, decoded when asked for: an `ImageSet` for what does not fit in memory.

    Args:
        paths: one file an image, N of them.
        labels: integers in 0 .. K-1, (N,).
        classes: the K names.
        size: side of the square the images are cut to, in pixels; None keeps their size.
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
            raise ValueError(f"{len(self.paths)} paths but {len(self.labels)} labels")
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
        """Return those images as uint8 (n, C, H, W)."""
        return torch.stack([decode(self.paths[i], self.size) for i in indices.tolist()])

    def select(self, indices: Tensor | Sequence[int]) -> "FileSet":
        """Return the set made of the images at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        paths = [self.paths[i] for i in chosen.tolist()]
        return FileSet(paths, self.labels[chosen], self.classes, size=self.size)

    def resized(self, size: int) -> "FileSet":
        """Return the same files, cut to squares of another size, in pixels."""
        return FileSet(self.paths, self.labels, self.classes, size=size)


def from_folder(
    path: str | Path,
    *,
    valid: float = 0.2,
    size: int | None = None,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
) -> DataBundle:
    """Return the images of a folder that holds one folder a class.

    Where `path` holds a folder `train`, the parts are those it holds (`valid` or `val`, and
    `test`), with the classes of `train`; otherwise `valid` of each class is split off. Hidden
    folders and what operating systems leave behind are passed over. At most 1 GiB of pixels is kept
    in memory.

    Every file is decoded once, here, so that all that cannot be used are found in one pass: broken
    ones, those of more than 64 million pixels, and those that stand in two parts.

    Args:
        path: the folder.
        valid: share of the images for validation, where there is no such part; in (0, 1).
        size: resize the short side to it and cut out the middle, in pixels. None keeps the images
            as they are, which must then be of one size.
        seed: chooses the validation images.
        on_error: "raise" names the files that cannot be used; "skip" leaves them out, and
            `left_out` of the bundle says which and why. Of a file that stands in two parts the one
            in training goes, and the one in validation rather than in the test.

    Raises:
        DataError: there is no such folder, an image cannot be used, a class has none left, or the
            folders do not make a data set.
        ValueError: valid, size or on_error is out of bounds.

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
        raise DataError(
            f"no folder {path.absolute()}; give the folder that holds one folder a class"
        )
    if not 0 < valid < 1 or (size is not None and size < 1):
        raise ValueError(
            f"valid={valid}, size={size}: valid lies in (0, 1), size is 1 pixel or more"
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error may be "raise" or "skip"; got {on_error!r}')
    try:
        classes, files = _listed(path)
    except OSError as error:
        raise DataError(f"cannot look into {error.filename}: {error.strerror}") from None
    return _bundle(path.absolute().name, files, classes, size, valid, seed, on_error)


def _listed(path: Path) -> tuple[tuple[str, ...], list[list[File]]]:
    """The classes, and the files of the three parts."""
    train, valid_part, test_part = (_part_folder(path, part) for part in _PARTS)
    train = train or path
    classes = _classes(train)
    return classes, [
        _files(train, classes),
        _files(valid_part, classes, train) if train != path and valid_part else [],
        _files(test_part, classes, train) if train != path and test_part else [],
    ]


def _bundle(
    name: str,
    files: Sequence[list[File]],
    classes: tuple[str, ...],
    size: int | None,
    valid: float,
    seed: int,
    on_error: str,
) -> DataBundle:
    """Read the parts together, so that all faults are named at once and all sizes agree."""
    seen = _look_at([path for path, _ in chain(*files)], size)
    unused = [look.fault for look in seen if look.fault]
    broken = {fault.path for fault in unused}
    unused += copies([[path for path, _ in part if path not in broken] for part in files])
    if on_error == "raise":
        refuse(unused, len(seen))
    out = {fault.path for fault in unused}
    seen = [look for look in seen if look.path not in out]
    files = [[file for file in part if file[0] not in out] for part in files]
    _check_classes_left([label for _, label in files[0]], classes, unused)
    everything = _read(list(chain(*files)), seen, classes, size)
    ends = np.cumsum([len(part) for part in files]).tolist()
    train: Part = everything.select(range(ends[0]))
    held_out: Part = everything.select(range(ends[0], ends[1]))
    test = everything.select(range(ends[1], ends[2])) if files[2] else None
    if not files[1]:
        rest, taken = split(train.labels, max(1, round(valid * len(train))), seed)
        if not len(taken):
            raise DataError(f"{name} has one image a class: none is left for validation")
        train, held_out = train.select(rest), train.select(taken)
    return DataBundle(name, train, held_out, test, tuple(sorted(unused, key=lambda f: f.path)))


def _check_classes_left(labels: list[int], classes: tuple[str, ...], unused: list[Fault]) -> None:
    """A class without an image keeps its number, but cannot be learnt."""
    gone = [name for k, name in enumerate(classes) if k not in labels]
    if gone:
        raise DataError(
            f"no image of {gone} is left, since these cannot be used: {unused[:LISTED]}"
        )


def _part_folder(path: Path, part: str) -> Path | None:
    """The folder of a part; None unless there is one and it holds folders itself."""
    found = [path / name for name in _PARTS[part] if (path / name).is_dir()]
    return found[0] if found and any(folders(found[0])) else None


def _classes(path: Path) -> tuple[str, ...]:
    classes = tuple(folder.name for folder in folders(path))
    if not classes:
        raise DataError(f"{path} holds no folders; give the folder that holds one folder a class")
    empty = [name for name in classes if not any(images(path / name))]
    if empty:
        raise DataError(
            f"no image in {path / empty[0]}: delete the folder, or fill it. Empty: {empty}"
        )
    return classes


def _files(path: Path, classes: tuple[str, ...], train: Path | None = None) -> list[File]:
    """Every image below `path` with its label; the labels are those of the training part."""
    strange = [folder.name for folder in folders(path) if folder.name not in classes]
    if strange:
        raise DataError(
            f"{path} has classes that {train} has not: {strange}; it has {list(classes)}"
        )
    return [(image, k) for k, name in enumerate(classes) for image in images(path / name)]


class _Look(NamedTuple):
    """What one decoding of a file has shown: its fault, or its shape, and its pixels if they are kept."""

    path: Path
    fault: Fault | None = None
    shape: torch.Size | None = None
    pixels: Tensor | None = None


def _look_at(paths: Sequence[Path], size: int | None) -> list[_Look]:
    """Decode every file once; keep the pixels if those of all fit, as large as the first one is."""
    n_bytes = next((n for path in paths if (n := _n_bytes(path, size))), 0)
    keep = n_bytes if len(paths) * n_bytes <= MEMORY_LIMIT else 0
    with ThreadPoolExecutor() as pool:  # PIL decodes outside Python's lock
        return list(pool.map(partial(_look, size=size, keep=keep), paths))


def _n_bytes(path: Path, size: int | None) -> int:
    """What one decoded image takes; a broken one, which is reported later, nothing."""
    try:
        return 3 * size**2 if size else decode(path, None).numel()
    except DataError:
        return 0


def _look(path: Path, size: int | None, keep: int) -> _Look:
    try:
        image = decode(path, size)
    except DataError as error:
        return _Look(path, Fault(path, str(error).partition(f"{shown(path)}: ")[2]))
    return _Look(path, None, image.shape, image if image.numel() == keep else None)


def _read(
    files: list[File], seen: list[_Look], classes: tuple[str, ...], size: int | None
) -> ImageSet | FileSet:
    """Make a set of files that can all be used: in memory if every one's pixels were kept."""
    for look in seen:
        if look.shape != seen[0].shape:
            raise DataError(
                f"the images are not of one size: {shown(seen[0].path)} is {_size(seen[0])}, "
                f"{shown(look.path)} is {_size(look)}; give size=, for example size=64"
            )
    labels = [label for _, label in files]
    kept = [look.pixels for look in seen if look.pixels is not None]
    if len(kept) == len(files):
        return ImageSet(torch.stack(kept), labels, classes)
    return FileSet([path for path, _ in files], labels, classes, size=size)


def _size(look: _Look) -> str:
    assert look.shape is not None
    return f"{look.shape[2]} x {look.shape[1]}"


def decode(path: Path, size: int | None) -> Tensor:
    """Decode one image, turned as its camera was held, into uint8 RGB (3, H, W).

    Args:
        path: a file.
        size: side of the square to cut it to, in pixels; None keeps the image whole.

    Raises:
        DataError: it is no image, or a broken one; the message names the file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        if not path.is_file():  # a pipe would be waited for without end
            raise DataError("there is no plain file of this name")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXEL_LIMIT:
                raise DataError(
                    f"{image.width} x {image.height} pixels are more than {PIXEL_LIMIT:,}: shrink it"
                )
            upright = rgb(ImageOps.exif_transpose(image), size)
    except UnidentifiedImageError:
        raise _unreadable(path, f"no image of the kinds {', '.join(FORMATS)}") from None
    except Exception as error:  # noqa: BLE001 - PIL raises a dozen types for a broken file
        raise _unreadable(path, getattr(error, "strerror", None) or error) from None
    return (
        torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()
    )  # (H, W, 3) -> (3, H, W)


def _unreadable(path: Path, why: object) -> DataError:
    return DataError(f"cannot read the image {shown(path)}: {why}")


def rgb(image: "Image", size: int | None) -> "Image":
    """Return a PIL image in RGB, on white where transparent, cut to a square of `size` pixels."""
    from PIL import Image, ImageOps

    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL would clip at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR) if size else image
