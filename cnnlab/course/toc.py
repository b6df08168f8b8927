"""Bring the table of contents in `myst.yml`, for Jupyter Book 2, in line with `_toc.yml`.

`python -m cnnlab.course.toc` does it in the folder of the course.
"""

import json
from pathlib import Path
from typing import Any

from cnnlab.course import notebooks


def myst(course: Path) -> str:
    """Return what `myst.yml` of a course should be, given its `_toc.yml`.

    Raises:
        FileNotFoundError: one of the files isn't there, or a page that the list names.
    """
    notebooks.require("yaml", extra="course")
    import yaml

    listed = yaml.safe_load((course / "_toc.yml").read_text(encoding="utf-8"))
    pages = [*_entries(course, [{"file": listed["root"]}, *listed.get("chapters", ())], 2)]
    for part in listed.get("parts", ()):
        pages.append(f"    - title: {json.dumps(part['caption'], ensure_ascii=False)}\n")
        pages += ["      children:\n", *_entries(course, part["chapters"], 4)]
    before, key, _ = (course / "myst.yml").read_text(encoding="utf-8").partition("  toc:\n")
    return "".join([before, key, *pages])


def _entries(course: Path, entries: list[dict[str, Any]], depth: int) -> list[str]:
    lines = []
    for entry in entries:
        if "glob" in entry:
            lines.append(f"{'  ' * depth}- pattern: {entry['glob']}.md\n")
        else:
            page = notebooks.page(course / entry["file"]).relative_to(course).as_posix()
            lines.append(f"{'  ' * depth}- file: {page}\n")
        if "sections" in entry:
            below = _entries(course, entry["sections"], depth + 2)
            lines += [f"{'  ' * depth}  children:\n", *below]
    return lines


if __name__ == "__main__":
    folder = notebooks.own_root()
    (folder / "myst.yml").write_text(myst(folder), encoding="utf-8")
