"""Unpack downloaded archives safely: the whole archive or nothing, and never outside its folder."""

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from cnnlab.errors import DataError


SIZE_LIMIT = 4 * 2**30  # bytes that an archive may unpack to
COUNT_LIMIT = 200_000  # files in an archive
READ_LIMIT = 2**26  # bytes that a tar header may ask for at once
_BLOCK = 2**20
_TAR_OPENERS: dict[str, Any] = {
    ".tgz": gzip.open, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open
}  # fmt: skip
# What the standard library raises for damaged archives, and the file system for names that clash.
_UNPACK_ERRORS = (
    ValueError, EOFError, OverflowError, RuntimeError, zlib.error, lzma.LZMAError,
    gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError,
    FileExistsError, NotADirectoryError, IsADirectoryError,
)  # fmt: skip


def unpack(archive: Path, folder: Path, limit: int = SIZE_LIMIT) -> None:
    """Unpack a .zip, .gz or .tar file (also .tgz, .tar.gz, .bz2 and .xz), completely or not at all.

    The contents are unpacked into a hidden subfolder first. Only a complete one is moved into
    place, where it replaces files and folders of the same names.

    Args:
        archive: the file.
        folder: where the contents go; created if it's missing.
        limit: bytes that the contents may have.

    Raises:
        DataError: the archive is damaged, its contents are larger than the limit, or it contains a
            link, a device or a path outside the folder. Nothing has been written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f".unpacking-{uuid.uuid4().hex}"
    staging.mkdir()
    try:
        _extract(archive, staging, limit)
        for item in staging.iterdir():
            destination = folder / item.name
            if destination.is_dir():
                shutil.rmtree(destination)
            item.replace(destination)
    except _UNPACK_ERRORS as error:
        raise DataError(f"cannot unpack {archive}: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: Path, folder: Path, limit: int) -> None:
    if not archive.stat().st_size:
        raise DataError("the file is empty")
    if archive.suffix == ".zip":
        _extract_zip(archive, folder, _MemberCheck(limit))
    elif archive.suffix == ".gz" and not archive.stem.endswith(".tar"):
        _extract_gz(archive, folder, limit)
    else:
        _extract_tar(archive, folder, _MemberCheck(limit))


def _extract_zip(archive: Path, folder: Path, check: "_MemberCheck") -> None:
    with zipfile.ZipFile(archive) as opened:
        files = [member for member in opened.infolist() if not member.is_dir()]
        for file in files:
            kind = stat.S_IFMT(file.external_attr >> 16)  # 0 if the archive was made on Windows
            check(file.filename, file.file_size, is_file=kind in (0, stat.S_IFREG))
        opened.extractall(folder, files)


def _extract_tar(archive: Path, folder: Path, check: "_MemberCheck") -> None:
    def check_and_filter(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        if member.isdir():
            return None  # folders are created with the files in them
        check(member.name, member.size, is_file=member.isreg())
        # Readable for everyone who shares the folder, whatever the archive says.
        return tarfile.data_filter(member, path).replace(mode=0o644)

    opener = _TAR_OPENERS.get(archive.suffix, open)
    with (
        opener(archive, "rb") as stream,
        tarfile.open(fileobj=cast(Any, _BoundedReader(stream)), mode="r:") as opened,
    ):
        opened.extractall(folder, filter=check_and_filter)
        while stream.read(_BLOCK):  # up to the end, where the checksum of the compression is
            pass


def _extract_gz(archive: Path, folder: Path, limit: int) -> None:
    with gzip.open(archive) as source, (folder / archive.stem).open("xb") as target:
        while block := source.read(_BLOCK):
            if target.tell() + len(block) > limit:
                raise DataError(_TOO_LARGE.format(limit))
            target.write(block)


_TOO_LARGE = "its contents are larger than {:,} bytes"


class _MemberCheck:
    """Refuses a member of an archive before it is written.

    The standard library keeps members inside the folder, but it renames what we refuse, such as
    `/etc/passwd`. It also accepts links, lets a second file replace the first, and has no limits.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.files: set[PurePosixPath] = set()
        self.folders: set[PurePosixPath] = set()

    def __call__(self, name: str, size: int, *, is_file: bool) -> None:
        """Raise DataError unless the member is a plain file inside the folder, and fits in it."""
        path = PurePosixPath(name)
        if not is_file:
            raise DataError(f"{name!r} is a link or a device")
        forbidden = set(name) & set('\\:\0"|<>?*')  # on Windows
        if path.is_absolute() or ".." in path.parts or not path.parts or forbidden:
            raise DataError(f"{name!r} is not a safe path")
        if path in self.files or path in self.folders or not self.files.isdisjoint(path.parents):
            raise DataError(f"{name!r} has the same place as another file")
        self.files.add(path)
        self.folders.update(path.parents)
        self.size += size
        if self.size > self.limit:
            raise DataError(_TOO_LARGE.format(self.limit))
        if len(self.files) > COUNT_LIMIT:
            raise DataError(f"it contains more than {COUNT_LIMIT:,} files")


class _BoundedReader:
    """A file that can't be read in huge pieces.

    tarfile has no such limit: it reads a header of any claimed length into memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; refuse a size that only a damaged header asks for."""
        if not 0 <= size <= READ_LIMIT:
            raise DataError("a header claims an impossible length")
        return self.file.read(size)
