"""Test in a real kernel that an error of the library shows only the student's own lines."""

import re

import pytest
from jupyter_client.manager import start_new_kernel

from cnnlab.course.tracebacks import MORE, STOPPED, STOPPED_FIT


HERE = "/cnnlab/"  # in the path of every file of the package


@pytest.fixture(scope="module")
def run():
    """A function that runs a cell, and returns what it printed and its traceback."""
    manager, client = start_new_kernel(kernel_name="python3")

    def cell(code):
        found = {"printed": "", "traceback": ""}

        def keep(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                found["printed"] += content["text"]
            elif message["msg_type"] == "error":
                found["traceback"] += "\n".join(content["traceback"])

        # Otherwise the kernel aborts what it gets in the moment after an error.
        reply = client.execute_interactive(
            code, timeout=120, output_hook=keep, stop_on_error=False
        )["content"]
        found = {name: re.sub(r"\x1b\[[0-9;]*m", "", text) for name, text in found.items()}
        return found["printed"], found["traceback"], reply

    try:
        cell("import cnnlab, torch; from torch import nn; cnnlab.setup()")
        yield cell
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


GUARDS = {
    "TypeError: batch_size must be a whole number": "cnnlab.loader([1, 2], batch_size=None)",
    "ValueError: there is no data set 'pockt'": "cnnlab.load('pockt')",
    "DataError: ": "cnnlab.from_folder('no folder')",
    "ClaimNotSupported: ": (
        "cnnlab.compare({'a': lambda seed: 0.1, 'b': lambda seed: seed}, 2).claim('a', '>', 'b')"
    ),
}


@pytest.mark.parametrize("message", GUARDS)
def test_a_refused_argument_shows_the_message_and_only_own_lines(run, message):
    code = f"def mine():\n    return {GUARDS[message]}\n\nmine()"
    _, traceback, reply = run(code)
    assert reply["status"] == "error"
    assert HERE not in traceback
    assert "Returns:" not in traceback  # no docstring
    assert len(traceback.splitlines()) <= 20
    assert re.search(r"-> +4 mine\(\)", traceback)
    assert re.search(r"-> +2 +return cnnlab", traceback)
    assert message in traceback
    assert traceback.splitlines()[-1] == MORE
    assert "\n".join(reply["traceback"]).endswith(MORE)


def test_the_whole_traceback_is_one_line_away(run):
    run("cnnlab.load('pockt')")
    _, traceback, reply = run("%tb")
    assert HERE in traceback
    assert "there is no data set 'pockt'" in traceback
    assert MORE not in traceback
    assert reply["status"] == "ok"


def test_the_line_of_a_students_network_stays_and_those_of_torch_go(run):
    _, traceback, _ = run(
        "class Mine(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(7, 12)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1))\n"
        "model = Mine()\n"
        "trainer = cnnlab.Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1))\n"
        "batch = torch.rand(8, 3, 32, 32), torch.zeros(8, dtype=torch.long)\n"
        "trainer.fit([batch], epochs=1)\n"
    )
    assert re.search(r"-> +6 +return self\.fc", traceback)
    assert re.search(r"-> +10 trainer\.fit", traceback)
    assert "DataError: a linear layer takes 7 features" in traceback
    assert "site-packages" not in traceback
    assert HERE not in traceback
    _, whole, _ = run("%tb")
    assert "site-packages" in whole  # the causes are as they were


UNTOUCHED = [
    "torch.zeros(2, 3) @ torch.zeros(2, 3)",
    "torch.zeros(2).reshape(3)",
    "import json; json.loads('x')",
    "int('a')",
    "len(5)",
    "def mine(seed): return {}[seed]\ncnnlab.compare({'a': mine}, 2)",
]


@pytest.mark.parametrize("code", UNTOUCHED)
def test_the_traceback_of_any_other_error_is_what_it_would_be(run, code):
    _, traceback, reply = run(code)
    run("shell, handlers = get_ipython(), get_ipython().custom_exceptions")
    run("shell.custom_exceptions = ()")
    _, plain, plain_reply = run(code)
    run("shell.custom_exceptions = handlers")
    number = re.compile(r"In\[\d+\]")
    assert number.sub("", traceback) == number.sub("", plain)
    assert traceback
    assert reply["ename"] == plain_reply["ename"]


FIT = """
class Stop(cnnlab.Callback):
    def on_epoch_start(self, trainer):
        raise KeyboardInterrupt

model = nn.Linear(2, 2)
trainer = cnnlab.Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), callbacks=[Stop()])
batches = [(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))]

def mine():
    trainer.fit(batches, epochs=1)

"""


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("trainer.fit(batches, epochs=1)", STOPPED_FIT),
        ("mine()", STOPPED),  # its trainer may be a local variable
    ],
)
def test_the_stop_button_says_how_to_go_on(run, call, says):
    printed, traceback, _ = run(FIT + call)
    assert f"{says}\n" in printed
    assert not traceback


def test_the_stop_button_still_shows_one_line(run):
    printed, traceback, reply = run("raise KeyboardInterrupt")
    assert printed == f"{STOPPED}\n"
    assert not traceback
    assert reply["traceback"] == [STOPPED]
