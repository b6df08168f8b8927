"""Chapter 1 in JupyterLab, as a student meets it: opened in a browser, run from top to bottom."""

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

import pytest
from playwright.sync_api import sync_playwright

from cnnlab import course


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
TOKEN = "opened-by-a-test"

# Clicks on the menu are lost while the kernel still starts, although Lab calls it idle; so Lab is asked itself.
RUN_ALL = """async () => {
  const panel = window.jupyterapp.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  await window.jupyterapp.commands.execute("notebook:run-all-cells");
  return panel.content.model.sharedModel.cells
    .filter(cell => cell.cell_type === "code")
    .map(cell => ({count: cell.execution_count, outputs: cell.getOutputs()}));
}"""


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
    """`cnnlab lab` as it is called by a student: its process, and what it wrote until it told its address."""
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


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.25)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def test_lab_listens_on_this_machine_alone_and_asks_for_its_token(
    plain_lab: tuple[subprocess.Popen, str],
) -> None:
    import psutil

    process, told = plain_lab
    address = re.search(r"http://127\.0\.0\.1:(\d+)/lab\?token=([0-9a-f]{48})$", told, re.MULTILINE)
    assert address, told
    assert told.index("copy the address with `token=`") < address.start()
    base = address[0].partition("/lab")[0]
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


def test_a_student_runs_chapter_1(lab: str, tmp_path: Path) -> None:
    chapter = course.chapters()[0]
    sources = [
        cell for cell in json.loads(chapter.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    with sync_playwright() as play, contextlib.ExitStack() as stack:
        context = play.chromium.launch_persistent_context(
            str(tmp_path / "profile"),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1300, "height": 1200},
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync"],
        )  # fmt: skip
        stack.callback(context.close)
        requests: list[str] = []
        context.on("request", lambda request: requests.append(request.url))
        page = context.new_page()
        page.set_default_timeout(300_000)
        page.goto(f"{lab}/doc/tree/{chapter.name}?token={TOKEN}&reset")
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell")
        cells = page.evaluate(RUN_ALL)
        errors = [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
        assert not errors, errors[0]["evalue"]
        page.wait_for_function("document.querySelectorAll('.jp-OutputArea img').length > 0")
        described = page.locator(".jp-OutputArea img").evaluate_all(
            "all => all.map(img => img.alt)"
        )
        if folder := os.environ.get("CNNLAB_SCREENSHOTS"):
            page.screenshot(path=Path(folder, "lab.png"))
    assert len(cells) == len(sources)
    assert [cell["count"] for cell in cells] == list(range(1, len(sources) + 1))
    assert described
    assert all(len(alt) > 20 for alt in described)
    assert "No description has been provided for this image" not in described, "Lab's stand-in"
    web = [url for url in requests if url.startswith(("http", "ws"))]
    assert len(web) > 10, "no request was seen at all, so the next line says nothing"
    assert not [url for url in web if not url.startswith((f"{lab}/", lab.replace("http", "ws")))]
