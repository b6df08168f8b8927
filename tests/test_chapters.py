"""A student goes back and forth in a chapter: the numbers stay."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from cnnlab import course


def told(outputs):
    """What a cell says, without what differs by nature: seconds, rates, addresses."""
    texts = []
    for output in outputs:
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/plain") or "")
        assert output.output_type != "error", output.get("traceback")
    return re.sub(r"\d+(\.\d+)? ?(s|ms|it/s|step/s)\b|0x[0-9a-f]+", "", "".join(texts))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", course.chapters(), ids=lambda path: path.stem)
def test_cells_run_twice_in_place_and_a_second_pass_show_the_same(notebook, monkeypatch):
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    monkeypatch.setenv("CNNLAB_STATIC", "1")  # lines instead of bars, which show the time
    chapter = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        chapter,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": notebook.parent}},
    )
    first = {}
    with client.setup_kernel():
        for times in (2, 1):  # the first pass runs each cell twice
            for i, cell in enumerate(chapter.cells):
                if cell.cell_type == "code":
                    for _ in range(times):
                        client.execute_cell(cell, i)
                        said = told(cell.outputs)
                        assert first.setdefault(i, said) == said, cell.source
    assert first
