import subprocess
import sys

import pytest


HEAVY = {"torchvision", "pandas", "sklearn", "matplotlib", "ipywidgets", "torch._dynamo"}


@pytest.mark.parametrize(
    "code", ["import cnnlab; cnnlab.Trainer", "from cnnlab import compare, load"]
)
def test_import_is_light(code):
    assert HEAVY.isdisjoint(loaded(code))


@pytest.mark.parametrize("module", ["cnnlab", "cnnlab.cli", "cnnlab.course", "cnnlab.doctor"])
def test_the_command_and_its_doctor_start_without_torch(module):
    assert "torch" not in loaded(f"import {module}")


def loaded(code):
    code = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
