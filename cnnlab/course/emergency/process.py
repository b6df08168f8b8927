"""Run a student's file in another process, with a limit on its time; also that process itself."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnlab.course.emergency.records import Facts
from cnnlab.files import write_whole


PATIENCE = 10  # times the processor time of the healthy twin, plus `GRACE`
GRACE = 10.0  # seconds
WALL_CLOCK = 600.0  # seconds, for a script that waits instead of computing


@dataclass(frozen=True)
class Report:
    """What came of a run of a student's file.

    Attributes:
        own: the facts of the student's file; empty if it doesn't run.
        twin: the facts of the healthy twin on the same seeds.
        problem: why there are no facts, as a sentence without its subject; else "".
    """

    own: Facts
    twin: Facts
    problem: str = ""


def run_file(n: int, path: Path, seeds: list[int]) -> Report:
    """Run a student's file and the healthy twin on some seeds, in a process of their own.

    The process ends with this call, also where it is interrupted or its own process is killed.

    Raises:
        RuntimeError: the process ended without an answer, which isn't the fault of the script.
    """
    with tempfile.TemporaryDirectory(prefix="cnnlab-", ignore_cleanup_errors=True) as folder:
        answer, log = Path(folder, "answer.json"), Path(folder, "log.txt")
        job = {"n": n, "path": str(path.resolve()), "seeds": seeds, "answer": str(answer)}
        job |= {"patience": PATIENCE, "grace": GRACE}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(job)],
                stdin=subprocess.PIPE,  # it closes when this process ends, however that happens
                stdout=output,
                stderr=output,
                env=os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
                start_new_session=True,
            )
            try:
                process.wait(WALL_CLOCK)
            except subprocess.TimeoutExpired:
                return Report({}, {}, f"didn't finish within {WALL_CLOCK:.0f} seconds.")
            finally:
                _end(process)
        if answer.is_file():
            return Report(**json.loads(answer.read_text(encoding="utf-8")))
        last = log.read_text(encoding="utf-8", errors="replace").strip()[-500:]
        started = answer.with_suffix(".started").is_file()
    if started:  # the twin ran, so the machine is fine
        return Report({}, {}, f"ended its process (exit status {process.returncode}). {last}")
    raise RuntimeError(
        f"patient {n} couldn't be examined: the process ended with status {process.returncode}. "
        f"Its last output:\n{last}"
    )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and its children, such as the workers of a data loader."""
    if os.name == "nt":
        process.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _end_with_parent() -> None:
    """End this process and its children when standard input closes, as it does with the parent."""
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a script that asks for input gets none
    os.close(nothing)

    def wait() -> None:
        os.read(parent, 1)
        if os.name != "nt":
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(job: dict[str, Any]) -> None:
    """Examine the healthy twin and then the student's file, and write down the facts."""
    # Only here, because the parent needs neither torch nor scikit-learn to wait.
    from cnnlab.course.emergency.examination import Unfit, examine, examine_twin

    answer = Path(job["answer"])

    def write(report: Report) -> None:
        write_whole(answer, json.dumps(report.__dict__).encode())

    script = Path(job["path"]).read_text(encoding="utf-8")
    start = time.process_time()
    twin = examine_twin(job["n"], job["seeds"])
    needed = time.process_time() - start
    seconds = job["patience"] * needed + job["grace"]
    answer.with_suffix(".started").touch()

    def stop_a_slow_script() -> None:
        begin = time.process_time()
        while time.process_time() - begin < seconds:
            time.sleep(0.2)
        problem = f"was stopped after {seconds:.0f} seconds; a healthy one takes {needed:.0f}."
        write(Report({}, twin, problem))
        os._exit(1)

    threading.Thread(target=stop_a_slow_script, daemon=True).start()
    os.chdir(answer.parent)  # what the script writes goes with this folder
    try:
        report = Report(examine(job["n"], script, job["seeds"], job["path"]), twin)
    except Unfit as problem:
        report = Report({}, twin, str(problem))
    write(report)
    os._exit(0)  # without waiting for threads that the script started


if __name__ == "__main__":
    _end_with_parent()
    main(json.loads(sys.argv[1]))
