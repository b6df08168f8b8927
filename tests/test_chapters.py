"""Test that the results of a chapter don't depend on the order in which cells are run."""

import random
import re
import symtable
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from PIL import Image

import cnnlab
from cnnlab import course, plots


CHAPTERS = course.chapters()
JUMPS = 200  # random cells to run, in all chapters together
SECONDS = 2.0  # a cell that takes longer isn't run a second time at once


def output_text(outputs):
    """Return the output of a cell without what differs: times, addresses, exercises done so far."""
    texts = []
    for output in outputs:
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/plain") or "")
        assert output.output_type != "error", output.get("traceback")
    text = re.sub(r"\d+ of \d+ exercises in this chapter", "", "".join(texts))
    return re.sub(r"\d+(\.\d+)? ?(s|ms|it/s|step/s)\b|0x[0-9a-f]+", "", text)


def run(client, i):
    cell = client.nb.cells[i]
    client.execute_cell(cell, i)
    return output_text(cell.outputs)


def has(cell, tag):
    return tag in cell.metadata.get("tags", [])


def names(source):
    """Return the names that a cell binds at the top level, and those that it only reads."""
    top = symtable.symtable(source, "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    read, tables = set(), [top]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        referenced = (s for s in table.get_symbols() if s.is_referenced())
        read |= {s.get_name() for s in referenced if table is top or s.is_global()}
    return bound, read - bound


def sections(cells):
    """Yield for each section the earlier cells that it depends on by name, and its own cells."""
    binds, depends_on, groups, section = {}, {}, {}, 0
    for i, cell in enumerate(cells):
        if cell.cell_type == "markdown" and re.match(r"\s*## ", cell.source):
            section = i
        if cell.cell_type != "code":
            continue
        bound, read = names(cell.source)
        depends_on[i] = {binds[name] for name in read if name in binds}
        depends_on[i] |= {j for j in depends_on if has(cells[j], "setup") and j < i}
        binds |= dict.fromkeys(bound, i)
        groups.setdefault(section, []).append(i)
    for own in groups.values():
        pending, before = list(own), set()
        while pending:
            new = depends_on[pending.pop()] - before - set(own)
            before |= new
            pending += new
        yield sorted(before), own


def test_the_capstone_goes_on_if_every_prediction_is_correct():
    (notebook,) = (path for path in CHAPTERS if path.stem.startswith("13_"))
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = (c for c in cells if c.cell_type == "code" and "nlargest" in c.source)
    data = cnnlab.load("pocket", n_train=12, n_valid=12, n_test=24)
    labels = data.test.labels
    logits = F.one_hot(labels, len(data.classes)).float()
    known = {"data": data, "labels": labels, "answers": labels, "test_logits": logits}
    exec(cell.source, known | {"torch": torch, "pd": pd, "plots": plots})  # noqa: S102


def test_chapter_0_goes_on_without_the_network_for_imagenet(monkeypatch, capsys):
    def not_installed(*arguments):
        raise ImportError("it isn't installed: pip install it")

    monkeypatch.setattr(cnnlab, "pretrained", not_installed)
    cells = nbformat.read(CHAPTERS[0], as_version=4).cells
    end = next(i for i, cell in enumerate(cells) if "## 0.2 " in cell.source)
    known = {"cnnlab": cnnlab, "check": cnnlab.check, "plots": plots, "torch": torch}
    for cell in cells[:end]:
        if cell.cell_type == "code" and not has(cell, "setup"):
            exec(cell.source, known)  # noqa: S102
    assert capsys.readouterr().out.startswith("it isn't installed: pip install it. Until then, ")


def two_grey_classes(folder):
    """Fifty images, of which no split exists."""
    for k, name in enumerate(("cats", "dogs")):
        for i in range(25):
            paint(folder / name / f"{i}.png", 40 * k, noise=60, mode="L", seed=(k, i))


def separable_classes(folder):
    """Three classes of different brightness, so that every prediction is correct."""
    for k, name in enumerate(("dark", "grey", "light")):
        for i in range(20):
            paint(folder / name / f"{i}.jpg", 90 * k, noise=20, seed=(k, i))


def incomplete_splits(folder):
    """One class has no validation image, another one no test image."""
    names = ("mugs", "plates", "spoons")
    for split, n, missing in (("train", 12, None), ("valid", 4, "mugs"), ("test", 5, "spoons")):
        for k, name in enumerate(names):
            for i in range(n if name != missing else 0):
                path = folder / split / name / f"{i}.png"
                paint(path, 60 * k, noise=90, seed=(ord(split[1]), k, i))


def paint(path, level, *, noise, seed, mode="RGB"):
    """Save an image of 50 x 40 pixels: a level of brightness and noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (40, 50, 3) if mode == "RGB" else (40, 50)
    pixels = level + np.random.default_rng(seed).integers(0, noise, shape)
    Image.fromarray(pixels.astype("uint8")).save(path)


@pytest.mark.slow
@pytest.mark.parametrize("make", [two_grey_classes, separable_classes, incomplete_splits])
def test_the_capstone_reaches_its_model_card_with_a_folder_of_your_own(make, tmp_path, monkeypatch):
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    monkeypatch.setenv("CNNLAB_STATIC", "1")
    make(tmp_path)
    (path,) = (path for path in CHAPTERS if path.stem.startswith("13_"))
    chapter = nbformat.read(path, as_version=4)
    (cell,) = (c for c in chapter.cells if c.source.startswith("# A path: one folder"))
    cell.source = cell.source.replace("FOLDER = None", f"FOLDER = {str(tmp_path)!r}")
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(chapter, timeout=300, kernel_name="python3", resources=resources).execute()
    texts = [shown(output) for cell in chapter.cells for output in cell.get("outputs", ())]
    (card,) = (text for text in texts if "**Model card:" in text)
    classes = sorted({image.parent.name for image in tmp_path.rglob("*.*")} - {tmp_path.name})
    assert card.startswith(f"\n**Model card: {' / '.join(classes)}**")
    low, high = map(float, re.search(r"interval (\S+) to (\S+) \|", card).groups())
    assert 0 <= low < high <= 1
    for text in texts:
        if "<strong>Quiz.</strong>" in text:  # it asks about the results of the chapter as it is
            continue
        assert not re.search(r"\bnan\b|\bsigns?\b|keep left", text, re.IGNORECASE)
        for low, high in re.findall(r"\((\d\.\d+) to (\d\.\d+)\)", text):
            assert 0 <= float(low) <= float(high) <= 1
    assert any("the receiver gets the same predictions" in text for text in texts)
    assert any("Most probable class of the image" in text for text in texts)
    if make is separable_classes:
        assert any("every test image is classified correctly" in text for text in texts)


def shown(output):
    """Return what a reader sees of an output, without the bytes of images."""
    data = output.get("data", {})
    texts = [output.get("text"), *(data.get(f"text/{kind}") for kind in ("markdown", "html"))]
    return re.sub(r"base64,[^\"]+", "", "".join(text for text in texts if text))


@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_the_minutes_of_reading_are_those_of_the_text_and_the_code(notebook):
    """Two hundred words take a minute, and so do two cells of code; answers are folded."""
    cells = nbformat.read(notebook, as_version=4).cells
    stated = re.search(r"\| to read \| (\d+) minutes", cells[0].source)
    if stated is None:  # an appendix
        return
    folded = {"instructor", "solution", "hint", "setup"}
    seen = [cell for cell in cells if not folded & set(cell.metadata.get("tags", []))]
    text = "\n".join(c.source for c in seen if c.cell_type == "markdown")
    text = text.partition("## References")[0]
    text = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    code = sum(cell.cell_type == "code" for cell in seen)
    assert abs(len(text.split()) / 200 + code / 2 - int(stated[1])) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_outputs_stay_the_same_when_cells_run_twice_in_any_order_or_by_section(
    notebook, monkeypatch
):
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    monkeypatch.setenv("CNNLAB_STATIC", "1")  # lines instead of progress bars, which show the time
    chapter = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        chapter,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": notebook.parent}},
    )
    cells, first = chapter.cells, {}
    code = [i for i, cell in enumerate(cells) if cell.cell_type == "code"]
    cells.append(nbformat.v4.new_code_cell("%reset -f"))
    with client.setup_kernel():
        for i in code:
            start = time.monotonic()
            first[i] = run(client, i)
            if time.monotonic() - start < SECONDS:  # slower cells run again with their section
                assert first[i] == run(client, i), cells[i].source
        for i in random.Random(0).choices(code, k=JUMPS // len(CHAPTERS)):
            text = run(client, i)
            if not has(cells[i], "check"):  # a check reports on the latest attempt
                assert first[i] == text, cells[i].source
        for before, own in reversed(list(sections(cells[:-1]))):
            run(client, len(cells) - 1)
            for i in [*before, *own]:
                text = run(client, i)
                if i in own:
                    assert first[i] == text, cells[i].source
    assert first
