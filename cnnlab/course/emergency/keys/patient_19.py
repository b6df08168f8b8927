"""Patient 19: the averaged model keeps the batch-norm statistics of the first step."""

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits


LERP = "        average.lerp_(p, 1 - decay)\n"
COPIED = """    for average, b in zip(teacher.buffers(), student.buffers()):
        average.copy_(b)
"""

RECORD = Record(
    complaint="Averaged weights are said to beat the last ones. Mine are far behind them.",
    cause="averaged weights without buffers",
    repairs={LERP: LERP + COPIED},
    wrong={
        "the last weights instead": {
            "predict(teacher, images[900:])": "predict(student, images[900:])",
            "return teacher, ": "return student, ",
        },
        "a shorter average": {"decay=0.98": "decay=0.8"},
        "a longer average": {"decay=0.98": "decay=0.995"},
        "no average": {"decay=0.98": "decay=0.0"},
        "smaller learning rate": {"lr=0.1": "lr=0.02"},
        "more epochs": {"range(10)": "range(20)"},
    },
    right={
        "averaged too": {
            LERP: LERP
            + COPIED.replace("average.copy_(b)", "average.copy_(average + 0.1 * (b - average))")
        },
        "estimated at the end": {
            "    accuracy = (": (
                "    teacher.train()\n"
                "    for _ in range(60):\n"
                "        teacher(x[torch.randperm(900)[:100]])\n"
                "    accuracy = ("
            )
        },
        "PyTorch's average": {
            "teacher = copy.deepcopy(student)": (
                "teacher = torch.optim.swa_utils.AveragedModel(\n"
                "        student,\n"
                "        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.98),\n"
                "        use_buffers=True,\n"
                "    )"
            ),
            "update_average(teacher, student)": "teacher.update_parameters(student)",
        },
    },
    world=withheld_digits,
    rules=(accurate(0.03), honest(), within_budget()),
    observe=classification,
    seeds=3,
)
