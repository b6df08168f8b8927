import subprocess
import sys

import pytest


HEAVY = {"torchvision", "pandas", "sklearn", "matplotlib", "ipywidgets", "torch._dynamo"}


@pytest.mark.parametrize(
    "code", ["import cnnlab; cnnlab.Trainer", "from cnnlab import compare, load"]
)
def test_import_loads_no_heavy_library(code):
    assert HEAVY.isdisjoint(loaded_modules(code))


@pytest.mark.parametrize("module", ["cnnlab", "cnnlab.cli", "cnnlab.course", "cnnlab.doctor"])
def test_the_command_line_and_the_doctor_start_without_torch(module):
    assert "torch" not in loaded_modules(f"import {module}")


def loaded_modules(code):
    code = f"import sys; {code}; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()
