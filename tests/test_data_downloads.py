"""The real data sets: read from small copies in torchvision's format, and an error when offline."""

import hashlib
import io
import pickle
import socket
import tarfile
import time

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from test_data_fetch import serving

from cnnlab.data import download, load, torchvision_sets
from cnnlab.errors import DownloadError


SOURCES = torchvision_sets._SOURCES
NAMES = ("cifar10", "cifar100", "fashion_mnist", "pets", "flowers")


@pytest.fixture
def refused(monkeypatch):
    """Refuse every connection, and return the list of those that were tried."""
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Two files of CIFAR-10 with 100 images; the first channel of image i is i."""
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "_check_integrity", lambda _: True)
    monkeypatch.setattr(kind, "train_list", [["data_batch_1", ""]])
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    data = np.zeros((100, 3, 32, 32), np.uint8)
    data[:, 0], data[:, 1] = np.arange(100)[:, None, None], 200
    entry = {"data": data.reshape(100, -1), "labels": [i % 10 for i in range(100)]}
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps(entry))
    names = {"label_names": [f"thing {k}" for k in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    return tmp_path


def test_cifar_keeps_pixels_labels_and_names_together(cifar):
    bundle = load("cifar10", root=cifar)
    assert [len(p) for p in (bundle.train, bundle.valid, bundle.test)] == [90, 10, 100]
    assert bundle.counts("valid") == {f"thing {k}": 1 for k in range(10)}
    for part in (bundle.train, bundle.valid, bundle.test):
        assert torch.equal(part.images[:, 0, 5, 7] % 10, part.labels)
        assert (part.images[:, 1] == 200).all()
        assert part.shape == (3, 32, 32)


def test_the_validation_set_depends_only_on_the_seed(cifar):
    def valid(seed):
        return load("cifar10", root=cifar, seed=seed).valid.images[:, 0, 0, 0].tolist()

    assert valid(0) == valid(0)
    assert valid(0) != valid(1)


def test_data_on_disk_needs_no_network_even_with_download_true(cifar, refused):
    assert len(load("cifar10", root=cifar, download=True).train) == 90
    assert refused == []


def test_fashion_is_grey(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 20)):
        pixels = np.arange(n, dtype=np.uint8)[:, None].repeat(784, 1)
        header = bytes.fromhex(f"00000803{n:08x}0000001c0000001c")
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = bytes(i % 10 for i in range(n))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes.fromhex(f"00000801{n:08x}") + labels)
    bundle = load("fashion_mnist", root=tmp_path)
    assert bundle.train.shape == (1, 28, 28)
    assert torch.equal(bundle.train.images[:, 0, 0, 0] % 10, bundle.train.labels)
    assert [len(p) for p in (bundle.train, bundle.valid, bundle.test)] == [36, 4, 20]


def test_pets_are_cropped_to_squares(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    for name in ("images", "annotations"):
        (base / name).mkdir(parents=True)
    lines = []
    for k, breed in enumerate(("Abyssinian", "american_bulldog")):
        for i in range(10):
            Image.new("RGB", (50, 40 + i), (100 * k, 0, 0)).save(
                base / "images" / f"{breed}_{i}.jpg"
            )
            lines.append(f"{breed}_{i} {k + 1} 1 1")
    for part in ("trainval", "test"):
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines))
    bundle = load("pets", root=tmp_path, size=16)
    assert bundle.classes == ("Abyssinian", "American Bulldog")
    assert bundle.train.shape == (3, 16, 16)
    assert [len(p) for p in (bundle.train, bundle.valid, bundle.test)] == [18, 2, 20]
    assert torch.equal(bundle.test.images[:, 0, 8, 8] > 50, bundle.test.labels == 1)


def test_flowers_keep_their_official_splits(tmp_path, monkeypatch):
    from scipy.io import savemat

    kind = torchvision.datasets.Flowers102
    monkeypatch.setattr(kind, "_check_integrity", lambda _: True)
    base = tmp_path / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    for i in range(1, 7):
        Image.new("RGB", (30, 20), (40 * i, 0, 0)).save(base / "jpg" / f"image_{i:05d}.jpg")
    savemat(base / "imagelabels.mat", {"labels": [1, 2, 3, 1, 2, 3]})
    savemat(base / "setid.mat", {"trnid": [1, 2], "valid": [3, 4], "tstid": [5, 6]})
    bundle = load("flowers", root=tmp_path, size=8)
    assert [p.labels.tolist() for p in (bundle.train, bundle.valid, bundle.test)] == [
        [0, 1],
        [2, 0],
        [1, 2],
    ]
    assert (bundle.valid.images[:, 0, 4, 4].float() - torch.tensor([120.0, 160])).abs().max() < 3


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_downloaded_without_download_true(name, tmp_path, refused):
    with pytest.raises(
        DownloadError,
        match=rf"pass download=True, as in load\('{name}', download=True\); or use load",
    ):
        load(name, root=tmp_path)
    assert refused == []


@pytest.mark.parametrize("name", NAMES)
def test_without_a_network_the_error_suggests_a_data_set_that_needs_none(name, tmp_path, refused):
    begin = time.monotonic()
    with pytest.raises(
        DownloadError, match=r"unreachable.*load\('(pocket|digits)'\), which needs no network"
    ) as caught:
        load(name, root=tmp_path, download=True)
    assert time.monotonic() - begin < 5
    assert caught.value.__suppress_context__
    assert len(refused) == 1


def test_a_silent_server_is_an_error_after_the_timeout(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        silent = SOURCES["CIFAR10"]._replace(server=f"http://127.0.0.1:{port}/")
        monkeypatch.setitem(SOURCES, "CIFAR10", silent)
        monkeypatch.setattr(download, "TIMEOUT", 0.1)
        with pytest.raises(DownloadError, match="timed out"):
            load("cifar10", root=tmp_path, download=True)


def test_a_broken_download_is_an_error_and_sockets_keep_their_timeout(tmp_path, monkeypatch):
    broken = lambda url, md5, folder: folder / "nothing.mat"
    monkeypatch.setattr(torchvision_sets, "download_file", broken)
    with pytest.raises(DownloadError, match="corrupted"):
        load("cifar10", root=tmp_path, download=True)
    assert socket.getdefaulttimeout() is None


def test_the_default_folder_is_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path))
    with pytest.raises(DownloadError, match=str(tmp_path / "datasets")):
        load("cifar100")


def test_the_addresses_and_digests_are_those_of_torchvision(tmp_path):
    sources = {name: (s.server, s.files) for name, s in SOURCES.items()}
    sets = torchvision.datasets
    for kind in (sets.CIFAR10, sets.CIFAR100):
        server, files = sources[kind.__name__]
        assert [(server + name, md5) for name, md5 in files.items()] == [(kind.url, kind.tgz_md5)]
    server, files = sources["FashionMNIST"]
    assert server in sets.FashionMNIST.mirrors
    assert list(files.items()) == sets.FashionMNIST.resources
    server, files = sources["OxfordIIITPet"]
    assert (
        tuple((server + name, md5) for name, md5 in files.items()) == sets.OxfordIIITPet._RESOURCES
    )
    assert sources["Flowers102"] == (
        sets.Flowers102._download_url_prefix, dict(sets.Flowers102._file_dict.values())
    )  # fmt: skip


def test_a_downloaded_data_set_is_verified_unpacked_and_read(tmp_path, monkeypatch, cifar):
    """The small CIFAR, packed like the real one and served from this machine."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        packed.add(cifar / "cifar-10-batches-py", "cifar-10-batches-py")
    content, root = archive.getvalue(), tmp_path / "elsewhere"
    kind = torchvision.datasets.CIFAR10
    complete = lambda self: (root / kind.base_folder / "data_batch_1").exists()
    monkeypatch.setattr(kind, "_check_integrity", complete)
    with serving({"/cifar-10-python.tar.gz": content}) as server:
        source = SOURCES["CIFAR10"]
        md5 = hashlib.md5(content).hexdigest()
        monkeypatch.setitem(
            SOURCES, "CIFAR10",
            source._replace(server=server.url, files={"cifar-10-python.tar.gz": md5}),
        )  # fmt: skip
        assert len(load("cifar10", root=root, download=True).train) == 90
        assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]
        assert len(load("cifar10", root=root, download=True).test) == 100
    assert len(server.requests) == 1
