"""Checks of the machine: GPU, memory, disk space, and the folders for downloads and caches."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from cnnlab.course import processors
from cnnlab.course.doctor.lines import Line, count, failure, ok, size, summarise, warning


GIB = 2**30
# Bytes of memory: a chapter took up to 1.3 GiB and JupyterLab 0.2.
NEEDED = 1.5 * GIB
# Bytes of free disk space below which the report warns, and below which it fails.
LOW_SPACE, NO_SPACE = 2 * GIB, 0.2 * GIB
# The packages that PyTorch brings along for GPUs.
_FOR_GPU = re.compile(r"(nvidia|cuda)-|(pytorch-)?triton$")


def system() -> Iterator[Line]:
    """Report operating system and processor type, without the name of the machine."""
    yield ok("system", f"{platform.system()} {platform.release()}, {platform.machine()}")


def device() -> Iterator[Line]:
    """Report the device that the Trainer will use, and check whether a GPU remains unused."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _check_gpu(index)
        return
    usable, threads = processors.available(), torch.get_num_threads()
    finding = f"CPU with {count(usable, 'core')}; torch uses {threads}"
    if threads > usable:
        finding += f", which `cnnlab.setup()` lowers to {usable}"
    if torch.backends.mps.is_available():
        finding += ". The GPU of this Apple processor is used only with device='mps'"
    yield ok("device", finding)
    if gpu := installed_gpu():
        yield warning("GPU", f"this machine has a GPU, {gpu}, but torch can't use it", _gpu_fix())


def _check_gpu(index: int) -> Line:
    """Check that a GPU which torch lists can compute."""
    import torch

    gpu = torch.cuda.get_device_properties(index)
    runtime = torch.version.cuda or torch.version.hip
    finding = f"{gpu.name}, {size(gpu.total_memory)}, CUDA {runtime}"
    try:
        torch.ones(1, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        finding += f"; it can't compute: {summarise(error)}"
        fix = "install a torch built for this GPU, or set CUDA_VISIBLE_DEVICES=-1 to use the CPU"
        return failure(f"GPU {index}", finding, fix)
    return ok(f"GPU {index}", finding)


def _gpu_fix() -> str:
    """Return how to let torch use a GPU that the operating system lists."""
    import torch

    if torch.version.cuda is None:
        return (
            "this torch is built for CPUs only; https://pytorch.org/get-started/locally shows how "
            "to install one with CUDA"
        )
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "CUDA_VISIBLE_DEVICES hides it; unset it to train on the GPU"
    return (
        f"this torch is built for CUDA {torch.version.cuda}, and the driver is older or not "
        "running; update it until `nvidia-smi` shows that version or a later one"
    )


def installed_gpu() -> str | None:
    """Return the name of an NVIDIA GPU that the operating system lists, usable or not."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        if model := re.search(r"Model:\s*(.+)", path.read_text(errors="replace")):
            return model[1].strip()
    patterns = {"nvidia-smi -L": r"GPU \d+: (.+?) \(UUID", "lspci": r"(?:VGA|3D).*?: (NVIDIA.+)"}
    for command, pattern in patterns.items():
        if model := re.search(pattern, _output(command)):
            return model[1].strip()
    return None


def _output(command: str) -> str:
    """Return what a command prints; empty if it can't be run."""
    try:
        return subprocess.run(
            command.split(), capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def pytorch_build() -> Iterator[Line]:
    """Report what PyTorch is built for and, without a GPU, what that costs in disk space."""
    import torch

    runtime = torch.version.cuda
    if runtime is None:
        yield ok("PyTorch build", "for the CPU" if torch.version.hip is None else "for AMD GPUs")
        return
    finding = f"for CUDA {runtime}; {size(_bytes_for_gpu())} of the installation are for the GPU"
    if not torch.cuda.is_available() and installed_gpu() is None:
        finding += (
            ", and there is none. To save them, start again in a new environment, with "
            "`make clean` and `make lab TORCH=cpu`, or with `uv pip install --torch-backend=cpu`"
        )
    yield ok("PyTorch build", finding)


def _bytes_for_gpu() -> int:
    """Return the size of the files that a build of PyTorch for the CPU doesn't have."""
    packages = {dist.name.lower(): dist.files or [] for dist in distributions()}
    of_torch = [file for file in packages.get("torch", []) if "cuda" in file.name]
    others = [f for name, files in packages.items() if _FOR_GPU.match(name) for f in files]
    return sum(file.size or 0 for file in of_torch + others)


def memory() -> Iterator[Line]:
    """Check that JupyterLab and the kernel of one chapter fit into memory."""
    total, free = _memory()
    if not total:
        yield ok("memory", "unknown, because psutil isn't installed")
        return
    finding = f"{size(free)} free of {size(total)}"
    need = f"a chapter and JupyterLab need up to {size(NEEDED)}"
    if total < NEEDED:
        yield failure("memory", finding, f"{need}: use a machine with more memory")
    elif free < NEEDED:
        fix = f"{need}: close other programs, and notebooks that you no longer need"
        yield warning("memory", finding, fix)
    else:
        yield ok("memory", finding)


def _memory() -> tuple[int, int]:
    """Return total and free bytes of memory, within the limit of a container; zeros if unknown."""
    total, free = _system_memory()
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total, free = min(total, int(text)), min(free, int(text))
    return total, free


def _system_memory() -> tuple[int, int]:
    try:
        import psutil
    except ImportError:
        path = Path("/proc/meminfo")
        text = path.read_text() if path.is_file() else ""
        kilobytes = dict(re.findall(r"(MemTotal|MemAvailable):\s+(\d+) kB", text))
        total, free = (int(kilobytes.get(name, 0)) for name in ("MemTotal", "MemAvailable"))
        return 1024 * total, 1024 * free
    state = psutil.virtual_memory()
    return state.total, state.available


def disk() -> Iterator[Line]:
    """Check the disk space of the installation, the cache and the current folder."""
    from cnnlab.data import cache

    drives = set()
    for folder in (Path(sys.prefix), _existing(cache.folder()), Path.cwd()):
        drive = folder.stat().st_dev
        if drive in drives:
            continue
        drives.add(drive)
        usage = shutil.disk_usage(folder)
        finding = f"{size(usage.free)} free of {size(usage.total)} on the drive of {folder}"
        fix = "free some space for your figures and checkpoints"
        if usage.free < NO_SPACE:
            yield failure("disk", finding, fix)
        elif usage.free < LOW_SPACE:
            yield warning("disk", finding, fix)
        else:
            yield ok("disk", finding)


def cached() -> Iterator[Line]:
    """Check the folder for generated images and downloaded data sets."""
    from cnnlab.data import cache

    folder = cache.folder()
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    sets = sorted(path.name for path in folder.glob("datasets/*") if path.is_dir())
    finding = f"{folder}: {count(len(sizes), 'file')} of generated images, {size(sum(sizes))}"
    finding += f"; data sets {', '.join(sets)}" if sets else "; no downloaded data sets"
    fix = (
        "images are generated again each time, and nothing can be downloaded: "
        "set CNNLAB_CACHE to a folder that you can write to"
    )
    yield _check_writable("data", folder, finding, fix)


def weights() -> Iterator[Line]:
    """Check the network that comes with the course, and the folder for weights from torchvision."""
    import torch.hub

    from cnnlab.errors import CnnlabError
    from cnnlab.models import pretrained

    try:
        pretrained("glyphnet", 2)
    except (CnnlabError, OSError) as error:
        fix = "reinstall cnnlab, or run `cnnlab pretrain`, which trains it again in a few minutes"
        yield failure("glyphnet", summarise(error), fix)
    else:
        yield ok("glyphnet", "its weights are installed and undamaged")
    folder = Path(torch.hub.get_dir(), "checkpoints")
    names = sorted(path.name for path in folder.glob("*.pth"))
    finding = f"{folder}: {', '.join(names) or 'no downloaded weights; no chapter needs them'}"
    fix = "nothing can be downloaded: set TORCH_HOME to a folder that you can write to"
    yield _check_writable("weights", folder, finding, fix)


def _check_writable(subject: str, folder: Path, finding: str, fix: str) -> Line:
    """Check that a folder, or else the folder it would be created in, is writable."""
    try:
        # Permission bits alone don't say whether a file can be created.
        with tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(b"cnnlab")
    except OSError as error:
        return warning(subject, f"can't write to {folder}: {summarise(error)}", fix)
    return ok(subject, finding)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
