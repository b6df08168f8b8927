"""Archives that try to write outside their folder, or to fill the disk."""

import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from cnnlab.data import archives
from cnnlab.data.archives import unpack
from cnnlab.errors import DataError


def tar(path, *members, mode="w:gz"):
    """Members are (name, bytes), or a TarInfo."""
    with tarfile.open(path, mode) as packed:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                packed.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            packed.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members:
            packed.writestr(name, content)
    return path


def link_in_zip():
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, "../outside"


GOOD = [("set/a.txt", b"one"), ("set/deep/b.bin", bytes(512)), ("c", b"")]
HOSTILE_TAR = {
    "up": [("../outside", b"x")],
    "up in the middle": [("set/../../outside", b"x")],
    "from the root": [("/tmp/cnnlab-outside", b"x")],
    "windows": [("..\\outside", b"x")],
    "drive": [("C:outside", b"x")],
    "link": [special("link", tarfile.SYMTYPE, "..")],
    "through a link": [special("link", tarfile.SYMTYPE, ".."), ("link/outside", b"x")],
    "hard link": [special("link", tarfile.LNKTYPE, "../secret")],
    "device": [special("device", tarfile.CHRTYPE)],
    "pipe": [special("pipe", tarfile.FIFOTYPE)],
    "same name twice": [("a", b"1"), ("a", b"2")],
    "file as a folder": [("a", b"1"), ("a/b", b"2")],
    "folder as a file": [("a/b", b"1"), ("a", b"2")],
}
HOSTILE_ZIP = {
    "up": [("../outside", b"x")],
    "from the root": [("/tmp/cnnlab-outside", b"x")],
    "windows": [("set\\..\\..\\outside", b"x")],
    "drive": [("C:outside", b"x")],
    "link": [link_in_zip()],
    "through a link": [link_in_zip(), ("link/outside", b"x")],
    "file as a folder": [("a", b"1"), ("a/b", b"2")],
    "folder as a file": [("a/b", b"1"), ("a", b"2")],
}


@pytest.fixture
def place(tmp_path):
    """A folder for the contents; everything around it must stay unchanged."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    return folder


def around(place):
    return sorted(
        str(p) for p in place.parents[1].rglob("*") if p.suffix not in (".gz", ".zip", ".tgz")
    )


@pytest.mark.parametrize(
    "name", ["good.tar.gz", "good.tgz", "good.tar", "good.tar.bz2", "good.tar.xz", "good.zip"]
)
def test_a_good_archive_is_unpacked_whole(name, tmp_path, place):
    if name.endswith("zip"):
        archive = zipped(tmp_path / name, *GOOD)
    else:
        kind = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(name.rpartition(".")[2], "")
        archive = tar(tmp_path / name, *GOOD, mode=f"w:{kind}")
    for _ in range(2):  # the second time in place of the first
        unpack(archive, place)
        found = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
        assert found == dict(GOOD)


def test_a_single_packed_file_is_unpacked_beside_others(tmp_path, place):
    (tmp_path / "labels.gz").write_bytes(gzip.compress(b"numbers"))
    (place / "other").write_text("stays")
    unpack(tmp_path / "labels.gz", place)
    assert sorted(p.name for p in place.iterdir()) == ["labels", "other"]
    assert (place / "labels").read_bytes() == b"numbers"


@pytest.mark.parametrize("how", HOSTILE_TAR)
def test_a_hostile_tar_writes_nothing(how, tmp_path, place):
    archive = tar(tmp_path / "a.tar.gz", ("first", b"good"), *HOSTILE_TAR[how])
    before = around(place)
    reasons = "not a safe path|a link or a device|the same place"
    with pytest.raises(DataError, match=rf"cannot unpack .*a\.tar\.gz: .*({reasons})"):
        unpack(archive, place)
    assert around(place) == before
    assert not Path("/tmp/cnnlab-outside").exists()


@pytest.mark.parametrize("how", HOSTILE_ZIP)
def test_a_hostile_zip_writes_nothing(how, tmp_path, place):
    archive = zipped(tmp_path / "a.zip", ("first", b"good"), *HOSTILE_ZIP[how])
    before = around(place)
    reasons = "not a safe path|a link or a device|the same place"
    with pytest.raises(DataError, match=rf"cannot unpack .*a\.zip: .*({reasons})"):
        unpack(archive, place)
    assert around(place) == before
    assert not Path("/tmp/cnnlab-outside").exists()


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "gz"])
def test_a_bomb_stays_below_its_limit(kind, tmp_path, place, monkeypatch):
    archive, content = tmp_path / f"bomb.{kind}", bytes(50_000_000)
    if kind == "gz":
        archive.write_bytes(gzip.compress(content))
    else:
        (tar if kind == "tar.gz" else zipped)(archive, ("small", b"x"), ("zeros", content))
    assert archive.stat().st_size < 60_000
    written = []
    remove = shutil.rmtree

    def measure_and_remove(folder, **options):
        written.append(sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()))
        remove(folder, **options)

    monkeypatch.setattr(archives.shutil, "rmtree", measure_and_remove)
    with pytest.raises(DataError, match="larger than 1,000,000 bytes"):
        unpack(archive, place, limit=1_000_000)
    assert not list(place.iterdir())
    assert len(written) == 1
    assert written[0] <= 1_000_000


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has other permissions")
@pytest.mark.parametrize("mode", [0o600, 0o4777])
def test_unpacked_files_are_plain_and_readable_whatever_the_archive_says(mode, tmp_path, place):
    info = special("a", tarfile.REGTYPE)
    info.mode, info.uid, info.gid, info.mtime = mode, 4321, 4321, 0
    unpack(tar(tmp_path / "a.tar.gz", info), place)
    status = (place / "a").stat()
    assert stat.S_IMODE(status.st_mode) == 0o644
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_a_time_stamp_that_no_file_can_have_is_a_data_error(tmp_path, place):
    info = special("a", tarfile.REGTYPE)
    info.mtime = 1e300
    with pytest.raises(DataError, match="cannot unpack"):
        unpack(tar(tmp_path / "a.tar.gz", info), place)
    assert not list(place.iterdir())


def test_many_empty_files_are_a_bomb_too(tmp_path, place, monkeypatch):
    monkeypatch.setattr(archives, "COUNT_LIMIT", 10)
    with pytest.raises(DataError, match="more than 10 files"):
        unpack(tar(tmp_path / "a.tar.gz", *[(f"{i}", b"") for i in range(11)]), place)
    assert not list(place.iterdir())


def test_a_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path, place):
    info = special("long", tarfile.XHDTYPE, size=2**33)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(2**20))
    with pytest.raises(DataError, match="impossible length"):
        unpack(tmp_path / "a.tar.gz", place)


@pytest.mark.parametrize("kind", ["tar.gz", "zip", "gz", "tar"])
def test_a_damaged_archive_is_a_data_error_and_leaves_nothing(kind, tmp_path, place):
    archive = tmp_path / f"a.{kind}"
    if kind == "gz":
        archive.write_bytes(gzip.compress(os.urandom(5000)))
    elif kind == "zip":
        zipped(archive, ("a", os.urandom(5000)), ("b", os.urandom(5000)))
    else:
        tar(archive, ("a", os.urandom(5000)), mode="w:gz" if kind == "tar.gz" else "w:")
    whole = archive.read_bytes()
    for spoilt in (
        whole[:3000],
        b"",
        b"<html>404</html>",
        whole[:1500] + b"\xff" * 500 + whole[2000:],
    ):
        archive.write_bytes(spoilt)
        if kind == "tar" and spoilt[257:262] == b"ustar" and len(spoilt) > 5000:
            continue  # a plain tar has no checksum of its contents
        with pytest.raises(DataError, match="cannot unpack"):
            unpack(archive, place)
        assert not list(place.iterdir())


def test_a_full_disk_keeps_its_own_error_and_leaves_nothing(tmp_path, place, monkeypatch):
    archive = tar(tmp_path / "a.tar.gz", ("a", b"1"))
    monkeypatch.setattr(
        archives,
        "_extract",
        lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(OSError, match="No space left"):
        unpack(archive, place)
    assert not list(place.iterdir())
