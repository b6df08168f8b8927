"""Bring the counts in the README in line with the course.

`python -m cnnlab.course.readme` does it in the folder of the course.
"""

import re

from cnnlab.course import check, emergency, notebooks
from cnnlab.course.clinic import FAULTS


def counts() -> dict[str, int]:
    """Return each number that the README states, by the words that follow it."""
    exercises = check.EXERCISES.values()
    numbered = [path for path in notebooks.chapters() if path.name[0].isdigit()]
    return {
        "chapters that need a laptop": len(numbered),
        "exercises check themselves": len(exercises),
        "known mistakes": sum(len(exercise.mistakes) for exercise in exercises),
        "broken runs to diagnose": len(FAULTS),
        "broken scripts": len(emergency.ward().rows),
    }


def counted(readme: str) -> str:
    """Return a README with these numbers as they are now.

    Raises:
        ValueError: it doesn't state one of them.

    >>> text = " ".join(f"0 {words}" for words in counts())
    >>> counted(text) == " ".join(f"{n} {words}" for words, n in counts().items())
    True
    """
    for words, n in counts().items():
        wrapped = words.replace(" ", r"\s+")
        readme, found = re.subn(rf"\d+(?=\s+{wrapped})", str(n), readme)
        if not found:
            raise ValueError(f"the README doesn't say how many {words}")
    return readme


if __name__ == "__main__":
    path = notebooks.own_root() / "README.md"
    path.write_text(counted(path.read_text(encoding="utf-8")), encoding="utf-8")
