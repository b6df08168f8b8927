"""What lies in a folder of images: which files count, and what is wrong with them."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnlab.errors import DataError


SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp",
}  # fmt: skip
# What Jupyter, macOS, Windows, Linux and network drives leave behind; hidden names begin with a dot.
LEFT_BEHIND = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir")
LISTED = 10  # faults that a message names


@dataclass(frozen=True)
class Fault:
    """A file that cannot be used, and why.

    >>> Fault(Path("cat/7.jpg"), "the file is empty")
    cat/7.jpg: the file is empty
    """

    path: Path
    why: str

    def __repr__(self) -> str:
        return f"{shown(self.path)}: {self.why}"


def folders(path: Path) -> list[Path]:
    """Return the folders in a folder by the order of their names, which is the same on every system."""
    return [p for p in _entries(path) if p.is_dir()]


def images(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield every image in a folder and below; none where there is no such folder.

    A link that leads back to a folder around it is not followed, or its images would count again and again.
    """
    real = os.path.realpath(folder)
    if real in above or not folder.is_dir():
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from images(path, (*above, real))
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, without what systems leave behind. `sorted` on paths ignores case on Windows."""
    found = (p for p in folder.iterdir() if not p.name.startswith((".", *LEFT_BEHIND)))
    return sorted(found, key=lambda p: p.name)


def copies(parts: Sequence[Iterable[Path]]) -> list[Fault]:
    """Return the files whose contents also stand in a later part: what is tested must not be learnt.

    Only files of equal length are read.
    """
    lengths: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    for number, part in enumerate(parts):
        for path in part:
            lengths[path.stat().st_size].append((number, path))
    return [fault for alike in lengths.values() for fault in _copies_among(alike)]


def _copies_among(alike: list[tuple[int, Path]]) -> Iterator[Fault]:
    if len({number for number, _ in alike}) < 2:
        return
    latest: dict[bytes, tuple[int, Path]] = {}
    digests = [hashlib.blake2b(path.read_bytes()).digest() for _, path in alike]
    for digest, (number, path) in zip(digests, alike, strict=True):
        if digest not in latest or number > latest[digest][0]:
            latest[digest] = number, path
    for digest, (number, path) in zip(digests, alike, strict=True):
        if number < latest[digest][0]:
            yield Fault(path, f"the same file as {shown(latest[digest][1])}")


def refuse(faults: Sequence[Fault], n_files: int) -> None:
    """Raise DataError, with the first faults by name, if there is one."""
    if not faults:
        return
    more = [f"and {len(faults) - LISTED} more"] if len(faults) > LISTED else []
    lines = "\n  ".join([*map(repr, faults[:LISTED]), *more])
    raise DataError(
        f"{len(faults)} of {n_files} images cannot be used; mend or delete them, or leave them out with "
        f'on_error="skip":\n  {lines}'
    )


def shown(path: Path) -> str:
    """Return a path as text that can be printed, whatever bytes its name is made of."""
    return str(path).encode(errors="backslashreplace").decode()
