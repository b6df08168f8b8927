"""Sphinx: add a footer to each page, and repair what extensions get wrong."""

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
    app.connect("doctree-read", _cells_of_a_student)
    app.connect("html-page-context", _when_verified)
    app.connect("html-page-context", _correct_names_and_roles)
    app.connect("html-page-context", _name_the_toggles, priority=600)  # after the theme
    app.add_post_transform(LinksOutOfTheBook)
    return {"parallel_read_safe": True}


class LinksOutOfTheBook(SphinxPostTransform):
    """Turn links to chapters that `_toc.yml` leaves out into plain text.

    A link to a file that doesn't exist is still an error.
    """

    default_priority = 8  # before MyST looks the page up and warns

    def run(self, **kwargs: Any) -> None:
        """Replace the links of one page."""
        for link in list(self.document.findall(pending_xref)):
            if link["refdomain"] == "doc" and link["reftarget"] not in self.env.found_docs:
                target = Path(self.env.srcdir, link["reftarget"])
                if any(target.with_suffix(end).is_file() for end in (".ipynb", ".md")):
                    link.replace_self(link.children)


def _cells_of_a_student(app: Any, doctree: nodes.document) -> None:
    """Name the solutions, and leave out what the checks say as long as nobody has answered."""
    for cell in doctree.findall(nodes.container):
        tags = cell.get("cell_metadata", {}).get("tags", [])
        if "solution" in tags:
            cell["prompt_show"], cell["prompt_hide"] = "Show the solution", "Hide the solution"
        if "check" in tags:
            for part in list(cell.children):
                if part.get("nb_element") == "cell_code_output":
                    cell.remove(part)


def _without_thebe(app: Any, config: Any) -> None:
    """Disconnect sphinx-thebe, which Jupyter Book always loads.

    It adds two scripts from the web to each page. Its style sheet, to which every page refers, is
    still copied, because that happens at `builder-inited`.
    """
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__ == "sphinx_thebe":
                app.disconnect(listener.id)


def _when_verified(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Add a footer with versions and the date of execution.

    Pages without code get the oldest date of all chapters.
    """
    ran = {
        name: data["mtime"]
        for name in app.env.found_docs
        if (data := NbMetadataCollector.get_exec_data(app.env, name))
    }
    if ran:
        day = date.fromtimestamp(ran.get(pagename, min(ran.values())))
        context["theme_extra_footer"] = context.get("theme_extra_footer", "") + (
            f"<p>Last verified with cnnlab {version('cnnlab')}, torch {version('torch')} "
            f"and Python {platform.python_version()} on {day}, profile {profile()}.</p>"
        )


def _correct_names_and_roles(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Remove what misleads a screen reader.

    docutils calls the citations a list, without list items, and gives each a deprecated role.
    MyST-NB gives each folded cell the same name, which isn't the text that is seen.
    """
    if "body" in context:
        body = context["body"].replace('<div role="list" class="citation', '<div class="citation')
        body = body.replace(' role="doc-biblioentry"', "")
        context["body"] = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")


def _name_the_toggles(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Give the arrow beside an entry with pages below it a name; the theme's is an icon alone."""
    if generate := context.get("generate_toctree_html"):
        arrow = '<span class="toctree-toggle"'

        def named(*args: Any, **options: Any) -> str:
            return str(generate(*args, **options)).replace(
                f"<summary>{arrow}", f'<summary aria-label="Pages below">{arrow}'
            )

        context["generate_toctree_html"] = named
