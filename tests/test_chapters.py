"""A student goes back and forth in a chapter: the numbers stay."""

import random
import re

import nbformat
import pytest
from nbclient import NotebookClient

from cnnlab import course


CHAPTERS = course.chapters()
JUMPS = 200  # to any cell, in all chapters together


def told(outputs):
    """What a cell says, without what differs by nature: seconds, rates, addresses."""
    texts = []
    for output in outputs:
        data = output.get("data", {})
        texts.append(output.get("text") or data.get("text/plain") or "")
        assert output.output_type != "error", output.get("traceback")
    return re.sub(r"\d+(\.\d+)? ?(s|ms|it/s|step/s)\b|0x[0-9a-f]+", "", "".join(texts))


def run(client, i):
    cell = client.nb.cells[i]
    client.execute_cell(cell, i)
    return told(cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", CHAPTERS, ids=lambda path: path.stem)
def test_cells_run_twice_in_place_in_a_second_pass_and_in_any_order_show_the_same(
    notebook, monkeypatch
):
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
    code = [i for i, cell in enumerate(chapter.cells) if cell.cell_type == "code"]
    with client.setup_kernel():
        for times in (2, 1):  # the first pass runs each cell twice
            for i in code:
                for _ in range(times):
                    assert first.setdefault(i, said := run(client, i)) == said, i
        for i in random.Random(0).choices(code, k=JUMPS // len(CHAPTERS)):
            said = run(client, i)
            if "check" not in chapter.cells[i].metadata.get(
                "tags", []
            ):  # tells of the last attempt
                assert first[i] == said, chapter.cells[i].source
    assert first
