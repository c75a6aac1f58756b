"""A search with Optuna, whose study several processes share: each takes trials, none is lost.

Optuna proposes values and keeps what came of them; who works on a trial is said by a lock, which
ends with its process. So the trial of a killed process is taken over at once, with what was trained
of it, and processes that begin together never do the same one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from abhinaya.errors import BadValueError, require_package
from abhinaya.files import digest_of, drop_lock, sole_writer, take_lock
from abhinaya.pipeline.trials.space import Dimension, Point, Range, Space

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

__all__ = ["Search", "Trial", "claim", "importances", "require_optuna"]

_MIN_POINTS = 4


@dataclass(frozen=True)
class Trial:
    """Values to try, and the name of their folder."""

    number: int
    point: Point

    @property
    def name(self) -> str:
        """Such as trial-0007."""
        return f"trial-{self.number:04d}"


def require_optuna() -> None:
    """Say what is missing before anything is trained.

    Raises:
        MissingPackageError: if the extra `sweep` is not installed.
    """
    for package in ("optuna", "matplotlib"):
        require_package(package, "A sweep", "sweep")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Take a trial for the time of a block.

    Yields:
        False if another process works on it.
    """
    file = path.with_name(f".{path.name}.lock")
    lock = take_lock(file)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            file.unlink(missing_ok=True)
            drop_lock(lock)


class Search:
    """The study of a search, in `study.db`.

    Args:
        out: its folder.
        space: what is tried.
        method: how Optuna proposes.
        rules: all else that decides what a trial's value means; a study has one.

    Raises:
        BadValueError: if the file holds another study, or none.
    """

    def __init__(
        self, out: Path, space: Space, method: Literal["tpe", "random"], rules: Mapping[str, Any]
    ) -> None:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        self._out, self._space, self._method = out, space, method
        self._file = out / "study.db"
        out.mkdir(parents=True, exist_ok=True)
        values = {d.key: asdict(d) for d in space.dimensions}
        stated = digest_of({**rules, "values": values})
        with self._alone():
            try:
                self._study = optuna.create_study(
                    storage=f"sqlite:///{self._file.absolute()}",
                    study_name="sweep",
                    direction="maximize",
                    load_if_exists=True,
                )
                stored = self._study.user_attrs.get("rules", stated)
                self._study.set_user_attr("rules", stored)
            except (SQLAlchemyError, KeyError, RuntimeError, ValueError) as err:
                raise BadValueError(
                    f"{str(self._file)!r} cannot be read as a study of Optuna: "
                    f"{' '.join(str(err).split())[:200]}. Delete it to search anew."
                ) from err
        if stored != stated:
            raise BadValueError(
                f"{str(out)!r} holds a search with another config, seeds, rows or values. Choose "
                "another --out, or delete this one."
            )

    def work(self, n_trials: int) -> Iterator[Trial]:
        """Yield trials that nobody works on, until the study has so many; each must be told.

        Those that a killed process has left come first. Nobody else gets a trial before the next
        one is asked for.
        """
        while True:
            with self._alone():
                found = self._take_over() or self._propose(n_trials)
            if found is None:
                return
            trial, lock = found
            try:
                yield trial
            finally:
                self._lock_file(trial.number).unlink(missing_ok=True)
                drop_lock(lock)

    def tell(self, trial: Trial, value: float) -> None:
        """Keep what came of a trial."""
        with self._alone():
            self._study.tell(trial.number, value)

    def finished(self) -> list[Trial]:
        """Return all trials that were told, in their order."""
        return [self._trial(frozen) for frozen in self._frozen("COMPLETE")]

    def n_unfinished(self) -> int:
        """Return how many trials were begun and not told."""
        return len(self._frozen("RUNNING"))

    def _alone(self) -> AbstractContextManager[None]:
        return sole_writer(self._file, "--out", waits=True)

    def _lock_file(self, number: int) -> Path:
        return self._out / f".trial-{number:04d}.lock"

    def _frozen(self, state: str) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._study.get_trials() if trial.state.name == state]

    def _trial(self, frozen: optuna.trial.FrozenTrial) -> Trial:
        point = {
            d.key: frozen.params[d.key]
            if isinstance(d.values, Range)
            else json.loads(frozen.params[d.key])
            for d in self._space.dimensions
        }
        return Trial(frozen.number, point)

    def _take_over(self) -> tuple[Trial, int] | None:
        import optuna

        for frozen in self._frozen("RUNNING"):
            if (lock := take_lock(self._lock_file(frozen.number))) is None:
                continue
            if set(frozen.params) == {d.key for d in self._space.dimensions}:
                return self._trial(frozen), lock
            # Killed between two values of its proposal.
            self._study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
            drop_lock(lock)
        return None

    def _propose(self, n_trials: int) -> tuple[Trial, int] | None:
        import optuna

        n_before = len(self._study.get_trials())
        if n_before - len(self._frozen("FAIL")) >= n_trials:
            return None
        # Anew each time: the same proposal follows on the same trials, in whichever process.
        self._study.sampler = (
            optuna.samplers.TPESampler(seed=n_before, constant_liar=True)
            if self._method == "tpe"
            else optuna.samplers.RandomSampler(seed=n_before)
        )
        asked = self._study.ask({d.key: _distribution(d) for d in self._space.dimensions})
        lock = take_lock(self._lock_file(asked.number))
        assert lock is not None  # the study is ours alone, and the trial is new
        frozen = next(t for t in self._study.get_trials() if t.number == asked.number)
        return self._trial(frozen), lock


def importances(
    space: Space, points: Sequence[Point], values: Sequence[float]
) -> dict[str, float] | None:
    """Return each key's share in the variance of the values, by functional analysis of variance.

    Source: Hutter, Hoos & Leyton-Brown, "An efficient approach for assessing hyperparameter
    importance", ICML 2014, as Optuna has it; its random forest has a fixed seed.

    Returns:
        Shares that sum to 1, the largest first; None for a single key, fewer than four points, or
        where all have the same value.
    """
    import optuna

    if len(space.dimensions) < 2 or len(points) < _MIN_POINTS or len(set(values)) < 2:
        return None
    study = optuna.create_study(direction="maximize")
    distributions = {d.key: _distribution(d) for d in space.dimensions}
    for point, value in zip(points, values, strict=True):
        params = {
            d.key: point[d.key] if isinstance(d.values, Range) else json.dumps(point[d.key])
            for d in space.dimensions
        }
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=value)
        )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distribution(dimension: Dimension) -> BaseDistribution:
    from optuna import distributions

    values = dimension.values
    if not isinstance(values, Range):
        return distributions.CategoricalDistribution([json.dumps(value) for value in values])
    if isinstance(values.low, int) and isinstance(values.high, int):
        return distributions.IntDistribution(values.low, values.high, log=values.log)
    return distributions.FloatDistribution(values.low, values.high, log=values.log)
