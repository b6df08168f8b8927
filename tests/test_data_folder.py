"""Image folders: labels that cannot shift, and files that cannot be read."""

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
    for blue, (part, names) in enumerate(
        {"train": ("cat", "dog", "emu"), "val": ("cat", "emu"), "test": ("emu",)}.items()
    ):
        for name in names:
            for i in range(3):
                paint(
                    tmp_path / part / name / f"{i}.png",
                    (10 * ("cat", "dog", "emu").index(name), i, blue),
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
    paint(tmp_path / "test" / "dog" / "0.png", (40, 50, 60))
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
    with pytest.raises(DataError, match="4 of 34 images cannot be used") as caught:
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


# --- hostile files --------------------------------------------------------------------------------


def chunk(kind, content):
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width, height, pixels):
    """A PNG that claims a size and holds what it likes; in every other way it is in order."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def hostile(animals):
    """Files that stand among good ones, by what a message has to say of them."""
    folder = animals / "dog"
    whole = {}
    for kind in ("png", "jpeg"):
        Image.effect_noise((64, 64), 50).save(buffer := io.BytesIO(), kind)
        whole[kind] = buffer.getvalue()
    contents = {
        "cut.png": (whole["png"][:900], "truncated"),
        "cut.jpg": (whole["jpeg"][:900], "truncated"),
        "empty.jpg": (b"", "no image of the kinds JPEG"),
        "page.jpg": (b"<!doctype html><html>404</html>", "no image of the kinds"),
        "short.png": (png(64, 64, b"\0"), "truncated"),  # torchvision's reader dies of it
        "bomb100.png": (png(10_000, 10_000, b"\0"), "10000 x 10000 pixels are more than 67,108,864"),
        "bomb400.png": (png(20_000, 20_000, b"\0"), "400000000 pixels"),
        "script.gif": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no image of the kinds"),
    }  # fmt: skip
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    os.mkfifo(folder / "pipe.png")
    said = {name: told for name, (_, told) in contents.items()}
    return said | dict.fromkeys(("nowhere.png", "itself.png", "pipe.png"), "no plain file")


# PIL warns of a large picture before we refuse it.
LARGE = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@LARGE
def test_every_hostile_file_is_named_with_its_reason_in_one_pass(animals):
    said = hostile(animals)
    with pytest.raises(DataError, match=r"11 of 41 images.*on_error=\"skip\"") as caught:
        from_folder(animals)
    bundle = from_folder(animals, on_error="skip")
    assert {fault.path.name: fault.why for fault in bundle.left_out}.keys() == said.keys()
    for fault in bundle.left_out:
        assert said[fault.path.name] in fault.why, fault
        assert str(fault.path) not in fault.why
    assert sum(str(fault) in str(caught.value) for fault in bundle.left_out) == 10
    assert (len(bundle.train), len(bundle.valid)) == (24, 6)
    assert repr(bundle).endswith("; 11 files left out")
    for part in (bundle.train, bundle.valid):
        assert torch.equal(part.images[:, 0, 0, 0].long(), 10 * part.labels)


@LARGE
def test_what_is_left_out_stays_out_of_smaller_bundles_and_of_files_on_disk(animals, monkeypatch):
    hostile(animals)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 100)
    bundle = from_folder(animals, on_error="skip")
    assert isinstance(bundle.train, FileSet)
    assert len(list(loader(bundle.train, 5))) == 5
    assert bundle.subset(per_class=1).left_out == bundle.left_out != ()


def test_a_class_of_which_nothing_is_left_is_an_error_and_never_moves_the_others(animals):
    for path in (animals / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no image of \['dog'\] is left"):
        from_folder(animals, on_error="skip")
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        from_folder(animals, on_error="ignore")


def test_a_thousand_good_images_of_every_kind_raise_no_alarm(tmp_path):
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


def test_of_an_animation_the_first_picture_counts(tmp_path):
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
def test_a_photograph_stands_upright_however_the_camera_was_held(tmp_path, turn):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255  # the top left corner is white
    exif = Image.Exif()
    exif[0x0112] = turn
    held = {
        2: 0,
        3: 3,
        4: 1,
        5: 5,
        6: 2,
        7: 6,
        8: 4,
    }  # the inverse, as PIL numbers its transpositions
    image = Image.fromarray(pixels)
    (image.transpose(held[turn]) if turn > 1 else image).save(tmp_path / "a.jpg", exif=exif)
    upright = folder.decode(tmp_path / "a.jpg", None)
    assert upright.shape == (3, 16, 24)
    assert upright[:, 2:6, 2:6].min() > 200
    assert upright[:, 10:, :].max() < 50
    assert upright[:, :, 10:].max() < 50


def test_links_that_lead_back_are_not_followed_and_others_are(animals, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    paint(elsewhere / "10.png", (0, 10, 0))
    (animals / "cat" / "more").symlink_to(elsewhere)
    (animals / "cat" / "loop").symlink_to(animals / "cat")
    (animals / "dog" / "above").symlink_to(animals)
    (animals / "fox").symlink_to(animals / "fox")
    bundle = from_folder(animals, valid=0.01)
    assert bundle.classes == ("cat", "dog", "emu")
    # dog/above leads to all of it once more, but not into itself
    assert len(bundle.train) + len(bundle.valid) == 11 + (10 + 11 + 10) + 10


LONG = "ü" * 120 + ".png"


def test_names_in_any_alphabet_of_any_length_and_of_any_bytes(tmp_path):
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
    with pytest.raises(DataError, match=r"caf\\udce9\.png: no image") as caught:
        from_folder(tmp_path)
    str(caught.value).encode()


def test_capital_letters_do_not_change_the_order_of_classes_between_systems(tmp_path):
    for name in ("bee", "Cow", "ant"):
        for i in range(3):
            paint(tmp_path / name / f"{i}.png")
    assert from_folder(tmp_path).classes == ("Cow", "ant", "bee")


@pytest.mark.parametrize("name", ["lost+found", "$RECYCLE.BIN", "System Volume Information"])
def test_folders_of_the_operating_system_are_no_class(animals, name):
    paint(animals / name / "0.png")
    assert from_folder(animals).classes == ("cat", "dog", "emu")


def parts_with_copies(root):
    for red, part in enumerate(("train", "valid", "test")):
        for name in ("cat", "dog"):
            for i in range(4):
                paint(root / part / name / f"{i}.png", (red, i, 50 * (name == "dog")))
    shutil.copy(root / "train/cat/0.png", root / "test/cat/same.png")
    shutil.copy(root / "train/cat/1.png", root / "valid/dog/other name.png")
    shutil.copy(root / "valid/cat/2.png", root / "test/cat/asked.png")


def test_a_picture_in_two_parts_is_named_and_left_out_of_what_is_learnt(tmp_path):
    parts_with_copies(tmp_path)
    with pytest.raises(DataError, match="3 of 27 images") as caught:
        from_folder(tmp_path)
    for name in (
        "train/cat/0.png",
        "test/cat/same.png",
        "valid/cat/2.png",
        "valid/dog/other name.png",
    ):
        assert str(tmp_path / name) in str(caught.value)
    bundle = from_folder(tmp_path, on_error="skip")
    assert [f"{f.path.relative_to(tmp_path)}" for f in bundle.left_out] == [
        "train/cat/0.png", "train/cat/1.png", "valid/cat/2.png",
    ]  # fmt: skip
    assert [len(part) for part in (bundle.train, bundle.valid, bundle.test)] == [6, 8, 10]
    assert bundle.counts() == {"cat": 2, "dog": 4}


def test_copies_within_a_part_are_the_users_affair(animals):
    shutil.copy(animals / "cat" / "0.png", animals / "cat" / "again.png")
    assert from_folder(animals).left_out == ()


UNREADABLE = """
import os, sys
from PIL import Image, ImageOps
from cnnlab.data import from_folder
Image.init()  # while this may still be read
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
print(from_folder(sys.argv[1], on_error="skip").left_out)
"""


def test_files_and_folders_that_may_not_be_read_are_named(animals):
    root = Path(tempfile.mkdtemp())  # pytest's own folders are root's alone
    try:
        shutil.copytree(animals, root / "data")
        for folder in (root, root / "data"):
            folder.chmod(0o755)
        secret, closed = root / "data" / "cat" / "3.png", root / "data" / "dog"
        secret.chmod(0)

        def tell():
            return subprocess.run(
                [sys.executable, "-c", UNREADABLE, str(root / "data")],
                capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1],
            )  # fmt: skip

        done = tell()
        assert f"{secret}: Permission denied" in done.stdout, done.stderr
        closed.chmod(0)
        done = tell()
        assert f"cannot look into {closed}: Permission denied" in done.stderr
        assert "DataError" in done.stderr
    finally:
        closed.chmod(0o755)
        shutil.rmtree(root)
