"""Sphinx: the settings of the book for building it without Jupyter Book.

They come from the same `_config.yml`. `cnnlab book --engine sphinx` uses this file; by hand it's
`sphinx-build -c _ext . _build/sphinx` in the folder of the course.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from sphinx.errors import ConfigError


_root = Path(__file__).resolve().parents[1]
_given: dict[str, Any] = yaml.safe_load((_root / "_config.yml").read_text(encoding="utf-8"))


def _take(*keys: str, default: Any = None) -> Any:
    """Take a setting out of those that Jupyter Book knows, by its path."""
    *sections, last = keys
    place = _given
    for section in sections:
        place = place.get(section) or {}
    return place.pop(last, default)


project = html_title = _take("title")
author, copyright = _take("author"), _take("copyright")
html_logo = _take("logo") or None
external_toc_path = str(_root / "_toc.yml")
external_toc_exclude_missing = _take("only_build_toc_files")
exclude_patterns = ["_build", "**.ipynb_checkpoints", *_take("exclude_patterns", default=())]
bibtex_bibfiles = [str(_root / path) for path in _take("bibtex_bibfiles", default=())]

nb_execution_mode = _take("execute", "execute_notebooks", default="cache")
nb_execution_timeout = _take("execute", "timeout", default=30)
myst_enable_extensions = _take("parse", "myst_enable_extensions", default=[])
suppress_warnings = ["myst.domains"]

extensions = [
    "sphinx_togglebutton",
    "sphinx_copybutton",
    "myst_nb",
    "sphinx_external_toc",
    "sphinx_multitoc_numbering",
    "sphinx_design",
    "sphinx_book_theme",
    "sphinxcontrib.bibtex",
    *_take("sphinx", "extra_extensions", default=()),
]
for _name, _folder in _take("sphinx", "local_extensions", default={}).items():
    sys.path.append(str(_root / _folder))
    extensions.append(_name)

html_theme = "sphinx_book_theme"
html_theme_options = {
    "search_bar_text": "Search this book...",
    "use_repository_button": _take("html", "use_repository_button", default=False),
    "extra_footer": _take("html", "extra_footer", default=""),
    "launch_buttons": _take("launch_buttons", default={}),
    "path_to_docs": _take("repository", "path_to_book", default=""),
    "repository_url": _take("repository", "url", default=""),
    "repository_branch": _take("repository", "branch", default=""),
}
html_favicon = str(_root / _take("html", "favicon"))
html_sourcelink_suffix = ""
html_static_path = [str(_root / "_static")]
html_css_files = sorted(path.name for path in (_root / "_static").glob("*.css"))
html_js_files = sorted(path.name for path in (_root / "_static").glob("*.js"))
numfig = True

# The rest is for Sphinx already. Jupyter Book adds to an option that is a table; so does this.
_take("sphinx", "recursive_update")
for _name, _value in _take("sphinx", "config", default={}).items():
    if isinstance(_value, dict) and isinstance(globals().get(_name), dict):
        globals()[_name] |= _value
    else:
        globals()[_name] = _value

_unknown = sorted(
    f"{_key}: {sorted(_rest)}" if isinstance(_rest, dict) else _key
    for _key, _rest in _given.items()
    if _rest or not isinstance(_rest, dict)
)
if _unknown:
    raise ConfigError(
        f"_config.yml has settings that only Jupyter Book knows: {', '.join(_unknown)}. Remove "
        "them, or add what they mean in Sphinx to _ext/conf.py"
    )
