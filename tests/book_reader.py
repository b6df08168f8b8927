"""A reader of the built book: opens every page in a browser and notes what is wrong with it."""

import functools
import http.server
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import ConsoleMessage, Page, Route, sync_playwright


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PHONE = 390  # pixels
# The rules of WCAG 2.1 at levels A and AA, and what axe calls bad by other rules.
LEVELS = {"wcag2a", "wcag2aa", "wcag21a", "wcag21aa"}
BAD = ("serious", "critical")
# Bad here, whatever axe calls them.
HEADINGS = ("heading-order", "page-has-heading-one", "empty-heading")
# It belongs to level A, but older versions of axe call it experimental and leave it out.
RULES = {"rules": {"label-content-name-mismatch": {"enabled": True}}}
# On a phone: the first words of each table, its height and its number of rows, and what is cut off
# because nothing around it scrolls.
TABLES = """[...document.querySelectorAll('main table:not(.indextable)')].map(table =>
    [table.innerText.slice(0, 60), table.getBoundingClientRect().height, table.rows.length])"""
CUT = """[...document.querySelectorAll('main :is(table, pre, mjx-container[display], img)')].filter(
    thing => {
        if (!thing.getBoundingClientRect().width) return false;
        let scrolls = false, around = thing;
        for (; around.tagName !== 'MAIN'; around = around.parentElement)
            scrolls ||= ['auto', 'scroll'].includes(getComputedStyle(around).overflowX);
        return !scrolls && thing.getBoundingClientRect().right > innerWidth;
    }).map(thing => thing.outerHTML.slice(0, 120))"""
# Contrast takes seconds a page: these are looked at in the dark mode too.
DARK = ("index.html", "05_schedules.html", "E_timings.html")  # text, cells with explorers, tables
# The reference repeats a few styles a thousand times; the first entries of each section stand for
# all.
REPEATED = {"exclude": [["section > dl:nth-of-type(n+4)"]]}


@dataclass
class Visit:
    """What was met on one page.

    Attributes:
        errors: of the console, and scripts that failed.
        refused: addresses outside the book that the page asked for.
        links: into the book, as `path#anchor` from its root.
        ids: the anchors of the page.
        silent: pictures without alternative text.
        formulas: how many MathJax drew.
        barriers: what axe-core finds against WCAG 2.1 A and AA or calls serious, and headings.
        wider: by how many pixels the page is wider than a phone.
        tables: first words of each table, its height on a phone and its number of rows.
        cut: what a phone shows in part only and can't scroll.
    """

    errors: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    silent: list[str] = field(default_factory=list)
    formulas: int = 0
    barriers: list[str] = field(default_factory=list)
    wider: int = 0
    tables: list[tuple[str, float, int]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)


def read_book(folder: Path) -> dict[str, Visit]:
    """Visit every page; the first one of all only leads on to another."""
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
    read = [name for name in pages if not name.startswith("_static/") and name != "index.html"]
    visits = {name: Visit() for name in read}
    with served(folder) as base, sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, visit in visits.items():
            page = browser.new_page(viewport={"width": 1300, "height": 1000})
            page.set_default_timeout(120_000)
            _watch(page, visit, base)
            page.goto(f"{base}/{name}")
            page.evaluate("window.MathJax?.startup?.promise")
            _look(page, visit, base)
            page.close()
        browser.close()
    return visits


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; gives the address."""
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


def _watch(page: Page, visit: Visit, base: str) -> None:
    def guard(route: Route) -> None:
        if route.request.url.startswith((f"{base}/", "data:", "blob:")):
            route.continue_()
        else:
            visit.refused.append(route.request.url)
            route.abort()

    page.route("**/*", guard)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("console", lambda said: _note(said, visit))


def _note(said: ConsoleMessage, visit: Visit) -> None:
    if said.type == "error":
        visit.errors.append(f"{said.text} ({said.location['url']})")


def _look(page: Page, visit: Visit, base: str) -> None:
    links = page.evaluate("[...document.querySelectorAll('main a[href]')].map(a => a.href)")
    visit.links = [link.removeprefix(f"{base}/") for link in links if link.startswith(base)]
    visit.ids = set(page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)"))
    visit.silent = page.evaluate(
        "[...document.images].filter(i => !i.alt).map(i => i.src.slice(0, 80))"
    )
    visit.formulas = page.locator("mjx-container").count()
    visit.barriers = _barriers(page, RULES)
    if page.url.endswith(DARK):
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        visit.barriers += _barriers(page, {"runOnly": ["color-contrast"]})
    page.set_viewport_size({"width": PHONE, "height": 844})
    visit.wider = page.evaluate("document.documentElement.scrollWidth") - PHONE
    visit.tables = [tuple(table) for table in page.evaluate(TABLES)]
    visit.cut = page.evaluate(CUT)


def search(folder: Path, words: str) -> list[tuple[str, str, str]]:
    """Search the served book; return title, anchor and excerpt of each result that has one."""
    with served(folder) as base, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{base}/search.html?q={quote(words)}")
        page.wait_for_selector("#search-results li a:has-text('›')")
        page.wait_for_load_state("networkidle")  # an excerpt comes from the page of its result
        found = page.locator("#search-results li:has(.context)").evaluate_all(
            "all => all.map(li => [li.querySelector('a').innerText,"
            " li.querySelector('a').hash, li.querySelector('.context').innerText])"
        )
        browser.close()
    return [tuple(result) for result in found]


def barriers_with_late(folder: Path, script: str, name: str) -> list[str]:
    """Look for barriers on one page on which a script comes a second after all others."""

    def delay(route: Route) -> None:
        time.sleep(1)
        route.continue_()

    with served(folder) as base, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.route(f"**/*{script}*", delay)
        page.goto(f"{base}/{name}")
        found = _barriers(page, RULES)
        browser.close()
    return found


def _barriers(page: Page, options: dict[str, Any]) -> list[str]:
    """Run axe-core, which is kept from loading style sheets once more."""
    found = Axe().run(page, REPEATED, {"preload": False, **options}).response
    return [
        f"{rule['id']}: {rule['nodes'][0]['html'][:150]} ({len(rule['nodes'])} times)"
        for rule in found["violations"]
        if LEVELS & {*rule["tags"]} or rule["impact"] in BAD or rule["id"] in HEADINGS
    ]
