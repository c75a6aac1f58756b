"""Which rows a probe learns from and is tested on: by speaker, by utterance, by shots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError, list_some

__all__ = ["N_FOLDS", "Rows", "Split", "SplitKind", "draw_shots", "make_splits", "split_speakers"]

IntArray = NDArray[np.int64]

SplitKind = Literal["speakers", "leave-one-out", "random"]
"""60/40 by speakers; each speaker left out once; ten random folds of utterances."""

N_FOLDS = 10
"""Of the random split: eight tenths train, one is left for choosing, one is tested."""

TRAIN_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class Rows:
    """Labelled rows of one corpus.

    Args:
        corpus: its name.
        classes: names of the classes.
        labels: class index, shape (N,).
        speakers: shape (N,).
        genders: shape (N,), "" where unknown.
    """

    corpus: str
    classes: tuple[str, ...]
    labels: IntArray
    speakers: NDArray[np.str_]
    genders: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to train on and to test on.

    Args:
        fold: its name: the speaker left out, or a number.
        train: rows.
        test: rows.
    """

    fold: str
    train: IntArray
    test: IntArray


def make_splits(rows: Rows, kind: SplitKind, seed: int) -> list[Split]:
    """Return the splits of one kind and seed; the test rows of several folds cover all rows.

    Raises:
        BadValueError: if there are too few speakers or rows, or a training part lacks a class.
    """
    if kind == "speakers":
        train, test = split_speakers(rows, seed)
        splits = [Split("0", train, test)]
    elif kind == "leave-one-out":
        _several_speakers(rows)
        splits = [
            Split(str(name), np.flatnonzero(is_not), np.flatnonzero(~is_not))
            for name in np.unique(rows.speakers)
            for is_not in [rows.speakers != name]
        ]
    else:
        if len(rows) < N_FOLDS:
            raise BadValueError(
                f"The corpus {rows.corpus!r} has {len(rows)} rows, too few for {N_FOLDS} folds. "
                "Leave the split 'random' out."
            )
        folds = np.random.default_rng(seed).permutation(len(rows)) % N_FOLDS
        splits = [
            # The next fold stays unused, as where it chooses the epoch (80/10/10).
            Split(
                str(fold),
                np.flatnonzero((folds != fold) & (folds != (fold + 1) % N_FOLDS)),
                np.flatnonzero(folds == fold),
            )
            for fold in range(N_FOLDS)
        ]
    for split in splits:
        _require_classes(
            rows, split.train, f"The training rows of {kind} {split.fold}, seed {seed}"
        )
    if kind == "speakers":
        _require_classes(rows, splits[0].test, f"The test rows of {kind}, seed {seed}")
    return splits


def split_speakers(rows: Rows, seed: int) -> tuple[IntArray, IntArray]:
    """Return the rows of 60 % of the speakers, and of the others; within genders, if all are known.

    Raises:
        BadValueError: if there is one speaker only.
    """
    _several_speakers(rows)
    rng = np.random.default_rng(seed)
    names, first = np.unique(rows.speakers, return_index=True)
    genders = rows.genders[first]
    if (genders == "").any():
        genders = np.full(len(names), "")
    train: list[str] = []
    for gender in np.unique(genders):
        same = names[genders == gender]
        n_train = min(max(round(TRAIN_SHARE * len(same)), 1), max(len(same) - 1, 1))
        train += rng.permutation(same)[:n_train].tolist()
    if len(train) == len(names):  # one of each gender
        train.pop()
    is_train = np.isin(rows.speakers, train)
    return np.flatnonzero(is_train), np.flatnonzero(~is_train)


def draw_shots(rows: Rows, n_shots: int, seed: int) -> IntArray:
    """Draw K examples: ceil(K / classes) per class, cut to K, filled up where one has fewer.

    Raises:
        BadValueError: if no row would be left to test on.
    """
    if n_shots >= len(rows):
        raise BadValueError(
            f"The corpus {rows.corpus!r} has {len(rows)} rows, too few for {n_shots} shots and a "
            "test. Lower transfer.shots."
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    per_class = -(-n_shots // len(rows.classes))
    by_class = [order[rows.labels[order] == k][:per_class] for k in range(len(rows.classes))]
    # By turns, so that where K is no multiple of the classes none has two fewer than another.
    chosen = [int(own[at]) for at in range(per_class) for own in by_class if at < len(own)]
    chosen = chosen[:n_shots]
    spare = [int(row) for row in order if row not in set(chosen)]
    return np.sort(np.array(chosen + spare[: n_shots - len(chosen)], dtype=np.int64))


def _several_speakers(rows: Rows) -> None:
    names = np.unique(rows.speakers)
    if len(names) < 2:
        raise BadValueError(
            f"The corpus {rows.corpus!r} has one speaker, {list_some(names.tolist())}: nothing can "
            "be tested on other speakers. Leave the corpus out, or use split=[random] for it."
        )


def _require_classes(rows: Rows, chosen: IntArray, what: str) -> None:
    absent = sorted(set(range(len(rows.classes))) - set(rows.labels[chosen].tolist()))
    if absent:
        raise BadValueError(
            f"{what}, of the corpus {rows.corpus!r} lack the class "
            f"{list_some([rows.classes[k] for k in absent])}. Leave the class out of `classes`, or "
            "choose other seeds or another split."
        )
