"""Archives unpacked so that nothing is written outside of the folder, and no more than was agreed."""

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from cnnlab.errors import DataError


SIZE_LIMIT = 4 * 2**30  # bytes of everything in an archive
COUNT_LIMIT = 200_000  # files in an archive
READ_LIMIT = 2**26  # bytes that a header may ask for at once
_BLOCK = 2**20
_FAULTS = (
    ValueError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile,
    tarfile.TarError, FileExistsError, NotADirectoryError, IsADirectoryError,
)  # fmt: skip

Member = tuple[PurePosixPath, IO[bytes]]


def unpack(archive: Path, folder: Path, limit: int = SIZE_LIMIT) -> None:
    """Unpack a .tar (also compressed), .tgz, .zip or .gz file, all of it or nothing.

    What comes is put together in a hidden folder beside its place, which then takes the place of what had
    the same name.

    Args:
        archive: the file.
        folder: where the contents go.
        limit: bytes that the contents may have.

    Raises:
        DataError: a member would land outside of the folder, is a link or a device, the contents are larger
            than the limit, or the archive is damaged. Nothing has been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workshop = folder / f".unpacking-{uuid.uuid4().hex}"
    workshop.mkdir()
    try:
        _fill(workshop, archive, limit)
        for made in workshop.iterdir():
            place = folder / made.name
            if place.is_dir():
                shutil.rmtree(place)
            made.replace(place)
    except _FAULTS as error:
        raise DataError(f"{archive} was not unpacked: {error}") from None
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _fill(workshop: Path, archive: Path, limit: int) -> None:
    if not archive.stat().st_size:
        raise DataError("the file is empty")
    left = limit
    for number, (name, source) in enumerate(_members(archive, limit)):
        if number == COUNT_LIMIT:
            raise DataError(f"it has more than {COUNT_LIMIT:,} files")
        path = workshop.joinpath(*_safe(name).parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            while block := source.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise DataError(f"its contents are larger than {limit:,} bytes")
                file.write(block)


def _safe(name: PurePosixPath) -> PurePosixPath:
    """The name, if it stays in the folder on every system: no root, no drive, no way up."""
    text = str(name)
    if name.is_absolute() or ".." in name.parts or not name.parts or set(text) & set('\\:\0"|<>?*'):
        raise DataError(f"the name {text!r} leads elsewhere, or is none")
    return name


def _members(archive: Path, limit: int) -> Iterator[Member]:
    if archive.suffix == ".zip":
        yield from _of_zip(archive)
    elif archive.suffix == ".gz" and not archive.stem.endswith(".tar"):
        with gzip.open(archive) as source:
            yield PurePosixPath(archive.stem), cast(IO[bytes], source)
    else:
        yield from _of_tar(archive, limit)


def _of_zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                raise DataError(f"{member.filename!r} is a link or a device")
            with opened.open(member) as source:
                yield PurePosixPath(member.filename), source


def _of_tar(archive: Path, limit: int) -> Iterator[Member]:
    opener = _OPENERS.get(archive.suffix, open)
    with opener(archive, "rb") as plain, tarfile.open(fileobj=_bounded(plain), mode="r:") as opened:
        for member in opened:
            if member.isdir():
                continue
            if not member.isreg():
                raise DataError(f"{member.name!r} is a link or a device")
            if member.size > limit:
                raise DataError(f"{member.name!r} alone is larger than {limit:,} bytes")
            source = opened.extractfile(member)
            assert source is not None
            yield PurePosixPath(member.name), source
        while plain.read(_BLOCK):  # up to the checksum at the end
            pass


_OPENERS: dict[str, Any] = {
    ".tgz": gzip.open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open
}  # fmt: skip


def _bounded(file: IO[bytes]) -> Any:
    return _Bounded(file)


class _Bounded:
    """A file that refuses to be read in huge pieces, as a header that lies about its length would."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Return so many bytes, or fewer at the end."""
        if not 0 <= size <= READ_LIMIT:
            raise DataError("a header claims an impossible length")
        return self.file.read(size)
