"""The README keeps its word."""

import re
from pathlib import Path

import pytest


README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_example_runs_as_it_stands_and_reaches_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, {})  # noqa: S102 - it is ours
    accuracy = float(re.search(r"'acc': ([\d.]+)", capsys.readouterr().out)[1])
    assert accuracy > 0.88  # eight standard deviations below the three runs it quotes
