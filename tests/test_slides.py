"""Decks of slides from executed chapters."""

import base64
import io
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from cnnlab.course import cli, notebooks, slides


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PIXEL = base64.b64encode(b"not really a PNG").decode()
CELLS = [
    new_markdown_cell(
        "# 4. Mixup\n\nA story.\n\n**You will be able to** mix images,\nand tell why.\n\n| row |"
    ),
    new_code_cell("setup", metadata={"tags": ["setup"]}, outputs=[new_output("stream", text="x")]),
    new_markdown_cell(
        "## 4.1 Two images\n\nMixup blends $\\lambda x$. It is easy.\n\n### Predict\n\nHow much?"
    ),
    new_code_cell(
        "plot",
        metadata={"tags": ["experiment"]},
        outputs=[
            new_output("display_data", {slides._WIDGET: {}, "text/plain": "runs: 0%"}),
            new_output(
                "execute_result",
                {"text/html": f'<img src="data:image/png;base64,{PIXEL}" alt="It wins.">'},
            ),
        ],
    ),
    new_code_cell(
        "claim",
        metadata={"tags": ["claim"]},
        outputs=[
            new_output("stream", name="stderr", text="runs: 40%"),
            new_output("stream", name="stdout", text="mixup < plain & supported"),
        ],
    ),
    new_code_cell(
        "answer", metadata={"tags": ["solution"]}, outputs=[new_output("stream", text="42")]
    ),
    new_markdown_cell(
        "## Key points\n\n- One.\n- Two\n  lines.\n\n**Recipe**\n\n## References\n\n- A."
    ),
    new_markdown_cell(
        "## Questions for the room\n\n- Why?\n  Say it. (Because.)\n- And then?",
        metadata={"tags": ["instructor"]},
    ),
]


@pytest.fixture(scope="module")
def deck():
    return slides.deck(new_notebook(cells=CELLS))


def test_a_deck_has_a_column_per_section_with_its_predictions_figures_and_claims(deck):
    assert deck.title == "4. Mixup"
    columns = [[re.sub(r"<math.*?</math>", "λx", s.body) for s in c] for c in deck.columns()]
    texts = [[re.sub(r"<[^>]+>", " ", body).split() for body in column] for column in columns]
    joined = [[" ".join(words) for words in column] for column in texts]
    (first,) = joined[0]
    assert first.startswith("4. Mixup You will be able to mix images, and tell why. By the cnnlab")
    assert "CC BY 4.0" in first
    assert joined[1][:2] == ["4.1 Two images Mixup blends λx.", "Predict How much?"]
    assert joined[1][3] == "mixup &lt; plain &amp; supported"
    assert joined[2] == ["Key points One. Two lines."]
    assert joined[3] == ["For the room Why? Say it.", "For the room And then?"]
    assert 'alt="It wins."' in columns[1][2]


def test_answers_are_only_in_the_notes(deck):
    assert "Because." in deck.slides[-2].notes
    assert "Because." not in "".join(slide.body for slide in deck.slides)
    page = slides.page(deck)
    assert "42" not in re.sub(r"(?s)<(script|style)>.*?</\1>", "", page).replace(PIXEL, "")


def test_a_page_loads_nothing(deck):
    page = slides.page(deck)
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]+"', page.partition("<script>")[0])
    assert "@import" not in page.partition("<script>")[0]


@pytest.mark.parametrize("chapter", notebooks.chapters(), ids=lambda path: path.stem)
def test_every_chapter_has_a_deck_with_predictions_and_key_points(chapter):
    made = slides.deck(nbformat.read(chapter, as_version=4))
    text = " ".join(slide.body for slide in made.slides)
    assert len(made.columns()) >= 5
    if chapter.stem[0].isdigit():
        assert "Predict" in text
        assert "Key points" in text
        assert "For the room" in text


def test_long_key_points_are_divided_and_a_comment_in_code_is_no_heading():
    points = "".join(f"- Point {n}.\n" for n in range(11))
    text = f"## Key points\n\n{points}\n## 4.9 More\n\nSay it:\n\n```\n# Predict\n```\n"
    made = list(slides._from_text(text, for_instructors=False))
    assert [slide.body.count("<li>") for slide in made] == [3, 4, 4, 0]
    assert [slide.level for slide in made] == [1, 2, 2, 1]


def test_what_only_a_notebook_needs_is_left_out_of_a_prediction():
    text = "### Predict\n\nHow much? (0 for none. The next cell takes about 7 seconds.) Or (not)?"
    (slide,) = slides._from_text(text, for_instructors=False)
    assert re.sub(r"<[^>]+>|\n", "", slide.body) == "PredictHow much? Or (not)?"


def test_a_section_begins_with_its_formula_and_an_exercise_with_its_list():
    formula = "The loss is\n\n$$ x $$\n\nThen more."
    assert slides._opening(formula) == "The loss is\n\n$$ x $$"
    assert slides._opening("One sentence. Another one.") == "One sentence."
    assert slides._beginning("Two rules:\n\n- a\n- b\n\nMore.") == "Two rules:\n\n- a\n- b"
    assert slides._beginning("Rules:\n\n" + "- a rule\n" * 99) == "Rules:"


# Counts the slides that are larger than the screen, or that cut off a printed result.
OVERFULL = """() => Reveal.getSlides().filter(slide => {
  const shown = [slide, slide.parentElement];
  for (const s of shown) s.style.setProperty("display", "block", "important");
  const cut = [...slide.querySelectorAll("pre, code")].some(
    e => e.clientHeight && e.scrollHeight > e.clientHeight + 2);
  const overfull = cut || slide.scrollHeight > 720 || slide.scrollWidth > 1280;
  for (const s of shown) s.style.removeProperty("display");
  return overfull;
}).map(slide => slide.innerText.slice(0, 40))"""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_no_slide_of_any_chapter_is_larger_than_the_screen(tmp_path):
    """Execution adds figures and results only, and the first cell has the largest of both."""
    from playwright.sync_api import sync_playwright

    lines = "\n".join(["a result with its interval " * 5] * slides._MOST_LINES)
    largest = [new_output("stream", name="stdout", text=lines)]
    for size in ((400, 1600), (1600, 400)):
        Image.new("RGB", size).save(png := io.BytesIO(), "PNG")
        data = {"image/png": base64.b64encode(png.getvalue()).decode()}
        largest.append(new_output("display_data", data))
    overfull = {}
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        for chapter in notebooks.chapters():
            notebook = nbformat.read(chapter, as_version=4)
            cell = new_code_cell("", metadata={"tags": ["claim"]}, outputs=largest)
            notebook.cells.insert(1, cell)
            path = tmp_path / "deck.html"
            path.write_text(slides.page(slides.deck(notebook)))
            page.goto(path.as_uri())
            page.wait_for_function("Reveal.isReady()")
            overfull[chapter.stem] = page.evaluate(OVERFULL)
        browser.close()
    assert {name: found for name, found in overfull.items() if found} == {}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browser_shows_each_slide_without_a_network(deck, tmp_path):
    from playwright.sync_api import sync_playwright

    path = tmp_path / "deck.html"
    path.write_text(slides.page(deck))
    requests, errors = [], []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_function("Reveal.isReady()")
        assert page.evaluate("Reveal.getTotalSlides()") == len(deck.slides)
        seen = []
        for _ in deck.slides:
            seen.append(page.evaluate("Reveal.getCurrentSlide().innerText"))
            assert page.evaluate("Reveal.getCurrentSlide().scrollHeight") <= 720
            page.keyboard.press("Space")
        browser.close()
    assert "And then?" in seen[-1]
    assert "Because" not in "".join(seen)
    assert not errors
    assert {url.partition(":")[0] for url in requests} <= {"file", "data", "blob"}


def test_the_command_executes_a_chapter(tmp_path, capsys):
    notebook = new_notebook(
        cells=[CELLS[0], new_code_cell("print(6 * 7)", metadata={"tags": ["claim"]})]
    )
    path = tmp_path / "04_short.ipynb"
    nbformat.write(notebook, path)
    assert cli.main(["slides", str(path), "--out", str(tmp_path / "decks")]) == 0
    assert "Press S" in capsys.readouterr().out
    assert "<code>42" in (tmp_path / "decks" / "04_short.html").read_text()


def test_slides_need_no_grader_and_name_the_extra_that_they_need(monkeypatch, tmp_path):
    code = "from cnnlab.course import slides; assert '<math' in slides._html('$x$')"
    block = "import sys; sys.modules |= dict.fromkeys(('nbgrader', 'sqlalchemy'))"
    subprocess.run([sys.executable, "-c", f"{block}; {code}"], check=True)
    for missing in ("latex2mathml", "sphinx_revealjs"):
        monkeypatch.setattr(notebooks, "find_spec", lambda name, gone=missing: name != gone or None)
        with pytest.raises(ModuleNotFoundError, match=rf"{missing} .* the extra 'course'"):
            slides.write(tmp_path / "04_short.ipynb", tmp_path)
