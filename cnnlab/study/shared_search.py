"""A search that several processes or machines share, with Optuna (needs the extra `search`).

Every process calls `shared_search` with the same storage. It takes a setting that looks promising
given all trials so far, evaluates it and records the score, until there are enough trials. If a
process is killed, only its own trial is lost, and new processes can join at any time.
"""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnlab.callbacks.early_stopping import Mode
from cnnlab.callbacks.pruning import Prune
from cnnlab.files import user_path
from cnnlab.study.runs import describe_error, keep_finished, runs_bar, say
from cnnlab.study.search import Choice, LogUniform, Space, Uniform, check_search


if TYPE_CHECKING:
    from optuna import Study, Trial
    from pandas import DataFrame


__all__ = [
    "Prune",
    "shared_search",
]


INTERRUPTED = "interrupted"  # marks trials that were cut short


def shared_search(
    objective: Callable[..., float],
    space: Space,
    n: int,
    *,
    storage: str | Path,
    name: str = "search",
    seed: int = 0,
    monitor: str = "valid_acc",
    mode: Mode = "max",
) -> "DataFrame":
    """Evaluate settings until the storage has `n` finished trials, together with other processes.

    The first trials are random. After those, settings near good ones are preferred (TPE, Bergstra
    et al. 2011, https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization).
    With several processes the result depends on their timing, so you can't repeat such a search
    exactly. Keep its table.

    After Ctrl-C, or the stop button of a notebook, the trials that have finished are returned. The
    trial that was cut short doesn't count, and another call continues the search.

    Args:
        objective: returns a score, higher is better. It is called with a `Prune`, which belongs in
            the callbacks of its trainer, and with the parameters by name.
        space: name -> `LogUniform`, `Uniform` or `Choice`.
        n: the number of finished trials, of all processes together. Trials that are already in the
            storage count. There may be a few more if several processes finish at the same time.
        storage: the path of a journal file that all processes can reach, which is created if it's
            missing; or the address of a database, such as `"postgresql://user@host/signs"`.
        name: the name of the search; one storage can contain several.
        seed: the seed of this process; use a different one in each.
        monitor: the column of the history that decides about pruning, see `Prune`.
        mode: `"max"` if large values of that column are good, `"min"` if small ones are.

    Returns:
        A table with one row per finished trial, in the order in which they began: trial, the
        parameters, score, state (`"complete"`, `"pruned"` or `"fail"`), error. Only complete trials
        have a score.

    Raises:
        ImportError: Optuna isn't installed.
        ValueError: n is less than 1, or the space is empty.
        TypeError: the space isn't a dictionary of `LogUniform`, `Uniform` and `Choice`.
        KeyboardInterrupt: after an interrupt, if no trial has finished.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> table = shared_search(
    ...     lambda prune, lr: -abs(lr - 0.1),
    ...     {"lr": LogUniform(1e-3, 1)},
    ...     n=3,
    ...     storage=f"{folder.name}/journal.log",
    ... )
    >>> list(table.columns), len(table)
    (['trial', 'lr', 'score', 'state', 'error'], 3)
    """
    n = check_search(space, n)
    study = _load_or_create(storage, name, seed)
    with keep_finished() as loop, runs_bar("search", n, "trial") as show_done:
        while (done := len(_finished_trials(study))) < n:
            loop.finished = done
            show_done(done)
            trial = study.ask()
            setting = {name: _suggest(trial, name, values) for name, values in space.items()}
            prune = Prune(trial, monitor, mode)
            _run_trial(study, trial, lambda: objective(prune, **setting))  # noqa: B023 - called at once
    if loop.interrupted:
        say(f"Interrupted: {done} of {n} trials are finished and kept. Call it again to continue")
    return _table(study, space)


def _load_or_create(storage: str | Path, name: str, seed: int) -> "Study":
    """Load a search from its storage, or create it if this is the first process."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise ImportError(
            "shared_search needs Optuna: pip install 'cnnlab[search]'. tune.random_search works "
            "without it"
        ) from error
    backend: Any = str(storage)
    if "://" not in backend:
        backend = str(user_path(storage))
        backend = JournalStorage(JournalFileBackend(backend, lock_obj=JournalFileOpenLock(backend)))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Old versions of Optuna call `constant_liar` experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True)
        return optuna.create_study(
            study_name=name,
            storage=backend,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler,
        )
    finally:
        optuna.logging.set_verbosity(verbosity)


def _suggest(trial: "Trial", name: str, values: Uniform | LogUniform | Choice) -> Any:
    """Let Optuna choose a value of one parameter."""
    if isinstance(values, Choice):
        # By index, because a storage accepts only numbers and text.
        index = trial.suggest_categorical(name, list(range(len(values.options))))
        return _decode(index, values)
    return trial.suggest_float(name, values.low, values.high, log=isinstance(values, LogUniform))


def _decode(stored: Any, values: Uniform | LogUniform | Choice) -> Any:
    """Turn the stored index of an option back into the option; numbers are stored as they are."""
    return values.options[stored] if isinstance(values, Choice) else stored


def _run_trial(study: "Study", trial: "Trial", call: Callable[[], float]) -> None:
    """Run one trial and record its score or its error; an interrupted trial is marked as such."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    try:
        score = float(call())
        if not math.isfinite(score):
            raise ArithmeticError(f"the score is {score}")
    except TrialPruned as reason:
        trial.set_user_attr("error", str(reason))
        study.tell(trial, state=TrialState.PRUNED)
    except Exception as error:  # noqa: BLE001 - one failed trial must not end an overnight search
        trial.set_user_attr("error", describe_error(error))
        study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        trial.set_user_attr(INTERRUPTED, True)
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, score)


def _finished_trials(study: "Study") -> list[Any]:
    """Return the trials that count."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and not trial.user_attrs.get(INTERRUPTED)
    ]


def _table(study: "Study", space: Space) -> "DataFrame":
    import pandas as pd
    from optuna.trial import TrialState

    rows = [
        {
            "trial": trial.number,
            **{name: _decode(trial.params[name], values) for name, values in space.items()},
            "score": trial.value if trial.state is TrialState.COMPLETE else math.nan,
            "state": trial.state.name.lower(),
            "error": trial.user_attrs.get("error", ""),
        }
        for trial in _finished_trials(study)
    ]
    return pd.DataFrame(rows)
