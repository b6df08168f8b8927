"""Put the plain PyTorch of the chapters together as one script, `chapters/train.py`.

Each chapter writes its technique once with torch and torchvision alone, in cells tagged `plain`.
They contain imports, constants, functions and classes. A later definition of a name replaces the
earlier one, as it does for a student who runs the chapters in order. The imports may also stand in
other cells of the chapter, such as its first one. What `main`, in the last chapter, doesn't need is
left out. `make fix` writes the script:

    python -m cnnlab.course.script
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnnlab.course import notebooks, products
from cnnlab.errors import CnnlabError


WIDTH = 78  # of a line in the chapters
_HEAD = '''"""Train a convolutional network with torch and torchvision alone.

This is the plain code of the chapters in one file, as far as `main`, at the
end, needs it. A comment names the chapter that explains each part.
"""
'''
_RUN = """

if __name__ == "__main__":
    main()
"""


class PlainCellError(CnnlabError, ValueError):
    """A cell tagged `plain` contains something that can't be part of the script."""


class Definition(NamedTuple):
    """A constant, function or class, and the chapter that defines it."""

    name: str
    code: str
    tree: ast.stmt
    chapter: str


class Import(NamedTuple):
    """One imported name: `import module as name`, or `from module import item as name`."""

    module: str
    item: str  # "" for `import module`
    name: str  # "" without `as`

    @property
    def binds(self) -> str:
        """The name that the script can use afterwards."""
        return self.name or self.item or self.module.partition(".")[0]


def assemble(paths: Iterable[Path]) -> str:
    """Return the script that the cells tagged `plain` of some notebooks add up to.

    The imports that they need come first, sorted. Then each name has its last definition, in the
    order in which the names first appear, below a comment with the chapter it's from. If there is a
    function `main`, the script calls it when it's run, and leaves out whatever it doesn't need.

    Args:
        paths: notebooks, in reading order.

    Raises:
        PlainCellError: a cell contains anything but imports, constants in upper case, functions
            and classes.
    """
    imports: dict[str, Import] = {}
    definitions: dict[str, Definition] = {}
    for path in paths:
        cells = products.read_notebook(path).cells
        chapter = _title(cells)
        for cell in cells:
            if cell.cell_type == "code":
                imports |= {item.binds: item for item in _imports(cell.source)}
            if "plain" in cell.metadata.get("tags", ()):
                for definition in _definitions(cell.source, chapter):
                    definitions[definition.name] = definition
    if "main" in definitions:
        needed_names = _needed_by("main", definitions)
        definitions = {n: d for n, d in definitions.items() if n in needed_names}
    used = {name for d in definitions.values() for name in _names_in(d.tree)} - {*definitions}
    needed = [item for name, item in imports.items() if name in used]
    end = _RUN if "main" in definitions else ""
    return _HEAD + _import_lines(needed) + _sections(definitions.values()) + end


def _title(cells: Sequence[Any]) -> str:
    """Return the title of a chapter, such as "1. The training loop"."""
    first = next(cell.source for cell in cells if cell.cell_type == "markdown")
    return first.partition("\n")[0].removeprefix("# ").strip()


def _imports(source: str) -> list[Import]:
    """Return what a cell imports at its top level."""
    found = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import):
            found += [Import(a.name, "", a.asname or "") for a in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            found += [
                Import(statement.module or "", a.name, a.asname or "") for a in statement.names
            ]
    return found


def _definitions(source: str, chapter: str) -> Iterator[Definition]:
    """Yield the definitions of a cell, each with the comment above it."""
    lines = source.splitlines()
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        decorators = getattr(statement, "decorator_list", [])
        start = min([statement.lineno, *(d.lineno for d in decorators)]) - 1
        name = _defined_name(statement)
        if not name:
            raise PlainCellError(
                f"chapter {chapter}: a cell tagged plain has only imports, constants in "
                f"UPPER_CASE, functions and classes, but this one has `{lines[start]}`"
            )
        while start and lines[start - 1].startswith("#"):
            start -= 1
        code = "\n".join(lines[start : statement.end_lineno])
        yield Definition(name, code, statement, chapter)


def _defined_name(statement: ast.stmt) -> str:
    """Return the name that a statement defines, or "" if it isn't a definition."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return statement.name
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name) and target.id.isupper():
            return target.id
    return ""


def _needed_by(name: str, definitions: Mapping[str, Definition]) -> set[str]:
    """Return a name and all others that its definition needs, directly or through others."""
    needed, waiting = set(), [name]
    while waiting:
        name = waiting.pop()
        if name in definitions and name not in needed:
            needed.add(name)
            waiting += _names_in(definitions[name].tree)
    return needed


def _names_in(tree: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _import_lines(imports: Sequence[Import]) -> str:
    """Return the import statements as ruff sorts them: standard library, others, each by module."""
    blocks = []
    for standard in (True, False):
        own = [
            i
            for i in imports
            if (i.module.partition(".")[0] in sys.stdlib_module_names) is standard
        ]
        lines = [
            f"import {module} as {name}" if name else f"import {module}"
            for module, name in sorted((i.module, i.name) for i in own if not i.item)
        ]
        for module in sorted({i.module for i in own if i.item}, key=str.lower):
            items = sorted((i for i in own if i.item and i.module == module), key=_import_order)
            lines.append(_from_line(module, items))
        if lines:
            blocks.append("\n".join(lines))
    return "\n" + "\n\n".join(blocks) + "\n" if blocks else ""


def _import_order(item: Import) -> tuple[int, str]:
    """Sort constants first, then classes, then functions and modules."""
    kind = 0 if item.item.isupper() and len(item.item) > 1 else 1 if item.item[0].isupper() else 2
    return kind, item.item


def _from_line(module: str, items: Sequence[Import]) -> str:
    names = [f"{i.item} as {i.name}" if i.name else i.item for i in items]
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in names), ")"])


def _sections(definitions: Iterable[Definition]) -> str:
    """Return the definitions, with a comment wherever another chapter begins."""
    text, chapter, after_constant = "", "", False
    for definition in definitions:
        constant = isinstance(definition.tree, ast.Assign)
        gap = "" if constant and after_constant else "\n\n"
        if definition.chapter != chapter:
            chapter = definition.chapter
            comment = f"# --- Chapter {chapter} ".ljust(WIDTH - 2, "-")
            text += f"\n\n{comment}\n"
            gap = "\n" if constant else ""
        text += f"{gap}{definition.code}\n"
        after_constant = constant
    return text


def write() -> Path:
    """Write `chapters/train.py` from all chapters, and return its path."""
    path = notebooks.own_root() / "chapters" / products.SCRIPT
    path.write_text(assemble(notebooks.chapters()), encoding="utf-8")
    return path


if __name__ == "__main__":
    write()
