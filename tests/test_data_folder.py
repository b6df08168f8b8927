"""Image folders: labels that stay correct, and files that can't be read."""

import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

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
    """Three classes of 10 images; red is 10 times the class, green the number of the image."""
    for k, name in enumerate(("cat", "dog", "emu")):
        for i in range(10):
            paint(tmp_path / name / f"{i}.png", (10 * k, i, 0))
    return tmp_path


def test_labels_follow_the_sorted_names_of_the_folders(animals):
    bundle = from_folder(animals)
    assert bundle.classes == ("cat", "dog", "emu")
    for split in (bundle.train, bundle.valid):
        assert torch.equal(split.images[:, 0, 0, 0].long(), 10 * split.labels)
    assert (len(bundle.train), len(bundle.valid), bundle.test) == (24, 6, None)
    assert bundle.train.shape == (3, 6, 8)


def test_the_split_is_stratified_and_depends_only_on_the_seed(animals):
    def valid(seed):
        return from_folder(animals, valid=0.3, seed=seed).valid

    assert torch.bincount(valid(0).labels).tolist() == [3, 3, 3]
    assert torch.equal(valid(0).images, valid(0).images)
    assert not torch.equal(valid(0).images, valid(1).images)


JUNK = [".ipynb_checkpoints", "__MACOSX", ".DS_Store", "cat/Thumbs.db"]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("where", ["above", "inside"])
def test_system_files_are_neither_classes_nor_images(animals, junk, where):
    path = (animals if where == "above" else animals / "cat") / junk
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x") if "." in path.name[1:] or "DS" in path.name else paint(path / "0.png")
    bundle = from_folder(animals)
    assert bundle.classes == ("cat", "dog", "emu")
    assert len(bundle.train) + len(bundle.valid) == 30


def test_all_splits_use_the_classes_of_the_training_set(tmp_path):
    classes = ("cat", "dog", "emu")
    splits = {"train": classes, "val": ("cat", "emu"), "test": ("emu",)}
    for blue, (split, names) in enumerate(splits.items()):
        for name in names:
            for i in range(3):
                colour = (10 * classes.index(name), i, blue)
                paint(tmp_path / split / name / f"{i}.png", colour)
    bundle = from_folder(tmp_path)
    assert bundle.classes == ("cat", "dog", "emu")
    assert bundle.counts("valid") == {"cat": 3, "dog": 0, "emu": 3}
    assert bundle.counts("test") == {"cat": 0, "dog": 0, "emu": 3}
    for split in (bundle.train, bundle.valid, bundle.test):
        assert torch.equal(split.images[:, 0, 0, 0].long(), 10 * split.labels)


def test_a_class_that_is_not_in_the_training_set_is_an_error(tmp_path):
    for path in ("train/cat/0.png", "train/dog/0.png", "valid/cow/0.png"):
        paint(tmp_path / path)
    with pytest.raises(
        DataError, match=r"valid contains classes that are not in .*train: \['cow'\]"
    ):
        from_folder(tmp_path)


def test_without_a_validation_folder_training_images_are_split_off(tmp_path):
    for i in range(10):
        paint(tmp_path / "train" / "cat" / f"{i}.png", (i, 0, 0))
        paint(tmp_path / "train" / "dog" / f"{i}.png", (0, i, 9))
    paint(tmp_path / "test" / "dog" / "0.png", (40, 50, 60))
    bundle = from_folder(tmp_path)
    assert [len(p) for p in (bundle.train, bundle.valid, bundle.test)] == [16, 4, 1]


def test_a_class_may_be_called_train_or_test(tmp_path):
    for k, name in enumerate(("bus", "train")):
        for i in range(5):
            paint(tmp_path / name / f"{i}.png", (i, k, 0))
    assert from_folder(tmp_path).classes == ("bus", "train")


def test_a_class_without_images_is_named(animals):
    (animals / "fox").mkdir()
    (animals / "fox" / "readme.txt").write_text("none yet")
    with pytest.raises(DataError, match=r"contain no image: \['fox'\]\. Add images \(\.bmp, "):
        from_folder(animals)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere", "doesn't exist"),
        ("empty", "contains no folders"),
        ("photos.zip", "is a file, not a folder"),
    ],
)
def test_a_folder_that_is_missing_or_empty_is_an_error(tmp_path, name, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos.zip").touch()
    with pytest.raises(DataError, match=f"{name} {problem}.*one folder per class, such as cat/"):
        from_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": 0}, "test must be a fraction between 0 and 1, got 0; 0.2 is common"),
        ({"test": "0.2"}, "test must be a fraction between 0 and 1, got '0.2'"),
        ({"valid": 0.5, "test": 0.5}, "valid=0.5 and test=0.5 leave no images for training"),
        ({"valid": 0}, "valid must be a fraction between 0 and 1, got 0"),
        ({"valid": 1}, "valid must be a fraction between 0 and 1, got 1"),
        ({"size": 0}, "size must be 1 pixel or more, got 0"),
    ],
)
def test_fractions_and_sizes_out_of_bounds_are_an_error(animals, arguments, message):
    with pytest.raises(ValueError, match=message):
        from_folder(animals, **arguments)


def test_one_image_per_class_is_too_few_for_a_validation_set(tmp_path):
    for k, name in enumerate(("cat", "dog")):
        paint(tmp_path / name / "0.png", (k, 0, 0))
    with pytest.raises(
        DataError, match="too few images per class, so there is none for validation"
    ):
        from_folder(tmp_path)


# --- a test set that is split off -----------------------------------------------------------------


def split_numbers(bundle):
    """The numbers of the images in the three splits: 10 times the class plus that in the class."""
    splits = (bundle.train, bundle.valid, bundle.test)
    return [set((s.images[:, 0, 0, 0] + s.images[:, 1, 0, 0]).tolist()) for s in splits]


def test_a_test_set_is_split_off_by_class_and_depends_only_on_the_seed(animals):
    bundle = from_folder(animals, valid=0.2, test=0.3)
    for split, n in (("train", 5), ("valid", 2), ("test", 3)):
        assert set(bundle.counts(split).values()) == {n}
    train, valid, test = split_numbers(bundle)
    assert len(train | valid | test) == 30
    assert split_numbers(from_folder(animals, valid=0.2, test=0.3)) == [train, valid, test]
    assert split_numbers(from_folder(animals, valid=0.2, test=0.3, seed=1))[2] != test
    # Another fraction for validation leaves the test set as it is.
    assert split_numbers(from_folder(animals, valid=0.5, test=0.3))[2] == test
    assert "test 9" in repr(bundle)


def test_the_test_set_comes_from_training_images_if_there_is_a_folder_for_validation(tmp_path):
    for i in range(10):
        paint(tmp_path / "train" / "cat" / f"{i}.png", (0, i, 0))
        paint(tmp_path / "train" / "dog" / f"{i}.png", (10, i, 0))
    for k, name in enumerate(("cat", "dog")):
        paint(tmp_path / "val" / name / "0.png", (100 + k, 0, 0))
    bundle = from_folder(tmp_path, test=0.2)
    train, valid, test = split_numbers(bundle)
    assert valid == {100, 101}
    assert (len(train), len(test)) == (16, 4)
    assert train | test == set(range(20))


def test_a_test_folder_and_a_fraction_for_the_test_contradict_each_other(tmp_path):
    for split in ("train", "test"):
        for k, name in enumerate(("cat", "dog")):
            for i in range(4):
                paint(tmp_path / split / name / f"{i}.png", (k, i, ord(split[1])))
    assert len(from_folder(tmp_path).test) == 8
    with pytest.raises(ValueError, match=r"folder for the test set already\. Leave out test=0\.2"):
        from_folder(tmp_path, test=0.2)


def test_copies_of_an_image_are_never_divided_between_training_and_test(animals):
    for name in ("cat", "dog", "emu"):
        for i in range(10):
            shutil.copy(animals / name / f"{i}.png", animals / name / f"copy {i}.png")
    train, valid, test = split_numbers(from_folder(animals, test=0.2))
    assert not train & test
    assert not train & valid
    assert not valid & test
    assert len(test) == 6


def test_two_images_per_class_are_too_few_for_three_splits(tmp_path):
    for k, name in enumerate(("cat", "dog")):
        for i in range(2):
            paint(tmp_path / name / f"{i}.png", (k, i, 0))
    assert from_folder(tmp_path).test is None
    with pytest.raises(DataError, match=r"none for validation beside the test.*Add images"):
        from_folder(tmp_path, valid=0.4, test=0.5)


def test_a_leading_tilde_is_the_home_folder(animals, monkeypatch):
    monkeypatch.setenv("HOME", str(animals.parent))
    monkeypatch.setenv("USERPROFILE", str(animals.parent))
    assert from_folder(f"~/{animals.name}").classes == ("cat", "dog", "emu")


def test_a_loader_of_a_missing_test_set_says_how_to_get_one(animals):
    with pytest.raises(TypeError, match=r"got None.*from_folder\(path, test=0\.2\)"):
        loader(from_folder(animals).test, 8)


def test_all_damaged_images_are_listed_at_once(animals):
    good = (animals / "cat" / "0.png").read_bytes()
    damaged = {
        "cut.png": good[:-30],
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "vector.png": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }
    for name, content in damaged.items():
        (animals / "dog" / name).write_bytes(content)
    with pytest.raises(DataError, match="4 of 34 images can't be used") as caught:
        from_folder(animals)
    assert all(str(animals / "dog" / name) in str(caught.value) for name in damaged)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_of_many_damaged_images_ten_are_listed(animals):
    for i in range(13):
        (animals / "dog" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match="and 3 more") as caught:
        from_folder(animals)
    assert str(caught.value).count("bad") == 10


def test_images_of_different_sizes_are_an_error_that_suggests_size(animals):
    paint(animals / "dog" / "wide.png", size=(9, 6))
    with pytest.raises(
        DataError, match=r"is 8 x 6 pixels, .*wide\.png is 9 x 6\. Pass size=, for example size=64"
    ):
        from_folder(animals)
    assert from_folder(animals, size=4).train.shape == (3, 4, 4)


def test_size_resizes_the_shorter_side_and_keeps_the_centre(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    whole = Image.fromarray(pixels).resize((12, 4), Image.Resampling.BILINEAR)
    centre = torch.from_numpy(np.array(whole.crop((4, 0, 8, 4)))).permute(2, 0, 1)
    assert torch.equal(folder.decode(tmp_path / "wide.png", 4), centre)


def test_images_are_decoded_upright_to_rgb_on_white_at_any_bit_depth(tmp_path):
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
    in_memory = from_folder(animals, seed=2)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 100)
    on_disk = from_folder(animals, seed=2)
    assert isinstance(in_memory.train, ImageSet)
    assert isinstance(on_disk.train, FileSet)
    assert on_disk.train.shape == in_memory.train.shape
    torch.testing.assert_close(on_disk.mean, in_memory.mean)
    torch.testing.assert_close(on_disk.std, in_memory.std)
    assert on_disk.counts() == in_memory.counts()
    for ours, theirs in zip(
        loader(on_disk.train, 5, shuffle=True),
        loader(in_memory.train, 5, shuffle=True),
        strict=True,
    ):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    small, also = on_disk.subset(per_class=2), in_memory.subset(per_class=2)
    assert torch.equal(small.train.pixels(torch.arange(6)), also.train.images)
    assert repr(on_disk.train) == "FileSet(24 images on disk, 3 classes)"


def test_a_file_that_is_damaged_later_is_named(animals, monkeypatch):
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 100)
    train = from_folder(animals).train
    train.paths[0].write_bytes(b"")
    with pytest.raises(DataError, match=str(train.paths[0])):
        train[0]


# --- hostile files --------------------------------------------------------------------------------


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width, height, pixels):
    """Return a PNG with any size in its header and any pixels; everything else in it is correct."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def hostile(animals):
    """Add bad files to the good ones; return file name -> what the error message must say."""
    folder = animals / "dog"
    whole = {}
    for kind in ("png", "jpeg"):
        Image.effect_noise((64, 64), 50).save(buffer := io.BytesIO(), kind)
        whole[kind] = buffer.getvalue()
    contents = {
        "cut.png": (whole["png"][:900], "truncated"),
        "cut.jpg": (whole["jpeg"][:900], "truncated"),
        "empty.jpg": (b"", "not an image in one of the formats JPEG"),
        "page.jpg": (b"<!doctype html><html>404</html>", "not an image in one of the formats"),
        "short.png": (png(64, 64, b"\0"), "truncated"),  # torchvision's reader crashes
        "bomb100.png": (png(10_000, 10_000, b"\0"), "10000 x 10000 pixels is too large"),
        "bomb400.png": (png(20_000, 20_000, b"\0"), "400000000 pixels"),
        "script.gif": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image in one of the formats"),
    }  # fmt: skip
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    os.mkfifo(folder / "pipe.png")
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | dict.fromkeys(("nowhere.png", "itself.png", "pipe.png"), "not a regular file")


# PIL warns about a large image before we refuse it.
LARGE = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@LARGE
def test_every_hostile_file_is_listed_with_its_reason_at_once(animals):
    reasons = hostile(animals)
    with pytest.raises(DataError, match=r"11 of 41 images.*on_error=\"skip\"") as caught:
        from_folder(animals)
    bundle = from_folder(animals, on_error="skip")
    assert {file.path.name: file.why for file in bundle.left_out}.keys() == reasons.keys()
    for file in bundle.left_out:
        assert reasons[file.path.name] in file.why, file
        assert str(file.path) not in file.why
    assert sum(str(file) in str(caught.value) for file in bundle.left_out) == 10
    assert (len(bundle.train), len(bundle.valid)) == (24, 6)
    assert repr(bundle).endswith("; 11 files left out")
    for split in (bundle.train, bundle.valid):
        assert torch.equal(split.images[:, 0, 0, 0].long(), 10 * split.labels)


@LARGE
def test_left_out_files_stay_out_of_subsets_and_of_data_on_disk(animals, monkeypatch):
    hostile(animals)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 100)
    bundle = from_folder(animals, on_error="skip")
    assert isinstance(bundle.train, FileSet)
    assert len(list(loader(bundle.train, 5))) == 5
    assert bundle.subset(per_class=1).left_out == bundle.left_out != ()


def test_a_class_without_usable_images_is_an_error_and_never_shifts_other_labels(animals):
    for path in (animals / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"no usable training image is left in the classes \['dog'\]"
    ):
        from_folder(animals, on_error="skip")
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        from_folder(animals, on_error="ignore")


def test_a_thousand_good_images_of_every_format_are_all_accepted(tmp_path):
    noise = np.random.default_rng(0)
    kinds = ["png", "jpg", "bmp", "gif", "tiff", "webp", "ppm"]
    modes = ["RGB", "L", "P", "1", "CMYK", "RGBA", "LA", "I;16"]
    can = {
        "png": "RGB L P 1 RGBA LA I;16",
        "jpg": "RGB L CMYK",
        "bmp": "RGB L P 1",
        "ppm": "RGB L 1",
    }
    can |= {"gif": "L P", "tiff": "RGB L P 1 CMYK RGBA LA I;16", "webp": "RGB RGBA"}
    pairs = [(kind, mode) for kind in kinds for mode in modes if mode in can[kind].split()]
    for i in range(1000):
        kind, mode = pairs[i % len(pairs)]
        pixels = noise.integers(0, 256, (6, 8, 3), np.uint8)
        deep = noise.integers(0, 2**16, (6, 8), np.uint16)
        image = Image.fromarray(deep) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[i % 2] / f"{i}.{kind}")
    bundle = from_folder(tmp_path)
    assert (len(bundle.train), len(bundle.valid), bundle.left_out) == (800, 200, ())


def test_the_first_frame_of_an_animation_is_used(tmp_path):
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        options = {"lossless": True} if name == "a.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        assert folder.decode(tmp_path / name, None)[:, 0, 0].tolist() == [255, 0, 0], name


def test_the_transparent_colour_of_a_palette_becomes_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    image.putpixel((0, 0), 0)
    for name in ("a.png", "a.gif"):
        image.save(tmp_path / name, transparency=0)
        pixels = folder.decode(tmp_path / name, None)
        assert pixels[:, 0, 0].tolist() == [255, 255, 255], name
        assert pixels[:, 2, 2].tolist() == [200, 0, 0], name


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photograph_is_upright_however_the_camera_was_held(tmp_path, turn):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255  # the top left corner is white
    exif = Image.Exif()
    exif[0x0112] = turn
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # in PIL's numbers of transpositions
    image = Image.fromarray(pixels)
    (image.transpose(inverse[turn]) if turn > 1 else image).save(tmp_path / "a.jpg", exif=exif)
    upright = folder.decode(tmp_path / "a.jpg", None)
    assert upright.shape == (3, 16, 24)
    assert upright[:, 2:6, 2:6].min() > 200
    assert upright[:, 10:, :].max() < 50
    assert upright[:, :, 10:].max() < 50


def test_links_to_a_surrounding_folder_are_not_followed_and_others_are(animals, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    paint(elsewhere / "10.png", (0, 10, 0))
    (animals / "cat" / "more").symlink_to(elsewhere)
    (animals / "cat" / "loop").symlink_to(animals / "cat")
    (animals / "dog" / "again").symlink_to(animals / "dog")
    (animals / "fox").symlink_to(animals / "fox")
    bundle = from_folder(animals)
    assert bundle.classes == ("cat", "dog", "emu")
    assert len(bundle.train) + len(bundle.valid) == 11 + 10 + 10
    (animals / "dog" / "above").symlink_to(animals)
    # dog/above contains everything once more, except itself
    with pytest.raises(DataError, match="42 of 52 images") as caught:
        from_folder(animals)
    assert "also in another class, as " in str(caught.value)


LONG = "ü" * 120 + ".png"


def test_names_may_be_in_any_alphabet_long_or_not_unicode(tmp_path):
    names = ["Ärger", "犬", "مرحبا", "🐈", "two words", "-rf", "a'b\"c", "x" * 200]
    for k, name in enumerate(names):
        for i in range(3):
            paint(tmp_path / name / ("d" * 200) / f"{i}{LONG}", (10 * k, i, 0))
    bundle = from_folder(tmp_path)
    assert bundle.classes == tuple(sorted(names))
    reds = bundle.train.images[:, 0, 0, 0]
    assert [names[red // 10] for red in reds.tolist()] == [
        bundle.classes[k] for k in bundle.train.labels.tolist()
    ]
    odd = os.fsdecode(b"caf\xe9.png")  # not UTF-8
    (tmp_path / names[0] / odd).write_bytes(b"")
    with pytest.raises(DataError, match=r"caf\\udce9\.png: not an image") as caught:
        from_folder(tmp_path)
    str(caught.value).encode()


def test_capital_letters_do_not_change_the_order_of_classes_between_systems(tmp_path):
    for k, name in enumerate(("bee", "Cow", "ant")):
        for i in range(3):
            paint(tmp_path / name / f"{i}.png", (i, k, 0))
    assert from_folder(tmp_path).classes == ("Cow", "ant", "bee")


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", "System Volume Information"])
def test_folders_of_the_operating_system_are_not_classes(animals, name):
    paint(animals / name / "0.png")
    assert from_folder(animals).classes == ("cat", "dog", "emu")


def make_splits_with_duplicates(root):
    for red, split in enumerate(("train", "valid", "test")):
        for name in ("cat", "dog"):
            for i in range(4):
                paint(root / split / name / f"{i}.png", (red, i, 50 * (name == "dog")))
    shutil.copy(root / "train/cat/0.png", root / "test/cat/same.png")
    shutil.copy(root / "train/cat/1.png", root / "valid/dog/other name.png")
    shutil.copy(root / "valid/cat/2.png", root / "test/cat/asked.png")


def test_an_image_in_two_splits_is_listed_and_removed_from_the_earlier_one(tmp_path):
    make_splits_with_duplicates(tmp_path)
    with pytest.raises(DataError, match="3 of 27 images") as caught:
        from_folder(tmp_path)
    leaks = ("train/cat/0.png", "test/cat/same.png", "valid/cat/2.png", "valid/dog/other name.png")
    for name in leaks:
        assert str(tmp_path / name) in str(caught.value)
    copy = tmp_path / "test/cat/same.png"
    assert f"train/cat/0.png: also in a later split, as {copy}" in str(caught.value)
    bundle = from_folder(tmp_path, on_error="skip")
    assert [f"{f.path.relative_to(tmp_path)}" for f in bundle.left_out] == [
        "train/cat/0.png", "train/cat/1.png", "valid/cat/2.png",
    ]  # fmt: skip
    assert [len(split) for split in (bundle.train, bundle.valid, bundle.test)] == [6, 8, 10]
    assert bundle.counts() == {"cat": 2, "dog": 4}


def test_duplicates_within_a_split_are_allowed(animals):
    shutil.copy(animals / "cat" / "0.png", animals / "cat" / "again.png")
    assert from_folder(animals).left_out == ()


UNREADABLE = """
import os, sys
from PIL import Image, ImageOps
from cnnlab.data import from_folder
Image.init()  # while its modules can still be read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(from_folder(sys.argv[1], on_error="skip").left_out)
"""


def test_files_and_folders_without_read_permission_are_named(animals):
    root = Path(tempfile.mkdtemp())  # pytest's own folders belong to root
    try:
        shutil.copytree(animals, root / "data")
        for folder in (root, root / "data"):
            folder.chmod(0o755)
        secret, closed = root / "data" / "cat" / "3.png", root / "data" / "dog"
        secret.chmod(0)

        def load():
            return subprocess.run(
                [sys.executable, "-c", UNREADABLE, str(root / "data")],
                capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
            )  # fmt: skip

        done = load()
        assert f"{secret}: Permission denied" in done.stdout, done.stderr
        closed.chmod(0)
        done = load()
        assert f"cannot read the folder {closed}: Permission denied" in done.stderr
        assert "DataError" in done.stderr
    finally:
        closed.chmod(0o755)
        shutil.rmtree(root)
