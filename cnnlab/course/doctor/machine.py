"""What the chapters run on: processor or GPU, memory, room on the disk, and the folders that keep what was made."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cnnlab.course.doctor.lines import Line, broken, fine, look, size, told


GIB = 2**30
NEEDED = 1.5 * GIB  # a chapter took up to 1.3 GiB, JupyterLab 0.2
LITTLE_ROOM, NO_ROOM = 2 * GIB, 0.2 * GIB


def system() -> Iterator[Line]:
    """Operating system and processor, without the name of the machine."""
    yield fine("system", f"{platform.system()} {platform.release()}, {platform.machine()}")


def device() -> Iterator[Line]:
    """Where the Trainer will train, and whether a GPU is left unused."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _gpu(index)
        return
    if torch.backends.mps.is_available():
        yield fine("device", "the GPU of an Apple processor")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield fine("device", f"CPU, {cores} cores, of which torch uses {torch.get_num_threads()}")
    if seen := visible_gpu():
        yield look("GPU", f"{seen} is there, and torch does not use it", _why_unused())


def _gpu(index: int) -> Line:
    """A GPU that torch sees: does it compute?"""
    import torch

    card = torch.cuda.get_device_properties(index)
    found = (
        f"{card.name}, {size(card.total_memory)}, CUDA {torch.version.cuda or torch.version.hip}"
    )
    try:
        torch.ones(1, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        way_out = "install a torch built for this GPU, or set CUDA_VISIBLE_DEVICES=-1 and train on the CPU"
        return broken(f"GPU {index}", f"{found}; it computes nothing: {told(error)}", way_out)
    return fine(f"GPU {index}", found)


def _why_unused() -> str:
    """What keeps torch from a GPU that the system knows of; the chapters run without one."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built for the CPU alone; https://pytorch.org/get-started/locally names one with CUDA"
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "CUDA_VISIBLE_DEVICES hides it; unset that to train on the GPU"
    return (
        f"this torch is built for CUDA {torch.version.cuda}, and the driver is older or not running; "
        "update it until `nvidia-smi` names that version or a later one"
    )


def visible_gpu() -> str | None:
    """Return the name of an NVIDIA GPU that the system knows of, whether torch does or not."""
    for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if model := re.search(r"Model:\s*(.+)", card.read_text(errors="replace")):
            return model[1].strip()
    asked = {"nvidia-smi -L": r"GPU \d+: (.+?) \(UUID", "lspci": r"(?:VGA|3D).*?: (NVIDIA.+)"}
    for command, pattern in asked.items():
        if model := re.search(pattern, _output(command)):
            return model[1].strip()
    return None


def _output(command: str) -> str:
    try:
        done = subprocess.run(
            command.split(), capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def memory() -> Iterator[Line]:
    """Room for JupyterLab and the kernel of one chapter."""
    total, free = _memory()
    if not total:
        yield fine("memory", "not known: psutil, which comes with JupyterLab, is not installed")
        return
    found = f"{size(free)} free of {size(total)}"
    needs = f"a chapter and JupyterLab take up to {size(NEEDED)}"
    if total < NEEDED:
        yield broken("memory", found, f"{needs}; work on a machine with more")
    elif free < NEEDED:
        yield look(
            "memory", found, f"{needs}; close other programs and notebooks that you no longer need"
        )
    else:
        yield fine("memory", found)


def _memory() -> tuple[int, int]:
    """All and free memory in bytes, within the limit of a container; zeros when nothing tells."""
    total, free = _system_memory()
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total, free = min(total, int(text)), min(free, int(text))
    return total, free


def _system_memory() -> tuple[int, int]:
    try:
        import psutil
    except ImportError:
        told_of = Path("/proc/meminfo")
        text = told_of.read_text() if told_of.is_file() else ""
        found = dict(re.findall(r"(MemTotal|MemAvailable):\s+(\d+) kB", text))
        return 1024 * int(found.get("MemTotal", 0)), 1024 * int(found.get("MemAvailable", 0))
    state = psutil.virtual_memory()
    return state.total, state.available


def disk() -> Iterator[Line]:
    """Room where cnnlab is installed, where it keeps what it made, and where you work."""
    from cnnlab.data import cache

    seen = set()
    for folder in (Path(sys.prefix), _existing(cache.folder()), Path.cwd()):
        if (drive := folder.stat().st_dev) in seen:
            continue
        seen.add(drive)
        usage = shutil.disk_usage(folder)
        found = f"{size(usage.free)} free of {size(usage.total)}, on the drive of {folder}"
        way_out = "make room: figures and checkpoints of yours need it"
        if usage.free < NO_ROOM:
            yield broken("disk", found, way_out)
        else:
            yield look("disk", found, way_out) if usage.free < LITTLE_ROOM else fine("disk", found)


def cached() -> Iterator[Line]:
    """The folder for generated images and downloaded data sets."""
    from cnnlab.data import cache

    folder = cache.folder()
    images = [path.stat().st_size for path in folder.glob("*.safetensors")]
    sets = sorted(path.name for path in folder.glob("datasets/*") if path.is_dir())
    found = f"{folder}: {len(images)} files of generated images, {size(sum(images))}"
    found += f"; data sets {', '.join(sets)}" if sets else "; no downloaded data sets"
    way_out = "images are made again each time, and nothing can be downloaded; set CNNLAB_CACHE to a folder of yours"
    yield _writable("data", folder, found, way_out)


def weights() -> Iterator[Line]:
    """The network that ships with the course, and those of torchvision that were fetched."""
    import torch.hub

    from cnnlab.errors import CnnlabError
    from cnnlab.models import pretrained

    try:
        pretrained("glyphnet", 2)
    except (CnnlabError, OSError) as error:
        way_out = (
            "install cnnlab again, or call `cnnlab pretrain`, which makes it anew in some minutes"
        )
        yield broken("glyphnet", told(error), way_out)
    else:
        yield fine("glyphnet", "its weights ship with cnnlab, and are whole")
    folder = Path(torch.hub.get_dir(), "checkpoints")
    names = sorted(path.name for path in folder.glob("*.pth"))
    found = f"{folder}: {', '.join(names) or 'no downloaded weights; no chapter needs them'}"
    yield _writable(
        "weights", folder, found, "nothing can be downloaded; set TORCH_HOME to a folder of yours"
    )


def _writable(subject: str, folder: Path, found: str, way_out: str) -> Line:
    """Whether the folder, or the one it would be made in, takes a file: permission bits alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(b"cnnlab")
    except OSError as error:
        return look(subject, f"{folder} cannot be written: {told(error)}", way_out)
    return fine(subject, found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
