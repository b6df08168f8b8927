"""Sphinx: what a page gets beside its text, and what is taken from it."""

import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

from cnnlab.course.profile import profile


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _without_thebe)
    app.connect("html-page-context", _when_verified)
    app.connect("html-page-context", _citations_are_no_list)
    app.add_post_transform(LinksOutOfTheBook)
    return {"parallel_read_safe": True}


class LinksOutOfTheBook(SphinxPostTransform):
    """A link to a chapter that `_toc.yml` leaves out becomes plain text; one to no file stays an error."""

    default_priority = 8  # before MyST looks the page up and warns

    def run(self, **kwargs: Any) -> None:
        """Replace the links of one page."""
        for link in list(self.document.findall(pending_xref)):
            if link["refdomain"] == "doc" and link["reftarget"] not in self.env.found_docs:
                target = Path(self.env.srcdir, link["reftarget"])
                if any(target.with_suffix(end).is_file() for end in (".ipynb", ".md")):
                    link.replace_self(link.children)


def _without_thebe(app: Any, config: Any) -> None:
    """Disconnect sphinx-thebe, which Jupyter Book always loads: it names a script on the web, twice a page.

    Its style sheet, which every page names, is still copied, by what it does at `builder-inited`.
    """
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def _when_verified(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Put versions and date at the foot: when the cells of the page ran, or else the oldest of all chapters."""
    ran = {
        name: data["mtime"]
        for name in app.env.found_docs
        if (data := NbMetadataCollector.get_exec_data(app.env, name))
    }
    if ran:
        day = date.fromtimestamp(ran.get(pagename, min(ran.values())))
        context["theme_extra_footer"] = (
            f"<p>Last verified with cnnlab {version('cnnlab')}, torch {version('torch')} and Python "
            f"{platform.python_version()} on {day}, profile {profile()}.</p>"
        )


def _citations_are_no_list(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Take back a role: docutils calls the citations a list, but its entries are none for a screen reader."""
    if "body" in context:
        context["body"] = context["body"].replace(
            '<div role="list" class="citation', '<div class="citation'
        )
