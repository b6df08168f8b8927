"""The course on top of the library: command line, chapters, exercises, explorers, the clinic, products for teachers.

The training library never imports anything from here. Nothing heavy is imported either, so that `cnnlab --help` and
`cnnlab doctor` start at once, and without torch.
"""

from cnnlab.course.book import BookError, build_book
from cnnlab.course.notebooks import ChapterError, chapters, require, root, run, run_all


__all__ = [
    "BookError",
    "ChapterError",
    "build_book",
    "chapters",
    "require",
    "root",
    "run",
    "run_all",
]
