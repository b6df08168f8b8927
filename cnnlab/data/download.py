"""Files from the network: whole and verified, or not there.

`CNNLAB_MIRROR` names a server of your own, such as `https://mirror.example.edu/data`, that is asked first for each file by
its name; what it gives is verified like everything else.
"""

import hashlib
import os
import uuid
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cnnlab.errors import DownloadError


TIMEOUT = 10.0  # seconds that a server may be silent
ATTEMPTS = 4  # at one server; each goes on where the one before was cut
SIZE_LIMIT = 2**31  # bytes; the largest archive of the course has 0.8 GB
_BLOCK = 2**18


class _Cut(Exception):
    """The server has stopped before the end, or for now; asking again may help."""


class _NoDowngrade(HTTPRedirectHandler):
    """Follow redirections, but never from an encrypted address to one that is not."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and not newurl.startswith("https:"):
            raise URLError(f"{req.host} leads from https to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = build_opener(_NoDowngrade)


def fetch(url: str, md5: str, folder: Path) -> Path:
    """Bring a file into a folder, unless it is there.

    Args:
        url: where it lies; the mirror is asked before.
        md5: digest of the whole file, as its publisher gives it.
        folder: made when it is missing.

    Returns:
        The path of the file, whose digest is right.

    Raises:
        DownloadError: nobody gave the right file. Nothing is left behind.
        OSError: the folder cannot be written.
    """
    path = folder / url.rpartition("/")[2]
    if path.is_file() and _digest(path) == md5:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{path.name}.{uuid.uuid4().hex}"
    mirror = os.environ.get("CNNLAB_MIRROR")
    faults = []
    try:
        for source in [f"{mirror.rstrip('/')}/{path.name}", url] if mirror else [url]:
            try:
                _bring(source, md5, unfinished)
            except (_Cut, URLError, HTTPException, TimeoutError, ConnectionError) as error:
                faults.append(f"{source}: {error}")
                unfinished.unlink(missing_ok=True)
            else:
                unfinished.replace(path)
                return path
    finally:
        unfinished.unlink(missing_ok=True)
    raise DownloadError("; ".join(faults))


def _bring(url: str, md5: str, path: Path) -> None:
    """Ask a server until the file is whole and right; one that cannot be reached is asked once."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _go_on(url, path)
            if _digest(path) == md5:
                return
            path.unlink()
            raise _Cut("what came is not the file that was published (its digest differs)")
        except HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS:
                raise
        except (_Cut, HTTPException, TimeoutError, ConnectionError):
            if attempt == ATTEMPTS:
                raise


def _go_on(url: str, path: Path) -> None:
    """Append to the file what is missing of it; begin anew where the server cannot do that."""
    have = path.stat().st_size if path.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with _opener.open(request, timeout=TIMEOUT) as response:
        goes_on = response.status == 206 and _begins_at(response, have)
        with path.open("ab" if goes_on else "wb") as file:
            _copy(response, file)


def _begins_at(response: HTTPResponse, start: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _copy(response: HTTPResponse, file: IO[bytes]) -> None:
    expected = response.headers.get("Content-Length")
    came = 0
    while block := response.read(_BLOCK):
        came += len(block)
        if file.tell() + len(block) > SIZE_LIMIT:
            raise URLError(f"more than {SIZE_LIMIT:,} bytes, which no file of the course has")
        file.write(block)
    if expected is not None and came < int(expected):
        raise _Cut(f"the server stopped after {came:,} of {int(expected):,} bytes")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
