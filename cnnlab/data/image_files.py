"""Find the image files in a folder, and report those that can't be used."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnlab.errors import DataError


SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp",
}  # fmt: skip
MORE_SUFFIXES = {
    ".jpe", ".jfif", ".jif", ".pjpeg", ".mpo", ".apng", ".dib", ".pnm", ".pfm", ".avif", ".avifs",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".qoi",
}  # fmt: skip
# In raw files of cameras, PIL would find a tiny preview.
RAW_SUFFIXES = {
    ".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".pef", ".srw", ".raf",
}  # fmt: skip
# Notes, tables and annotations that often lie among the images.
DOCUMENT_SUFFIXES = {
    ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml",
    ".ini", ".html", ".htm", ".pdf", ".log", ".py", ".ipynb", ".zip", ".gz", ".tar",
}  # fmt: skip
# Folders and files that macOS, Windows, Linux and network drives create. Hidden ones start with a
# dot.
SYSTEM_NAMES = (
    "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "@eaDir",
    "Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "Icon\r",
)  # fmt: skip
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


def list_files(path: Path) -> list[Path]:
    """Return the files directly in a folder, sorted by name, without those of the system."""
    return [entry for entry in _entries(path) if not entry.is_dir()]


def find_files(folder: Path, parents: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders; none if the folder doesn't exist.

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
            yield from find_files(path, (*parents, real))
        else:
            yield path


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted, without hidden files and those of the system."""
    entries = (p for p in folder.iterdir() if not p.name.startswith((".", *SYSTEM_NAMES)))
    return sorted(entries, key=lambda p: p.name)  # sorting the paths would ignore case on Windows


def digests(paths: Iterable[Path]) -> dict[Path, bytes]:
    """Return a digest of each file's contents; equal for identical files.

    Only files of the same length are read.
    """
    by_length: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        by_length[path.stat().st_size].append(path)
    return {
        path: hashlib.blake2b(path.read_bytes()).digest()
        if len(files) > 1
        else os.fsencode(path)  # its length is unique, so it has no copy
        for files in by_length.values()
        for path in files
    }


def find_duplicates(
    splits: Sequence[Sequence[tuple[Path, int]]], contents: Mapping[Path, bytes]
) -> list[UnusableFile]:
    """Return the files with an identical copy in a later split, or in another class of their split.

    The first would be a leak. Of the second, nobody knows which label is right, so none is used.

    Args:
        splits: the files and labels of the training, the validation and the test set, in order.
        contents: the digest of each file.
    """
    latest: dict[bytes, tuple[int, Path]] = {}
    for number, split in enumerate(splits):
        for path, _ in split:
            if number > latest.get(contents[path], (-1, path))[0]:
                latest[contents[path]] = number, path
    unusable = []
    for number, split in enumerate(splits):
        in_class: dict[bytes, dict[int, Path]] = defaultdict(dict)
        for path, label in split:
            in_class[contents[path]].setdefault(label, path)
        for path, label in split:
            last, copy = latest[contents[path]]
            others = [other for k, other in in_class[contents[path]].items() if k != label]
            if number < last:
                unusable.append(UnusableFile(path, f"also in a later split, as {printable(copy)}"))
            elif others:
                unusable.append(
                    UnusableFile(path, f"also in another class, as {printable(others[0])}")
                )
    return unusable


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
