"""Find the image files in a folder, and report those that can't be used."""

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
# Folders and files that macOS, Windows, Linux and network drives create. Hidden ones start with a
# dot.
SYSTEM_NAMES = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir")
MAX_LISTED = 10  # files that an error message lists


@dataclass(frozen=True)
class UnusableFile:
    """An image file that can't be used, and the reason.

    >>> UnusableFile(Path("cat/7.jpg"), "the file is empty")
    cat/7.jpg: the file is empty
    """

    path: Path
    why: str

    def __repr__(self) -> str:
        return f"{printable(self.path)}: {self.why}"


def list_folders(path: Path) -> list[Path]:
    """Return the folders in a folder, sorted by name in the same order on every system."""
    return [entry for entry in _entries(path) if entry.is_dir()]


def find_images(folder: Path, parents: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the image files in a folder and its subfolders; none if the folder doesn't exist.

    A link that points to a folder around it is not followed, because its images would repeat
    without end.

    Args:
        folder: where to search.
        parents: the real paths of the folders around it that are being searched.
    """
    real = os.path.realpath(folder)
    if real in parents or not folder.is_dir():
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from find_images(path, (*parents, real))
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without hidden files and those of the system."""
    entries = (p for p in folder.iterdir() if not p.name.startswith((".", *SYSTEM_NAMES)))
    return sorted(entries, key=lambda p: p.name)  # sorting the paths would ignore case on Windows


def find_duplicates(splits: Sequence[Iterable[Path]]) -> list[UnusableFile]:
    """Return the files with an identical copy in a later split, because that would be a leak.

    Only files of the same length are read.

    Args:
        splits: the files of the training, the validation and the test set, in this order.
    """
    by_length: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    for number, split in enumerate(splits):
        for path in split:
            by_length[path.stat().st_size].append((number, path))
    return [duplicate for files in by_length.values() for duplicate in _duplicates_among(files)]


def _duplicates_among(files: list[tuple[int, Path]]) -> Iterator[UnusableFile]:
    """Compare files of the same length, each given as (number of its split, path)."""
    if len({number for number, _ in files}) < 2:
        return
    latest: dict[bytes, tuple[int, Path]] = {}
    digests = [hashlib.blake2b(path.read_bytes()).digest() for _, path in files]
    for digest, (number, path) in zip(digests, files, strict=True):
        if digest not in latest or number > latest[digest][0]:
            latest[digest] = number, path
    for digest, (number, path) in zip(digests, files, strict=True):
        if number < latest[digest][0]:
            yield UnusableFile(path, f"also in a later split, as {printable(latest[digest][1])}")


def check_all_usable(unusable: Sequence[UnusableFile], n_files: int) -> None:
    """Raise DataError if there are unusable files; the message lists the first of them."""
    if unusable:
        raise DataError(
            f"{len(unusable)} of {n_files} images can't be used. Repair or delete these files, or "
            f'pass on_error="skip" to leave them out:{list_unusable(unusable)}'
        )


def list_unusable(unusable: Sequence[UnusableFile]) -> str:
    """Return one indented line per unusable file; of many files only the first are listed."""
    more = [f"and {len(unusable) - MAX_LISTED} more"] if len(unusable) > MAX_LISTED else []
    return "".join(f"\n  {line}" for line in [*unusable[:MAX_LISTED], *more])


def printable(path: Path) -> str:
    """Return a path as text that can be printed, whatever bytes its name contains."""
    return str(path).encode(errors="backslashreplace").decode()
