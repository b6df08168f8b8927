"""Where the course is: in a checkout, in the current folder, or in the installed package."""

import pytest

from cnnlab import cli
from cnnlab.course import BookError, book, diagrams, notebooks, replicate, script


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A checkout or site-packages, the package in it, and the current folder; all are empty."""
    checkout, here = tmp_path / "checkout", tmp_path / "here"
    package = checkout / "cnnlab" / "course"
    for folder in (package, here):
        folder.mkdir(parents=True)
    monkeypatch.setattr(notebooks, "__file__", str(package / "notebooks.py"))
    monkeypatch.chdir(here)
    return checkout, here, package / "content"


def add_chapter(folder, contents="_toc.yml"):
    (folder / "chapters").mkdir(parents=True)
    (folder / "chapters" / "01_training_loop.ipynb").write_text("{}")
    if contents:
        (folder / contents).write_text("root: chapters/01_training_loop\n")


@pytest.mark.parametrize("present", ["abc", "bc", "c", "ac", "b"])
def test_a_checkout_wins_then_the_current_folder_then_the_package(places, present):
    folders = dict(zip("abc", places, strict=True))
    for name in present:
        add_chapter(folders[name])
    course = folders[present[0]]
    assert notebooks.root() == course
    assert [path.parent for path in notebooks.chapters()] == [course / "chapters"]


@pytest.mark.parametrize("contents", ["_toc.yml", "myst.yml"])
def test_a_table_of_contents_makes_a_folder_of_chapters_a_course(places, contents, monkeypatch):
    _, here, package = places
    add_chapter(package)
    add_chapter(here, contents="")
    assert notebooks.root() == package, "an unrelated folder with such a notebook"
    (here / contents).write_text("root: chapters/01_training_loop\n")
    assert notebooks.root() == here
    monkeypatch.chdir(here / "chapters")  # where a notebook runs
    assert notebooks.root() == here
    monkeypatch.chdir(here.parent)
    assert notebooks.root() == package


def test_without_a_course_the_message_says_what_makes_one(places):
    add_chapter(places[1], contents="")
    with pytest.raises(FileNotFoundError, match=r"`_toc\.yml` or `myst\.yml` beside them"):
        notebooks.root()


def test_a_folder_with_other_notebooks_is_no_course(places):
    _, here, package = places
    add_chapter(package)
    (here / "chapters").mkdir()
    (here / "chapters" / "Untitled.ipynb").touch()
    assert notebooks.root() == package


def test_what_is_built_from_the_package_goes_into_the_current_folder(places):
    checkout, here, package = places
    add_chapter(package)
    assert notebooks.workplace() == here
    add_chapter(checkout)
    assert notebooks.workplace() == checkout


@pytest.mark.parametrize("write", [replicate.replicate, script.write, notebooks.own_root])
def test_nothing_is_written_into_the_package(places, write):
    add_chapter(places[2])
    with pytest.raises(FileNotFoundError, match=r"an upgrade replaces them.*cnnlab instructor DIR"):
        write()
    assert cli.main(["lab", "--source"]) == 1


def test_the_book_needs_its_settings_and_the_map_does_not(places):
    add_chapter(places[1], contents="myst.yml")
    with pytest.raises(BookError, match=r"no _toc\.yml in .*rename \._toc\.yml\.bak"):
        book.build_book()
    assert not (places[1] / "_build").exists()
    assert [*diagrams.chapters.numbers_in_the_book()] == [*diagrams.chapters.CHAPTERS]


def test_a_missing_extra_is_named_as_it_can_be_installed(places):
    for installed, command in ((True, "install 'cnnlab[lab]'`"), (False, "install -e '.[lab]'`")):
        if not installed:
            (places[0] / "pyproject.toml").touch()
        with pytest.raises(ModuleNotFoundError) as error:
            notebooks.require("no_such_module", extra="lab")
        assert command in str(error.value)
