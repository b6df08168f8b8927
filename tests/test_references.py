"""The works cited: one bibliography has them all, and the list of each chapter agrees with it."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
from pybtex.database import Entry, Person, parse_file
from pybtex.richtext import Text

from cnnlab import course


ROOT = course.root()
BIB = "chapters/references.bib"
ITEM = re.compile(r"(?P<authors>[^*]+),\s\*(?P<title>.+?)\*(?P<rest>.*)", re.DOTALL)
LINK = re.compile(r"\[([^]]*)\]\((https?://(?:[^()\s]|\([^)]*\))+)\)")
IN_CODE = re.compile(r"https://(?:arxiv\.org/abs/[\d.]*\d|doi\.org/[^\s)`]+[^\s)`.,:])")


@dataclass(frozen=True)
class Cited:
    """One item of a chapter's list of references."""

    chapter: str
    authors: str
    title: str
    year: str
    label: str
    link: str

    def __str__(self) -> str:
        return f"{self.chapter} cites {self.authors}, {self.title!r}, {self.year or 'no year'}"


def items(script: Path) -> list[str]:
    """The items of the list under the heading "References" of a chapter, without line breaks."""
    section = script.read_text(encoding="utf-8").partition("# ## References\n")[2]
    text = re.sub(r"^# ?", "", section.partition("\n# %%")[0], flags=re.MULTILINE)
    return [" ".join(item.split()) for item in re.split(r"^- ", text, flags=re.MULTILINE)[1:]]


def parsed(script: Path, item: str) -> Cited:
    match, link = ITEM.match(item), LINK.search(item)
    form = "- A. Author and B. Author, *Title*, 2020, [arXiv:...](https://arxiv.org/abs/...)"
    assert match, f"{script.name}: write a reference as `{form}`, not as `{item}`"
    assert link, f"{script.name}: a reference needs a link, as in `{form}`; this has none: `{item}`"
    year = re.search(r"\b(?:19|20)\d\d\b", LINK.sub("", match["rest"]))
    published = year[0] if year else ""
    return Cited(script.name, match["authors"], match["title"], published, *link.groups())


def links(entry: Entry) -> list[str]:
    """The addresses at which a work of the bibliography can be found."""
    fields = entry.fields
    found = [f"https://arxiv.org/abs/{fields['eprint']}"] if "eprint" in fields else []
    found += [f"https://doi.org/{fields['doi']}"] if "doi" in fields else []
    return found + ([fields["url"]] if "url" in fields else [])


def same(link: str) -> str:
    return unquote(link).rstrip("/").casefold()


def letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", str(Text.from_latex(text)).casefold())


def surname(person: Person) -> str:
    return str(Text.from_latex(" ".join([*person.prelast_names, *person.last_names])))


def years(entry: Entry) -> set[str]:
    """The year of publication and that of the preprint; a list may state either."""
    preprint = {f"20{entry.fields['eprint'][:2]}"} if "eprint" in entry.fields else set()
    return {entry.fields.get("year", "")} | preprint


def advice(link: str) -> str:
    where = {"arxiv.org": "eprint = {...}, archiveprefix = {arXiv}", "doi.org": "doi = {...}"}
    field = next((f for host, f in where.items() if host in link), "url = {...}")
    return f"{link} is not in {BIB}: add the work there, with {field}"


BIBLIOGRAPHY = dict(parse_file(ROOT / BIB, "bibtex").entries)
FOUND_AT = {same(link): key for key, entry in BIBLIOGRAPHY.items() for link in links(entry)}
SCRIPTS = [path.with_suffix(".py") for path in course.chapters()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_chapter_lists_works_of_the_bibliography_as_they_stand_there(script: Path) -> None:
    listed = [parsed(script, item) for item in items(script)]
    assert listed, f"{script.name} has no list of references"
    assert len({same(cited.link) for cited in listed}) == len(listed), "a work is listed twice"
    for cited in listed:
        key = FOUND_AT.get(same(cited.link))
        assert key, f"{cited}; {advice(cited.link)}"
        entry = BIBLIOGRAPHY[key]
        first = surname(entry.persons["author"][0])
        begin = re.split(r",| and ", cited.authors)[0]
        assert first in begin, f"{cited}; the first author in {BIB} ({key}) is {first}"
        allowed = years(entry)
        assert cited.year in allowed, f"{cited}; {BIB} ({key}) has {' or '.join(sorted(allowed))}"
        title = entry.fields["title"]
        assert letters(title).startswith(letters(cited.title)), f"{cited}; {BIB} has {title!r}"
        number = re.match(r"(arXiv|doi):(.+)", cited.label)
        assert not number or unquote(cited.link).endswith(number[2]), (
            f"{cited}; label and link differ"
        )


def test_works_that_the_library_cites_are_in_the_bibliography() -> None:
    cited = {
        (str(path.relative_to(ROOT)), link)
        for path in (ROOT / "cnnlab").rglob("*.py")
        for link in IN_CODE.findall(path.read_text(encoding="utf-8"))
    }
    assert len(cited) > 20
    missing = [f"{path}: {advice(link)}" for path, link in cited if same(link) not in FOUND_AT]
    assert not missing, "\n".join(sorted(missing))


def test_the_bibliography_is_complete_and_has_no_work_twice() -> None:
    every = [same(link) for entry in BIBLIOGRAPHY.values() for link in links(entry)]
    assert len(every) == len(set(every)), [link for link in every if every.count(link) > 1]
    works = [
        (surname(entry.persons["author"][0]), letters(entry.fields["title"]))
        for entry in BIBLIOGRAPHY.values()
    ]
    assert len(works) == len(set(works)), [work for work in works if works.count(work) > 1]
    for key, entry in BIBLIOGRAPHY.items():
        assert entry.persons["author"], key
        assert links(entry), f"{key} needs an eprint, a doi or a url"
        published = entry.fields.get("year")
        assert published or entry.type == "misc", f"{key} has no year"
        arrived = entry.fields.get("eprint", "99")
        assert not published or arrived == "99" or int(published) >= 2000 + int(arrived[:2]), key
