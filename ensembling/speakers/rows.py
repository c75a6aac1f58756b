"""What speaker adaptation starts from: one table's arrays, and the speaker of each row."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.data.texts import Texts
from abhinaya.errors import BadShapeError, BadValueError, UnknownNameError
from ensembling.aligned import AlignedTables

__all__ = [
    "ABSTAINED",
    "ADAPTED",
    "ALONE",
    "NO_SPEAKER",
    "NO_VECTOR",
    "Adapted",
    "Head",
    "SpeakerRows",
    "group_speakers",
    "keep_all",
    "read_head",
    "require_min_utts",
    "speaker_rows",
    "speaker_seed",
]

FloatArray = NDArray[np.float64]

ADAPTED = "adapted"
"""Status of a row that went through the adaptation, whether its label changed or not."""

ALONE = "too few utterances of the speaker"
"""Status of a row that was kept: there is nothing to compare it with."""

NO_SPEAKER = "speaker unknown"
"""Status of a row that was kept: unknown speakers are never one shared speaker."""

ABSTAINED = "abstained"
"""Status of a row that was kept: an abstention stays one."""

NO_VECTOR = "no embedding or probabilities"
"""Status of a row that was kept: it lacks the numbers that the adaptation works on."""


@dataclass(frozen=True, eq=False)
class Head:
    """The last linear layer of a member's head.

    Args:
        weight: shape (K, D).
        bias: shape (K,).
    """

    weight: FloatArray
    bias: FloatArray

    def logits(self, embeddings: NDArray[np.floating[Any]]) -> FloatArray:
        """Compute logits of embeddings, shapes (..., D) -> (..., K)."""
        return np.asarray(embeddings @ self.weight.T + self.bias, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class SpeakerRows:
    """One table as arrays, with the speaker of each row.

    Args:
        name: the table's name.
        utterances: U file names.
        speakers: U names, None where unknown.
        labels: class indices, shape (U,); `ABSTAIN` where there is none.
        n_classes: K.
        probs: class probabilities, shape (U, K), with NaN rows where there are none; None for a
            table without any.
        embeddings: shape (U, D), NaN rows where there are none; None without any.
        head: the layer that the embeddings are the input of; None where the table has none.
        has_own_embeddings: false where the embeddings (and the head) are another table's.
        absorbed_prior: whether the member's loss has freed its logits from the class prior.
    """

    name: str
    utterances: Sequence[str]
    speakers: Sequence[str | None]
    labels: NDArray[np.int64]
    n_classes: int
    probs: FloatArray | None = None
    embeddings: FloatArray | None = None
    head: Head | None = None
    has_own_embeddings: bool = True
    absorbed_prior: bool = False

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def has_probs(self) -> NDArray[np.bool_]:
        """Return True where a row has probabilities, shape (U,)."""
        if self.probs is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(~np.isnan(self.probs).any(axis=1))

    @property
    def has_embedding(self) -> NDArray[np.bool_]:
        """Return True where a row has an embedding, shape (U,)."""
        if self.embeddings is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(~np.isnan(self.embeddings).any(axis=1))

    @property
    def by_utterance(self) -> NDArray[np.int64]:
        """Return the indices of the rows in the order of their names, shape (U,)."""
        order = pc.sort_indices(Texts(self.utterances).arrow)
        return np.asarray(order, dtype=np.int64)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> SpeakerRows:
        """Take the rows at `indices`, in that order."""
        idx = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            utterances=Texts(self.utterances).take(idx),
            speakers=Texts(self.speakers).take(idx),
            labels=self.labels[idx],
            probs=None if self.probs is None else self.probs[idx],
            embeddings=None if self.embeddings is None else self.embeddings[idx],
        )

    def require_speakers(self) -> None:
        """Refuse rows of which no speaker is known.

        Raises:
            BadValueError: if there is none.
        """
        if Texts(self.speakers).arrow.null_count == len(self):
            raise BadValueError(
                f"No speaker is known of the {len(self)} utterances of table {self.name!r}, so "
                "there is nothing to adapt to. Give a manifest with speakers; where the corpus "
                "hides them, estimate them with: abhinaya speakers."
            )

    def require_probs(self, what: str) -> FloatArray:
        """Return the probabilities.

        Args:
            what: what needs them, for the message.

        Raises:
            BadValueError: if the table has none.
        """
        if self.probs is None or not self.has_probs.any():
            raise BadValueError(
                f"Table {self.name!r} has no probabilities, which {what} needs. Predict it as "
                "Parquet, or vote over several tables first: the shares of a vote are "
                "probabilities."
            )
        return self.probs

    def require_embeddings(self, what: str) -> FloatArray:
        """Return the embeddings.

        Args:
            what: what needs them, for the message.

        Raises:
            BadValueError: if the table has none.
        """
        if self.embeddings is None or not self.has_embedding.any():
            raise BadValueError(
                f"Table {self.name!r} has no embeddings, which {what} needs. Predict it again with "
                "--with embedding, name a table that has some with --embeddings TABLE, or work on "
                "the space 'probabilities'."
            )
        return self.embeddings

    def require_head(self, what: str) -> Head:
        """Return the head.

        Args:
            what: what needs it, for the message.

        Raises:
            BadValueError: if the table has none.
        """
        if self.head is None:
            raise BadValueError(
                f"Table {self.name!r} comes without the last layer of a head, which {what} needs. "
                "Predict it again with --with embedding, or work on the space 'probabilities'."
            )
        return self.head


@dataclass(frozen=True, eq=False)
class Adapted:
    """What an adaptation says.

    Args:
        labels: class indices, shape (U,).
        probs: class probabilities, shape (U, K), NaN rows where there are none; None without any.
        status: per row `ADAPTED`, or why it was kept.
    """

    labels: NDArray[np.int64]
    probs: FloatArray | None
    status: Sequence[str]


def speaker_rows(
    aligned: AlignedTables, speakers: Sequence[str | None], *, embeddings: str | None = None
) -> SpeakerRows:
    """Pick the rows of the one of the aligned tables that is to be adapted.

    Args:
        aligned: that table and, where another one lends its embeddings, that one too.
        speakers: U names, None where unknown.
        embeddings: name of the table that lends its embeddings.

    Raises:
        BadValueError: if there are other tables than these.
        UnknownNameError: if no table has the name `embeddings`.
        BadShapeError: if a head does not fit its embeddings.
    """
    if embeddings is not None and embeddings not in aligned.names:
        raise UnknownNameError("table for the embeddings", embeddings, aligned.names)
    own = [idx for idx, name in enumerate(aligned.names) if name != embeddings]
    # A table may name itself.
    main = own[0] if own else 0
    if len(own) > 1:
        raise BadValueError(
            f"Speakers are adapted to in one table, got {len(own)}: {', '.join(aligned.names)}. "
            "Vote first and give the vote's table, or name the table that only lends its "
            "embeddings."
        )
    lender = main if embeddings is None else aligned.names.index(embeddings)
    vectors = aligned.embeddings[lender]
    probs = aligned.probs[main]
    return SpeakerRows(
        name=aligned.names[main],
        utterances=aligned.utterances,
        speakers=Texts(speakers),
        labels=aligned.labels[main],
        n_classes=len(aligned.emotions),
        probs=None if np.isnan(probs).all() else probs,
        embeddings=None if vectors is None else vectors.astype(np.float64),
        head=None if vectors is None else read_head(aligned, lender),
        has_own_embeddings=lender == main,
        absorbed_prior=aligned.metas[main].get("absorbed_prior") is not None,
    )


def read_head(aligned: AlignedTables, idx: int) -> Head | None:
    """Read the head in the metadata of the table at `idx`; None if there is none.

    Raises:
        BadShapeError: if it does not fit the classes or the embeddings.
    """
    stored: Mapping[str, Any] | None = aligned.metas[idx].get("head")
    if stored is None:
        return None
    head = Head(
        np.array(stored["weight"], dtype=np.float64), np.array(stored["bias"], dtype=np.float64)
    )
    vectors = aligned.embeddings[idx]
    n_classes, width = len(aligned.emotions), None if vectors is None else vectors.shape[1]
    if head.weight.shape != (n_classes, width) or head.bias.shape != (n_classes,):
        raise BadShapeError(
            f"The head of table {aligned.names[idx]!r} has a weight of shape {head.weight.shape} "
            f"and a bias of shape {head.bias.shape}, expected ({n_classes}, {width}) and "
            f"({n_classes},) for its classes and embeddings. Predict the table again."
        )
    return head


def group_speakers(
    rows: SpeakerRows, is_usable: NDArray[np.bool_], min_utts: int
) -> tuple[list[tuple[str, NDArray[np.int64]]], list[str]]:
    """Group the utterances of each speaker who has enough of them.

    Args:
        rows: the table.
        is_usable: False where a row lacks the numbers that the adaptation needs, shape (U,).
        min_utts: usable utterances that a speaker must have.

    Returns:
        groups: name and row indices of each speaker, sorted by name and by utterance, so that
            nothing depends on the order of the table.
        status: per row `ADAPTED`, or why it has to be kept.
    """
    has_speaker = np.asarray(Texts(rows.speakers).arrow.is_valid())
    numbers, names = Texts(rows.speakers).factorize()
    takes_part = (rows.labels != ABSTAIN) & has_speaker & is_usable
    has_enough = np.bincount(numbers[takes_part], minlength=len(names)) >= min_utts
    is_adapted = takes_part & has_enough[numbers]
    reasons = np.array([ABSTAINED, NO_SPEAKER, NO_VECTOR, ALONE, ADAPTED], dtype=object)
    status = np.select(
        [rows.labels == ABSTAIN, ~has_speaker, ~is_usable, ~is_adapted], [0, 1, 2, 3], 4
    )
    # By name of the speaker, then of the utterance; both sorted as text, byte by byte.
    by_name = sorted(range(len(names)), key=lambda number: names[number] or "")
    place = np.empty(len(names), dtype=np.int64)
    place[by_name] = np.arange(len(names))
    rank = np.empty(len(rows), dtype=np.int64)
    rank[rows.by_utterance] = np.arange(len(rows))
    adapted = np.flatnonzero(is_adapted)
    ordered = adapted[np.lexsort((rank[adapted], place[numbers[adapted]]))]
    starts = np.flatnonzero(np.diff(numbers[ordered], prepend=-1))
    found = [names[number] or "" for number in numbers[ordered[starts]]]
    groups = list(zip(found, np.split(ordered, starts[1:]), strict=True)) if found else []
    return groups, reasons[status].tolist()


def keep_all(rows: SpeakerRows) -> tuple[NDArray[np.int64], FloatArray]:
    """Copy labels and probabilities to write adapted rows into; NaN where there are none."""
    if rows.probs is None:
        return rows.labels.copy(), np.full((len(rows), rows.n_classes), np.nan)
    return rows.labels.copy(), rows.probs.copy()


def require_min_utts(min_utts: int) -> None:
    """Refuse a smallest speaker that cannot be.

    Raises:
        BadValueError: if it is less than two.
    """
    if min_utts < 2:
        raise BadValueError(
            f"min_utts is {min_utts}, expected at least 2: one utterance has nothing to be "
            "compared with. Leave it at 2 to adapt to every speaker."
        )


def speaker_seed(speaker: str, seed: int) -> int:
    """Derive the speaker's own seed: it does not matter who else is in the table."""
    return zlib.crc32(f"{seed}:{speaker}".encode())
