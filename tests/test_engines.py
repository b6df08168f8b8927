"""Test that the settings of the book mean the same to Jupyter Book 1 and to Sphinx alone."""

import runpy
import shutil

import pytest
from sphinx.errors import ConfigError

from cnnlab import course


ROOT = course.root()
# What Jupyter Book adds for itself, for comments, for LaTeX and for links to other books.
EXTRA = {
    "jupyter_book", "sphinx_comments", "sphinx_jupyterbook_latex", "sphinx_thebe",
    "sphinx.ext.intersphinx",
}  # fmt: skip
# They are relative to the folder of the settings, which differs; or contain settings of services.
OTHERWISE = {
    "bibtex_bibfiles", "exclude_patterns", "extensions", "html_favicon", "html_logo",
    "html_static_path", "html_theme_options",
}  # fmt: skip


def settings(folder=ROOT):
    """Return what `_ext/conf.py` of a course sets for Sphinx."""
    return {
        name: value
        for name, value in runpy.run_path(str(folder / "_ext" / "conf.py")).items()
        if not name.startswith("_") and type(value).__module__ == "builtins"
    }


def test_both_engines_have_the_same_settings():
    config = pytest.importorskip("jupyter_book.config", reason="Jupyter Book 1 isn't installed")
    theirs, _ = config.get_final_config(
        user_yaml=ROOT / "_config.yml",
        cli_config={"latex_individualpages": False},
        sourcedir=ROOT,
    )
    ours = settings()
    assert set(theirs["extensions"]) - EXTRA == set(ours["extensions"])
    assert set(theirs["exclude_patterns"]) - set(ours["exclude_patterns"]) == {
        ".DS_Store", "Thumbs.db",
    }  # fmt: skip
    same = ours.keys() & theirs.keys() - OTHERWISE
    assert len(same) > 25
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    options, theirs = ours["html_theme_options"], theirs["html_theme_options"]
    assert {name for name in options if options[name] and options[name] != theirs[name]} == set()


def test_a_setting_that_only_jupyter_book_knows_is_refused(tmp_path):
    for name in ("_ext", "_static"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "_config.yml").read_text()
    (tmp_path / "_config.yml").write_text(text.replace("html:\n", "html:\n  announcement: Hi\n"))
    with pytest.raises(ConfigError, match=r"only Jupyter Book knows.*announcement"):
        settings(tmp_path)
