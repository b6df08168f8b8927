"""Download files, whole and verified, or not at all. No other file of cnnlab goes online.

`CNNLAB_MIRROR` names a server of your own, such as `https://mirror.example.edu/data`. It's tried
first, with the name of the file; what it sends is verified like everything else.
"""

import contextlib
import hashlib
import os
import socket
import uuid
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener, urlopen

from cnnlab.errors import DownloadError


TIMEOUT = 10.0  # seconds that a server may send nothing during a download
REACH_TIMEOUT = 5.0  # seconds until a server must have answered for the first time
LIBRARY_TIMEOUT = 30.0  # seconds that a server may send nothing while torch downloads
ATTEMPTS = 4  # per server; each one resumes where the one before was interrupted
SIZE_LIMIT = 2**31  # bytes; the largest archive of the course has 0.8 GB
_BLOCK = 2**18


class _Interrupted(Exception):
    """The server sent less than the whole file, or the wrong one; another attempt may succeed."""


class _NoDowngrade(HTTPRedirectHandler):
    """Follow redirections, but never from https to an address without encryption."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise URLError(f"{req.host} redirects from https to {newurl}, which is not secure")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = build_opener(_NoDowngrade)


def download_file(url: str, md5: str, folder: Path) -> Path:
    """Download a file into a folder, unless it's already there.

    Args:
        url: its address; the mirror is tried first.
        md5: MD5 digest of the whole file, as its publisher states it.
        folder: created if it's missing.

    Returns:
        The path of the verified file.

    Raises:
        DownloadError: no server sent the right file. Nothing is left behind.
        OSError: the folder cannot be written to.
    """
    path = folder / url.rpartition("/")[2]
    if path.is_file() and _digest(path) == md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{uuid.uuid4().hex}"
    mirror = os.environ.get("CNNLAB_MIRROR")
    errors = []
    try:
        for source in [f"{mirror.rstrip('/')}/{path.name}", url] if mirror else [url]:
            try:
                _download(source, md5, unfinished)
            except (_Interrupted, URLError, HTTPException, TimeoutError, ConnectionError) as error:
                errors.append(f"{source}: {error}")
                unfinished.unlink(missing_ok=True)
            else:
                unfinished.replace(path)
                return path
    finally:
        unfinished.unlink(missing_ok=True)
    raise DownloadError("; ".join(errors))


def check_reachable(url: str) -> None:
    """Raise OSError within seconds if a server doesn't answer; torch would wait without a limit."""
    with contextlib.suppress(HTTPError):  # an error page is an answer too
        urlopen(Request(url, method="HEAD"), timeout=REACH_TIMEOUT).close()


@contextlib.contextmanager
def timeouts() -> Iterator[None]:
    """Limit how long a server may send nothing, for downloads by libraries that set no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(LIBRARY_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _download(url: str, md5: str, path: Path) -> None:
    """Try one server until the file is complete and correct; an unreachable one is tried once."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _resume(url, path)
            if _digest(path) == md5:
                return
            path.unlink()
            raise _Interrupted("the server sent a different file (its MD5 digest differs)")
        except HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise
        except (_Interrupted, HTTPException, TimeoutError, ConnectionError):
            if attempt == ATTEMPTS:
                raise


def _resume(url: str, path: Path) -> None:
    """Append the missing bytes to a file; start again if the server can't send only those."""
    size = path.stat().st_size if path.exists() else 0
    request = Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    with _opener.open(request, timeout=TIMEOUT) as response:
        resumed = response.status == 206 and _starts_at(response, size)
        with path.open("ab" if resumed else "wb") as file:
            _write(response, file)


def _starts_at(response: HTTPResponse, offset: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {offset}-")


def _write(response: HTTPResponse, file: IO[bytes]) -> None:
    """Write the body of a response to a file, and check that all of it arrived."""
    expected = response.headers.get("Content-Length")
    received = 0
    while block := response.read(_BLOCK):
        received += len(block)
        if file.tell() + len(block) > SIZE_LIMIT:
            raise URLError(f"the server sent more than {SIZE_LIMIT:,} bytes")
        file.write(block)
    if expected is not None and received < int(expected):
        raise _Interrupted(f"the server stopped after {received:,} of {int(expected):,} bytes")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
