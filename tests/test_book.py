"""Test that the book builds offline without warnings, shows its results and is accessible."""

import base64
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from html.parser import HTMLParser
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from book_reader import CHROMIUM, Visit, barriers_with_late, read_book, search
from pybtex.database import parse_file
from test_public_api import SIGNATURES

from cnnlab import course
from cnnlab.course.book import ENGINES


pytestmark = pytest.mark.slow
# An environment can have only one of the two, because Jupyter Book 1 excludes the current Sphinx.
ENGINE = "jupyter-book" if find_spec("jupyter_book") else "sphinx"
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "object": "data",
}
OUTPUT = re.compile(r'class="cell_output.*?(?=<div class="cell |</section>)', re.DOTALL)


class Page(HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """Build the book with other machines out of reach, and return the folder of its pages."""
    out = tmp_path_factory.mktemp("book")
    refused = out / "refused"
    env = os.environ | {"CNNLAB_PROFILE": "smoke", "CNNLAB_REFUSED": str(refused), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "cnnlab", "book", "--engine", ENGINE, "--out", str(out)]
    build = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert build.returncode == 0, (build.stdout + build.stderr)[-5000:]
    assert "WARNING: " not in build.stderr
    assert not refused.exists(), f"the build tried to reach {refused.read_text()}"
    return out / "_build" / ENGINES[ENGINE][2]


def pages(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")}


def test_each_chapter_has_a_page_with_outputs(book):
    for chapter in course.chapters():
        text = (book / "chapters" / f"{chapter.stem}.html").read_text()
        assert 'class="cell_output' in text
        assert "Traceback" not in text


def test_the_first_page_leads_to_the_index_and_the_index_into_the_first_chapter(book):
    assert "chapters/index.html" in (book / "index.html").read_text()
    text = (book / "chapters" / "index.html").read_text()
    main = text[text.index("<article") : text.index("</article>")]
    link = next(a for a in Page(main).all("a") if "headerlink" not in (a.get("class") or ""))
    assert link["href"] == f"{course.chapters()[0].stem}.html"
    alts = [image.get("alt") or "" for image in Page(main).all("img")]
    assert len(alts) == 2
    assert "Chapter 10 needs 9" in alts[1]


def test_the_references_have_every_work(book):
    text = (book / "chapters" / "references.html").read_text()
    works = len(parse_file(course.root() / "chapters" / "references.bib", "bibtex").entries)
    assert text.count('class="citation"') == works > 100


def test_a_solution_is_called_a_solution_and_checks_of_nothing_say_nothing(book):
    for chapter in course.chapters():
        cells = [cell.metadata.get("tags", []) for cell in nbformat.read(chapter, 4).cells]
        text = (book / "chapters" / f"{chapter.stem}.html").read_text()
        assert text.count("Show the solution") == sum("solution" in tags for tags in cells)
        assert "code cell" not in text
        outputs = "".join(OUTPUT.findall(text))
        assert outputs
        for words in ("not written yet", "not answered", "No prediction was made", "You made no"):
            assert words not in outputs


def test_the_library_reference_has_every_public_name(book):
    modules = sorted((book / "chapters" / "library").glob("*.html"))
    text = "".join(page.read_text() for page in modules)
    assert not [name for name in SIGNATURES if f'id="cnnlab.{name}"' not in text]
    assert "<dt" in text
    assert "::" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)  # no raw directive
    index = (book / "chapters" / "D_library.html").read_text()
    assert all(f'href="library/{page.name}">' in index for page in modules)


def test_chapters_and_the_library_reference_link_to_each_other(book):
    chapter = (book / "chapters" / "05_schedules.html").read_text()
    # the text has cnnlab.attach, without the module
    assert 'href="library/schedules.html#cnnlab.schedules.attach"' in chapter
    reference = (book / "chapters" / "library" / "schedules.html").read_text()
    entry = reference[reference.index('id="cnnlab.schedules.inverse_sqrt"') :]
    (users,) = re.findall(r"<p>In chapter (.*?)</p>", entry[: entry.index("sig-object")])
    assert '<a class="reference internal" href="../05_schedules.html">5</a>' in users


def test_each_page_states_when_it_was_last_verified(book):
    for name in ("index", "05_schedules", "library/data"):
        text = (book / "chapters" / f"{name}.html").read_text()
        assert "CC BY 4.0" in text
        (footer,) = re.findall(r"Last verified with [^<]*", text)
        assert f"torch {version('torch')} " in footer
        assert str(date.today())[:7] in footer
        assert "profile smoke" in footer


def test_the_replication_of_the_studies_is_a_table(book):
    text = (book / "chapters" / "G_evidence.html").read_text()
    assert text.count("<tr") > 100
    assert "| study |" not in text


def test_a_chapter_can_be_downloaded_as_a_notebook(book):
    text = (book / "chapters" / "05_schedules.html").read_text()
    assert 'href="../_sources/chapters/05_schedules.ipynb"' in text
    assert (book / "_sources" / "chapters" / "05_schedules.ipynb").is_file()


def test_the_examples_in_the_extensions_work():
    command = [sys.executable, "-m", "doctest", str(course.root() / "_ext" / "library_links.py")]
    subprocess.run(command, check=True)


def test_the_timings_page_lists_each_chapter(book):
    text = (book / "chapters" / "E_timings.html").read_text()
    assert all(f"chapters/{chapter.stem}" in text for chapter in course.chapters())


def test_every_figure_fits_on_700_pixels_and_its_alt_text_begins_with_its_message(book):
    figures = [
        image
        for chapter in course.chapters()
        for image in Page((book / "chapters" / f"{chapter.stem}.html").read_text()).all("img")
        if (image["src"] or "").startswith("data:image/png")
    ]
    assert figures
    for image in figures:
        alt = image.get("alt") or ""
        assert re.match(r"[A-Z0-9].{15,}?[.!?]( |$)", alt), alt
        assert not re.search(r"\b(train|valid|test)_", alt), alt  # a column, not in words
        header = base64.b64decode((image["src"] or "").partition("base64,")[2][:32])
        assert int.from_bytes(header[16:20]) <= 700, alt


def test_nothing_is_loaded_from_another_site(book):
    checked = 0
    for name, text in pages(book).items():
        for tag, attributes in Page(text).tags:
            address = attributes.get(LOADED.get(tag, ""))
            if address is not None:
                checked += 1
                assert not re.match(r"(https?:)?//", address), f"{name} loads {address}"
        assert not re.search(r"""(import\s*\(?|url\(|@import)\s*["']?https?://""", text), name
    for style in book.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", style.read_text()), style
    assert checked > 20


def test_formulas_are_drawn_by_the_copy_of_mathjax_in_the_book(book):
    text = (book / "chapters" / "01_training_loop.html").read_text()
    scripts = [script.get("src") or "" for script in Page(text).all("script")]
    (mathjax,) = [source for source in scripts if "mathjax" in source.lower()]
    assert (book / "chapters" / mathjax.partition("?")[0]).resolve().is_file()


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits(book) -> dict[str, Visit]:
    """Open each page in a browser that can reach only the book; return what it reports."""
    return read_book(book)


browser = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def in_browser(test):
    for mark in browser:
        test = mark(test)
    return test


@in_browser
def test_pages_open_without_errors_and_without_the_web(visits):
    assert len(visits) > len(course.chapters()) + 6
    assert not {name: visit.errors for name, visit in visits.items() if visit.errors}
    assert not {name: visit.refused for name, visit in visits.items() if visit.refused}


@in_browser
def test_formulas_are_drawn(visits):
    assert visits["chapters/05_schedules.html"].formulas > 20


@in_browser
def test_no_link_is_broken(visits, book):
    broken = []
    for name, visit in visits.items():
        for link in visit.links:
            path, _, anchor = link.partition("#")
            if path in visits:
                exists = not anchor or anchor in visits[path].ids
            else:
                exists = (book / path).is_file()
            if not exists:
                broken.append(f"{name} -> {link}")
    assert sum(len(visit.links) for visit in visits.values()) > 1000
    assert not broken


@in_browser
def test_every_image_has_an_alt_text_in_the_browser(visits):
    assert not {name: visit.silent for name, visit in visits.items() if visit.silent}


@in_browser
def test_pages_are_accessible(visits):
    """Check contrast in both modes, the heading order and the names of controls with axe-core."""
    assert not {name: visit.barriers for name, visit in visits.items() if visit.barriers}


@in_browser
@pytest.mark.parametrize("script", ["tex-chtml", "names.js", "fontawesome"])
def test_names_of_controls_do_not_depend_on_which_script_comes_last(book, script):
    assert not barriers_with_late(book, script, "chapters/A_keras.html")


@in_browser
def test_no_page_scrolls_sideways_on_a_phone(visits):
    assert not {name: visit.wider for name, visit in visits.items() if visit.wider}


@in_browser
def test_tables_formulas_code_and_images_fit_on_a_phone_or_scroll(visits):
    assert not {name: visit.cut for name, visit in visits.items() if visit.cut}
    tables = [(name, *table) for name, visit in visits.items() for table in visit.tables]
    assert len(tables) > 50
    high = [
        (name, words, f"{height:.0f} pixels for {rows} rows")
        for name, words, height, rows in tables
        if height > max(1500, 100 * rows)
    ]
    assert not high


@in_browser
def test_a_search_in_the_served_book_shows_what_a_page_says_and_in_which_section(book):
    found = search(book, "overfitting")
    assert len(found) > 5
    assert sum("overfit" in excerpt.casefold() for _, _, excerpt in found) > len(found) / 2
    assert sum("›" in title and len(anchor) > 1 for title, anchor, _ in found) > len(found) / 2
