"""A search that several processes and machines share: Optuna, with one storage for all (the extra `search`).

Every process calls the same function with the same storage. Each takes a setting that the trials of all have made
likely to be good, tries it, and writes down what came of it, until there are enough. A process that is killed takes
nothing with it but its own trial; one that is started again, or on another machine, joins.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnlab.callbacks.early_stopping import Mode
from cnnlab.callbacks.pruning import Prune
from cnnlab.study.search import Choice, LogUniform, Space, Uniform


if TYPE_CHECKING:
    from optuna import Study, Trial
    from pandas import DataFrame


__all__ = [
    "Prune",
    "shared_search",
]


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
    """Try settings until a storage has `n` finished trials, together with every other process that does the same.

    After some random trials, settings near good ones are preferred (TPE, Bergstra et al. 2011,
    https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization). With several processes the table
    depends on who was faster, so such a search cannot be repeated exactly. Keep its table.

    Args:
        objective: called with a `Prune`, to be put among the callbacks of its trainer, and the parameters by name;
            returns a score, higher is better.
        space: name -> `LogUniform`, `Uniform` or `Choice`.
        n: finished trials, of all processes together. Those that were finished before count; processes that end at
            the same time may leave some more.
        storage: path of a journal, a file that all processes can reach and that is made if there is none; or the
            address of a database, such as `"postgresql://user@host/signs"`.
        name: of the search; one storage may hold several.
        seed: of this process; another one in each.
        monitor: column of the history by which runs are compared after each epoch, see `Prune`.
        mode: whether `"max"` or `"min"` of that column is good.

    Returns:
        A row a finished trial, in the order they were begun: trial, the parameters, score, state (`"complete"`,
        `"pruned"` or `"fail"`), error. Only a complete trial has a score.

    Raises:
        ImportError: Optuna is not installed.
        ValueError: no trial, or an empty space.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> table = shared_search(
    ...     lambda prune, rate: -abs(rate - 0.1),
    ...     {"rate": LogUniform(1e-3, 1)},
    ...     3,
    ...     storage=f"{folder.name}/journal.log",
    ... )
    >>> list(table.columns), len(table)
    (['trial', 'rate', 'score', 'state', 'error'], 3)
    """
    if n < 1 or not space:
        raise ValueError(
            f"a search needs a trial and a parameter, got n={n} and {len(space)} parameters"
        )
    study = _study(storage, name, seed)
    while len(_finished(study)) < n:
        trial = study.ask()
        setting = {name: _suggest(trial, name, values) for name, values in space.items()}
        _try(study, trial, lambda: objective(Prune(trial, monitor, mode), **setting))  # noqa: B023 - called at once
    return _table(study, space)


def _study(storage: str | Path, name: str, seed: int) -> "Study":
    """The search in its storage, made by the process that comes first."""
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    except ImportError as error:
        raise ImportError(
            "a shared search needs Optuna: pip install 'cnnlab[search]'. tune.random_search needs nothing"
        ) from error
    where: Any = str(storage)
    if "://" not in where:
        where = JournalStorage(JournalFileBackend(where, lock_obj=JournalFileOpenLock(where)))
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name=name,
            storage=where,
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed % 2**32, constant_liar=True),
        )
    finally:
        optuna.logging.set_verbosity(level)


def _suggest(trial: "Trial", name: str, values: Uniform | LogUniform | Choice) -> Any:
    if isinstance(values, Choice):  # by number, since a storage holds numbers and text alone
        return _named(trial.suggest_categorical(name, list(range(len(values.options)))), values)
    return trial.suggest_float(name, values.low, values.high, log=isinstance(values, LogUniform))


def _named(stored: Any, values: Uniform | LogUniform | Choice) -> Any:
    return values.options[stored] if isinstance(values, Choice) else stored


def _try(study: "Study", trial: "Trial", run: Callable[[], float]) -> None:
    """Run one trial and write down what came of it; an interrupt ends the search, and the trial with it."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    try:
        score = float(run())
        if not math.isfinite(score):
            raise ArithmeticError(f"the score is {score}")
    except TrialPruned as reason:
        trial.set_user_attr("error", str(reason))
        study.tell(trial, state=TrialState.PRUNED)
    except Exception as error:  # noqa: BLE001 - a search of a night must not end with one bad trial
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, score)


def _finished(study: "Study") -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _table(study: "Study", space: Space) -> "DataFrame":
    import pandas as pd
    from optuna.trial import TrialState

    rows = [
        {
            "trial": trial.number,
            **{name: _named(trial.params[name], values) for name, values in space.items()},
            "score": trial.value if trial.state is TrialState.COMPLETE else math.nan,
            "state": trial.state.name.lower(),
            "error": trial.user_attrs.get("error", ""),
        }
        for trial in _finished(study)
    ]
    return pd.DataFrame(rows)
