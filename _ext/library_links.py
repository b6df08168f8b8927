"""Sphinx: link chapters and the library reference to each other automatically.

The first mention of a public name in the text of a chapter becomes a link. Appendix D has one page
per module, and each function there gets the list of the chapters whose code uses it.
"""

import ast
import re
from collections.abc import Iterator
from pydoc import locate
from typing import Any

from docutils import nodes
from sphinx.addnodes import desc


LIBRARY = "chapters/library/"  # the pages of the modules
NAME = re.compile(r"([A-Za-z_][\w.]*)(\(.*\))?")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", _remember_names)
    app.connect("env-updated", lambda app, env: list(filter(_is_reference, env.found_docs)))
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True}


def _is_reference(docname: str) -> bool:
    return docname.startswith(LIBRARY)


def names_in(code: str) -> set[str]:
    r"""Return the full names of what a piece of code takes from cnnlab, as far as its imports tell.

    >>> sorted(names_in("from cnnlab import schedules as s\ns.cosine(9)"))
    ['cnnlab.schedules', 'cnnlab.schedules.cosine']
    """
    known, found = {}, set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cnnlab":
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            known |= {a.name: a.name for a in node.names if a.name == "cnnlab"}
    for node in ast.walk(ast.parse(code)):
        name = _dotted(node)
        first, _, rest = name.partition(".")
        if first in known:
            found.add(f"{known[first]}.{rest}".rstrip("."))
    return found


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := _dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def _remember_names(app: Any, doctree: nodes.document) -> None:
    """Keep what the cells of a page use; `env.metadata` forgets it together with the page."""
    cells = [
        block.astext()
        for block in doctree.findall(nodes.literal_block)
        if "ipython" in block.get("language", "")
    ]
    try:
        names = names_in("\n".join(cells))
    except SyntaxError:  # a cell with a magic command
        names = set()
    app.env.metadata[app.env.docname]["cnnlab"] = sorted(names)


def _link(app: Any, doctree: nodes.document, docname: str) -> None:
    library = _Library(app.env)
    if _is_reference(docname):
        _link_to_chapters(app, doctree, docname, library)
    elif app.env.metadata[docname].get("cnnlab") and library.anchors:
        _link_to_library(app, doctree, docname, library)


class _Library:
    """The names in appendix D: `anchors` has the place of each, `find` resolves short names."""

    def __init__(self, env: Any) -> None:
        self.anchors = {
            name: (entry.docname, entry.node_id)
            for name, entry in env.domains["py"].objects.items()
            if _is_reference(entry.docname)
        }
        things = [(name, locate(name)) for name in self.anchors]
        self.names = {id(thing): name for name, thing in things if thing is not None}
        self.classes = {thing.__name__: name for name, thing in things if isinstance(thing, type)}

    def find(self, written: str) -> str:
        """Return the name in appendix D for `cnnlab.load`, `schedules.cosine(9)` or `Trainer`."""
        match = NAME.fullmatch(written)
        name = match[1] if match else ""
        if "." not in name:
            return self.classes.get(name, "")
        full = name if name.startswith("cnnlab.") else f"cnnlab.{name}"
        return self.names.get(id(locate(full)), "")


def _link_to_library(app: Any, doctree: nodes.document, docname: str, library: _Library) -> None:
    linked = {""}
    for literal in list(doctree.findall(nodes.literal)):
        name = library.find(literal.astext())
        if name not in linked and not isinstance(literal.parent, nodes.reference | nodes.title):
            linked.add(name)
            page, anchor = library.anchors[name]
            single = app.builder.name == "singlehtml"
            address = f"{'' if single else app.builder.get_relative_uri(docname, page)}#{anchor}"
            literal.replace_self(_reference(address, literal.deepcopy()))


def _link_to_chapters(app: Any, doctree: nodes.document, docname: str, library: _Library) -> None:
    users: dict[str, list[str]] = {}
    for user, kept in sorted(app.env.metadata.items()):
        for name in {library.find(written) for written in kept.get("cnnlab", [])}:
            users.setdefault(name, []).append(user)
    for described in doctree.findall(desc):
        signature, content = described.children[0], described.children[-1]
        links = [
            _reference(
                app.builder.get_relative_uri(docname, user), nodes.Text(_number(app.env, user))
            )
            for name in signature.get("ids", [])
            for user in users.get(name, [])
        ]
        if links:
            content += nodes.paragraph("", "In chapter ", *_between(links), nodes.Text("."))


def _number(env: Any, docname: str) -> str:
    """The number of a chapter, or the title of a page that has none."""
    title = env.titles[docname].astext()
    number, dot, _ = title.partition(". ")
    return number if dot and len(number) < 3 else title


def _reference(address: str, *inside: nodes.Node) -> nodes.reference:
    return nodes.reference("", "", *inside, internal=True, refuri=address)


def _between(links: list[nodes.reference]) -> Iterator[nodes.Node]:
    for i, link in enumerate(links):
        if i:
            yield nodes.Text(", ")
        yield link
