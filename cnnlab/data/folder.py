"""Your own images: one folder a class, read with PIL, in memory where they fit."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cnnlab.data.balance import split
from cnnlab.data.images import DataBundle, ImageSet, Part, check_labels, unit
from cnnlab.errors import DataError


if TYPE_CHECKING:
    from PIL.Image import Image

# Named one by one: PIL also opens formats that have been used for attacks and that hold no
# photographs.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp",
}  # fmt: skip
MEMORY_LIMIT = 2**30  # bytes of pixels; above it images stay on disk

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
    path: str | Path, *, valid: float = 0.2, size: int | None = None, seed: int = 0
) -> DataBundle:
    """Return the images of a folder that holds one folder a class.

    Where `path` holds a folder `train`, the parts are those it holds (`valid` or `val`, and
    `test`), with the classes of `train`; otherwise `valid` of each class is split off. Hidden
    folders and what operating systems leave behind are passed over. At most 1 GiB of pixels is kept
    in memory.

    Args:
        path: the folder.
        valid: share of the images for validation, where there is no such part; in (0, 1).
        size: resize the short side to it and cut out the middle, in pixels. None keeps the images
            as they are, which must then be of one size.
        seed: chooses the validation images.

    Raises:
        DataError: there is no such folder, an image is broken, or the folders do not make a data
            set.
        ValueError: valid or size is out of bounds.

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
    train, valid_part, test_part = (_part_folder(path, part) for part in _PARTS)
    train = train or path
    classes = _classes(train)
    files = [
        _files(train, classes),
        _files(valid_part, classes, train) if train != path and valid_part else [],
        _files(test_part, classes, train) if train != path and test_part else [],
    ]
    return _bundle(path.absolute().name, files, classes, size, valid, seed)


def _bundle(
    name: str,
    files: Sequence[list[File]],
    classes: tuple[str, ...],
    size: int | None,
    valid: float,
    seed: int,
) -> DataBundle:
    """Read the parts together, so that all broken files are named at once and all sizes agree."""
    everything = _read(list(chain(*files)), classes, size)
    ends = np.cumsum([len(part) for part in files]).tolist()
    train: Part = everything.select(range(ends[0]))
    held_out: Part = everything.select(range(ends[0], ends[1]))
    test = everything.select(range(ends[1], ends[2])) if files[2] else None
    if not files[1]:
        rest, taken = split(train.labels, max(1, round(valid * len(train))), seed)
        if not len(taken):
            raise DataError(f"{name} has one image a class: none is left for validation")
        train, held_out = train.select(rest), train.select(taken)
    return DataBundle(name, train, held_out, test)


def _part_folder(path: Path, part: str) -> Path | None:
    """The folder of a part; None unless there is one and it holds folders itself."""
    found = [path / name for name in _PARTS[part] if (path / name).is_dir()]
    return found[0] if found and any(_folders(found[0])) else None


def _classes(path: Path) -> tuple[str, ...]:
    classes = tuple(folder.name for folder in _folders(path))
    if not classes:
        raise DataError(f"{path} holds no folders; give the folder that holds one folder a class")
    empty = [name for name in classes if not any(_images(path / name))]
    if empty:
        raise DataError(
            f"no image in {path / empty[0]}: delete the folder, or fill it. Empty: {empty}"
        )
    return classes


def _files(path: Path, classes: tuple[str, ...], train: Path | None = None) -> list[File]:
    """Every image below `path` with its label; the labels are those of the training part."""
    strange = [folder.name for folder in _folders(path) if folder.name not in classes]
    if strange:
        raise DataError(
            f"{path} has classes that {train} has not: {strange}; it has {list(classes)}"
        )
    return [(image, k) for k, name in enumerate(classes) for image in _images(path / name)]


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not _ignored(p))


def _images(folder: Path) -> Iterator[Path]:
    """Every image in the folder and below; a part may lack a folder that the training part has."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not _ignored(path):
            yield from _images(path)
        elif _is_image(path):
            yield path


def _ignored(path: Path) -> bool:
    """Jupyter's .ipynb_checkpoints and macOS's __MACOSX are never a class."""
    return path.name.startswith((".", "__MACOSX"))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not _ignored(path)


def _read(files: list[File], classes: tuple[str, ...], size: int | None) -> ImageSet | FileSet:
    """Decode every file, to name all broken ones at once; keep the pixels if they fit."""
    on_disk = FileSet(
        [path for path, _ in files], [label for _, label in files], classes, size=size
    )
    keep = len(files) * _n_bytes(on_disk.paths[0], size) <= MEMORY_LIMIT
    with ThreadPoolExecutor() as pool:  # PIL decodes outside Python's lock
        seen = list(pool.map(partial(_look, size=size, keep=keep), on_disk.paths))
    _check(on_disk.paths, seen)
    if not keep:
        return on_disk
    return ImageSet(
        torch.stack([image for _, image in seen if image is not None]), on_disk.labels, classes
    )


def _n_bytes(path: Path, size: int | None) -> int:
    """What one decoded image takes; a broken one, which is reported later, nothing."""
    try:
        return 3 * size**2 if size else decode(path, None).numel()
    except DataError:
        return 0


def _look(path: Path, size: int | None, keep: bool) -> tuple[torch.Size | None, Tensor | None]:
    """The shape of an image, None when it is broken, and its pixels if they are to be kept."""
    try:
        image = decode(path, size)
    except DataError:
        return None, None
    return image.shape, image if keep else None


def _check(paths: Sequence[Path], seen: list[tuple[torch.Size | None, Tensor | None]]) -> None:
    broken = [str(path) for path, (shape, _) in zip(paths, seen, strict=True) if shape is None]
    if broken:
        more = f"\n  and {len(broken) - 10} more" if len(broken) > 10 else ""
        listed = "\n  ".join(broken[:10])
        raise DataError(f"{len(broken)} of {len(paths)} images cannot be read:\n  {listed}{more}")
    for path, (shape, _) in zip(paths, seen, strict=True):
        if shape != seen[0][0]:
            raise DataError(
                f"the images are not of one size: {paths[0]} is {_size(seen[0][0])}, "
                f"{path} is {_size(shape)}; give size=, for example size=64"
            )


def _size(shape: torch.Size | None) -> str:
    assert shape is not None
    return f"{shape[2]} x {shape[1]}"


def decode(path: Path, size: int | None) -> Tensor:
    """Decode one image, turned as its camera was held, into uint8 RGB (3, H, W).

    Args:
        path: a file.
        size: side of the square to cut it to, in pixels; None keeps the image whole.

    Raises:
        DataError: it is no image, or a broken one; the message names the file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            upright = rgb(ImageOps.exif_transpose(image), size)
    except Exception as error:  # noqa: BLE001 - PIL raises a dozen types for a broken file
        raise DataError(f"cannot read the image {path}: {error}") from None
    return (
        torch.from_numpy(np.array(upright)).permute(2, 0, 1).contiguous()
    )  # (H, W, 3) -> (3, H, W)


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
