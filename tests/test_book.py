"""The book builds without a network and without a warning, and holds what the chapters computed."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_public_api import SIGNATURES

from cnnlab import course


pytestmark = pytest.mark.slow
LOADED = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "object": "data",
}


class Page(HTMLParser):
    """The tags of a page, with their attributes."""

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
    """Folder of the pages; built with every connection to the outside refused, and none tried."""
    out = tmp_path_factory.mktemp("book")
    refused = out / "refused"
    env = os.environ | {"CNNLAB_PROFILE": "smoke", "CNNLAB_REFUSED": str(refused), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "cnnlab", "book", "--out", str(out)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert "WARNING: " not in done.stderr
    assert not refused.exists(), f"something wanted to reach {refused.read_text()}"
    return out / "_build" / "html"


def pages(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")}


def test_each_chapter_has_its_page_with_its_outputs(book):
    for chapter in course.chapters():
        text = (book / "chapters" / f"{chapter.stem}.html").read_text()
        assert 'class="cell_output' in text
        assert "Traceback" not in text


def test_the_front_page_leads_to_the_index(book):
    assert "chapters/index.html" in (book / "index.html").read_text()
    assert (book / "chapters" / "references.html").read_text().count('role="doc-biblioentry"') >= 5


def test_the_library_reference_has_every_public_name(book):
    text = (book / "chapters" / "D_library.html").read_text()
    assert not [name for name in SIGNATURES if f'id="cnnlab.{name}"' not in text]
    assert "<dt" in text
    assert "::" not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)  # no raw directive


def test_the_timings_name_each_chapter(book):
    text = (book / "chapters" / "E_timings.html").read_text()
    assert all(f"chapters/{chapter.stem}" in text for chapter in course.chapters())


def test_every_figure_is_described(book):
    figures = [
        image
        for chapter in course.chapters()
        for image in Page((book / "chapters" / f"{chapter.stem}.html").read_text()).all("img")
        if (image["src"] or "").startswith("data:image/png")
    ]
    assert figures
    assert all(len(image.get("alt") or "") > 20 for image in figures)


def test_nothing_is_loaded_from_elsewhere(book):
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


def test_formulas_come_from_the_book(book):
    text = (book / "chapters" / "01_training_loop.html").read_text()
    scripts = [script.get("src") or "" for script in Page(text).all("script")]
    (mathjax,) = [source for source in scripts if "mathjax" in source.lower()]
    assert (book / "chapters" / mathjax.partition("?")[0]).resolve().is_file()
