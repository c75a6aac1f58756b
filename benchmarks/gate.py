"""What the gate of speaker adaptation gains and loses on speakers that it was not fitted on.

Voices are simulated, since only then is there a second set of speakers of the same kind for every
decision. Prints Markdown; docs/results/adaptation-gate.md is its output. Some minutes a draw:

    python benchmarks/gate.py [--draws 10]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from abhinaya.data.labels import EmotionSet
from abhinaya.data.predictions import PredictionTable
from ensembling.aligned import align_predictions
from ensembling.learned.adaptation import ADAPTATION
from ensembling.speakers.pseudo_tests import draw_pseudo_test
from ensembling.speakers.rows import speaker_rows
from ensembling.speakers.variants import NONE, adapt
from ensembling.voting.soft_votes import softmax

EMOTIONS = EmotionSet.from_codes("ACDFHNS")
K, WIDTH, N_SENTENCES, N_CLIPS = 7, 24, 10, 50
NATURAL_SHARES = np.array([0.10, 0.04, 0.04, 0.04, 0.25, 0.43, 0.10])
N_SPEAKERS = (6, 10, 24)
"""Labelled speakers that the gate is fitted on."""


@dataclass(frozen=True)
class Kind:
    """A kind of corpus: how far embeddings move with what, beside the emotion.

    Args:
        voice: with the speaker: what adaptation removes.
        style: with the speaker and the emotion.
        sentence: with the sentence: what clusters mistake for emotions.
        noise: with the clip.
        natural: whether a speaker shows few emotions, most of them neutral, instead of all evenly.
    """

    voice: float
    style: float
    sentence: float
    noise: float
    natural: bool = False


KINDS = {
    "acted, voices differ": Kind(0.6, 0.3, 0.3, 0.5),
    "acted, voices alike": Kind(0.0, 0.3, 0.3, 0.6),
    "acted, sentences differ": Kind(0.3, 0.3, 0.9, 0.5),
    "natural, voices differ": Kind(0.6, 0.3, 0.3, 0.6, natural=True),
    "natural, voices alike": Kind(0.1, 0.5, 0.3, 0.7, natural=True),
    "natural, sentences differ": Kind(0.3, 0.3, 0.9, 0.6, natural=True),
}
"""The sizes of acted corpora are about those of RAVDESS and EmoDB: 50 clips of each speaker."""

Set = tuple[NDArray[np.float64], NDArray[np.int64], list[str]]


class Corpus:
    """One corpus: emotions and sentences that sound alike for everybody, and speakers of it."""

    def __init__(self, kind: Kind, rng: np.random.Generator) -> None:
        self.kind, self.rng = kind, rng
        self.emotions = rng.normal(size=(K, WIDTH)) * 0.55
        self.sentences = rng.normal(size=(N_SENTENCES, WIDTH)) * kind.sentence

    def draw(self, n_speakers: int, *, natural: bool) -> Set:
        """Draw embeddings (N, D), classes (N,) and speakers of so many new voices."""
        rng, kind, n_rows = self.rng, self.kind, n_speakers * N_CLIPS
        speaker = np.repeat(np.arange(n_speakers), N_CLIPS)
        truth = rng.permutation(np.resize(np.arange(K), n_rows))
        if natural:
            shares = rng.dirichlet(8 * NATURAL_SHARES, size=n_speakers)
            truth = np.concatenate([rng.choice(K, N_CLIPS, p=own) for own in shares])
        moved = self.emotions[truth] + self.sentences[rng.integers(N_SENTENCES, size=n_rows)]
        moved += rng.normal(size=(n_speakers, WIDTH))[speaker] * kind.voice
        moved += rng.normal(size=(n_speakers, K, WIDTH))[speaker, truth] * kind.style
        moved += rng.normal(size=(n_rows, WIDTH)) * kind.noise
        return moved, truth, [f"s{number}" for number in speaker]


def table_of(embeddings: NDArray[np.float64], head: LogisticRegression) -> PredictionTable:
    """Return what a member with that head says of the embeddings."""
    probs = softmax(embeddings @ head.coef_.T + head.intercept_)
    return PredictionTable(
        "m",
        EMOTIONS,
        tuple(f"u{number:05d}" for number in range(len(embeddings))),
        probs.argmax(axis=1),
        probs=probs.astype(np.float32),
        embeddings=embeddings.astype(np.float32),
        meta={"head": {"weight": head.coef_.tolist(), "bias": head.intercept_.tolist()}},
    )


def corrected(found: dict[str, Any]) -> str:
    """Return what a gate decides that wants an interval, corrected for all tried, above zero."""
    candidates, df = found["candidates"], found["pseudo_tests"]["speakers_in_all"] + 1
    wider = t.ppf(1 - 0.025 / len(candidates), df) / t.ppf(0.975, df)
    sure = {
        name: one["gain"]
        for name, one in candidates.items()
        if one["gain"] - wider * (one["interval"][1] - one["gain"]) > 0
    }
    return max(sure, key=lambda name: sure[name]) if sure else NONE


def decide(kind: Kind, n_speakers: int, seed: list[int]) -> dict[str, float]:
    """Fit the gate on some speakers; return what each decision gains on sixty others."""
    corpus = Corpus(kind, np.random.default_rng(seed))
    embeddings, truth, _ = corpus.draw(8, natural=False)
    head = LogisticRegression(C=0.1, max_iter=200).fit(embeddings, truth)
    embeddings, truth, speakers = corpus.draw(n_speakers, natural=kind.natural)
    options = {"pseudo_tests": 8, "resamples": 300, "jobs": 1}
    aligned = align_predictions([table_of(embeddings, head)])
    found = ADAPTATION.fit(aligned, truth, speakers, options)

    embeddings, truth, speakers = corpus.draw(60, natural=kind.natural)
    rows = speaker_rows(align_predictions([table_of(embeddings, head)]), speakers)
    test = draw_pseudo_test(truth, speakers, seed=5).indices
    rows, truth = rows.take(test), truth[test]
    macro_f1 = {
        name: f1_score(truth, adapt(rows, name).labels, average="macro")
        for name in (NONE, *found["candidates"])
    }
    chosen = {
        "none": NONE,
        "interval, corrected": corrected(found),
        "**the gate**": found["variant"],
        "largest gain": max(
            found["candidates"], key=lambda name: found["candidates"][name]["gain"]
        ),
        "always standardise": "standardise",
        "best in hindsight": max(macro_f1, key=lambda name: macro_f1[name]),
    }
    return {rule: macro_f1[name] - macro_f1[NONE] for rule, name in chosen.items()} | {
        "none": macro_f1[NONE]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10)
    n_draws = parser.parse_args().draws
    gains: dict[tuple[str, int], dict[str, list[float]]] = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        for n_speakers in N_SPEAKERS:
            own = gains[name, n_speakers] = defaultdict(list)
            for draw in range(n_draws):
                for rule, gain in decide(kind, n_speakers, [draw, number, n_speakers]).items():
                    own[rule].append(gain)
    rules = list(next(iter(gains.values())))
    print(f"| corpus | speakers | {' | '.join(rules)} |")
    print(f"|---|---|{'---|' * len(rules)}")
    for (name, n_speakers), own in gains.items():
        cells = [f"{100 * np.mean(own['none']):.1f}"]
        cells += [f"{100 * np.mean(own[rule]):+.1f}" for rule in rules[1:]]
        print(f"| {name} | {n_speakers} | {' | '.join(cells)} |")
    for title, pick in (("mean of all", np.mean), ("worst line", np.min)):
        means = [pick([np.mean(own[rule]) for own in gains.values()]) for rule in rules[1:]]
        print(f"| {title} | | | {' | '.join(f'{100 * value:+.2f}' for value in means)} |")
    single = [min(min(own[rule]) for own in gains.values()) for rule in rules[1:]]
    print(f"| worst of all draws | | | {' | '.join(f'{100 * value:+.1f}' for value in single)} |")


if __name__ == "__main__":
    main()
