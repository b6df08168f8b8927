"""The course: command line, chapters, exercises, explorers, clinic, and the copies for teaching.

The training library never imports anything from this folder. Nothing heavy is imported here either,
so that `cnnlab --help` and `cnnlab doctor` start at once, even without torch.
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
