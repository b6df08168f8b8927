"""Chapters in JupyterLab, as students use them: run, move a slider, check, interrupt."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, sync_playwright

from cnnlab import course


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
TOKEN = "opened-by-a-test"

# chapter -> a slip to make in the solution of its first exercise, and what the check says to it
SLIPS = {
    "01_training_loop": ("optimizer.zero_grad()", "pass", "the gradients of earlier batches"),
    "03_augmentation": ("images.flip(3)", "images.flip(2)", "the images are turned upside down"),
    "05_schedules": ("min(step / steps, 1.0)", "step / steps", "past its end the rate climbs"),
    "07_debugging": ("math.sqrt(sum(", "float(sum(", "the sum of squares is taken for the norm"),
    "10_finetuning": ("(top - stage)", "stage", "the rates grow smaller towards the head"),
}
LONG_FIT = """batches = cnnlab.loader(data.train, batch_size=8, shuffle=True)
trainer = cnnlab.Trainer(model, optimizer, seed=0, device="cpu")
trainer.fit(batches, epochs=10_000)"""
GO_ON = """print(trainer.history.stop_reason)
before = trainer.epoch
history = trainer.fit(batches, epochs=before + 1)
print(f"{before} epochs before, {trainer.epoch} now, {len(history.frame())} rows")"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a JupyterLab on a copy of the chapters, with settings of its own."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(course.root() / "chapters", home / "chapters")
    page_config = home / "config" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True)
    news = "@jupyterlab/apputils-extension:announcements"
    page_config.write_text(json.dumps({"disabledExtensions": {news: True}}))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = os.environ | {
        "CNNLAB_PROFILE": "smoke",
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={home / 'chapters'}",
    ]
    log = home / "lab.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cnnlab", "lab", *options], env=env, stdout=output, stderr=output
        )
        try:
            wait_for(f"{url}/api/status?token={TOKEN}", process, log)
            yield url
        finally:
            with contextlib.suppress(OSError):
                stop = urllib.request.Request(f"{url}/api/shutdown?token={TOKEN}", method="POST")
                urllib.request.urlopen(stop, timeout=10).close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def plain_lab(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """`cnnlab lab` as a student calls it: its process, and its output up to the address."""
    env = os.environ | {
        f"JUPYTER_{name}_DIR": str(tmp_path) for name in ("CONFIG", "DATA", "RUNTIME")
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnlab", "lab", "--no-browser", "--allow-root"],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    told = ""
    assert process.stdout is not None
    while "127.0.0.1" not in told and (line := process.stdout.readline()):
        told += line
    yield process, told
    process.kill()
    process.communicate()


def wait_for(url: str, process: subprocess.Popen, log: Path | None = None) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.25)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:] if log else ''}")


def test_lab_listens_on_this_machine_alone_and_asks_for_its_token(
    plain_lab: tuple[subprocess.Popen, str],
) -> None:
    import psutil

    process, told = plain_lab
    address = re.search(r"http://127\.0\.0\.1:(\d+)/lab\?token=([0-9a-f]{48})$", told, re.MULTILINE)
    assert address, told
    assert told.index("copy the address with `token=`") < address.start()
    base = address[0].partition("/lab")[0]
    wait_for(
        f"{base}/api/status?token={address[2]}", process
    )  # Jupyter tells its address a moment before it listens there
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{base}/api/contents", timeout=10)
    with urllib.request.urlopen(f"{base}/api/contents?token={address[2]}", timeout=10) as answer:
        assert b"01_training_loop.ipynb" in answer.read()
    with urllib.request.urlopen(f"{base}/lab?token={address[2]}", timeout=10) as answer:
        assert re.search(rb'"news": *{"disabled": *true}', answer.read()), "no question about news"
    sockets = psutil.Process(process.pid).net_connections()
    hosts = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
    assert hosts, "nothing was seen, so the next line says nothing"
    assert hosts <= {"127.0.0.1", "::1"}


class Notebook:
    """A chapter in a tab of its own, run through Lab's commands: early clicks would get lost."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
        self.call("panel.sessionContext.session.kernel.info")

    def call(self, expression: str, *values: object) -> Any:
        """Evaluate JavaScript about the panel, its cells and the given values."""
        return self.page.evaluate(
            f"""async (values) => {{
                const panel = window.jupyterapp.shell.currentWidget;
                await panel.context.ready;
                await panel.sessionContext.ready;
                const cells = panel.content.model.sharedModel.cells;
                return await ({expression});
            }}""",
            list(values),
        )

    def cells(self) -> list[dict]:
        return self.call(
            """cells.map(cell => ({
                type: cell.cell_type, tags: cell.getMetadata("tags") ?? [], source: cell.source,
                count: cell.execution_count, outputs: cell.getOutputs?.() ?? []
            }))"""
        )

    def first(self, tag: str) -> int:
        return next(i for i, cell in enumerate(self.cells()) if tag in cell["tags"])

    def run_all(self) -> list[dict]:
        self.call("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return [cell for cell in self.cells() if cell["type"] == "code"]

    def start(self, number: int) -> None:
        """Run a cell, as Ctrl + Enter does, and do not wait for it."""
        self.call(
            "void (panel.content.activeCellIndex = values[0],"
            " window.jupyterapp.commands.execute('notebook:run-cell'))",
            number,
        )

    def run(self, number: int, source: str | None = None) -> str:
        """Run a cell, perhaps with another source, and return what it shows, as text."""
        if source is not None:
            self.call("cells[values[0]].setSource(values[1])", number, source)
        self.call(
            "(panel.content.activeCellIndex = values[0],"
            " window.jupyterapp.commands.execute('notebook:run-cell'))",
            number,
        )
        return json.dumps(self.cells()[number]["outputs"], ensure_ascii=False)

    def append(self, source: str) -> int:
        number = len(self.cells())
        cell = {"cell_type": "code", "source": source}
        self.call("void panel.content.model.sharedModel.insertCell(...values)", number, cell)
        return number


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1300, "height": 1200},
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield context
        context.close()


@pytest.fixture
def opened(lab: str, browser: BrowserContext) -> Iterator[Callable[[str], Notebook]]:
    """A function that opens a chapter; nothing it asked for may have left this machine."""
    requests: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    yield lambda name: Notebook(page, f"{lab}/doc/tree/{name}.ipynb?token={TOKEN}&reset")
    page.close()
    web = [url for url in requests if url.startswith(("http", "ws"))]
    assert len(web) > 10, "no request was seen at all, so the next line says nothing"
    assert not [url for url in web if not url.startswith((f"{lab}/", lab.replace("http", "ws")))]


@pytest.mark.parametrize("name", SLIPS)
def test_a_student_works_through_a_chapter(name: str, opened: Callable[[str], Notebook]) -> None:
    notebook = opened(name)
    cells = notebook.run_all()
    errors = [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
    assert not errors, errors[0]["evalue"]
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    check_pictures(notebook.page)
    if any("widget" in cell["tags"] for cell in cells):
        seconds = move_slider(notebook)
        sys.stdout.write(f"{name}: the picture follows after {seconds} s\n")
        assert min(seconds) < 1, f"the picture followed the slider after {seconds} s"
    check_exercise(notebook, *SLIPS[name])
    if name == "01_training_loop":
        check_interrupt(notebook)


def check_pictures(page: Page) -> None:
    page.wait_for_function("document.querySelectorAll('.jp-OutputArea img').length > 0")
    described = page.locator(".jp-OutputArea img").evaluate_all("all => all.map(img => img.alt)")
    assert all(len(alt) > 20 for alt in described)
    assert "No description has been provided for this image" not in described, "Lab's stand-in"


def move_slider(notebook: Notebook) -> list[float]:
    """Move each slider by arrow keys; return how long the image took each time, in seconds."""
    page = notebook.page
    notebook.call("void panel.content.scrollToItem(values[0])", notebook.first("widget"))
    handles = page.locator(".widget-slider .noUi-handle")
    handles.first.wait_for()
    seconds = []
    for i in range(handles.count()):
        handles.nth(i).focus()
        page.evaluate("""() => { window.followed = new Promise(resolve => {
            const box = document.querySelector(".jupyter-widgets.widget-html").parentElement;
            const before = box.querySelector("img").src;
            let pressed = 0;
            const start = () => { pressed = performance.now(); };
            document.addEventListener("keydown", start, {capture: true, once: true});
            new MutationObserver((_, self) => {
                if (box.querySelector("img")?.src !== before) {
                    self.disconnect();
                    resolve((performance.now() - pressed) / 1000);
                }
            }).observe(box, {subtree: true, childList: true, attributes: true});
        }); }""")
        page.keyboard.press("ArrowRight")
        seconds.append(page.evaluate("window.followed"))
    if folder := os.environ.get("CNNLAB_SCREENSHOTS"):
        page.screenshot(path=Path(folder, "lab.png"))
    return seconds


def check_exercise(notebook: Notebook, right: str, wrong: str, sentence: str) -> None:
    exercise, cells = notebook.first("exercise"), notebook.cells()
    check = next(i for i in range(exercise, len(cells)) if "check" in cells[i]["tags"])
    solution = cells[notebook.first("solution")]["source"]
    assert right in solution
    notebook.run(exercise, solution.replace(right, wrong))
    assert sentence in notebook.run(check)
    notebook.run(exercise, solution)
    assert "✔" in notebook.run(check)


def check_interrupt(notebook: Notebook) -> None:
    """Interrupt a long fit by its button; what was trained is there, and the next cell goes on."""
    long_fit, go_on = notebook.append(LONG_FIT), notebook.append(GO_ON)
    notebook.call("void panel.content.scrollToItem(values[0])", long_fit)
    notebook.start(long_fit)
    notebook.page.wait_for_function(
        """number => window.jupyterapp.shell.currentWidget.content.widgets[number]
            .node.querySelector(".jp-OutputArea-output")?.innerText.match(/epoch\\s+\\d\\d/)""",
        arg=long_fit,
    )
    notebook.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    shown = notebook.run(go_on)
    epochs, now, rows = map(int, re.findall(r"(\d+) (?:epochs|now|rows)", shown))
    assert epochs >= 10
    assert (now, rows) == (epochs + 1, epochs + 1)
    assert "stopped by SIGINT" in shown
