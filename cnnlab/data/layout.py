"""Recognise how an image folder is laid out: where its splits and its classes are."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cnnlab.data.decoding import is_readable
from cnnlab.data.image_files import (
    DOCUMENT_SUFFIXES,
    MORE_SUFFIXES,
    RAW_SUFFIXES,
    SUFFIXES,
    UnusableFile,
    find_files,
    list_files,
    list_folders,
    printable,
)
from cnnlab.errors import DataError


SPLITS = ("train", "valid", "test")
LAYOUT = """one folder per class, such as cat/ and dog/, and perhaps a folder per split around them:
    animals/cat/1.jpg        animals/train/cat/1.jpg
    animals/cat/2.jpg        animals/train/dog/1.jpg
    animals/dog/1.jpg        animals/valid/cat/2.jpg
    animals/dog/2.jpg        animals/test/dog/2.jpg"""

_NAMES = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "validation", "validate", "validating", "val", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout"),
}
# Words beside the name of a split: train_set, "Training Data", seg_train, 01_train.
_FILLERS = r"set|sets|data|dataset|images?|img|imgs|photos|pictures|samples|split|folder|seg|\d+"

_HEIC_SUFFIXES = {".heic", ".heif", ".hif"}
_UNREAD_SUFFIXES = RAW_SUFFIXES | _HEIC_SUFFIXES

LabelledFile = tuple[Path, int]


class Layout(NamedTuple):
    """The images of a folder.

    Args:
        classes: the names of the classes.
        splits: the labelled files of the training, the validation and the test set.
        passed_over: files and folders that are not read, with the reasons.
        notes: what isn't evident and a person should know.
    """

    classes: tuple[str, ...]
    splits: list[list[LabelledFile]]
    passed_over: list[UnusableFile]
    notes: list[str]


def find_layout(path: Path) -> Layout:
    """Find the splits, the classes and the images in a folder.

    The images may be a few folders further down, if each of these contains nothing but the next.

    Raises:
        DataError: the folders don't form a data set, or it isn't clear which.
    """
    passed_over: list[UnusableFile] = []
    notes: list[str] = []
    top = _descend(path, passed_over, stop_at_splits=True)
    folders = _find_splits(top, passed_over)
    has_splits = bool(folders)
    train = _descend(folders.get("train", top), passed_over)
    classes = _list_classes(train, notes)
    places = {"train": train}
    for split in SPLITS[1:]:
        if split in folders:
            places[split] = _descend(folders[split], passed_over, classes)
    for place in {top, *places.values()}:
        _pass_over_loose_files(place, passed_over)
    if not has_splits and train != path:
        notes.insert(0, f"the classes are in {_relative(train, path)}/")
    usual = [path / name for name in ("train", "valid", "val", "test")]
    if has_splits and not set(places.values()) <= set(usual):
        notes[:0] = [
            f"{_relative(at, path)}/ is the {_SET[split]} set" for split, at in places.items()
        ]
    splits = [
        _label_files(places[split], classes, train, passed_over) if split in places else []
        for split in SPLITS
    ]
    empty = [split for split in places if split != "train" and not splits[SPLITS.index(split)]]
    passed_over += [UnusableFile(places[split], "it contains no image") for split in empty]
    remarkable = [file for file in passed_over if file.path.suffix.lower() not in DOCUMENT_SUFFIXES]
    if remarkable:
        more = f" and {len(remarkable) - 3:,} more" if len(remarkable) > 3 else ""
        examples = ", ".join(f"{_relative(f.path, path)} ({f.why})" for f in remarkable[:3])
        notes.append(f"not read (see left_out): {examples}{more}")
    return Layout(classes, splits, passed_over, notes)


_SET = {"train": "training", "valid": "validation", "test": "test"}


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, or None.

    >>> split_of("Validation"), split_of("train_set"), split_of("TestData"), split_of("trained")
    ('valid', 'train', 'test', None)
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    words = " ".join(re.split(r"[\W_]+", words)).strip()
    words = re.sub(rf"^(({_FILLERS}) )+|( ?({_FILLERS}))+$", "", words)
    return next((split for split, names in _NAMES.items() if words in names), None)


def is_image(path: Path) -> bool:
    """Return whether a file is an image, by its suffix, or else by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES or suffix in MORE_SUFFIXES:
        return True
    known = suffix in RAW_SUFFIXES or suffix in DOCUMENT_SUFFIXES
    return not known and is_readable(path)


def _images(folder: Path) -> Iterable[Path]:
    return filter(is_image, find_files(folder))


def _has_images(folder: Path) -> bool:
    """Return whether there is an image in a folder or its subfolders."""
    return any(True for _ in _images(folder))


def _has_own_images(folder: Path) -> bool:
    """Return whether there is an image directly in a folder."""
    return any(map(is_image, list_files(folder)))


def _descend(
    path: Path,
    passed_over: list[UnusableFile],
    classes: tuple[str, ...] = (),
    *,
    stop_at_splits: bool = False,
) -> Path:
    """Return the first folder further down that is more than a wrapper around one other folder.

    Args:
        path: where to begin.
        passed_over: images beside the folders on the way are added to it.
        classes: folders that are not wrappers, because they are classes.
        stop_at_splits: the same for a folder that is called train, with the classes in it.
    """
    visited = set()
    while path.resolve() not in visited:
        visited.add(path.resolve())
        folders = list_folders(path)
        if len(folders) != 1 or _has_own_images(folders[0]) or folders[0].name in classes:
            break
        inner = list_folders(folders[0])
        is_last = stop_at_splits and _is_split(folders[0]) and not any(map(_is_split, inner))
        if is_last or not any(map(_has_images, inner)):
            break
        _pass_over_loose_files(path, passed_over)
        path = folders[0]
    return path


def _is_split(folder: Path) -> bool:
    """Return whether a folder has the name of a split, and folders for the classes in it."""
    return split_of(folder.name) is not None and any(list_folders(folder))


def _find_splits(top: Path, passed_over: list[UnusableFile]) -> dict[str, Path]:
    """Return the folders of the splits by their names; none if the classes are here.

    Raises:
        DataError: it isn't clear which folders are the splits.
    """
    folders = list_folders(top)
    named = {folder: split for folder in folders if (split := split_of(folder.name))}
    splits = {folder: split for folder, split in named.items() if _is_split(folder)}
    others = [folder for folder in folders if folder not in splits and _has_images(folder)]
    if not splits:
        if others and all(folder in named for folder in others) and len(named) == len(folders):
            raise DataError(
                f"the images in {printable(top)} are directly in {_names(others)}, which are names "
                f"of splits, so there are no classes. from_folder needs {LAYOUT}"
            )
        return {}
    folder_of: dict[str, Path] = {}
    names = {split_of(folder.name) for folder in splits}
    for folder, split in splits.items():
        if split == "test" and "eval" in folder.name.casefold() and _two_tests(splits, names):
            split = "valid"  # eval/ beside test/
        if split in folder_of:
            raise DataError(
                f"{printable(top)} contains two folders for the {_SET[split]} set, "
                f"{_names([folder_of[split], folder])}. Rename or remove one of them"
            )
        folder_of[split] = folder
    if "train" not in folder_of:
        raise DataError(
            f"{printable(top)} contains {_names(splits)}, but no folder for the training set. "
            f"from_folder needs {LAYOUT}"
        )
    unlabelled = [folder for folder in others if folder in named]
    strange = [folder for folder in others if folder not in named]
    classes = {folder.name for folder in list_folders(folder_of["train"])}
    mixed = [folder for folder in strange if len(folder_of) == 1 or folder.name in classes]
    if mixed:
        raise DataError(
            f"{printable(top)} contains {_names(splits)} for splits, and beside them the folders "
            f"{_names(mixed)} with images, so it isn't clear what the classes are. Splits are "
            f"called train, valid and test. from_folder needs {LAYOUT}"
        )
    passed_over += [UnusableFile(folder, "it has no class folders") for folder in unlabelled]
    passed_over += [UnusableFile(folder, "it is none of the splits") for folder in strange]
    passed_over += [
        UnusableFile(folder, "it contains no image")
        for folder in folders
        if folder not in splits and folder not in others
    ]
    return folder_of


def _two_tests(splits: dict[Path, str], names: set[str | None]) -> bool:
    """Return whether there are two folders for the test set, and none for validation."""
    return "valid" not in names and list(splits.values()).count("test") == 2


def _list_classes(path: Path, notes: list[str]) -> tuple[str, ...]:
    """Return the names of the class folders, each of which must contain an image."""
    folders = list_folders(path)
    classes = tuple(folder.name for folder in folders)
    if not classes:
        loose = " only images" if _has_own_images(path) else " no folders"
        raise DataError(
            f"{printable(path)} contains{loose}. Give from_folder the folder that contains {LAYOUT}"
        )
    empty = [folder.name for folder in folders if not _has_images(folder)]
    if empty:
        listed = (file for name in empty for file in find_files(path / name))
        why = [f"{file.path.name}: {file.why}" for file in map(_why_not, islice(listed, 3))]
        unread = f". Files that can't be read: {'; '.join(why)}" if why else ""
        raise DataError(
            f"these class folders in {printable(path)} contain no image: {empty}. Add images "
            f"({', '.join(sorted(SUFFIXES))}), or delete these folders{unread}. from_folder needs "
            f"{LAYOUT}"
        )
    if len(classes) == 1:
        raise DataError(
            f"{printable(path)} contains a single class, {classes[0]!r}, and a classifier needs "
            f"two. from_folder needs {LAYOUT}"
        )
    _check_subfolders(folders, notes)
    return classes


def _check_subfolders(folders: list[Path], notes: list[str]) -> None:
    """Raise DataError if the folders in the class folders are splits or other classes."""
    classes = {folder.name for folder in folders}
    inner = {folder: list_folders(folder) for folder in folders}
    for folder, subfolders in inner.items():
        inside = {split for sub in subfolders if (split := split_of(sub.name)) and _has_images(sub)}
        if len(inside) > 1 and "train" in inside:
            raise DataError(
                f"the class folder {printable(folder)} contains the splits {_names(subfolders)}; "
                f"the splits must be around the classes. from_folder needs {LAYOUT}"
            )
        nested = [sub for sub in subfolders if sub.name in classes and _has_images(sub)]
        if nested:
            raise DataError(
                f"the class folder {printable(folder)} contains {_names(nested)}, as does the "
                f"folder around it, so these images would get two labels. Remove one of them. "
                f"from_folder needs {LAYOUT}"
            )
    common = set.intersection(*({sub.name for sub in subs} for subs in inner.values()))
    if common and not any(map(_has_own_images, folders)):
        notes.append(
            f"the classes are {_names(folders)}, and each of them includes the images in "
            f"{_names(map(Path, sorted(common)))}"
        )


def _label_files(
    path: Path, classes: tuple[str, ...], train: Path, passed_over: list[UnusableFile]
) -> list[LabelledFile]:
    """Return every image below `path` with its label, which is an index into the classes."""
    unknown = [folder.name for folder in list_folders(path) if folder.name not in classes]
    if unknown:
        raise DataError(
            f"{printable(path)} contains classes that are not in {printable(train)}: {unknown}. "
            f"The classes of the training set are {list(classes)}; rename the folders, or add "
            "these classes to it"
        )
    files = []
    for k, name in enumerate(classes):
        for file in find_files(path / name):
            if is_image(file):
                files.append((file, k))
            else:
                passed_over.append(_why_not(file))
    return files


def _pass_over_loose_files(folder: Path, passed_over: list[UnusableFile]) -> None:
    """List the images beside the class folders; other files may be there."""
    known = {file.path for file in passed_over}
    passed_over += [
        UnusableFile(file, "it is in no class folder")
        for file in list_files(folder)
        if file not in known and (is_image(file) or file.suffix.lower() in _UNREAD_SUFFIXES)
    ]


def _why_not(path: Path) -> UnusableFile:
    """Return a file that is no image for us, with the reason."""
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        why = "a raw file of a camera, which Pillow can't develop; save it as JPEG"
    elif suffix in _HEIC_SUFFIXES:
        why = "Pillow reads HEIC only after pillow_heif.register_heif_opener(); or save it as JPEG"
    else:
        why = "not an image that Pillow recognises"
    return UnusableFile(path, why)


def _relative(path: Path, top: Path) -> str:
    return printable(path.relative_to(top))


def _names(folders: Iterable[Path]) -> str:
    names = [f"{folder.name}/" for folder in folders]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]).encode(errors="backslashreplace").decode() + more
