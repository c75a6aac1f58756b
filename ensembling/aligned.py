"""Prediction tables as aligned arrays: what every rule that works on numbers starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.texts import Texts
from abhinaya.errors import BadValueError

if TYPE_CHECKING:
    from abhinaya.data.predictions import PredictionTable

__all__ = ["AlignedTables", "align_predictions"]


@dataclass(frozen=True, eq=False)
class AlignedTables:
    """What M members say about the same U utterances.

    Args:
        names: the members' names, length M.
        emotions: the K classes and their order.
        utterances: U file names.
        labels: class index of each member, shape (M, U); `ABSTAIN` where it has no opinion.
        probs: class probabilities, shape (M, U, K); NaN rows where a member gave none.
        metas: the tables' metadata (`absorbed_prior`, `head`, ...), length M.
        embeddings: per member the input of its head's last linear layer, shape (U, D), with NaN
            rows where there is none; None for a member without any.
        trained_on: True where any member was trained on the utterance, shape (U,); None where that
            is known of none.
        attributes: mean arousal, valence and dominance over the members that predict them, shape
            (U, 3), NaN where none does; None where none predicts any.
    """

    names: tuple[str, ...]
    emotions: EmotionSet
    utterances: Sequence[str]
    labels: NDArray[np.int64]
    probs: NDArray[np.float64]
    metas: tuple[Mapping[str, Any], ...]
    embeddings: tuple[NDArray[np.floating[Any]] | None, ...]
    trained_on: NDArray[np.bool_] | None = None
    attributes: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def has_voted(self) -> NDArray[np.bool_]:
        """Return True where a member gave a label, shape (M, U)."""
        return np.asarray(self.labels != ABSTAIN)

    @property
    def has_probs(self) -> NDArray[np.bool_]:
        """Return True where a member gave probabilities, shape (M, U)."""
        return np.asarray(~np.isnan(self.probs).any(axis=2))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> AlignedTables:
        """Take the utterances at `indices`, in that order."""
        idx = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            utterances=Texts(self.utterances).take(idx),
            labels=self.labels[:, idx],
            probs=self.probs[:, idx],
            embeddings=tuple(None if e is None else e[idx] for e in self.embeddings),
            trained_on=None if self.trained_on is None else self.trained_on[idx],
            attributes=None if self.attributes is None else self.attributes[idx],
        )

    def with_probs(self, probs: NDArray[np.float64]) -> AlignedTables:
        """Give the same members other probabilities, shape (M, U, K)."""
        return replace(self, probs=probs)

    def members(self, indices: Sequence[int] | NDArray[np.int64]) -> AlignedTables:
        """Take the members at `indices`, in that order."""
        idx = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            names=tuple(self.names[i] for i in idx),
            labels=self.labels[idx],
            probs=self.probs[idx],
            metas=tuple(self.metas[i] for i in idx),
            embeddings=tuple(self.embeddings[i] for i in idx),
        )


def align_predictions(
    tables: Sequence[PredictionTable],
    *,
    rows: str = "same",
    dtype: type[np.floating[Any]] = np.float64,
) -> AlignedTables:
    """Turn tables into arrays, with the utterances in the order of the first table.

    Args:
        tables: M tables of one emotion set, under different names.
        rows: `same` demands that all cover the same utterances; `intersection` keeps those in all.
        dtype: of the probabilities; tables have float32, which takes half the memory.

    Raises:
        BadValueError: if there are no tables, two have one name, or they cover different utterances
            or share none.
        ClassOrderError: if the tables differ in class order.
    """
    from abhinaya.data.predictions import align_tables

    if not tables:
        raise BadValueError("No tables were given. Name at least one prediction table.")
    names = tuple(table.name for table in tables)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadValueError(
            f"Two tables are named {twice[0]!r}. Rename one with NAME=TABLE on the command line."
        )
    emotions = tables[0].emotions
    for table in tables[1:]:
        emotions.require_same_order(
            table.emotions, what=f"Table {table.name!r}", where=f"table {names[0]!r}"
        )
    aligned = align_tables(tables, rows=rows)
    n_utts, n_classes = len(aligned[0]), len(emotions)
    # A view of one number while no table has any.
    probs = np.broadcast_to(dtype(np.nan), (len(aligned), n_utts, n_classes))
    if any(table.probs is not None for table in aligned):
        probs = np.empty(probs.shape, dtype=dtype)
        for idx, table in enumerate(aligned):
            probs[idx] = np.nan if table.probs is None else table.probs
    marks = [table.trained_on for table in aligned if table.trained_on is not None]
    return AlignedTables(
        names=names,
        emotions=emotions,
        utterances=aligned[0].utterances,
        labels=np.stack([table.labels for table in aligned]),
        probs=probs,
        metas=tuple(table.meta for table in aligned),
        embeddings=tuple(table.embeddings for table in aligned),
        trained_on=np.logical_or.reduce(marks) if marks else None,
        attributes=_mean_attributes([t.attributes for t in aligned if t.attributes is not None]),
    )


def _mean_attributes(every: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    if not every:
        return None
    values = np.stack(every)
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    totals = np.where(known, values, 0).sum(axis=0, dtype=np.float64)
    means = np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)
    return np.asarray(means, dtype=np.float32)
