import subprocess
import sys

import pytest


HEAVY = {"torchvision", "pandas", "sklearn", "matplotlib", "ipywidgets", "torch._dynamo"}


@pytest.mark.parametrize("module", ["cnnlab", "cnnlab.cli"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert HEAVY.isdisjoint(done.stdout.split())
