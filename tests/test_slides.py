"""Decks of slides from executed chapters."""

import base64
import re
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

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
            assert page.evaluate("Reveal.getCurrentSlide().scrollHeight") <= 700
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
