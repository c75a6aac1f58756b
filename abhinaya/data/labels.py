"""Emotion sets: the only home of class order.

Every file that stores class-indexed numbers stores its emotion set too. Two sets agree when their
codes agree, in order; a mismatch is a `ClassOrderError`, never a silent permutation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadValueError, ClassOrderError, list_some
from abhinaya.files import read_text

__all__ = ["ABSTAIN", "MSP_PODCAST", "OTHER", "EmotionSet", "emotions_beside"]

ABSTAIN = -1
"""Class index that stands for "no label"."""

OTHER = "O"
"""Code under which annotator votes for anything outside the set are counted."""


@dataclass(frozen=True)
class EmotionSet:
    """Classes in a fixed order.

    Args:
        codes: what data files call the classes, letters or words; position is the class index.
        names: readable name of each class, same order.
        outside: labels that data may carry but that are never predicted.
    """

    codes: tuple[str, ...]
    names: tuple[str, ...]
    outside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        every = [*self.codes, *self.outside]
        if len(self.codes) < 2:
            raise BadValueError(f"An emotion set needs at least two classes, got {self.codes!r}.")
        if len(self.names) != len(self.codes):
            raise BadValueError(
                f"An emotion set needs one name per class, got {len(self.names)} names "
                f"for {len(self.codes)} codes."
            )
        if len(set(every)) != len(every) or not all(code.strip() == code != "" for code in every):
            raise BadValueError(
                f"The codes of an emotion set must be unique and without blanks around them, "
                f"got {every!r}."
            )

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def data_labels(self) -> tuple[str, ...]:
        """Return every label that data may carry: the classes, then those outside."""
        return self.codes + self.outside

    @property
    def vote_codes(self) -> tuple[str, ...]:
        """Return the columns of annotator vote counts: the classes, then O."""
        return (*self.codes, OTHER)

    def encode(self, labels: Iterable[str | None]) -> NDArray[np.int64]:
        """Return class indices of labels; None and labels outside the set become `ABSTAIN`.

        Raises:
            BadValueError: if a label is neither a class, nor outside, nor None.
        """
        from abhinaya.data.texts import Texts  # Arrow: who only looks at classes waits for nothing

        if isinstance(labels, Texts):
            numbers, found = labels.factorize()
            return self.encode(found)[numbers]
        index = {code: idx for idx, code in enumerate(self.codes)}
        index.update(dict.fromkeys(self.outside, ABSTAIN))
        values = [label if isinstance(label, str) else None for label in labels]
        unknown = sorted({label for label in values if label is not None and label not in index})
        if unknown:
            raise BadValueError(
                f"Unknown label {list_some(unknown)}; the set has {' '.join(self.data_labels)}."
            )
        return np.array(
            [ABSTAIN if label is None else index[label] for label in values], dtype=np.int64
        )

    def decode(self, indices: Iterable[int]) -> list[str | None]:
        """Return labels of class indices, None for `ABSTAIN`."""
        codes = np.array([*self.codes, None], dtype=object)
        labels: list[str | None] = codes[np.fromiter(indices, dtype=np.int64)].tolist()
        return labels

    def require_same_order(self, other: EmotionSet, *, what: str, where: str) -> None:
        """Refuse another set than this one.

        Args:
            other: the set at hand.
            what: the file that `other` was read from.
            where: what this set comes from.

        Raises:
            ClassOrderError: if the class codes differ in content or order.
        """
        if self.codes != other.codes:
            raise ClassOrderError(what, other.codes, self.codes, where)

    def to_json(self) -> str:
        """Return the set as one line of JSON."""
        return json.dumps(
            {"codes": self.codes, "names": self.names, "outside": self.outside}, ensure_ascii=False
        )

    @classmethod
    def from_json(cls, text: str, *, where: str = "The text") -> EmotionSet:
        """Return the set written by `to_json`.

        Args:
            text: JSON with `codes` and, where they differ, `names` and `outside`.
            where: how error messages call the text.

        Raises:
            BadValueError: if the text is not such JSON, or see the class.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            lists = fields["codes"], fields.get("names") or (), fields.get("outside", ())
            if not all(isinstance(code, str) for codes in lists for code in codes):
                raise TypeError(lists)
        except (RecursionError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise BadValueError(
                f"{where} is not an emotion set, expected JSON such as "
                '{"codes": ["anger", "neutral"]}.'
            ) from err
        return cls.from_codes(*lists)

    @classmethod
    def from_codes(
        cls, codes: Sequence[str], names: Sequence[str] | None = None, outside: Sequence[str] = ()
    ) -> EmotionSet:
        """Return a set from plain lists; names default to the codes."""
        return cls(tuple(codes), tuple(names or codes), tuple(outside))


MSP_PODCAST = EmotionSet(
    codes=tuple("ACDFHNSU"),
    names=("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
    outside=("O", "X"),
)
"""The eight classes of MSP-Podcast; O is "other", X is "no agreement"."""


def emotions_beside(path: Path) -> EmotionSet:
    """Return the set in `emotions.json` beside a file; without one, MSP-Podcast's."""
    file = path.parent / "emotions.json"
    if not file.is_file():
        return MSP_PODCAST
    return EmotionSet.from_json(read_text(file), where=str(file))
