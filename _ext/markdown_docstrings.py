"""Sphinx: translate the Markdown in our docstrings to reStructuredText, which autodoc expects."""

import re
from itertools import groupby
from typing import Any


ROW = re.compile(r"\s*\|.*\|\s*$")
CODE = re.compile(r"(`[^`]+`)")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx; before napoleon, which reads the sections of the docstring."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True}


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    runs = [(table, list(run)) for table, run in groupby(lines, key=lambda x: bool(ROW.match(x)))]
    lines[:] = [inline(line) for table, run in runs for line in (list_table(run) if table else run)]


def list_table(rows: list[str]) -> list[str]:
    """Translate a Markdown table to a `list-table`; cells may not contain a bar."""
    indent = rows[0][: rows[0].index("|")]
    table = [f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in rows[:1] + rows[2:]:  # the second row is the ruler
        for i, cell in enumerate(row.strip()[1:-1].split("|")):
            table.append(f"{indent}   {' ' if i else '*'} - {cell.strip()}")
    return [*table, ""]


def inline(line: str) -> str:
    """Double the backticks of code, and escape other bars: |w| would be a substitution."""
    parts = CODE.split(line)
    return "".join(f"`{p}`" if i % 2 else p.replace("|", r"\|") for i, p in enumerate(parts))
