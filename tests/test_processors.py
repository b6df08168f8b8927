"""The processors that a process may use, and the threads that `setup` leaves torch."""

import os
import subprocess
import sys

import pytest
import torch

import cnnlab
from cnnlab.course import doctor, processors


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine with 64 processors, whose control groups a test writes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(64), raising=False)
    monkeypatch.setattr(processors, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "LIMITS", tmp_path / "limits")

    def write(listed, **files):
        (tmp_path / "cgroup").write_text(listed)
        for name, text in files.items():
            path = tmp_path / "limits" / name.replace("__", "/").replace("-", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("100000 100000", 1), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 64)],
)
def test_a_container_has_its_quota(groups, quota, expected):
    groups("0::/\n", **{"cpu-max": quota})
    assert processors.available() == expected


def test_the_smallest_quota_of_all_groups_around_counts(groups):
    quotas = {"cpu-max": "900000 100000", "a__cpu-max": "300000 100000", "a__b__cpu-max": "max 1"}
    groups("0::/a/b\n", **quotas)
    assert processors.available() == 3


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("-1", 64)])
def test_version_1_of_control_groups_is_read_too(groups, controllers, quota, expected):
    files = {"cfs_quota_us": quota, "cfs_period_us": "100000"}
    groups(
        f"3:cpuset:/\n1:{controllers}:/docker/0123\n0::/\n",  # a path of the host
        **{f"{controllers}__cpu-{name}": text for name, text in files.items()},
    )
    assert processors.available() == expected


def test_affinity_counts_and_without_control_groups_all_processors_do(groups, monkeypatch):
    assert processors.available() == 64  # no file is there
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert processors.available() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert processors.available() == 8


# --- setup ----------------------------------------------------------------------------------------


@pytest.fixture
def threads(monkeypatch):
    """Let torch have eight threads, of which two processors are available; nothing is changed."""
    state = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: state[-1])
    monkeypatch.setattr(torch, "set_num_threads", state.append)
    monkeypatch.setattr(processors, "available", lambda: 2)
    monkeypatch.delenv("CNNLAB_THREADS", raising=False)
    return state


def test_setup_lowers_the_threads_to_the_available_processors_and_says_so(threads, capsys):
    cnnlab.setup()
    first, second = capsys.readouterr().out.splitlines()
    assert threads == [8, 2]
    assert "with 2 threads instead of 8" in first
    assert "setup(threads=None)" in first
    assert "(2 threads)" in second


def test_setup_never_raises_the_number_of_threads(threads, monkeypatch, capsys):
    monkeypatch.setattr(processors, "available", lambda: 64)
    cnnlab.setup()
    cnnlab.setup(threads=16)
    assert threads == [8]
    assert "instead" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "setting", "expected"),
    [
        ({"threads": None}, "", [8]),
        ({"threads": None}, "1", [8]),
        ({"threads": 3}, "", [8, 3]),
        ({"threads": 3}, "0", [8, 3]),
        ({}, "0", [8]),
        ({}, "off", [8]),
        ({}, "00", [8]),
        ({}, "1", [8, 1]),
    ],
)
def test_an_argument_or_else_the_environment_says_something_else(
    threads, monkeypatch, given, setting, expected
):
    monkeypatch.setenv("CNNLAB_THREADS", setting)
    cnnlab.setup(**given)
    assert threads == expected


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "two"])
def test_an_impossible_number_of_threads_is_refused(threads, wrong):
    with pytest.raises(ValueError, match=r"a number from 1, None or 'available', got"):
        cnnlab.setup(threads=wrong)
    assert threads == [8]


def test_a_wrong_environment_variable_is_refused(threads, monkeypatch):
    monkeypatch.setenv("CNNLAB_THREADS", "many")
    with pytest.raises(ValueError, match=r"CNNLAB_THREADS is 'many'.*unset it"):
        cnnlab.setup()


def test_one_thread_is_printed_in_the_singular(threads, capsys):
    cnnlab.setup(threads=1)
    assert "(1 thread)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_tied_to_one_processor_computes_with_one_thread():
    code = (
        "import os, torch; torch.set_num_threads(2); os.sched_setaffinity(0, {min("
        "os.sched_getaffinity(0))}); import cnnlab; cnnlab.setup(); print(torch.get_num_threads())"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.splitlines()[-1] == "1"


def test_the_doctor_counts_the_same_processors(threads, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = next(iter(doctor.machine.device()))
    assert line.found.startswith(
        "CPU with 2 cores; torch uses 8, which `cnnlab.setup()` lowers to 2"
    )


def test_chapters_divide_the_available_processors(monkeypatch):
    from cnnlab.course import notebooks

    class Pool:
        def __init__(self, jobs, context, initializer, arguments):
            raise KeyboardInterrupt(arguments)

    monkeypatch.setattr(processors, "available", lambda: 6)
    monkeypatch.setattr(notebooks, "ProcessPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt, match=r"\(3,\)"):
        next(notebooks.run_all([], jobs=2))
