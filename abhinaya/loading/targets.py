"""What a loss compares with: class indices, or distributions over the classes.

Distributions are the votes of the annotators, and for training what `TargetsConfig` makes of them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.data.audio import utterance_rng
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import read_table
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError, list_some
from abhinaya.files import hash_file
from abhinaya.nn.classifier_config import ClassifierConfig
from abhinaya.nn.recipe.targets import AnnotationDropout, TargetsConfig

__all__ = [
    "SoftTargets",
    "hard_targets",
    "make_targets",
    "soft_targets",
    "soften",
    "table_digest",
]

_logger = logging.getLogger(__name__)


def hard_targets(rows: pd.DataFrame, emotions: EmotionSet) -> NDArray[np.int64]:
    """Return class indices, shape (U,); `ABSTAIN` where a label is missing or outside the set."""
    return emotions.encode(rows["label"])


def soft_targets(rows: pd.DataFrame, emotions: EmotionSet) -> NDArray[np.float32]:
    """Return the share of the votes of each class, shape (U, K), rows sum to one.

    Votes for O are left out. A row without votes for any class is one-hot if it has a label of the
    set, else NaN.
    """
    counts, _ = _count_votes(rows, emotions)
    totals = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts / np.where(totals > 0, totals, np.nan), dtype=np.float32)


def _count_votes(
    rows: pd.DataFrame, emotions: EmotionSet
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Count the votes for each class, (U, K), a label without any being one; and which have any."""
    n_classes = len(emotions)
    counts = np.zeros((len(rows), n_classes), dtype=np.float32)
    for idx, votes in enumerate(rows["votes"].tolist()):
        if votes is not None:
            counts[idx] = votes[:n_classes]
    is_voted = np.asarray(counts.any(axis=1))
    truth = hard_targets(rows, emotions)
    alone = np.flatnonzero(~is_voted & (truth != ABSTAIN))
    counts[alone, truth[alone]] = 1
    return counts, is_voted


@dataclass(frozen=True)
class SoftTargets:
    """The distribution that each of U training rows is compared with, epoch by epoch.

    Args:
        utterances: names of the rows.
        counts: votes for each class, or 1 for the label of a row without votes, shape (U, K); zeros
            where there is neither.
        is_voted: where `counts` are votes, shape (U,).
        taught: what a table predicts, shape (U, K); NaN where it does not.
        may_drop: classes whose votes may be dropped, shape (K,).
        config: how all this becomes one distribution.
        seed: of what is dropped.
        teacher_rows: utterances of the table that its own model was trained on.
    """

    utterances: NDArray[Any]
    counts: NDArray[np.float32]
    is_voted: NDArray[np.bool_]
    taught: NDArray[np.float32]
    may_drop: NDArray[np.bool_]
    config: TargetsConfig
    seed: int
    teacher_rows: frozenset[str] = frozenset()

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Return where there is a target at all, shape (U,)."""
        return np.asarray(self.counts.any(axis=1) | ~np.isnan(self.taught[:, 0]))

    def __getitem__(self, rows: Any) -> SoftTargets:
        """Return the targets of some rows, in their order."""
        per_row = ("utterances", "counts", "is_voted", "taught")
        return replace(self, **{key: getattr(self, key)[rows] for key in per_row})

    def __call__(self, idx: int, epoch: int | None) -> NDArray[np.float32]:
        """Return the distribution of a row in an epoch, shape (K,); None: nothing is dropped."""
        config = self.config
        counts: NDArray[Any] = self.counts[idx]
        taught: NDArray[np.float32] = self.taught[idx]
        if epoch is not None and self.is_voted[idx] and config.annotation_dropout is not None:
            # A stream of its own: the same crops with dropped votes and without.
            rng = utterance_rng(self.seed, epoch, f"votes of {self.utterances[idx]}")
            left = rng.binomial(counts.astype(np.int64), 1 - config.annotation_dropout.share)
            left = np.where(self.may_drop, left, counts)
            counts = left if left.any() else counts
        if not counts.any():
            return taught
        spread = config.label_smoothing
        own = (1 - spread) * counts / counts.sum() + spread / len(counts)
        is_taught = not np.isnan(taught[0])
        target = config.weight * taught + (1 - config.weight) * own if is_taught else own
        return np.asarray(target, dtype=np.float32)


def make_targets(config: ClassifierConfig, rows: pd.DataFrame, emotions: EmotionSet) -> SoftTargets:
    """Make the targets of training rows for a loss on distributions.

    Raises:
        BadValueError: if a switch would change nothing: no row has votes to drop, all classes are
            of one size so that none is a majority class, or the table knows no row.
        UnknownNameError: if votes of an unknown class are to be dropped.
        MissingFileError: if there is no such table.
        ClassOrderError: if it has other classes.
    """
    recipe = config.targets or TargetsConfig()
    selection = ", ".join(config.data.train)
    truth = hard_targets(rows, emotions)
    counts, is_voted = _count_votes(rows, emotions)
    outside = (truth == ABSTAIN) & is_voted
    if recipe.outside == "leave-out":
        counts[outside] = 0
    elif outside.any() and recipe.table is None:  # else the table may say more, and is counted
        _logger.info(
            "%s: %d of %d rows of %s have no label of the emotion set, and train on their votes",
            *(config.name, outside.sum(), len(rows), selection),
        )
    may_drop = np.zeros(len(emotions), dtype=bool)
    if recipe.annotation_dropout is not None:
        if not (is_voted & counts.any(axis=1)).any():
            raise BadValueError(
                f"No row of {selection!r} has votes of annotators, so targets.annotation_dropout "
                "has nothing to drop. Remove it, or prepare the corpus with its votes."
            )
        may_drop = _droppable(recipe.annotation_dropout, truth, emotions)
        dropped = [code for code, is_it in zip(emotions.codes, may_drop, strict=True) if is_it]
        _logger.info(
            "%s: a share of %g of the votes for %s is dropped in each epoch",
            *(config.name, recipe.annotation_dropout.share, " ".join(dropped)),
        )
    names = rows["utterance"].to_numpy()
    taught, teacher_rows = np.full(counts.shape, np.nan, dtype=np.float32), frozenset[str]()
    if recipe.table is not None:
        taught, teacher_rows = _read_teacher(recipe.table, recipe.temperature, names, emotions)
        is_taught = ~np.isnan(taught[:, 0])
        if not is_taught.any():
            raise BadValueError(
                f"targets.table {str(recipe.table)!r} predicts none of the {len(rows)} rows of "
                f"{selection!r}, such as {list_some(names)}. Predict that selection with the "
                "teacher, or name another table."
            )
        _logger.info(
            "%s: targets.table predicts %d of %d rows of %s (its own model was trained on %d of "
            "them); %d more have votes or a label, %d neither",
            *(config.name, is_taught.sum(), len(rows), selection),
            sum(name in teacher_rows for name in names[is_taught]),
            (~is_taught & counts.any(axis=1)).sum(),
            (~is_taught & ~counts.any(axis=1)).sum(),
        )
    return SoftTargets(names, counts, is_voted, taught, may_drop, recipe, config.seed, teacher_rows)


def _droppable(
    dropout: AnnotationDropout, truth: NDArray[np.int64], emotions: EmotionSet
) -> NDArray[np.bool_]:
    if dropout.classes is not None:
        for code in dropout.classes:
            if code not in emotions.codes:
                kind = "class in targets.annotation_dropout.classes"
                raise UnknownNameError(kind, code, emotions.codes)
        return np.isin(emotions.codes, dropout.classes)
    n_rows = np.bincount(truth[truth != ABSTAIN], minlength=len(emotions))
    is_majority: NDArray[np.bool_] = n_rows > np.median(n_rows)
    if not is_majority.any():
        raise BadValueError(
            "targets.annotation_dropout names no classes, and none of data.train has more labelled "
            f"rows than the median class: {n_rows.tolist()}. Set classes to those whose votes "
            f"shall be dropped, out of {' '.join(emotions.codes)}."
        )
    return is_majority


def _read_teacher(
    path: Path, temperature: float, names: NDArray[Any], emotions: EmotionSet
) -> tuple[NDArray[np.float32], frozenset[str]]:
    """Read what a table predicts for rows, (U, K), NaN where nothing; and whom it was made from."""
    _require_table(path)
    table = read_table(path, emotions=emotions)
    probs = np.full((len(table), len(emotions)), np.nan, dtype=np.float32)
    if table.probs is not None:
        probs[:] = soften(table.probs, temperature)
    only_labelled = np.flatnonzero(~table.has_probs & (table.labels != ABSTAIN))
    probs[only_labelled] = np.eye(len(emotions), dtype=np.float32)[table.labels[only_labelled]]
    probs[table.labels == ABSTAIN] = np.nan
    found = find_rows(Texts(names), table.utterances)
    taught = np.where((found >= 0)[:, None], probs[found], np.float32(np.nan))
    if table.trained_on is None:
        return taught, frozenset()
    return taught, frozenset(np.asarray(table.utterances)[table.trained_on].tolist())


def soften(probs: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Return p ** (1 / temperature), scaled so that each row sums to one; NaN rows stay.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531:
    for a softmax it is the one of the logits divided by the temperature.

    Args:
        probs: shape (U, K), rows sum to one.
        temperature: above 0.

    Example:
        >>> [round(float(share), 4) for share in soften(np.array([[0.64, 0.36]]), 2.0)[0]]
        [0.5714, 0.4286]
    """
    # By the largest first, or a low temperature would leave nothing but zeros.
    powers = (probs / probs.max(axis=1, keepdims=True)).astype(np.float64) ** (1 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def table_digest(path: Path) -> str:
    """Hash the content of `targets.table`.

    Raises:
        MissingFileError: if there is no such file.
    """
    _require_table(path)
    return hash_file(path)


def _require_table(path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(
            f"There is no table {str(path)!r}, which targets.table names. Predict data.train with "
            "the teacher, or correct the path: it is looked up from the config's folder, then from "
            "the working directory."
        )
