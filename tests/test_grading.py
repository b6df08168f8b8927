"""Answers in a process of their own: what goes through, what is kept in, what the grader is told."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnlab import check
from cnnlab.check import wire
from cnnlab.check.grading import KeyMissing, exercises
from cnnlab.check.remote import AnswerError, GraderError, Remote


# --- the line -------------------------------------------------------------------------------------


def through(value):
    line = io.BytesIO()
    wire.send(line, value)
    line.seek(0)
    return wire.receive(line)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_plain_values_come_through_as_they_are(value):
    assert through(value) == value


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.int64, torch.bool, torch.uint8, torch.float16]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_and_arrays_come_through_to_the_bit(dtype, shape):
    value = torch.arange(6).to(dtype)[: int(np.prod(shape))].reshape(shape)
    back, array = through((value, value.numpy()))
    assert torch.equal(back, value)
    assert back.dtype == dtype
    assert isinstance(array, np.ndarray)
    assert array.dtype == value.numpy().dtype
    back.add_(0) if dtype != torch.bool else None  # it can be written to


def test_what_is_no_plain_value_does_not_go_through():
    with pytest.raises(TypeError, match="type object cannot be handed over"):
        wire.pack([object()])


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b'{"pickle": "gASV"}\n',
        b'{"tensor": ["float32", [4], "AAAA"]}\n',
        b'{"tensor": ["object", [1], "AAAA"]}\n',
        b'{"dict": [1]}\n',
    ],
)
def test_a_line_that_is_not_ours_is_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - whichever says it first
        wire.receive(io.BytesIO(line))


def test_half_a_line_is_the_end_and_an_endless_one_is_refused(monkeypatch):
    with pytest.raises(EOFError):
        wire.receive(io.BytesIO(b'{"list": [1'))
    monkeypatch.setattr(wire, "LONGEST", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        wire.receive(io.BytesIO(b"1" * 1000))


# --- the process ----------------------------------------------------------------------------------


# Even with the fence taken down these do no harm that lasts: the secret is a file of the test's own.
BEHAVIOURS = """
import os, socket, subprocess, sys, time
import torch
from pathlib import Path

def double_in_place(x):
    print("chatter"); x.mul_(2); return x.sum()

def faulty(x):
    return x / 0

def not_written():
    raise NotImplementedError

def reads():
    return Path(SECRET).read_text()

def reads_by_system_call():
    return os.read(os.open(SECRET, os.O_RDONLY), 10).decode()

def lists():
    return os.listdir(os.path.dirname(SECRET))

def writes():
    Path(os.path.dirname(SECRET), "was_here").write_text("x")

def writes_through_a_link():
    os.symlink(os.path.dirname(SECRET), "way_out")
    Path("way_out", "was_here").write_text("x")

def writes_at_home():
    Path.home().joinpath("note").write_text("x"); return Path("note").read_text()

def removes():
    os.remove(SECRET)

def starts():
    subprocess.run(["true"])

def shell():
    return os.system("true")

def forks():
    return os.fork()

def ends_the_grader():
    os.kill(os.getppid(), 0)

def connects():
    socket.create_connection(("127.0.0.1", 9))

def malicious_checkpoint():
    class Payload:
        def __reduce__(self):
            return (os.system, ("touch was_here",))
    torch.save(Payload(), "model.pt")
    torch.load("model.pt", weights_only=False)

def much_memory():
    return len(bytearray(32 * 2**30))

def leaves():
    sys.exit(3)

def unreadable():
    return object()

def fits():
    from sklearn.linear_model import LogisticRegression
    import cnnlab
    cnnlab.pretrained("glyphnet", 3)
    return LogisticRegression().fit([[0.0], [1.0]], [0, 1]).predict([[1.0]])
"""

SAID = {
    "faulty": "raised ZeroDivisionError: float division by zero, in line .*`return x / 0`",
    "reads": "PermissionError: open .* not open to an answer",
    "reads_by_system_call": "PermissionError: open",
    "lists": "PermissionError: os.listdir",
    "writes": "PermissionError: open",
    "writes_through_a_link": "PermissionError",
    "removes": "PermissionError: os.remove",
    "starts": "PermissionError: subprocess.Popen",
    "shell": "PermissionError: os.system",
    "forks": "PermissionError: os.fork",
    "ends_the_grader": "PermissionError: os.kill",
    "connects": "PermissionError: socket",
    "malicious_checkpoint": "PermissionError: os.system",
    "much_memory": "MemoryError",
    "leaves": "raised SystemExit",
    "unreadable": "type object cannot be handed over",
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A file that an answer has no business with."""
    path = tmp_path_factory.mktemp("grader") / "key.py"
    path.write_text("the answers")
    return path


@pytest.fixture(scope="module")
def behave(secret):
    """One process; the function to call is named with each call."""
    call = "\ndef call(name, *arguments):\n    return globals()[name](*arguments)\n"
    with Remote("import cnnlab", f"SECRET = {str(secret)!r}\n{BEHAVIOURS}{call}", "call") as remote:
        yield remote


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_what_an_answer_must_not_do_is_told_and_not_done(behave, secret, name):
    with pytest.raises(AnswerError, match=SAID[name]):
        behave(name, *([1.0] if name == "faulty" else []))
    assert [path.name for path in secret.parent.iterdir()] == ["key.py"]
    assert secret.read_text() == "the answers"


@pytest.mark.slow
def test_what_an_answer_may_do_it_can(behave):
    x = torch.ones(3)
    assert behave("double_in_place", x) == torch.tensor(6.0)
    assert x.tolist() == [2, 2, 2], "what is changed in place is changed here as well"
    assert behave("writes_at_home") == "x"
    assert behave("fits").tolist() == [1]
    with pytest.raises(NotImplementedError):
        behave("not_written")


def ended(pid):
    """Whether a process is gone, or about to be."""
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("while True: pass", "took longer than 2 seconds"),
        ("__import__('os')._exit(0)", "ended its process"),
        ("return 'x' * 2**29", "sent a line of more than|ended its process"),
    ],
)
def test_an_answer_that_does_not_come_back_is_ended_and_stays_so(body, said):
    with Remote("", f"def f():\n    {body}", "f", seconds=2 if "while" in body else 60) as f:
        pid, folder = f._process.pid, Path(f._folder.name)
        for _ in range(2):
            with pytest.raises(AnswerError, match=said):
                f()
    assert ended(pid)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("def f(:", "SyntaxError"),
        ("x = undefined\ndef f(): pass", "NameError"),
        ("g = 1", "KeyError: 'f'"),
    ],
)
def test_a_cell_that_does_not_run_is_told_with_its_line(answer, said):
    with Remote("", answer, "f") as f, pytest.raises(AnswerError, match=said):
        f()


@pytest.mark.slow
def test_a_set_up_that_fails_is_the_graders_fault_and_no_answer():
    with (
        pytest.raises(GraderError, match="no_such_library"),
        Remote("import no_such_library", "", "f"),
    ):
        pass
    with (
        pytest.raises(GraderError, match="cannot start"),
        Remote("", "", "f", command=["/no/python"]),
    ):
        pass


@pytest.mark.slow
def test_the_answer_knows_nothing_of_the_graders_environment(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with Remote("import os", "def f():\n    return sorted(os.environ)", "f") as f:
        assert "SECRET_TOKEN" not in f()


# --- points ---------------------------------------------------------------------------------------


def test_points_are_all_or_none_and_the_sentence_is_printed(capsys):
    right = check.EXERCISES["cosine"].answer
    assert check.grade("cosine", right, points=4) == 4.0
    assert check.grade("cosine", lambda *arguments: 0.0, points=4) == 0.0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("✔ cosine")
    assert said[1].startswith("✘ cosine")


def test_a_key_is_a_file_with_exercises(tmp_path, monkeypatch):
    with pytest.raises(KeyMissing, match=r"no key at .*cnnlab assignment"):
        exercises(tmp_path / "key.py")
    key = tmp_path / "key.py"
    key.write_text("EXERCISES = 3")
    with pytest.raises(KeyMissing, match="no dict `EXERCISES`"):
        exercises(key)
    key.write_text("from cnnlab.check import EXERCISES as ALL\nEXERCISES = {'mine': ALL['cosine']}")
    with pytest.raises(KeyMissing, match=r"no exercise 'cosine' in the key; it has mine"):
        check.grade("cosine", print, key=key)
    monkeypatch.setenv("CNNLAB_KEY", str(key))
    assert check.grade("mine", check.EXERCISES["cosine"].answer) == 1.0


def test_nothing_of_what_is_sent_can_carry_code():
    """The line is JSON; unpacking it calls nothing that a sender chose."""
    evil = {"tensor": ["float32", [1], "AAAA", "__import__('os')"]}
    with pytest.raises(ValueError, match="not a value of ours"):
        wire.unpack(json.loads(json.dumps(evil)))
    assert "pickle" not in Path(wire.__file__).read_text()
