"""Test the grading of submitted answers: messages, the sandboxed process, and points."""

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
from cnnlab.check.remote import AnswerError, GraderError, Remote, Unwritten


# --- messages -------------------------------------------------------------------------------------


def send_and_receive(value):
    stream = io.BytesIO()
    wire.send(stream, value)
    stream.seek(0)
    return wire.receive(stream)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain_values)
def test_plain_values_arrive_unchanged(value):
    assert send_and_receive(value) == value


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.int64, torch.bool, torch.uint8, torch.float16]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_and_arrays_arrive_bit_for_bit(dtype, shape):
    value = torch.arange(6).to(dtype)[: int(np.prod(shape))].reshape(shape)
    tensor, array = send_and_receive((value, value.numpy()))
    assert torch.equal(tensor, value)
    assert tensor.dtype == dtype
    assert isinstance(array, np.ndarray)
    assert array.dtype == value.numpy().dtype
    tensor.add_(0) if dtype != torch.bool else None  # the tensor is writable


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match="a value of type object can't be sent"):
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
def test_malformed_lines_are_refused(line):
    with pytest.raises(ValueError):  # noqa: PT011 - json, base64, numpy or unpack may raise it
        wire.receive(io.BytesIO(line))


def test_an_incomplete_line_ends_the_stream_and_a_very_long_line_is_refused(monkeypatch):
    with pytest.raises(EOFError):
        wire.receive(io.BytesIO(b'{"list": [1'))
    monkeypatch.setattr(wire, "LONGEST", 100)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        wire.receive(io.BytesIO(b"1" * 1000))


# --- the process ----------------------------------------------------------------------------------


# Without the sandbox, these functions would do no lasting harm: SECRET is a file of this test.
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

EXPECTED_ERRORS = {
    "faulty": "raised ZeroDivisionError: float division by zero, in line .*`return x / 0`",
    "reads": "PermissionError: open .* is not allowed in an answer",
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
    "unreadable": "returned a value that the grader can't read: a value of type object",
}


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """Return the path of a file that answers must not read or change."""
    path = tmp_path_factory.mktemp("grader") / "key.py"
    path.write_text("the answers")
    return path


@pytest.fixture(scope="module")
def behave(secret):
    """Start one process for all tests; its function calls the function with the given name."""
    call = "\ndef call(name, *arguments):\n    return globals()[name](*arguments)\n"
    with Remote("import cnnlab", f"SECRET = {str(secret)!r}\n{BEHAVIOURS}{call}", "call") as remote:
        yield remote


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED_ERRORS)
def test_forbidden_actions_raise_an_error_and_have_no_effect(behave, secret, name):
    with pytest.raises(AnswerError, match=EXPECTED_ERRORS[name]):
        behave(name, *([1.0] if name == "faulty" else []))
    assert [path.name for path in secret.parent.iterdir()] == ["key.py"]
    assert secret.read_text() == "the answers"


@pytest.mark.slow
def test_allowed_actions_work(behave):
    x = torch.ones(3)
    assert behave("double_in_place", x) == torch.tensor(6.0)
    assert x.tolist() == [2, 2, 2], "an in-place change must reach the caller's tensor"
    assert behave("writes_at_home") == "x"
    assert behave("fits").tolist() == [1]
    with pytest.raises(NotImplementedError):
        behave("not_written")


def has_ended(pid):
    """Wait up to five seconds for a process to end, and return whether it did."""
    for _ in range(50):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "seconds", "message"),
    [
        ("while True: pass", 2, "than (2 seconds of processor time|22 seconds on the clock)"),
        ("__import__('time').sleep(999)", 2, "took longer than 22 seconds on the clock"),
        ("__import__('os')._exit(0)", 60, "ended its process"),
        ("return 'x' * 2**29", 60, "sent a line of more than|ended its process"),
    ],
)
def test_an_answer_that_does_not_return_is_terminated_for_good(body, seconds, message):
    with Remote("", f"def f():\n    {body}", "f", seconds=seconds) as f:
        pid, folder = f._process.pid, Path(f._folder.name)
        for _ in range(2):
            with pytest.raises(AnswerError, match=message):
                f()
    assert has_ended(pid)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            "def f(:",
            "isn't defined; your cell raised SyntaxError: .*[a-z], in line 1 of your",
        ),
        ("x = undefined\ndef f(): return x", "name 'x' is not defined.* before that, your cell"),
        ("def f(): return helper()", "name 'helper' .* runs only the set-up and this cell"),
        ("f = undefined", "isn't defined; your cell raised NameError"),
        ("g = 1", "isn't defined in your cell$"),
    ],
)
def test_errors_of_the_answer_cell_are_reported(answer, message):
    with Remote("", answer, "f") as f, pytest.raises(AnswerError, match=message):
        f()


@pytest.mark.slow
def test_a_function_that_is_not_defined_was_given_nothing():
    with Remote("", "def warmup_cosine(:", "warmup_cosine") as f:
        says = check.EXERCISES["warmup_cosine"].judge(f).says
    assert "isn't defined; your cell raised SyntaxError" in says
    assert "given" not in says


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        "def f():\n    return 7\n\nf(1, 2, 3)  # try it out",
        "show(1)\nassert False\ndef f():\n    return 7\n",
        "def f():\n    return 7\nf = f()",
        "def f():\n    return seven\nseven = 7\nf = sum = [f(1)]\nraise SystemExit",
        "def f():\n    return 7\nfor step in range(10**12):\n    f()",
        "def f():\n    return 7\nif __name__ == '__main__':\n    while True:\n        f()",
        "try:\n    import faster\nexcept ImportError:\n    def f():\n        return 7",
        "def make():\n    return lambda: 7\nf = make()\nprint(f(0))",
    ],
)
def test_lines_that_try_a_function_out_do_not_spoil_it(answer):
    with Remote("", answer, "f", seconds=10) as f:
        assert f() == 7


@pytest.fixture
def library(tmp_path):
    """A library in a folder that Python finds by a `.pth` file; it reads a file beside itself."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "table.txt").write_text("7")
    (tmp_path / "elsewhere.txt").write_text("7")
    (folder / "library_of_this_test.py").write_text(
        "from pathlib import Path\n"
        "def own():\n    return Path(__file__).with_name('table.txt').read_text()\n"
        "def other():\n    return (Path(__file__).parents[1] / 'elsewhere.txt').read_text()\n"
        "def read(path):\n    return open(path).read()\n"
    )
    return folder


@pytest.mark.slow
def test_libraries_outside_the_prefix_of_python_can_read_their_files(library):
    setup = f"import sys; sys.path.append({str(library)!r}); import library_of_this_test as lib"
    with Remote(
        setup, "def f(name, *a):\n    path = a and a[0]\n    return getattr(lib, name)(*a)", "f"
    ) as f:
        assert f("own") == "7"
        with pytest.raises(GraderError, match=r"That isn't the student's fault"):
            f("other")
        assert f.fault is not None
        with pytest.raises(AnswerError, match="PermissionError"):
            f("read", str(library.parent / "elsewhere.txt"))
    with Remote(
        setup, "def f():\n    return lib.other()", "f", readable=[str(library.parent)]
    ) as f:
        assert f() == "7"


@pytest.mark.slow
def test_the_source_of_a_course_is_no_place_for_libraries(tmp_path):
    (tmp_path / "assignments").mkdir()
    (tmp_path / "key.py").write_text("the answers")
    answer = f"def f():\n    return open({str(tmp_path / 'key.py')!r}).read()"
    setup = f"import sys; sys.path.append({str(tmp_path)!r})"
    with Remote(setup, answer, "f") as f, pytest.raises(AnswerError, match="PermissionError"):
        f()


@pytest.mark.slow
def test_only_the_own_raise_of_an_answer_means_that_it_is_not_written():
    answer = """
def f(own):
    if own:
        raise NotImplementedError
    return torch.nn.functional.cross_entropy(torch.tensor([1]), torch.rand(1, 2))
"""
    with Remote("import torch", answer, "f") as f:
        with pytest.raises(Unwritten):
            f(True)
        with pytest.raises(AnswerError, match=r"raised NotImplementedError: .* in line 5"):
            f(False)


@pytest.mark.slow
def test_a_failing_set_up_raises_grader_error():
    with (
        pytest.raises(GraderError, match="no_such_library"),
        Remote("import no_such_library", "", "f"),
    ):
        pass
    with (
        pytest.raises(GraderError, match="can't start /no/python"),
        Remote("", "", "f", command=["/no/python"]),
    ):
        pass


@pytest.mark.slow
def test_the_answer_does_not_see_the_environment_of_the_grader(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with Remote("import os", "def f():\n    return sorted(os.environ)", "f") as f:
        assert "SECRET_TOKEN" not in f()


# --- points ---------------------------------------------------------------------------------------


def test_grade_returns_all_points_or_none_and_prints_the_feedback(capsys):
    solution = check.EXERCISES["warmup_cosine"].answer
    assert check.grade("warmup_cosine", solution, points=4) == 4.0
    assert check.grade("warmup_cosine", lambda *arguments: 0.0, points=4) == 0.0
    passed, failed = capsys.readouterr().out.split("✘")
    assert passed.startswith("✔ warmup_cosine: correct.")
    assert failed.startswith(" warmup_cosine: your multiplier at step ")


def test_exercises_are_loaded_from_a_key_file(tmp_path, monkeypatch):
    with pytest.raises(KeyMissing, match=r"there is no key at .*cnnlab assignment"):
        exercises(tmp_path / "key.py")
    key = tmp_path / "key.py"
    key.write_text("EXERCISES = 3")
    with pytest.raises(KeyMissing, match="defines no dict `EXERCISES`"):
        exercises(key)
    key.write_text(
        "from cnnlab.check import EXERCISES as ALL\nEXERCISES = {'mine': ALL['warmup_cosine']}"
    )
    with pytest.raises(KeyMissing, match=r"the key has no exercise 'warmup_cosine'; it has mine"):
        check.grade("warmup_cosine", print, key=key)
    monkeypatch.setenv("CNNLAB_KEY", str(key))
    assert check.grade("mine", check.EXERCISES["warmup_cosine"].answer) == 1.0


def test_messages_cannot_carry_code():
    """A line is JSON, and unpacking it calls no function that the sender chooses."""
    evil = {"tensor": ["float32", [1], "AAAA", "__import__('os')"]}
    with pytest.raises(ValueError, match="not a packed value"):
        wire.unpack(json.loads(json.dumps(evil)))
    assert "pickle" not in Path(wire.__file__).read_text()
