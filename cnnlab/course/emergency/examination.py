"""Run a patient's script with one seed and measure what it does."""

import contextlib
import io
import linecache
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cnnlab.course.emergency.records import healthy_script, record, sick_script
from cnnlab.course.emergency.runs import Run, Telemetry, Unfit
from cnnlab.rng import fold_in, fork_rng


def examine(n: int, script: str, seeds: list[int], file: str = "<script>") -> dict[str, float]:
    """Run a version of a patient's script with some seeds, and return the mean of each fact.

    Raises:
        Unfit: the script raises an error, or doesn't return what it should.
    """
    facts = [_examine_once(n, script, seed, file) for seed in seeds]
    return {name: sum(run[name] for run in facts) / len(facts) for name in facts[0]}


def examine_twin(n: int, seeds: list[int]) -> dict[str, float]:
    """Return the mean of each fact of a patient's healthy twin."""
    return examine(n, healthy_script(n), seeds)


def try_script(n: int, script: str, seeds: list[int]) -> dict[str, float] | str:
    """Return the mean of each fact of a script, or what is wrong with it: "raises ...".

    >>> try_script(1, "1 / 0", [0])
    'raises ZeroDivisionError in line 1, `1 / 0`: division by zero.'
    """
    try:
        return examine(n, script, seeds)
    except Unfit as problem:
        return str(problem)


def hidden_seeds(n: int, seed: int = 0) -> list[int]:
    """Return the seeds on which a patient's script is run for its discharge."""
    return [fold_in(seed, 70, n, i) % 2**31 for i in range(record(n).seeds)]


def _examine_once(n: int, script: str, seed: int, file: str) -> dict[str, float]:
    chart = record(n)
    with fork_rng(), contextlib.redirect_stdout(io.StringIO()):
        admitted = load_script(sick_script(n), "<admitted>")
        with chart.world(admitted, seed) as (images, labels):
            try:
                with counted() as telemetry:
                    module = load_script(script, file)
                    result = _function(module, "train")(seed)
                run = Run(module, result, images, labels, telemetry, seed)
                facts = chart.observe(run)
            except (Unfit, KeyboardInterrupt):
                raise
            except BaseException as error:
                raise Unfit(_describe(error, file)) from error
    counts = {name: getattr(telemetry, name) for name in ("steps", "backwards", "stale")}
    return {**counts, **facts}


def load_script(script: str, file: str) -> ModuleType:
    """Run a script as a module, whose tracebacks show the script's lines."""
    linecache.cache[file] = (len(script), None, script.splitlines(keepends=True), file)
    module = ModuleType("patient")
    # Where classes are looked up by name, as dataclasses do, the module must be known.
    sys.modules[module.__name__] = module
    exec(compile(script, file, "exec"), module.__dict__)  # noqa: S102 - the script itself
    return module


@contextlib.contextmanager
def counted() -> Iterator[Telemetry]:
    """Count optimizer steps and backward passes within a `with` block."""
    telemetry = Telemetry()
    backward = torch.autograd.backward
    stepped: list[Tensor] = []  # the parameters that the last step moved

    def count_backward(*arguments: Any, **options: Any) -> None:
        telemetry.backwards += 1
        telemetry.stale += any(p.grad is not None and bool(p.grad.any()) for p in stepped)
        stepped.clear()
        backward(*arguments, **options)

    def count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        telemetry.steps += 1
        telemetry.lrs.append(float(optimizer.param_groups[0]["lr"]))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norms = [p.grad.norm() for p in parameters if p.grad is not None]
        stepped.extend(parameters)
        telemetry.norms.append(torch.stack(norms).norm().item() if norms else 0.0)

    hook = register_optimizer_step_pre_hook(count_step)
    try:
        with mock.patch.object(torch.autograd, "backward", count_backward):
            yield telemetry
    finally:
        hook.remove()


def classification(run: Run) -> dict[str, float]:
    """Measure a classifier: the accuracy that it reports, and the one on new images."""
    match run.result:
        case (torch.nn.Module() as model, reported):
            return {
                "reported": number(reported, "accuracy"),
                "accuracy": accuracy(predictions(run, model), run.labels),
            }
    raise Unfit(f"returns {_kind(run.result)} from train(seed), not (model, accuracy).")


def predictions(run: Run, model: torch.nn.Module, images: Tensor | None = None) -> Tensor:
    """Return the classes that the script predicts for new images, by default all of them."""
    images = run.images if images is None else images
    predicted = torch.as_tensor(_function(run.module, "predict")(model, images))
    if predicted.shape != (len(images),):
        raise Unfit(
            f"returns shape {tuple(predicted.shape)} from predict(model, images) for {len(images)} "
            "images, not one class per image."
        )
    return predicted


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the fraction of correct predictions."""
    return (predicted == labels).float().mean().item()


def number(value: Any, name: str) -> float:
    """Return a reported value as a number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise Unfit(f"reports {_kind(value)} as its {name}, not a number.") from None


def _function(module: ModuleType, name: str) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        raise Unfit(f"defines no function `{name}`; keep the one it had, and its arguments.")
    return function


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"


def _describe(error: BaseException, file: str) -> str:
    """Say which line of a script raised which error."""
    if isinstance(error, SyntaxError) and error.filename == file:
        line = f" `{error.text.strip()}`" if error.text else ""
        return f"has a syntax error in line {error.lineno}:{line} ({error.msg})."
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" in line {own[-1].lineno}, `{own[-1].line}`" if own else ""
    message = str(error).strip().splitlines()
    says = f": {message[0][:120]}" if message else ""
    return f"raises {type(error).__name__}{where}{says}."
