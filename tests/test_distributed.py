"""Two processes under torchrun, over gloo: they give what one process gives."""

import doctest
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchrun_cases import CASES, SHARDED, run

from cnnlab import distributed
from cnnlab.distributed import launched


SCRIPT = Path(__file__).with_name("torchrun_cases.py")


def torchrun(*arguments, processes=2, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += ["--standalone", *options.pop("flags", []), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def results(out, processes=2):
    return [torch.load(out / f"result-{rank}.pt", weights_only=True) for rank in range(processes)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    out = tmp_path_factory.mktemp("cases")
    done = torchrun(SCRIPT, "cases", out)
    assert done.returncode == 0, done.stderr
    return results(out)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_what_one_gives(case, outcome):
    alone = run(case)
    # Sums in another order: 24 bits keep five digits over 21 steps, the 8 bits of bf16 hardly one.
    tolerance = {"rtol": 0.1, "atol": 0.1} if case == "bf16" else {"rtol": 1e-4, "atol": 1e-5}
    for process in outcome:
        torch.testing.assert_close(process[case], alone, **tolerance, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES | SHARDED)
def test_the_processes_agree_to_the_bit(case, outcome):
    first, second = (process[case] for process in outcome)
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    done = torchrun(SCRIPT, "undisturbed", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_first_process_alone_writes(undisturbed):
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {"checkpoints", "log.csv", "result-0.pt", "result-1.pt"}
    assert len((undisturbed / "log.csv").read_text().splitlines()) == 1 + 3
    assert len(list((undisturbed / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_torchrun_goes_on_to_the_same_bit(undisturbed, tmp_path):
    done = torchrun(SCRIPT, "killed", tmp_path, flags=["--max-restarts", "3"])
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    for here, there in zip(results(tmp_path), results(undisturbed), strict=True):
        torch.testing.assert_close(here["weights"], there["weights"], rtol=0, atol=0)
        assert here["step"] == there["step"]


@pytest.mark.slow
def test_without_a_restart_the_job_fails_and_says_who_was_killed(tmp_path):
    done = torchrun(SCRIPT, "killed", tmp_path)
    assert done.returncode != 0
    assert "exitcode  : -9" in done.stderr
    assert "SIGKILL" in done.stderr


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all_at_the_same_step(tmp_path):
    done = torchrun(SCRIPT, "asked", tmp_path)
    assert done.returncode != 0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000016.pt"]


@pytest.mark.slow
def test_what_goes_wrong_or_is_asked_for_in_one_process_is_known_to_all(tmp_path):
    done = torchrun(SCRIPT, "alone", tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = results(tmp_path)
    assert first["step"] == second["step"] == 5
    assert "labels run from 0 to 3" in first["message"] + second["message"]
    assert "another process" in first["message"] + second["message"]
    assert first["after"] == second["after"]
    for result in (first, second):
        assert "different numbers of batches per epoch" in result["unequal"]
    assert torch.equal(first["buffers"], second["buffers"])


# --- several machines -----------------------------------------------------------------------------


def two_launchers(folder, *arguments):
    """Two torchruns that know each other by address, as on two machines; what each wrote."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
    ]
    command += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"127.0.0.1:{port}",
        "--rdzv-id",
        "two",
    ]
    both = [
        subprocess.Popen(
            [*command, "--max-restarts", "3", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        told = [process.communicate(timeout=300)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], told
    return "".join(told)


@pytest.mark.slow
def test_two_launchers_restart_together_and_go_on_to_the_same_bit(undisturbed, tmp_path):
    assert "exitcode: -9" in two_launchers(tmp_path, SCRIPT, "killed", tmp_path)
    for here, there in zip(results(tmp_path), results(undisturbed), strict=True):
        torch.testing.assert_close(here["weights"], there["weights"], rtol=0, atol=0)


@pytest.mark.slow
def test_the_script_of_the_page_on_several_machines_gives_what_one_process_gives(tmp_path):
    page = SCRIPT.parents[1] / "chapters" / "F_machines.md"
    code, *_ = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in page.read_text()
    measured = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        (folder / "train.py").write_text(code)
        if folder.name == "one":
            subprocess.run([sys.executable, "train.py"], cwd=folder, check=True)
        else:
            two_launchers(folder, "train.py")
        measured.append(float((folder / "measured.txt").read_text()))
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)


def test_the_arithmetic_of_the_page_on_several_machines_is_right():
    page = SCRIPT.parents[1] / "chapters" / "F_machines.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted >= 6
    assert not results.failed


def test_one_process_is_the_default():
    assert not launched()
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.is_rank0()
    assert distributed.all_reduce_sum(1.5, 2.0) == [1.5, 2.0]
