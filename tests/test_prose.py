"""Keep phrases that sound translated, or that hide a result, out of what people read."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
GLOBS = (
    "*.md", "chapters/**/*.md", "chapters/**/*.py", "assignments/**/*.md", "assignments/**/*.py",
    "benchmarks/**/*.py", "cnnlab/**/*.py", "_ext/*.py",
)  # fmt: skip

COUNTED = (
    "batches|classes|columns|digits|epochs|features|files|images|labels|layers|lines|numbers|pages"
    "|pairs|pictures|pixels|points|questions|rows|runs|samples|scans|seconds|signs|steps|values"
    "|weights"
)
EACH = (
    "batch|channel|class|digit|epoch|feature|image|layer|month|page|pixel|point|run|sample|seed"
    "|step|student|week|word"
)
# What to write instead, the pattern, and a sentence in which it must be found.
RETIRED = [
    (
        "write 'no longer matters' or 'stops mattering'",
        r"\bstop(?:s|ped)? to (?:fall|grow|help|hold|improve|learn|matter|rise|work)\b",
        "when that stops to matter",
    ),
    ("write 'memorise', or 'from memory'", r"\bby heart\b", "It learns the labels by heart."),
    ("write 'anyone who ...'", r"\bwhoever\b", "Whoever waits"),
    (
        "write 'labels per class'",
        rf"(?<!one )\b(?:{COUNTED}) an? (?:{EACH})\b",
        "twenty labels a class",
    ),
    (
        "write 'one step per epoch'",
        rf"\bone (?:image|label|line|number|pair|row|step|value|weight) an? (?:{EACH})\b",
        "one step an epoch",
    ),
    ("give the estimate with its interval", r"\bnothing can be said\b", "Nothing can be said."),
    ("write 'belongs in'", r"\bbelongs? into\b", "It belongs into the checkpoint."),
    ("write 'at random'", r"\bby lot\b", "drawn by lot"),
    ("write 'by a few'", r"\bby few\b", "better by few points"),
    ("write 'designed for'", r"\bthought for\b", "data thought for beginners"),
]


def pages() -> dict[str, str]:
    """Return the text of each file that someone reads, without line breaks between its words."""
    paths = sorted({path for glob in GLOBS for path in ROOT.glob(glob)})
    texts = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in paths}
    return {name: re.sub(r"\n[#\s]*", " ", text) for name, text in texts.items()}


@pytest.mark.parametrize(("advice", "pattern", "example"), RETIRED)
def test_no_page_has_a_retired_phrase(advice, pattern, example):
    assert re.search(pattern, example, re.IGNORECASE), "the pattern is blind"
    found = [
        f"{name}: ... {text[max(0, match.start() - 40) : match.end() + 20]} ..."
        for name, text in pages().items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert not found, f"{advice}:\n" + "\n".join(found)


def test_many_pages_are_read():
    assert len(pages()) > 150
    assert "chapters/01_training_loop.py" in pages()
