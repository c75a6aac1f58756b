from __future__ import annotations

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.data.predictions import PredictionTable
from ensembling.aligned import AlignedTables


@pytest.fixture
def make_corpus():
    """A function that draws members' tables, the truth and the speakers of a small corpus.

    Each member sees the true class through noise of its own strength, in float32 as on disk; some
    rows of the members named in `n_abstained` are abstentions.
    """

    def make(
        n_utts=60,
        n_classes=4,
        n_speakers=10,
        strengths=(2.0, 1.0, 0.5),
        n_abstained=0,
        label_only=(),
        seed=0,
        prefix="u",
    ):
        rng = np.random.default_rng(seed)
        emotions = EmotionSet.from_codes(tuple("ACDFHNSU"[:n_classes]))
        truth = rng.permutation(np.arange(n_utts) % n_classes)
        speakers = tuple(f"s{idx % n_speakers}" for idx in range(n_utts))
        utterances = tuple(f"{prefix}{idx:03d}" for idx in range(n_utts))
        tables = []
        for member, strength in enumerate(strengths):
            logits = rng.normal(size=(n_utts, n_classes))
            logits[np.arange(n_utts), truth] += strength
            probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            labels = probs.argmax(axis=1)
            silent = rng.permutation(n_utts)[:n_abstained]
            labels[silent], probs[silent] = ABSTAIN, np.nan
            name = f"m{member}"
            tables.append(
                PredictionTable(
                    name,
                    emotions,
                    utterances,
                    labels,
                    probs=None if name in label_only else probs.astype(np.float32),
                )
            )
        return tables, truth, speakers

    return make


@pytest.fixture
def aligned_of():
    """A function that aligns members' rows; a row is a list of probabilities, a class
    index (a label without probabilities) or None (an abstention)."""

    def make(*members, n_classes=3, metas=None):
        emotions = EmotionSet.from_codes(tuple("ACDFHNSU"[:n_classes]))
        n_utts = len(members[0])
        labels = np.full((len(members), n_utts), ABSTAIN, dtype=np.int64)
        probs = np.full((len(members), n_utts, n_classes), np.nan)
        for member, rows in enumerate(members):
            for utt, row in enumerate(rows):
                if isinstance(row, int):
                    labels[member, utt] = row
                elif row is not None:
                    probs[member, utt] = row
                    labels[member, utt] = int(np.argmax(row))
        return AlignedTables(
            names=tuple(f"m{member}" for member in range(len(members))),
            emotions=emotions,
            utterances=tuple(f"u{utt}" for utt in range(n_utts)),
            labels=labels,
            probs=probs,
            metas=tuple(metas or [{}] * len(members)),
            embeddings=(None,) * len(members),
        )

    return make
