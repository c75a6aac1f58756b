"""Labelled examples for few-shot prompts, never out of the asked utterance's own surroundings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import PositiveInt, field_validator

from abhinaya.config import Config, Selection
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.manifest import Manifest
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import BadValueError

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["Example", "ExamplePool", "ExamplesConfig"]

# Similarities that differ by less are equal: they come from sums of rounded numbers.
_DECIMALS = 9


class ExamplesConfig(Config):
    """Which labelled utterances a few-shot prompt shows."""

    per_class: PositiveInt = 1
    """How many of each class."""
    select: Selection = ("train",)
    """Rows to draw from."""
    source: str = HUMAN
    """Source of their transcripts."""
    by: Literal["balanced", "tfidf"] = "balanced"
    """`balanced` draws at random and shows everybody the same; `tfidf` takes the nearest ones of
    each class, by the words of the asked transcript."""

    @field_validator("select", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


@dataclass(frozen=True)
class Example:
    """A labelled utterance.

    Args:
        utterance: the manifest's name of it.
        text: its transcript, not empty.
        label: class index.
    """

    utterance: str
    text: str
    label: int


class ExamplePool:
    """Examples to show with an utterance: as many of each class.

    What has the asked utterance's name, speaker or recording is never shown with it, so that no
    answer is given away, as far as the manifest knows speakers and recordings.

    Rows without a label of the emotion set or without a transcript are left out. The draw depends
    on the seed and on names only: rows that come or go change no more than their own place in it.

    Args:
        manifest: where the examples are.
        transcripts: text by utterance, of the source that the settings name.
        settings: how many, from where and how.
        seed: of the draw, and of what is equally near.

    Raises:
        UnknownNameError: if there is no such selection.
        BadValueError: if it has no rows.
    """

    def __init__(
        self,
        manifest: Manifest,
        transcripts: Mapping[str, str | None],
        settings: ExamplesConfig,
        seed: int,
    ) -> None:
        self._settings = settings
        self._emotions = manifest.emotions
        rows = manifest.select(settings.select)
        labels = manifest.emotions.encode(rows["label"])
        found = []
        for utterance, label in zip(rows["utterance"], labels, strict=True):
            text = " ".join((transcripts.get(utterance) or "").split())
            if label != ABSTAIN and text:
                found.append(Example(utterance, text, int(label)))
        found.sort(key=lambda example: _draw(seed, example.utterance))
        self._examples = found
        self._labels = np.array([example.label for example in found], dtype=np.int64)
        self._sources = _sources(manifest.rows)
        self._sharing: dict[str, list[int]] = {}
        for idx, example in enumerate(found):
            for key in self._sources[example.utterance]:
                self._sharing.setdefault(key, []).append(idx)

    def check(self, utterances: Sequence[str]) -> None:
        """Refuse what `pick` could not do for one of these utterances.

        Raises:
            BadValueError: if a class has too few examples.
        """
        n_classes, wanted = len(self._emotions), self._settings.per_class
        counts = np.bincount(self._labels, minlength=n_classes)
        for utterance in utterances:
            barred = self._barred(utterance)
            left = counts - np.bincount(self._labels[barred], minlength=n_classes)
            if left.min() >= wanted:
                continue
            label = int(left.argmin())
            raise BadValueError(
                f"{wanted} of each class are to be shown as examples, but of "
                f"{self._emotions.names[label]!r} there are {left[label]} with a transcript of the "
                f"source {self._settings.source!r} in {', '.join(self._settings.select)!r} that "
                f"{utterance!r} shares neither speaker nor recording with (of {counts[label]} in "
                "all). Set filling.examples.per_class lower, or filling.examples.select to more "
                "rows."
            )

    def pick(self, utterance: str, text: str) -> list[Example]:
        """Return examples for one utterance, in the order in which they are shown.

        Balanced ones come in the order of the draw, which is the same for everybody; where one of
        them may not be shown, the next one of its class stands at the end of the draw. Near ones
        come with the nearest last, next to the question.

        Args:
            utterance: the asked one.
            text: its transcript, for the nearest.
        """
        allowed = np.ones(len(self._examples), dtype=bool)
        allowed[self._barred(utterance)] = False
        wanted = self._settings.per_class
        if self._settings.by == "balanced":
            near = np.zeros(len(self._examples))
        else:
            near = self._similarities(text)
        order = np.flatnonzero(allowed)
        # Stable, so that what is equally near stays in the order of the draw.
        order = order[np.argsort(-near[order], kind="stable")]
        chosen = [
            idx
            for label in range(len(self._emotions))
            for idx in order[self._labels[order] == label][:wanted]
        ]
        chosen.sort(key=lambda idx: (near[idx], int(idx)))
        return [self._examples[idx] for idx in chosen]

    def _barred(self, utterance: str) -> list[int]:
        keys = self._sources.get(utterance, (f"utterance {utterance}",))
        return sorted({idx for key in keys for idx in self._sharing.get(key, ())})

    def _similarities(self, text: str) -> NDArray[np.float64]:
        vectorizer, known = self._vectors
        if vectorizer is None:
            return np.zeros(len(self._examples))
        query = vectorizer.transform([text])
        cosines: NDArray[np.float64] = (known @ query.T).toarray()[:, 0]
        return np.round(cosines, _DECIMALS)

    @cached_property
    def _vectors(self) -> tuple[TfidfVectorizer | None, csr_matrix | None]:
        """Unit vectors of all examples, so that products are cosines."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        # One-letter words count too: "I" and "a" are frequent, which idf sees to.
        vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b")
        try:
            return vectorizer, vectorizer.fit_transform([e.text for e in self._examples])
        except ValueError:  # no text has a word, so nothing is near
            return None, None


def _draw(seed: int, utterance: str) -> str:
    return hashlib.sha256(f"{seed}/{utterance}".encode()).hexdigest()


def _sources(rows: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Find by utterance what it may share with others: itself, its speaker and its recording."""
    kin = {}
    columns = rows[["utterance", "speaker", "recording"]].itertuples(index=False)
    for utterance, speaker, recording in columns:
        keys = [f"utterance {utterance}"]
        keys += [f"speaker {speaker}"] if pd.notna(speaker) else []
        keys += [f"recording {recording}"] if pd.notna(recording) else []
        kin[utterance] = tuple(keys)
    return kin
