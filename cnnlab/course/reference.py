"""Write the docstrings of a module as Markdown, for programs that can't read them themselves.

Jupyter Book 2 has no counterpart of Sphinx's autodoc, so `_ext/reference.mjs` calls this:

    python -m cnnlab.course.reference cnnlab.losses ...

It prints one JSON object with the Markdown of each module.
"""

import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
_ENTRY = re.compile(r"(\*{0,2}\w+): (.*)", re.DOTALL)


def markdown(module: ModuleType) -> str:
    """Return the docstrings of a module, and of the functions and classes that it makes public."""
    parts = [_text(module)]
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if inspect.isroutine(thing) or inspect.isclass(thing):
            parts += [f"## {name}", *_described(name, thing)]
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    parts += [f"### {name}.{method}", *_described(method, function)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _described(name: str, thing: Any) -> Iterator[str]:
    try:
        signature = str(inspect.signature(thing))
    except ValueError:  # a class that is built in
        signature = ""
    yield f"```python\n{name}{signature}\n```"
    yield _text(thing)


def _text(thing: Any) -> str:
    """Return a docstring in which the sections of Google's style are lists, and examples code.

    >>> print(_text(markdown))
    Return the docstrings of a module, and of the functions and classes that it makes public.
    """
    return "\n\n".join(
        _paragraph(block) for block in re.split(r"\n\s*\n", inspect.getdoc(thing) or "")
    )


def _paragraph(block: str) -> str:
    first, _, rest = block.partition("\n")
    if block.startswith(">>>"):
        return f"```python\n{block}\n```"
    if not _SECTION.match(first):
        return block
    # An entry begins where a line is indented as little as the first one.
    entries = re.split(r"\n(?=\S)", inspect.cleandoc(rest))
    lines = (_ENTRY.sub(r"`\1`: \2", " ".join(entry.split())) for entry in entries)
    return "\n".join([f"**{first}**", "", *(f"- {line}" for line in lines)])


if __name__ == "__main__":
    names = sys.argv[1:]
    print(json.dumps({n: markdown(importlib.import_module(n)) for n in names}))  # noqa: T201
