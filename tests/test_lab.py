"""Use chapters in JupyterLab as a student does: run, move a slider, check, interrupt."""

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

# chapter -> correct code in the solution of its first exercise, a mistake to put there instead, and
# a part of the feedback that the check then gives
SLIPS = {
    "00_first_network": ("[None] / 255", "[None] // 255", "dtype uint8, expected float32"),
    "01_training_loop": ("[n_valid:n_held]", "[n_valid:]", "training and test sets share indices"),
    "03_augmentation": ("images.flip(3)", "images.flip(2)", "you turn the images upside down"),
    "05_schedules": ("min(progress, 1.0)", "progress", "the multiplier climbs again"),
    "07_debugging": (".log()", "", "you return frequencies"),
    "10_finetuning": (
        "(1 - alpha) * before[name] + alpha",
        "alpha * before[name] + (1 - alpha)",
        "you give `before` the weight alpha",
    ),
}
LONG_FIT = """batches = cnnlab.loader(data.train, batch_size=8, shuffle=True)
trainer = cnnlab.Trainer(model, optimizer, seed=0, device="cpu")
trainer.fit(batches, epochs=10_000)"""
CONTINUE = """print(trainer.history.stop_reason)
before = trainer.epoch
history = trainer.fit(batches, epochs=before + 1)
print(f"{before} epochs before, {trainer.epoch} now, {len(history.frame())} rows")"""

COMPARISON = """import torch
batches = cnnlab.loader(data.train, batch_size=8, shuffle=True)
def run(epochs):
    def variant(seed):
        model = cnnlab.small_resnet(len(data.classes), width=4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        trainer = cnnlab.Trainer(model, optimizer, seed=seed, device="cpu")
        trainer.fit(batches, epochs=epochs)
        return trainer.epoch
    return variant
from cnnlab.experiment import compare
results = compare({"short": run(1), "endless": run(10_000)}, seeds=2, metric="epochs")
print("rows:", results.rows)
print("not finished:", [(run["variant"], run["seed"]) for run in results.unfinished])"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a JupyterLab with its own settings on a copy of the chapters; return its address."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(course.root() / "chapters", home / "chapters")
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
            shut_down(process, f"{url}/api/shutdown?token={TOKEN}")


def shut_down(process: subprocess.Popen, url: str) -> None:
    """Let JupyterLab end its kernels and itself."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10).close()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def plain_lab(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[subprocess.Popen, str, Path]]:
    """Start `cnnlab lab` as `make lab` does, in a new home folder.

    Yield the process, its output up to the address, and the home folder.
    """
    home = tmp_path_factory.mktemp("home")
    env = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    env |= {"HOME": str(home), "USERPROFILE": str(home), "APPDATA": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cnnlab", "lab", "--no-browser", "--allow-root"],
        env=env, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    output = ""
    assert process.stdout is not None
    while "http://127.0.0.1" not in output and (line := process.stdout.readline()):
        output += line
    yield process, output, home
    shut_down(process, re.sub("/lab/tree/.*[?]", "/api/shutdown?", address_in(output)))
    process.stdout.close()


def address_in(output: str) -> str:
    address = re.search(r"http://127\S+", output)
    return address[0] if address else ""


@pytest.fixture
def first_screen(
    plain_lab: tuple[subprocess.Popen, str, Path], browser: BrowserContext
) -> Iterator[Page]:
    """What a student sees in a window of a laptop a few seconds after JupyterLab has started."""
    process, output, _ = plain_lab
    address = address_in(output)
    assert address, output
    wait_for(re.sub("/lab/tree/.*[?]", "/api/status?", address), process)
    page = browser.new_page()
    page.set_viewport_size({"width": 1366, "height": 900})
    page.set_default_timeout(60_000)
    start = time.monotonic()
    page.goto(address)
    page.wait_for_selector(".jp-MarkdownCell h1")
    seconds = time.monotonic() - start
    sys.stdout.write(f"the start page is there {seconds:.1f} s after the address was opened\n")
    page.wait_for_selector("[data-status=idle]", state="attached")  # the kernel is ready
    page.wait_for_timeout(4000)  # the question about news came some seconds after everything else
    yield page
    page.close()


def wait_for(url: str, process: subprocess.Popen, log: Path | None = None) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.25)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:] if log else ''}")


def test_lab_listens_only_on_this_machine_and_requires_its_token(
    plain_lab: tuple[subprocess.Popen, str, Path],
) -> None:
    import psutil

    process, output, home = plain_lab
    pattern = r"http://127\.0\.0\.1:(\d+)/lab/tree/START_HERE\.ipynb\?token=([0-9a-f]{48})$"
    address = re.search(pattern, output, re.MULTILINE)
    assert address, output
    assert output.index("copy the address with `token=`") < address.start()
    assert f"Your copy of the course is {home / 'cnnlab-course'}" in output
    base = address[0].partition("/lab")[0]
    # Jupyter prints its address a moment before it listens there.
    wait_for(f"{base}/api/status?token={address[2]}", process)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{base}/api/contents", timeout=10)
    with urllib.request.urlopen(f"{base}/api/contents?token={address[2]}", timeout=10) as response:
        listing = response.read()
    assert b"01_training_loop.ipynb" in listing
    assert b"01_training_loop.py" not in listing
    assert b'".cnnlab"' not in listing
    sockets = psutil.Process(process.pid).net_connections()
    hosts = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
    assert hosts, "no listening socket, so the next line would test nothing"
    assert hosts <= {"127.0.0.1", "::1"}


# How many characters the longest of the lines of prose has that are on the screen.
LONGEST_LINE = """() => {
    let longest = 0;
    const prose = ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-MarkdownCell :is(p, li)";
    for (const block of document.querySelectorAll(prose)) {
        const lines = new Map(), range = document.createRange();
        const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
        while (walker.nextNode())
            for (let i = 0; i < walker.currentNode.length; i++) {
                range.setStart(walker.currentNode, i);
                range.setEnd(walker.currentNode, i + 1);
                const box = range.getBoundingClientRect();
                const line = Math.round((box.top + box.bottom) / 2 / 8);
                if (box.width) lines.set(line, (lines.get(line) ?? 0) + 1);
            }
        longest = Math.max(longest, ...lines.values());
    }
    return longest;
}"""


def test_the_first_screen_explains_itself_and_leads_to_chapter_0(first_screen: Page) -> None:
    page = first_screen
    save_screenshot(page, "lab_first.png")
    assert tabs(page) == ["START_HERE.ipynb"]
    assert page.locator(".jp-Launcher").count() == 0
    assert page.locator(".jp-Dialog").count() == 0
    assert page.locator(".Toastify__toast").all_inner_texts() == []
    assert "news" not in page.locator("body").inner_text().lower()
    names = page.locator(".jp-DirListing-itemText")
    cut = names.evaluate_all(
        "all => all.filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText)"
    )
    assert names.count() > 15
    assert cut == []
    check_first_page_fits(page)
    assert 70 <= page.evaluate(LONGEST_LINE) <= 95
    # Shift + Enter runs the cell, and cells find cnnlab, as the page promises.
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".jp-OutputArea-output:has-text('45')")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("!cnnlab student . --restore 3")
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".jp-OutputArea-output:has-text('is still as it was handed out')")

    page.get_by_role("link", name="open chapter 0", exact=True).click()
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) h1:has-text('first network')")
    assert tabs(page) == ["START_HERE.ipynb", "00_first_network.ipynb"]
    page.wait_for_timeout(2000)
    save_screenshot(page, "lab_chapter0.png")
    assert page.locator(".jp-Dialog").count() == 0
    assert 70 <= page.evaluate(LONGEST_LINE) <= 95

    # The next day, the same tabs are there, and the start page is in front of them again.
    page.goto(page.url.partition("/lab/tree/")[0] + "/lab/tree/START_HERE.ipynb")
    page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) h1:has-text('Start here')")
    page.wait_for_timeout(2000)
    assert sorted(tabs(page)) == ["00_first_network.ipynb", "START_HERE.ipynb"]
    assert page.locator(".jp-Launcher, .jp-Dialog, .Toastify__toast").count() == 0


def check_first_page_fits(page: Page) -> None:
    """Both links to chapter 0 can be seen without scrolling, the first in a small window too."""
    links = page.locator(".jp-MarkdownCell a[href*='00_first_network']")
    assert links.count() == 2
    first, last = (links.nth(i).bounding_box() for i in range(2))
    assert first
    assert last
    assert first["y"] + first["height"] < 400
    assert last["y"] + last["height"] < 860


def tabs(page: Page) -> list[str]:
    return page.locator("#jp-main-dock-panel .lm-TabBar-tabLabel").all_inner_texts()


def save_screenshot(page: Page, name: str) -> None:
    if folder := os.environ.get("CNNLAB_SCREENSHOTS"):
        page.screenshot(path=Path(folder, name))


class Notebook:
    """A chapter in its own tab, run with Lab's commands because early clicks would get lost."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
        self.call("panel.sessionContext.session.kernel.info")

    def call(self, expression: str, *values: object) -> Any:
        """Evaluate a JavaScript expression that may use `panel`, `cells` and the given `values`."""
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

    def index_of(self, tag: str) -> int:
        return next(i for i, cell in enumerate(self.cells()) if tag in cell["tags"])

    def run_all(self) -> list[dict]:
        self.call("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        return [cell for cell in self.cells() if cell["type"] == "code"]

    def start(self, number: int) -> None:
        """Start a cell, as Ctrl + Enter does, without waiting for its end."""
        self.call(
            "void (panel.content.activeCellIndex = values[0],"
            " window.jupyterapp.commands.execute('notebook:run-cell'))",
            number,
        )

    def run(self, number: int, source: str | None = None) -> str:
        """Run a cell, with another source if one is given; return its outputs as JSON."""
        if source is not None:
            self.call("cells[values[0]].setSource(values[1])", number, source)
        self.call(
            "(panel.content.activeCellIndex = values[0],"
            " window.jupyterapp.commands.execute('notebook:run-cell'))",
            number,
        )
        return json.dumps(self.cells()[number]["outputs"], ensure_ascii=False)

    def wait_for_end(self, number: int) -> None:
        """Wait until the kernel is ready for the next cell, not only until the output is there.

        After an error the kernel cancels the cells that reach it before it is done with the old.
        """
        self.page.wait_for_function(
            "number => window.jupyterapp.shell.currentWidget.content.model.sharedModel"
            ".cells[number].executionState === 'idle'",
            arg=number,
        )
        self.call("panel.sessionContext.session.kernel.requestKernelInfo()")

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
def open_notebook(lab: str, browser: BrowserContext) -> Iterator[Callable[[str], Notebook]]:
    """Return a function that opens a chapter; check in the end that no request left the machine."""
    requests: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    yield lambda name: Notebook(page, f"{lab}/doc/tree/{name}.ipynb?token={TOKEN}&reset")
    page.close()
    web = [url for url in requests if url.startswith(("http", "ws"))]
    assert len(web) > 10, "almost no requests, so the next line would test nothing"
    assert not [url for url in web if not url.startswith((f"{lab}/", lab.replace("http", "ws")))]


@pytest.mark.parametrize("name", SLIPS)
def test_a_student_works_through_a_chapter(
    name: str, open_notebook: Callable[[str], Notebook]
) -> None:
    notebook = open_notebook(name)
    cells = notebook.run_all()
    errors = [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
    assert not errors, errors[0]["evalue"]
    assert [cell["count"] for cell in cells] == list(range(1, len(cells) + 1))
    check_images(notebook.page)
    if any("widget" in cell["tags"] for cell in cells):
        seconds = move_slider(notebook)
        sys.stdout.write(f"{name}: the image follows the slider after {seconds} s\n")
        assert min(seconds) < 1, f"the image followed the slider only after {seconds} s"
    check_exercise(notebook, *SLIPS[name])
    if name == "01_training_loop":
        check_interrupt(notebook)
        check_interrupted_comparison(notebook)


def check_images(page: Page) -> None:
    page.wait_for_function("document.querySelectorAll('.jp-OutputArea img').length > 0")
    texts = page.locator(".jp-OutputArea img").evaluate_all("all => all.map(img => img.alt)")
    assert all(len(alt) > 20 for alt in texts)
    assert "No description has been provided for this image" not in texts, "Lab's placeholder"


def move_slider(notebook: Notebook) -> list[float]:
    """Move each slider with an arrow key; return the seconds until the image changed."""
    page = notebook.page
    notebook.call("void panel.content.scrollToItem(values[0])", notebook.index_of("widget"))
    handles = page.locator(".widget-slider .noUi-handle")
    handles.first.wait_for()
    check_sliders_come_first(notebook)
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
        check_slider_is_named(page, i)
    handles.first.focus()
    page.keyboard.press("Tab")
    assert handles.nth(1).evaluate("handle => handle === document.activeElement"), "Tab stops"
    save_screenshot(page, "lab.png")
    return seconds


def check_sliders_come_first(notebook: Notebook) -> None:
    """The sliders are wide and lie between the code and the only images that can be seen."""
    cell = notebook.page.locator(".jp-CodeCell:has(.cnnlab-sliders)").first
    sliders = cell.locator(".slider-container").all()
    boxes = [box for slider in sliders if (box := slider.bounding_box())]
    assert len(boxes) == len(sliders) > 1
    assert min(box["width"] for box in boxes) >= 200
    assert cell.locator(".cnnlab-frames img").count() > 1
    shown = [box for image in cell.locator("img").all() if (box := image.bounding_box())]
    assert len(shown) == 1
    assert max(box["y"] for box in boxes) < shown[0]["y"]


def check_slider_is_named(page: Page, number: int) -> None:
    """A screen reader says what the slider is called and the words beside it, not its index."""
    slider = page.locator(".widget-slider").nth(number)
    name, words = (
        slider.locator(part).inner_text() for part in (".widget-label", ".widget-readout")
    )
    assert name
    assert words
    handle = page.get_by_role("slider", name=name, exact=True)
    assert handle.get_attribute("aria-valuetext") == words
    readout = slider.locator(".widget-readout")
    assert readout.evaluate("words => words.scrollWidth <= words.clientWidth"), "words are cut"


def check_exercise(notebook: Notebook, correct: str, mistake: str, feedback: str) -> None:
    exercise, cells = notebook.index_of("exercise"), notebook.cells()
    check = next(i for i in range(exercise, len(cells)) if "check" in cells[i]["tags"])
    solution = cells[notebook.index_of("solution")]["source"]
    assert correct in solution
    notebook.run(exercise, solution.replace(correct, mistake))
    assert feedback in notebook.run(check)
    notebook.run(exercise, solution)
    assert "✔" in notebook.run(check)


def check_interrupt(notebook: Notebook) -> None:
    """Interrupt a long fit with Lab's button; the next cell continues from the finished epochs."""
    long_fit, resume = notebook.append(LONG_FIT), notebook.append(CONTINUE)
    start_and_stop(notebook, long_fit, "KeyboardInterrupt|Stopped")
    output = notebook.run(resume)
    epochs, now, rows = map(int, re.findall(r"(\d+) (?:epochs|now|rows)", output))
    assert epochs >= 10
    assert (now, rows) == (epochs + 1, epochs + 1)
    assert "stopped by SIGINT" in output


def check_interrupted_comparison(notebook: Notebook) -> None:
    """Interrupt the second run of a comparison: it ends, and only the first run counts."""
    number = notebook.append(COMPARISON)
    start_and_stop(notebook, number, "not finished")
    output = "".join(
        o.get("text", "")
        for o in notebook.cells()[number]["outputs"]
        if o["output_type"] == "stream"
    )
    assert "Interrupted: 1 of 4 runs are finished and kept" in output
    assert "rows: [{'variant': 'short', 'seed': 0, 'epochs': 1.0}]" in output
    assert "not finished: [('endless', 0), ('short', 1), ('endless', 1)]" in output
    save_screenshot(notebook.page, "interrupted.png")


def start_and_stop(notebook: Notebook, number: int, ending: str) -> None:
    """Start a cell, press Lab's stop button after ten epochs, and wait for the ending."""
    notebook.call("void panel.content.scrollToItem(values[0])", number)
    notebook.start(number)
    output = """window.jupyterapp.shell.currentWidget.content.widgets[number]
        .node.querySelector(".jp-OutputArea")?.innerText"""
    page = notebook.page
    page.wait_for_function(rf"number => {output}.match(/epoch\s+\d\d/)", arg=number)
    page.locator('[data-command="notebook:interrupt-kernel"]').first.click()
    page.wait_for_function(f"number => {output}.match(/{ending}/)", arg=number)
    notebook.wait_for_end(number)
