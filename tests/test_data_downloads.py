"""The real data sets: read from small copies in torchvision's format, and an error when offline."""

import gzip
import hashlib
import inspect
import io
import pickle
import re
import shutil
import socket
import tarfile
import time
import zipfile

import numpy as np
import pytest
import stand_ins
import torch
import torchvision.datasets
from PIL import Image
from test_data_fetch import serving

import cnnlab
from cnnlab.data import DOWNLOADED, download, load, torchvision_sets
from cnnlab.errors import DataError, DownloadError


SOURCES = torchvision_sets._SOURCES
DEBIAN = torchvision_sets.DEBIAN_FASHION


@pytest.fixture(autouse=True)
def without_debian(tmp_path, monkeypatch):
    """Do as if Debian's package of Fashion-MNIST weren't installed."""
    monkeypatch.setattr(torchvision_sets, "DEBIAN_FASHION", tmp_path / "not installed")


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


def write_fashion(folder, opened=open, ending=""):
    """Write 40 and 20 images in the IDX format; all pixels of image i are i."""
    folder.mkdir(parents=True)
    for part, n in (("train", 40), ("t10k", 20)):
        pixels = np.arange(n, dtype=np.uint8)[:, None].repeat(784, 1)
        labels = bytes(i % 10 for i in range(n))
        for kind, header, content in (
            ("images-idx3", f"00000803{n:08x}0000001c0000001c", pixels.tobytes()),
            ("labels-idx1", f"00000801{n:08x}", labels),
        ):
            with opened(folder / f"{part}-{kind}-ubyte{ending}", "wb") as file:
                file.write(bytes.fromhex(header) + content)


def check_fashion(bundle):
    assert bundle.train.shape == (1, 28, 28)
    assert bundle.classes[:2] == ("T-shirt/top", "Trouser")
    for part in (bundle.train, bundle.valid, bundle.test):
        assert torch.equal(part.images[:, 0, 27, 0] % 10, part.labels)
        assert (part.images == part.images[:, :, :1, :1]).all()
    assert [len(p) for p in (bundle.train, bundle.valid, bundle.test)] == [36, 4, 20]


def test_fashion_is_grey(tmp_path):
    write_fashion(tmp_path / "FashionMNIST" / "raw")
    check_fashion(load("fashion_mnist", root=tmp_path))


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """Debian's package of Fashion-MNIST, with few images."""
    folder = tmp_path / "usr" / "fashion-mnist"
    write_fashion(folder, gzip.open, ".gz")
    monkeypatch.setattr(torchvision_sets, "DEBIAN_FASHION", folder)
    return folder


@pytest.mark.parametrize("download", [False, True])
def test_fashion_of_debian_is_read_before_the_network_is_asked(
    download, debian, tmp_path, no_network
):
    check_fashion(load("fashion_mnist", root=tmp_path / "cache", download=download))
    assert no_network == []
    assert not (tmp_path / "cache").exists()  # nothing is copied


def test_fashion_in_the_own_folder_comes_before_that_of_debian(debian, tmp_path):
    for path in debian.iterdir():
        path.write_bytes(b"")
    write_fashion(tmp_path / "FashionMNIST" / "raw")
    check_fashion(load("fashion_mnist", root=tmp_path))


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
@pytest.mark.parametrize("damage", ["cut", "empty", "not compressed", "changed", "short"])
def test_damaged_files_of_debian_are_an_error_that_says_how_to_install_them_again(
    damage, name, debian, tmp_path
):
    whole = (debian / name).read_bytes()
    (debian / name).write_bytes(
        {
            "cut": whole[:-20],
            "empty": b"",
            "not compressed": gzip.decompress(whole),
            "changed": whole[:-6] + bytes([whole[-6] ^ 255]) + whole[-5:],
            "short": gzip.compress(gzip.decompress(whole)[:-1]),
        }[damage]
    )
    with pytest.raises(DataError, match=r"damaged.*--reinstall dataset-fashion-mnist"):
        load("fashion_mnist", root=tmp_path)


def test_a_part_of_debians_files_is_not_enough(debian, tmp_path):
    (debian / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DownloadError, match="pass download=True"):
        load("fashion_mnist", root=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_a_network_learns_the_real_fashion_mnist(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(torchvision_sets, "DEBIAN_FASHION", DEBIAN)
    fashion = load("fashion_mnist", root=tmp_path)
    assert [len(p) for p in (fashion.train, fashion.valid, fashion.test)] == [54_000, 6000, 10_000]
    assert set(fashion.counts("test").values()) == {1000}
    # as published for the 60,000 training images
    assert fashion.mean.item() == pytest.approx(0.2860, abs=5e-4)
    assert fashion.std.item() == pytest.approx(0.3530, abs=5e-4)
    torch.manual_seed(0)
    model = cnnlab.small_resnet(10, in_channels=1, width=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train = cnnlab.loader(fashion.subset(per_class=600).train, 64, shuffle=True)
    one_cycle = cnnlab.attach(optimizer, cnnlab.schedules.one_cycle(4 * len(train)))
    trainer = cnnlab.Trainer(model, optimizer, scheduler=one_cycle, progress=False)
    trainer.fit(train, epochs=4)
    assert trainer.evaluate(cnnlab.loader(fashion.test, 500))["acc"] > 0.8
    assert no_network == []


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


def check_greys(split):
    """Check that each image has the grey of its class, and is darker at the top."""
    images = split.images.float()
    assert (images.mean(dim=(1, 2, 3)) - (20 * split.labels + 20)).abs().max() < 5
    upper, lower = images.chunk(2, dim=2)
    assert (upper.mean(dim=(1, 2, 3)) < lower.mean(dim=(1, 2, 3)) - 3).all()


@pytest.mark.parametrize(
    ("size", "archive"), [(8, "160px"), (160, "160px"), (161, "320px"), (321, "full")]
)
def test_imagenette_is_cropped_to_squares_and_its_validation_images_are_the_test_set(
    size, archive, tmp_path, no_network
):
    stand_ins.imagenette(tmp_path, archive)
    bundle = load("imagenette", root=tmp_path, size=size)
    assert bundle.classes[:3] == ("tench", "English springer", "cassette player")
    assert bundle.train.shape == (3, size, size)
    for split, n in (("train", 9), ("valid", 1), ("test", 4)):
        assert set(bundle.counts(split).values()) == {n}
        check_greys(getattr(bundle, split))
    assert no_network == []


def test_imagenette_in_another_size_is_another_archive(tmp_path, refused):
    stand_ins.imagenette(tmp_path, "160px")
    with pytest.raises(DownloadError, match=r"imagenette2-320\.tgz"):
        load("imagenette", root=tmp_path, size=224, download=True)
    assert len(load("imagenette", root=tmp_path, size=16, download=True).test) == 40


def test_eurosat_has_a_fixed_test_set_and_a_validation_set_that_depends_on_the_seed(
    tmp_path, no_network
):
    stand_ins.eurosat(tmp_path, n=20)
    first, second = (load("eurosat", root=tmp_path, seed=seed) for seed in (0, 1))
    assert first.train.shape == (3, 64, 64)
    assert first.classes[0] == "AnnualCrop"
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.valid.images, second.valid.images)
    seen = set()
    for split, n in (("train", 144), ("valid", 16), ("test", 40)):
        images = getattr(first, split)
        assert len(images) == n
        seen |= {image.numpy().tobytes() for image in images.images}
        check_greys(images)
    assert len(seen) == 200  # no image is in two splits
    assert set(first.counts("test").values()) == {4}
    assert set(first.counts("train").values()) <= {14, 15}
    assert load("eurosat", root=tmp_path, size=8).train.shape == (3, 8, 8)
    assert no_network == []


def test_eurosat_is_downloaded_verified_and_unpacked(tmp_path, monkeypatch):
    stand_ins.eurosat(tmp_path / "made", n=10)
    packed = tmp_path / "EuroSAT"
    shutil.make_archive(str(packed), "zip", tmp_path / "made" / "eurosat")
    content = packed.with_suffix(".zip").read_bytes()
    with serving({"/EuroSAT.zip": content}) as server:
        files = {"EuroSAT.zip": hashlib.md5(content).hexdigest()}
        source = SOURCES["EuroSAT"]._replace(server=server.url, files=files)
        monkeypatch.setitem(SOURCES, "EuroSAT", source)
        for _ in range(2):
            assert len(load("eurosat", root=tmp_path / "new", download=True).test) == 20
    assert len(server.requests) == 1
    assert [path.name for path in (tmp_path / "new" / "eurosat").iterdir()] == ["2750"]
    assert zipfile.is_zipfile(packed.with_suffix(".zip"))


@pytest.mark.parametrize("name", ["pets", "flowers", "imagenette", "eurosat"])
@pytest.mark.parametrize("size", [0, -3, 2.5, None])
def test_an_impossible_size_is_refused_before_anything_is_read(name, size, tmp_path):
    with pytest.raises((TypeError, ValueError), match=r"size must be .*try size=64"):
        load(name, size=size, root=tmp_path)


@pytest.mark.parametrize("name", DOWNLOADED)
def test_nothing_is_downloaded_without_download_true(name, tmp_path, refused):
    with pytest.raises(
        DownloadError,
        match=rf"pass download=True, as in load\('{name}', download=True\); or use load",
    ):
        load(name, root=tmp_path)
    assert refused == []


@pytest.mark.parametrize("name", DOWNLOADED)
def test_without_a_network_the_error_suggests_a_data_set_that_needs_none(name, tmp_path, refused):
    begin = time.monotonic()
    with pytest.raises(
        DownloadError, match=r"unreachable.*load\('(pocket|digits)'\), which works offline"
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
    for archive, (url, md5) in sets.Imagenette._ARCHIVES.items():
        server, files = sources[f"Imagenette-{archive}"]
        assert [(server + name, digest) for name, digest in files.items()] == [(url, md5)]
    server, files = sources["EuroSAT"]
    source = inspect.getsource(sets.EuroSAT.download)
    assert re.findall(r'"(https.*?)"|md5="(\w+)"', source) == [
        (server + name, "") if i == 0 else ("", md5)
        for name, md5 in files.items()
        for i in range(2)
    ]
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
