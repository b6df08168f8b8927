"""Test that the results of a chapter don't depend on the order in which cells are run."""

import random
import re
import symtable
import time

import nbformat
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient

import cnnlab
from cnnlab import course, plots


CHAPTERS = course.chapters()
JUMPS = 200  # random cells to run, in all chapters together
SECONDS = 2.0  # a cell that takes longer isn't run a second time at once


def output_text(outputs):
    """Return the output of a cell without times, speeds and addresses, which always differ."""
    texts = []
    for output in outputs:
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/plain") or "")
        assert output.output_type != "error", output.get("traceback")
    return re.sub(r"\d+(\.\d+)? ?(s|ms|it/s|step/s)\b|0x[0-9a-f]+", "", "".join(texts))


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
    known = {"data": data, "labels": labels, "answers": labels, "logits": logits, "torch": torch}
    exec(cell.source, known | {"pd": pd, "plots": plots})  # noqa: S102


def test_chapter_0_goes_on_without_the_network_for_imagenet(monkeypatch, capsys):
    def not_installed(*arguments):
        raise ImportError("it isn't installed: pip install it")

    monkeypatch.setattr(cnnlab, "pretrained", not_installed)
    cells = nbformat.read(CHAPTERS[0], as_version=4).cells
    end = next(i for i, cell in enumerate(cells) if cell.source.startswith("## 0.2"))
    known = {"cnnlab": cnnlab, "check": cnnlab.check, "plots": plots, "torch": torch}
    for cell in cells[:end]:
        if cell.cell_type == "code" and not has(cell, "setup"):
            exec(cell.source, known)  # noqa: S102
    assert capsys.readouterr().out.startswith("it isn't installed: pip install it. Until then, ")


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
