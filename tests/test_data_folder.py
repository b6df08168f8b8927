"""Image folders: labels that cannot shift, and files that cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab.data import FileSet, ImageSet, folder, from_folder, loader
from cnnlab.errors import DataError


def paint(path, colour=(10, 20, 30), size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def animals(tmp_path):
    """Three classes of 10 images; red is 10 times the class, green the number."""
    for k, name in enumerate(("cat", "dog", "emu")):
        for i in range(10):
            paint(tmp_path / name / f"{i}.png", (10 * k, i, 0))
    return tmp_path


def test_labels_follow_the_sorted_names_of_the_folders(animals):
    bundle = from_folder(animals)
    assert bundle.classes == ("cat", "dog", "emu")
    for part in (bundle.train, bundle.valid):
        assert torch.equal(part.images[:, 0, 0, 0].long(), 10 * part.labels)
    assert (len(bundle.train), len(bundle.valid), bundle.test) == (24, 6, None)
    assert bundle.train.shape == (3, 6, 8)


def test_the_split_is_stratified_and_a_function_of_the_seed(animals):
    def valid(seed):
        return from_folder(animals, valid=0.3, seed=seed).valid

    assert torch.bincount(valid(0).labels).tolist() == [3, 3, 3]
    assert torch.equal(valid(0).images, valid(0).images)
    assert not torch.equal(valid(0).images, valid(1).images)


@pytest.mark.parametrize(
    "rubbish", [".ipynb_checkpoints", "__MACOSX", ".DS_Store", "cat/Thumbs.db"]
)
@pytest.mark.parametrize("where", ["above", "inside"])
def test_what_systems_leave_behind_is_neither_class_nor_image(animals, rubbish, where):
    path = (animals if where == "above" else animals / "cat") / rubbish
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x") if "." in path.name[1:] or "DS" in path.name else paint(path / "0.png")
    bundle = from_folder(animals)
    assert bundle.classes == ("cat", "dog", "emu")
    assert len(bundle.train) + len(bundle.valid) == 30


def test_parts_use_the_classes_of_the_training_part(tmp_path):
    for part, names in (
        ("train", ("cat", "dog", "emu")),
        ("val", ("cat", "emu")),
        ("test", ("emu",)),
    ):
        for name in names:
            for i in range(3):
                paint(
                    tmp_path / part / name / f"{i}.png",
                    (10 * ("cat", "dog", "emu").index(name), i, 0),
                )
    bundle = from_folder(tmp_path)
    assert bundle.classes == ("cat", "dog", "emu")
    assert bundle.counts("valid") == {"cat": 3, "dog": 0, "emu": 3}
    assert bundle.counts("test") == {"cat": 0, "dog": 0, "emu": 3}
    for part in (bundle.train, bundle.valid, bundle.test):
        assert torch.equal(part.images[:, 0, 0, 0].long(), 10 * part.labels)


def test_a_class_that_training_lacks_is_an_error(tmp_path):
    for path in ("train/cat/0.png", "train/dog/0.png", "valid/cow/0.png"):
        paint(tmp_path / path)
    with pytest.raises(DataError, match=r"valid has classes that .*train has not: \['cow'\]"):
        from_folder(tmp_path)


def test_without_a_validation_part_it_is_split_from_training(tmp_path):
    for i in range(10):
        paint(tmp_path / "train" / "cat" / f"{i}.png")
        paint(tmp_path / "train" / "dog" / f"{i}.png")
    paint(tmp_path / "test" / "dog" / "0.png")
    bundle = from_folder(tmp_path)
    assert [len(p) for p in (bundle.train, bundle.valid, bundle.test)] == [16, 4, 1]


def test_a_class_may_be_called_train_or_test(tmp_path):
    for name in ("bus", "train"):
        for i in range(5):
            paint(tmp_path / name / f"{i}.png")
    assert from_folder(tmp_path).classes == ("bus", "train")


def test_a_class_without_images_is_named(animals):
    (animals / "fox").mkdir()
    (animals / "fox" / "readme.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"no image in .*fox"):
        from_folder(animals)


@pytest.mark.parametrize("make", [lambda p: p / "nowhere", lambda p: p / "empty"])
def test_a_folder_that_is_missing_or_empty_is_an_error(tmp_path, make):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one folder a class"):
        from_folder(make(tmp_path))


@pytest.mark.parametrize("arguments", [{"valid": 0}, {"valid": 1}, {"size": 0}])
def test_shares_and_sizes_out_of_bounds_are_refused(animals, arguments):
    with pytest.raises(ValueError, match="valid lies in"):
        from_folder(animals, **arguments)


def test_every_broken_image_is_named_at_once(animals):
    good = (animals / "cat" / "0.png").read_bytes()
    broken = {
        "cut.png": good[:-30],
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "vector.png": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }
    for name, content in broken.items():
        (animals / "dog" / name).write_bytes(content)
    with pytest.raises(DataError, match="4 of 34 images cannot be read") as caught:
        from_folder(animals)
    assert all(str(animals / "dog" / name) in str(caught.value) for name in broken)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_of_many_broken_images_ten_are_listed(animals):
    for i in range(13):
        (animals / "dog" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="and 3 more") as caught:
        from_folder(animals)
    assert str(caught.value).count("bad") == 10


def test_sizes_that_differ_are_named_with_the_way_out(animals):
    paint(animals / "dog" / "wide.png", size=(9, 6))
    with pytest.raises(DataError, match=r"is 8 x 6, .*wide\.png is 9 x 6; give size="):
        from_folder(animals)
    assert from_folder(animals, size=4).train.shape == (3, 4, 4)


def test_size_shortens_the_short_side_and_keeps_the_middle(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    whole = Image.fromarray(pixels).resize((12, 4), Image.Resampling.BILINEAR)
    middle = torch.from_numpy(np.array(whole.crop((4, 0, 8, 4)))).permute(2, 0, 1)
    assert torch.equal(folder.decode(tmp_path / "wide.png", 4), middle)


def test_pictures_are_upright_rgb_on_white_with_all_their_bits(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    plain = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    plain.rotate(180).save(tmp_path / "turned.png", exif=exif)
    deep = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    plain.convert("P").save(tmp_path / "palette.gif", transparency=bytes([0] * 256))
    plain.convert("CMYK").save(tmp_path / "print.tiff")
    assert torch.equal(
        folder.decode(tmp_path / "turned.png", None), torch.from_numpy(pixels).permute(2, 0, 1)
    )
    assert folder.decode(tmp_path / "deep.png", None)[0].flatten().tolist() == [
        16 * i for i in range(16)
    ]
    assert (folder.decode(tmp_path / "clear.png", None) == 255).all()
    for name in ("palette.gif", "print.tiff"):
        assert folder.decode(tmp_path / name, None).shape == (3, 4, 4)


def test_images_on_disk_equal_images_in_memory(animals, monkeypatch):
    held = from_folder(animals, seed=2)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 100)
    read = from_folder(animals, seed=2)
    assert isinstance(held.train, ImageSet)
    assert isinstance(read.train, FileSet)
    assert read.train.shape == held.train.shape
    torch.testing.assert_close(read.mean, held.mean)
    torch.testing.assert_close(read.std, held.std)
    assert read.counts() == held.counts()
    for ours, theirs in zip(
        loader(read.train, 5, shuffle=True), loader(held.train, 5, shuffle=True), strict=True
    ):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    small, also = read.subset(per_class=2), held.subset(per_class=2)
    assert torch.equal(small.train.pixels(torch.arange(6)), also.train.images)
    assert repr(read.train) == "FileSet(24 images on disk, 3 classes)"


def test_a_file_that_breaks_later_is_named(animals, monkeypatch):
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 100)
    train = from_folder(animals).train
    train.paths[0].write_bytes(b"")
    with pytest.raises(DataError, match=str(train.paths[0])):
        train[0]
