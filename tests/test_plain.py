"""What is kept of a submission, without a browser; `test_formgrader.py` uses one."""

import hostile
import nbformat
import pytest

from cnnlab.course import plain
from cnnlab.course.markdown import formula
from cnnlab.course.plain import KeepPlain, plain_source


PNG = {"plot.png": {"image/png": hostile.PNG}}
# These are rendered as text or code by nbconvert, so they may stay as they are.
HARMLESS = ("info string", "fence in fence")
HONEST = (
    "**Bold**, *italic*, ~~gone~~, `a < b`, and $a < b$.",
    "# A heading\n\n- one\n- two\n\n3. three\n4. four",
    "| a | b |\n|:--|--:|\n| 1 | $x$ |",
    "[Zhang et al.](https://arxiv.org/abs/1710.09412), https://doi.org/10.1000/182",
    "```python\nx = a < b  # <b>\n```",
    "- [ ] to do\n- [x] done",
    "> a quote\n\na < b & c > d; <svg/onload=1> is text in Markdown",
    "![my plot](attachment:plot.png)",
    "$$\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}$$",
)


@pytest.mark.parametrize("source", HONEST)
def test_an_honest_cell_stays_as_it_is(source):
    assert plain_source(source, PNG) == source


@pytest.mark.parametrize("name", hostile.MARKDOWN)
def test_a_hostile_cell_becomes_a_code_block(name):
    source = hostile.MARKDOWN[name]
    text = plain_source(source, PNG, ["Mixup_points"])
    if name.startswith("html in a") or name in HARMLESS:
        assert text == source
    else:
        assert text.startswith(plain.SHOWN_AS_TEXT)
        assert source in text
        assert plain_source(text, {}) == text


def test_a_cell_that_takes_long_to_render_is_shown_as_text():
    assert plain_source("[" * 100_000, {}).startswith(plain.SHOWN_AS_TEXT)


@pytest.mark.parametrize(
    ("latex", "part"),
    [
        (r"\sqrt{2} < x", "<msqrt>"),
        (r"\text{if <b> } x", "&lt;b&gt;"),
        (r"\unknown{x}", "<code>\\unknown{x}</code>"),
        (r"\begin{aligned} a &= b \end{aligned}", "<code>"),
        (r"\href{javascript:x}{y}", "<code>"),
        (r"\style{color: red}{x}", "<code>"),
        (r"\def\x{\x\x}\x", "<code>"),
        ("{" * 2000, "<code>"),
        ("", "<code>"),
    ],
)
def test_a_formula_is_mathml_or_its_source(latex, part):
    assert part in formula(latex)


def test_only_text_and_images_of_outputs_are_kept():
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="hello"),
        nbformat.v4.new_output(
            "display_data",
            {"text/html": "<script>", "text/plain": "a", "image/png": hostile.PNG},
            metadata={"image/png": {"width": '1 onload="x"'}},
        ),
        nbformat.v4.new_output("display_data", {"application/javascript": "steal()"}),
        nbformat.v4.new_output("display_data", {"image/png": '"><script>'}),
        nbformat.v4.new_output("error", ename="E", evalue="<script>", traceback=[]),
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("x", outputs=outputs, metadata={"tags": ["<b>"]})],
        metadata={"title": "<b>"},
    )
    cleaned, _ = KeepPlain().preprocess(notebook, {})
    (cell,) = cleaned.cells
    assert [sorted(out.get("data", [out.get("text")])) for out in cell.outputs] == [
        ["hello"],
        ["image/png", "text/plain"],
    ]
    assert not cell.metadata
    assert not cleaned.metadata
    assert "<script>" not in str(cleaned)


def test_an_image_is_kept_under_the_type_that_it_has():
    cell = nbformat.v4.new_markdown_cell("![x](attachment:a)")
    cell.attachments = {"a": {"text/html": hostile.PNG}, "b": {"image/png": "PHN2Zz4="}}
    cleaned, _ = KeepPlain().preprocess(nbformat.v4.new_notebook(cells=[cell]), {})
    assert cleaned.cells[0].attachments == {"a": {"image/png": hostile.PNG}}


@pytest.mark.parametrize(
    ("sources", "counts"),
    [
        (["a first attempt", "a better one"], 1),
        (["def f(): pass", "print(f())"], 0),
        (["def f(): pass", "def f(): return 1", "print(f())"], 1),
    ],
)
def test_of_several_cells_with_one_id_the_last_function_or_else_the_last_counts(sources, counts):
    settings = {"grade_id": "f_answer", "solution": True, "checksum": "of the cell as handed out"}
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"nbgrader": settings}) for source in sources
    ]
    cleaned, _ = KeepPlain().preprocess(nbformat.v4.new_notebook(cells=cells), {})
    note = "# A copy of the cell f_answer. Only the other one counts.\n"
    for number, (cell, source) in enumerate(zip(cleaned.cells, sources, strict=True)):
        assert ("nbgrader" in cell.metadata) == (number == counts)
        assert cell.source == (source if number == counts else note + source)
