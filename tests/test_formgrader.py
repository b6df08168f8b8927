"""Open hostile submissions in the real Formgrader and in the feedback: nothing of them may run."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import hostile
import nbformat
import pytest
from nbconvert.exporters import HTMLExporter
from nbgrader.api import Gradebook
from nbgrader.server_extensions.formgrader import handlers
from playwright.sync_api import Page, sync_playwright
from traitlets.config import Config

from cnnlab.course import assignments
from cnnlab.course.autograde import KeepPlain, configure


TOKEN = "opened-by-a-test"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def nbgrader(folder: Path, *arguments: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course with one assignment, and one hostile submission that is graded."""
    folder = assignments.write("techniques", tmp_path_factory.mktemp("course") / "t")
    nbgrader(folder, "generate_assignment", "techniques")
    release = nbformat.read(folder / "release/techniques/techniques.ipynb", nbformat.NO_CONVERT)
    hostile.write(folder / "submitted/mallory/techniques", "techniques", release)
    nbgrader(folder, "autograde", "techniques")
    nbgrader(folder, "generate_feedback", "techniques")
    return folder


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.set_extra_http_headers({"Authorization": f"token {TOKEN}"})
        page.route(
            "**/*",
            lambda route: (
                route.continue_()
                if route.request.url.startswith(("http://127.0.0.1", "file:", "data:"))
                else route.abort()
            ),
        )
        yield page
        browser.close()


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Jupyter server with Formgrader in the folder of the course; return its address."""
    home = tmp_path_factory.mktemp("jupyter")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {
        f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    extensions = {"jpserver_extensions": {"nbgrader.server_extensions.formgrader": True}}
    (home / "CONFIG").mkdir()
    (home / "CONFIG/jupyter_server_config.json").write_text(json.dumps({"ServerApp": extensions}))
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root"),
                *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
                *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"),
            ],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        for _ in range(1200):  # five minutes, on a machine that does other things
            assert process.poll() is None, (home / "log").read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{url}/api/status?token={TOKEN}", timeout=2).close()
                break
            time.sleep(0.25)
        yield url
    finally:
        process.terminate()
        process.wait(120)


def submission_id(folder: Path) -> str:
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        return gradebook.find_submission_notebook("techniques", "techniques", "mallory").id


def score(folder: Path) -> float:
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        return gradebook.find_submission("techniques", "mallory").score


def attacks(page: Page) -> list[str]:
    """Try everything on a page that a visitor could touch; return the names of what has run."""
    page.evaluate("""document.querySelectorAll("#notebook a").forEach(
        link => link.protocol === "javascript:" && link.click())""")
    page.wait_for_timeout(200)
    return page.evaluate("window.hacked || []")


def dangerous(page: Page) -> list[str]:
    """Return the elements and attributes of the notebook that a student must not bring about."""
    return page.evaluate("""() => {
        const root = document.querySelector("#notebook"), bad = [];
        for (const e of root.querySelectorAll("*")) {
            if (/^(script|style|iframe|object|embed|form|svg|base|meta|link)$/i.test(e.tagName))
                bad.push(e.outerHTML.slice(0, 200));
            for (const a of e.attributes)
                if (/^on/i.test(a.name) || /^(javascript|data:text|data:image.svg)/i.test(a.value)
                    || (a.name === "src" && !a.value.startsWith("data:image/png;base64,")))
                    bad.push(e.tagName + " " + a.name + "=" + a.value);
        }
        return bad;
    }""")


def check_page(page: Page) -> None:
    assert attacks(page) == []
    assert dangerous(page) == []
    text = page.locator("#notebook").first.inner_text()
    for name, source in hostile.MARKDOWN.items():
        if not name.startswith("html in a"):  # these become formulas
            lines = [line.removeprefix("## ") for line in source.splitlines() if line[0:1] != "`"]
            assert all(line in text for line in lines), source
    assert page.locator("#notebook img[src^='data:image/png']").count() >= 1
    assert page.locator("#notebook").first.bounding_box()["height"] > 1000, (
        "a style has hidden the page"
    )


def check_formula(page: Page) -> None:
    """The fraction of the honest cell is typeset: its numerator is above its denominator."""
    parts = page.locator("#notebook math mfrac").last.locator("> *")
    above, below = parts.nth(0).bounding_box(), parts.nth(1).bounding_box()
    assert above["y"] + above["height"] <= below["y"] + 1
    assert r"\frac{s_i}" not in page.locator("#notebook p", has_text="An honest cell").inner_text()


def test_nothing_runs_in_formgrader_and_formulas_are_typeset(folder, server, page):
    before, files = score(folder), f"formgrader/submissions/{submission_id(folder)}"
    page.goto(f"{server}/{files}/")
    check_page(page)
    check_formula(page)
    fields = page.locator("input.score")
    assert sorted(field.get_attribute("id") for field in fields.all()) == [
        "explain",
        "mixup_points",
        "report",
        "schedule_points",
        "stopping_points",
    ]
    for name in ("page.html", "drawing.svg"):
        assert page.goto(f"{server}/{files}/{name}").status == 404
    for place in (
        "manage_assignments",
        "manage_submissions/techniques",
        "gradebook/techniques/techniques",
        "manage_students/mallory/techniques",
    ):
        page.goto(f"{server}/formgrader/{place}")
        page.wait_for_function("!document.body.innerText.includes('Loading, please wait')")
        assert page.evaluate("window.hacked || []") == []
    assert score(folder) == before == 0


def test_a_score_can_be_given_beside_a_hostile_report(folder, server, page):
    page.goto(f"{server}/formgrader/submissions/{submission_id(folder)}/")
    page.wait_for_timeout(1000)
    before = score(folder)
    for name, points in (("report", "4"), ("mixup_points", "1")):
        with page.expect_response(lambda response: response.request.method == "PUT") as saved:
            page.fill(f"input#{name}", points)
            page.press(f"input#{name}", "Tab")
        assert saved.value.ok
    assert score(folder) == before + 5
    for name in ("report", "mixup_points"):
        with page.expect_response(lambda response: response.request.method == "PUT"):
            page.fill(f"input#{name}", "0")
            page.press(f"input#{name}", "Tab")


def test_nothing_runs_in_the_feedback_and_formulas_are_typeset(folder, page):
    page.goto((folder / "feedback/mallory/techniques/techniques.html").as_uri())
    check_page(page)
    check_formula(page)
    feedback = [path.name for path in (folder / "feedback/mallory/techniques").iterdir()]
    assert feedback == ["techniques.html"]


def test_the_graded_notebook_is_harmless_with_the_default_settings_too(folder, page, tmp_path):
    """Formgrader reads the settings of the folder in which the server was started."""
    show(folder / "autograded/mallory/techniques/techniques.ipynb", Config(), tmp_path)
    page.goto((tmp_path / "page.html").as_uri())
    check_page(page)


def test_the_settings_alone_make_a_submission_harmless(folder, page, tmp_path):
    """As if it had been graded with an older version."""
    config = Config()
    configure(config, folder)
    notebook = json.loads((folder / "submitted/mallory/techniques/techniques.ipynb").read_text())
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":  # nbconvert itself refuses these two
            cell["execution_count"] = None
        cell["id"] = re.sub(r"\W", "", cell["id"])
    (tmp_path / "page.ipynb").write_text(json.dumps(notebook))
    show(tmp_path / "page.ipynb", config, tmp_path)
    page.goto((tmp_path / "page.html").as_uri())
    check_page(page)
    check_formula(page)


def test_the_payloads_do_run_without_protection(folder, page, tmp_path):
    """So that the tests above can fail: each of these works in nbgrader's own page."""
    notebook = nbformat.read(folder / "release/techniques/techniques.ipynb", nbformat.NO_CONVERT)
    for number, (name, cell) in enumerate(hostile.cells().items()):
        if name in hostile.EFFECTIVE:
            path = tmp_path / f"{number}.ipynb"
            path.write_text(json.dumps(notebook | {"cells": [{"id": "x"} | cell]}))
            show(path, Config(), tmp_path)
            page.goto((tmp_path / "page.html").as_uri())
            assert attacks(page) or dangerous(page), name


def show(notebook: Path, config: Config, out: Path) -> None:
    """Write the page that Formgrader makes of a notebook."""
    config.HTMLExporter.template_name = "formgrade"
    config.HTMLExporter.extra_template_basedirs = [handlers.template_path]
    resources = {"submission_id": "x", "index": 0, "total": 1, "base_url": "", "notebook_id": "x"}
    html, _ = HTMLExporter(config=config).from_filename(str(notebook), resources=resources)
    (out / "page.html").write_text(html)


def test_a_second_pass_changes_nothing(folder):
    graded = folder / "autograded/mallory/techniques/techniques.ipynb"
    notebook = nbformat.read(graded, nbformat.NO_CONVERT)
    again, _ = KeepPlain().preprocess(notebook, {})
    assert [cell.source for cell in again.cells] == [cell.source for cell in notebook.cells]
