"""`from_folder` recognises what it's looking at, and says so, or refuses and prints the layout."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnnlab import load
from cnnlab.data import FileSet, cache, from_folder
from cnnlab.data.balance import stratified_split
from cnnlab.errors import DataError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "animals").mkdir()
    return tmp_path / "animals"


def paint(path, **options):
    """Save an image that differs from every other one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(bytes(path))
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


def make(root, *folders, n=5):
    for folder in folders:
        for i in range(n):
            paint(root / folder / f"{i}.png")


def sizes(bundle):
    return [len(split) if split else 0 for split in (bundle.train, bundle.valid, bundle.test)]


SPLITS = [
    (("train", "valid", "test"), False),
    (("train", "val", "test"), False),
    (("train", "validation", "test"), True),
    (("Train", "Val", "Test"), True),
    (("TRAINING", "Validation", "Testing"), True),
    (("training_set", "dev-set", "test set"), True),
    (("TrainData", "ValidData", "TestData"), True),
    (("01_train", "02_val", "03_test"), True),
    (("train", "dev", "eval"), True),
    (("train", "eval", "test"), True),
    (("seg_train/seg_train", "seg_dev/seg_dev", "seg_test/seg_test"), True),
    (("data/train", "data/valid", "data/test"), True),
]


@pytest.mark.parametrize(("names", "says_so"), SPLITS, ids=lambda value: str(value))
def test_splits_by_any_usual_name_are_read_as_meant(root, capsys, names, says_so):
    for n, name in zip((5, 3, 2), names, strict=True):
        make(root, f"{name}/cat", f"{name}/dog", n=n)
    bundle = from_folder(root)
    assert (bundle.classes, sizes(bundle)) == (("cat", "dog"), [10, 6, 4])
    out = capsys.readouterr().out
    assert out.count("\n") == says_so
    if says_so:
        for name, meaning in zip(names, ("training", "validation", "test"), strict=True):
            assert f"{name}/ is the {meaning} set" in out


@pytest.mark.parametrize("wrapper", ["photos", "a/b/c", "animals"])
def test_folders_around_the_classes_are_entered_and_named(root, capsys, wrapper):
    make(root, f"{wrapper}/cat", f"{wrapper}/dog")
    (root / "readme.md").write_text("about")
    bundle = from_folder(root)
    assert (bundle.name, bundle.classes) == ("animals", ("cat", "dog"))
    assert capsys.readouterr().out == f"animals: the classes are in {wrapper}/\n"


def test_folders_that_may_be_splits_in_another_language_are_named(root, capsys):
    make(root, "entrenamiento/cat", "prueba/cat")
    assert from_folder(root).classes == ("entrenamiento", "prueba")
    out = capsys.readouterr().out
    assert "the classes are entrenamiento/, prueba/, and each of them includes the images" in out


def test_a_link_back_up_does_not_send_the_search_in_circles(root):
    (root / "again").symlink_to(root)
    with pytest.raises(DataError, match="contain"):
        from_folder(root)


REFUSED = [
    (["cat"], "a single class, 'cat'"),
    (["train/cat", "test/cat"], "a single class, 'cat'"),
    (["train", "test"], r"directly in test/, train/, which are names of splits"),
    (["Training", "Validation"], "which are names of splits"),
    (["test/cat", "test/dog"], "contains test/, but no folder for the training set"),
    (["val/cat", "val/dog", "test/cat", "test/dog"], "but no folder for the training set"),
    (["train/cat", "train/dog", "cat", "dog"], "beside them the folders cat/, dog/ with images"),
    (["train/cat", "train/dog", "test/cat", "cat"], "beside them the folders cat/ with images"),
    (["train/cat", "train/dog", "Prüfung/cat"], "beside them the folders Prüfung/ with images"),
    (["train/a", "train/b", "val/a", "valid/a"], "two folders for the validation set, val/, valid"),
    (["cat/train", "cat/test", "dog/train", "dog/test"], "splits must be around the classes"),
    (["rose", "lily", "flowers/rose", "flowers/lily"], "images would get two labels"),
    (["train/images", "valid/images", "train/labels"], "is not|no image|classes that"),
]


@pytest.mark.parametrize(("folders", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_not_clear_is_refused_and_the_layout_is_printed(root, folders, reason):
    make(root, *folders)
    if "train/labels" in folders:
        for path in (root / "train/labels").iterdir():
            path.rename(path.with_suffix(".txt"))
            path.with_suffix(".txt").write_text("0 0.5 0.5")
    with pytest.raises(DataError, match=reason) as caught:
        from_folder(root)
    if "two folders" not in reason:
        assert "animals/train/cat/1.jpg" in str(caught.value)


def test_folders_and_images_that_are_passed_over_are_listed(root, capsys):
    make(root, "train/cat", "train/dog", "test/cat", "predict")
    (root / "docs").mkdir()
    (root / "val").mkdir()
    paint(root / "cover.jpg")
    paint(root / "train" / "loose.png")
    (root / "train" / "labels.csv").write_text("a,b")
    bundle = from_folder(root)
    assert sizes(bundle) == [8, 2, 5]
    assert {str(file.path.relative_to(root)): file.why for file in bundle.left_out} == {
        "cover.jpg": "it is in no class folder",
        "docs": "it contains no image",
        "predict": "it is none of the splits",
        "train/loose.png": "it is in no class folder",
        "val": "it contains no image",
    }
    out = capsys.readouterr().out
    assert out.startswith("animals: not read (see left_out): predict (it is none of the splits)")
    assert out.endswith("and 2 more\n")
    assert out.count("\n") == 1


def test_unlabelled_test_images_are_no_test_set(root, capsys):
    make(root, "train/cat", "train/dog", "test")
    bundle = from_folder(root)
    assert (sizes(bundle), bundle.test) == ([8, 2, 0], None)
    assert "test (it has no class folders)" in capsys.readouterr().out


def test_classes_that_share_their_subfolders_are_pointed_out(root, capsys):
    make(root, "fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog")
    assert from_folder(root).classes == ("fold1", "fold2")
    assert "the classes are fold1/, fold2/, and each of them includes" in capsys.readouterr().out


def test_a_split_whose_images_are_all_unusable_is_an_error(root):
    make(root, "train/cat", "train/dog")
    (root / "valid" / "cat").mkdir(parents=True)
    (root / "valid" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="no usable image is left in the valid folder"):
        from_folder(root, on_error="skip")


def test_nothing_is_printed_about_an_ordinary_folder(root, capsys):
    make(root, "cat", "dog", "dog/more")
    for junk in ("cat/Thumbs.db", "cat/desktop.ini", "README.md", "LICENSE", "labels.csv"):
        (root / junk).write_text("x")
    assert from_folder(root).left_out == ()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("path", ["", "~"])
def test_the_home_folder_is_found_and_an_empty_path_is_refused(root, path, monkeypatch):
    make(root, "cat", "dog")
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root)
    if path == "":
        with pytest.raises(DataError, match="the path is empty"):
            from_folder(path)
    else:
        assert from_folder("~/animals").classes == ("cat", "dog")
        file = FileSet(["~/animals/cat/0.png"], [0], ["cat"])
        assert file[0][0].shape == (3, 6, 8)
        monkeypatch.setenv("CNNLAB_CACHE", "~/cache")
        assert cache.folder() == Path(root.parent, "cache")
        with pytest.raises(OSError, match=str(root.parent / "data")):
            load("cifar10", root="~/data")


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        (".jfif", "JPEG"), (".jpe", "JPEG"), (".JFIF", "JPEG"), (".pjpeg", "JPEG"),
        (".avif", "AVIF"), (".jp2", "JPEG2000"), (".dib", "DIB"), (".apng", "PNG"),
        ("", "PNG"), ("", "JPEG"), (".bak", "PNG"), (".1", "WEBP"),
    ],
)  # fmt: skip
def test_every_image_that_pillow_reads_is_read_whatever_its_suffix(root, suffix, kind, capsys):
    make(root, "cat", "dog")
    paint(root / "cat" / f"photo{suffix}", format=kind)
    bundle = from_folder(root)
    assert (bundle.counts()["cat"] + bundle.counts("valid")["cat"], bundle.left_out) == (6, ())
    assert capsys.readouterr().out == ""


def test_files_that_are_no_images_are_listed_and_the_strange_ones_named(root, capsys):
    make(root, "cat", "dog")
    contents = {"a.heic": b"\0\0\0\x18ftypheic", "b.dng": b"II*\0", "c.xml": b"<x/>", "d": b"hi"}
    for name, content in contents.items():
        (root / "cat" / name).write_bytes(content)
    left_out = {file.path.name: file.why for file in from_folder(root).left_out}
    assert left_out.keys() == contents.keys()
    assert "pillow_heif" in left_out["a.heic"]
    assert "raw file of a camera" in left_out["b.dng"]
    out = capsys.readouterr().out
    assert "cat/a.heic" in out
    assert "c.xml" not in out


def test_a_class_with_unreadable_photographs_alone_says_why(root):
    make(root, "cat", "dog")
    (root / "emu").mkdir()
    (root / "emu" / "a.heic").write_bytes(b"1")
    with pytest.raises(DataError, match=r"contain no image: \['emu'\].*a\.heic: Pillow reads HEIC"):
        from_folder(root)


def test_a_damaged_file_with_a_rare_suffix_is_an_error_as_any_other(root):
    make(root, "cat", "dog")
    (root / "cat" / "cut.jfif").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"1 of 11 images.*(.|\n)*cut\.jfif"):
        from_folder(root)


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("where", ["", "train/"])
def test_copies_stay_on_one_side_of_the_split(root, seed, where):
    make(root, f"{where}cat", f"{where}dog", n=10)
    for path in sorted((root / where / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    if where:
        make(root, "test/cat")
    bundle = from_folder(root, seed=seed)

    def images(split):
        return {image.numpy().tobytes() for image in split.images}

    assert len(bundle.train) + len(bundle.valid) == 30
    assert bundle.counts("valid") == {"cat": 4, "dog": 2}
    assert len(images(bundle.train)) == 8 + 8
    assert not images(bundle.train) & images(bundle.valid)


def test_without_copies_the_split_is_what_it_always_was():
    labels = torch.arange(60) % 3
    for n in (1, 7, 20):
        for seed in range(3):
            plain = stratified_split(labels, n, seed)
            grouped = stratified_split(labels, n, seed, torch.arange(60))
            assert all(map(torch.equal, plain, grouped))


def test_a_class_of_equal_images_stays_in_training(root):
    make(root, "cat", n=10)
    make(root, "dog", n=1)
    for i in range(1, 10):
        shutil.copy(root / "dog/0.png", root / f"dog/{i}.png")
    assert from_folder(root).counts("valid") == {"cat": 2, "dog": 0}


def test_an_image_in_two_classes_is_listed_and_no_copy_of_it_is_used(root):
    make(root, "cat", "dog")
    shutil.copy(root / "cat/0.png", root / "dog/other.png")
    with pytest.raises(DataError, match="2 of 11 images can't be used") as caught:
        from_folder(root)
    assert f"cat/0.png: also in another class, as {root / 'dog/other.png'}" in str(caught.value)
    bundle = from_folder(root, on_error="skip")
    assert [file.path.name for file in bundle.left_out] == ["0.png", "other.png"]
    assert len(bundle.train) + len(bundle.valid) == 9


@pytest.mark.parametrize(
    "arguments",
    [{"size": 64.0}, {"size": (64, 64)}, {"size": "64"}, {"valid": "a"}, {"valid": None}],
)
def test_arguments_of_another_type_are_named(root, arguments):
    make(root, "cat", "dog")
    (name,) = arguments
    with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
        from_folder(root, **arguments)
    assert from_folder(root, size=np.int64(4)).train.shape == (3, 4, 4)
