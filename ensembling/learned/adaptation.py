"""The gate: which speaker adaptation to apply, or none, decided on validation data.

Every adaptation can hurt: clusters of generic embeddings follow the sentence instead of the
emotion, and one-to-one assignment is wrong for speakers with few clips. So each is rehearsed on
pseudo-test sets, and one is applied only if it is likely to gain on other speakers too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.labels import ABSTAIN
from abhinaya.errors import BadValueError
from abhinaya.evaluation.metrics import metric_of_counts
from ensembling.aligned import AlignedTables
from ensembling.learned.recipes import Fused, LearnedRule, read_options
from ensembling.speakers.expected_gain import (
    CONFIDENCE,
    ExpectedGain,
    expect_gain,
    moderate,
    read_priors,
)
from ensembling.speakers.pseudo_tests import CLIPS_PER_SPEAKER, PseudoTest, draw_pseudo_test
from ensembling.speakers.rows import SpeakerRows, speaker_rows
from ensembling.speakers.variants import NONE, VARIANTS, adapt, lacking_for, usable_variants

__all__ = ["ADAPTATION"]

# With fewer speakers in all, or in each pseudo-test, gains that chance has made alike look certain;
# and pseudo-tests with far fewer clips per speaker rehearse something else.
_MIN_SPEAKERS, _MIN_SPEAKERS_PER_TEST = 5, 3

# Fewer pseudo-tests times speakers than this are done before other processes have started.
_MIN_WORK_FOR_PROCESSES = 2_000


class _Adaptation:
    """The rule `adaptation`: one of `VARIANTS`, or none.

    Options: `clips_per_speaker` of the test; number of `pseudo_tests`; `variants`, names with
    commas between, by default the usual ones that the table has the numbers for; `embeddings`, the
    name of a second table that lends its embeddings; `prior_sd`, how far gains spread over corpora;
    `prior`, what other corpora say, as NAME:GAIN:SD with commas between; `certainty` from which on
    a gain is believed; `resamples` behind the intervals; `seed`; `jobs`, processes, -1 for one per
    core where there is enough work. Speakers are those of the column that the fit was given: where
    the test has estimated ones, fit on estimated ones.

    The score of a variant is its mean macro-F1 over the pseudo-tests, its gain that minus the same
    without adaptation. Speakers are resampled with all their clips, in all pseudo-tests at once
    and for all variants alike; the spread of the resampled gains, partly pooled over the variants
    and widened as Student's t is for so few speakers, is the gain's standard error s. Gains on
    other corpora are thought normal around m = 0 with standard deviation t = `prior_sd`, or as
    `prior` says for a variant; so what a gain is expected to be on other speakers is
    m + w (gain - m) with w = t^2 / (t^2 + s^2), give or take sqrt(w) s. Few speakers pull it
    towards m, which also pays for the luck of the best of several.
    Among the variants that gain with the wanted certainty, the one with the largest expected gain
    is applied; else none. Five speakers, three in each pseudo-test and half of the clips per
    speaker that were asked for are the least that can be told apart from chance.

    Source: the normal model with known variances of Gelman et al., "Bayesian Data Analysis", 3rd
    edition, section 2.5.
    """

    name = "adaptation"

    def fit(
        self,
        aligned: AlignedTables,
        truth: NDArray[np.int64],
        speakers: Sequence[str | None],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Choose a variant; return it, the reason in words, and the figures behind it.

        Raises:
            UnknownNameError: if an option, a variant or the lender of embeddings is unknown.
            BadValueError: if no speaker is known, there are too few for pseudo-tests, the table
                lacks what a variant needs, or an option is out of range.
        """
        settings = read_options(
            self.name,
            options,
            {
                "clips_per_speaker": CLIPS_PER_SPEAKER,
                "pseudo_tests": 20,
                "variants": "",
                "embeddings": "",
                "prior_sd": 0.1,
                "prior": "",
                "certainty": 0.9,
                "resamples": 2_000,
                "seed": 0,
                "jobs": -1,
            },
        )
        for key in ("pseudo_tests", "resamples"):
            if settings[key] < 1:
                raise BadValueError(
                    f"The option {key} of the rule 'adaptation' is {settings[key]}, expected at "
                    "least 1."
                )
        if not 0.5 <= settings["certainty"] < 1:
            raise BadValueError(
                f"The option certainty of the rule 'adaptation' is {settings['certainty']:g}, "
                "expected 0.5 (more likely than not) to below 1."
            )
        priors = read_priors(settings["prior"], settings["prior_sd"])
        lender = settings["embeddings"] or None
        rows = speaker_rows(aligned, speakers, embeddings=lender)
        rows.require_speakers()
        names, skipped = _candidates(rows, settings["variants"])
        tests = [
            draw_pseudo_test(
                truth,
                speakers,
                clips_per_speaker=settings["clips_per_speaker"],
                seed=settings["seed"] + number,
            )
            for number in range(settings["pseudo_tests"])
        ]
        _require_enough(rows, truth, tests, settings["clips_per_speaker"])
        counts = _count_all(rows, truth, tests, names, settings)
        macro_f1, intervals = _gains(
            counts, names, n_resamples=settings["resamples"], seed=settings["seed"]
        )
        shape = _Shape.of(tests, speakers, settings["clips_per_speaker"])
        expected = {
            name: expect_gain(macro_f1[name] - macro_f1[NONE], intervals[name], priors[name])
            for name in names
        }
        chosen, reason = _decide(macro_f1, intervals, expected, settings["certainty"], shape)
        return {
            "variant": chosen,
            "reason": reason,
            "macro_f1": macro_f1[NONE],
            "candidates": {
                name: {
                    "macro_f1": macro_f1[name],
                    "gain": macro_f1[name] - macro_f1[NONE],
                    "interval": list(intervals[name]),
                    "expected_gain": expected[name].gain,
                    "certainty": expected[name].certainty,
                }
                for name in names
            },
            "skipped": skipped,
            "pseudo_tests": {
                "n": len(tests),
                "utterances": shape.n_utts,
                "speakers": shape.n_speakers,
                "speakers_in_all": shape.n_heard,
                "clips_per_speaker": shape.clips_per_speaker,
            },
            "embeddings": lender,
            "seed": settings["seed"],
        }

    def apply(
        self, parameters: Mapping[str, Any], aligned: AlignedTables, speakers: Sequence[str | None]
    ) -> Fused:
        """Apply the chosen adaptation.

        Raises:
            BadValueError: if no speaker is known or the table lacks what the adaptation needs.
        """
        rows = speaker_rows(aligned, speakers, embeddings=parameters["embeddings"])
        adapted = adapt(rows, parameters["variant"], seed=parameters["seed"])
        return Fused(adapted.labels, adapted.probs)


ADAPTATION: LearnedRule = _Adaptation()
"""The rule that `abhinaya fit adaptation` fits."""


@dataclass(frozen=True)
class _Shape:
    """Means over the pseudo-tests, and the speakers in all of them."""

    n_tests: int
    n_utts: float
    n_speakers: float
    n_heard: int
    clips_per_speaker: float
    wanted: float

    @classmethod
    def of(
        cls, tests: Sequence[PseudoTest], speakers: Sequence[str | None], wanted: float
    ) -> _Shape:
        return cls(
            len(tests),
            float(np.mean([len(test.indices) for test in tests])),
            float(np.mean([test.n_speakers for test in tests])),
            len({speakers[idx] for test in tests for idx in test.indices.tolist()}),
            float(np.mean([test.clips_per_speaker for test in tests])),
            wanted,
        )

    @property
    def tells_enough(self) -> bool:
        """Return whether gains on these tests can be told from chance."""
        return (
            self.n_heard >= _MIN_SPEAKERS
            and self.n_speakers >= _MIN_SPEAKERS_PER_TEST
            and self.clips_per_speaker >= self.wanted / 2
        )

    def __str__(self) -> str:
        text = (
            f"{self.n_tests} balanced pseudo-tests of {self.n_utts:.0f} clips of "
            f"{self.n_speakers:.0f} speakers, {self.clips_per_speaker:.1f} clips each"
        )
        if abs(self.clips_per_speaker / self.wanted - 1) > 0.1:
            text += f" (asked for {self.wanted:g}, which the labelled clips do not give)"
        return text


def _candidates(rows: SpeakerRows, wanted: str) -> tuple[list[str], dict[str, str]]:
    """List the variants to try, and why usual ones cannot be tried."""
    if wanted:
        names = list(dict.fromkeys(name.strip() for name in wanted.split(",")))
        for name in names:
            lacking = "it is no adaptation" if name == NONE else lacking_for(name, rows)
            if lacking:
                raise BadValueError(
                    f"The adaptation {name!r} cannot be tried: {lacking}. Leave it out of the "
                    "option variants, or predict the table again with --with embedding."
                )
        return names, {}
    names = usable_variants(rows)
    if not names:
        raise BadValueError(
            f"Table {rows.name!r} has neither embeddings nor probabilities, so no adaptation can "
            "be tried. Predict it as Parquet with --with embedding, or vote over several tables "
            "first: the shares of a vote are probabilities."
        )
    skipped = {
        name: lacking_for(name, rows)
        for name, variant in VARIANTS.items()
        if variant.is_default and name not in names
    }
    return names, skipped


def _require_enough(
    rows: SpeakerRows, truth: NDArray[np.int64], tests: Sequence[PseudoTest], wanted: float
) -> None:
    """Refuse labelled rows out of which no pseudo-tests can be drawn, or only of one speaker."""
    heard = {rows.speakers[idx] for test in tests for idx in test.indices.tolist()}
    if all(test.n_speakers for test in tests) and len(heard) > 1:
        return
    what = "no balanced pseudo-test can be drawn from them"
    if len(heard) == 1:
        what = "the pseudo-tests have one speaker only, which tells nothing about others"
    n_speakers, n_classes = len(set(rows.speakers) - {None}), len(np.unique(truth))
    needed = max(2, math.ceil(n_classes / wanted), n_speakers + 1)
    raise BadValueError(
        f"{len(rows)} labelled utterances of {n_speakers} known speaker{'s' * (n_speakers != 1)} "
        f"in table {rows.name!r} are too few for the adaptation gate: {what}. At least {needed} "
        f"speakers are needed who between them have every class ({n_classes} here), and as many "
        "when those of a fold are left out. Fit on a larger selection, or with more --folds, which "
        "leave out fewer speakers at a time."
    )


def _count_all(
    rows: SpeakerRows,
    truth: NDArray[np.int64],
    tests: Sequence[PseudoTest],
    names: Sequence[str],
    settings: Mapping[str, Any],
) -> list[NDArray[np.int64]]:
    """Count per pseudo-test and speaker, shape (S, V + 1, K, K + 1) each; `none` first."""
    numbers = {name: idx for idx, name in enumerate(sorted({s for s in rows.speakers if s}))}
    arguments = [
        (rows.take(test.indices), truth[test.indices], numbers, names, settings["seed"])
        for test in tests
    ]
    if settings["jobs"] == 1 or sum(t.n_speakers for t in tests) < _MIN_WORK_FOR_PROCESSES:
        return [_count(*some) for some in arguments]
    from sklearn.utils.parallel import Parallel, delayed

    counted: list[NDArray[np.int64]] = Parallel(settings["jobs"])(
        delayed(_count)(*some) for some in arguments
    )
    return counted


def _count(
    rows: SpeakerRows,
    truth: NDArray[np.int64],
    numbers: Mapping[str, int],
    names: Sequence[str],
    seed: int,
) -> NDArray[np.int64]:
    shape = (len(numbers), len(names) + 1, rows.n_classes, rows.n_classes + 1)
    speaker_idx = np.array([numbers[str(name)] for name in rows.speakers], dtype=np.int64)
    counts = np.zeros(shape, dtype=np.int64)
    for place, name in enumerate((NONE, *names)):
        labels = adapt(rows, name, seed=seed).labels
        # Abstentions have the last column.
        column = np.where(labels == ABSTAIN, rows.n_classes, labels)
        cells = np.ravel_multi_index((speaker_idx, np.full(len(rows), place), truth, column), shape)
        counts += np.bincount(cells, minlength=counts.size).reshape(shape)
    return counts


def _gains(
    counts: Sequence[NDArray[np.int64]], names: Sequence[str], *, n_resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return mean macro-F1 of `none` and each variant, and the interval of each variant's gain."""
    from scipy.stats import t

    shape = counts[0].shape[1:]  # (V + 1, K, K + 1)
    occurs = np.sum([test.sum(axis=(1, 2, 3)) for test in counts], axis=0) > 0
    rng = np.random.default_rng(seed)
    n_units = int(occurs.sum())
    weights = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_resamples)
    observed, resampled = np.zeros(shape[0]), np.zeros((n_resamples, shape[0]))
    for test in counts:
        # Whole numbers far below 2 ** 53 stay exact as floats, whose product is the fast one.
        flat = test[occurs].reshape(n_units, -1).astype(np.float64)
        observed += metric_of_counts(test.sum(axis=0), "macro_f1")
        resampled += metric_of_counts((weights @ flat).reshape(-1, *shape), "macro_f1")
    observed /= len(counts)
    gains = observed[1:] - observed[0]
    spread = ((resampled[:, 1:] - resampled[:, :1]) / len(counts)).std(axis=0)
    # Of a handful of speakers a plain quantile of the resamples would be far too narrow, and the
    # spread of a single candidate is a matter of luck itself.
    variance, df = moderate(spread**2 * n_units / (n_units - 1), n_units - 1)
    reach = t.ppf((1 + CONFIDENCE) / 2, df) * np.sqrt(variance)
    macro_f1 = {name: float(value) for name, value in zip((NONE, *names), observed, strict=True)}
    return macro_f1, {
        name: (float(gain - width), float(gain + width))
        for name, gain, width in zip(names, gains, reach, strict=True)
    }


def _decide(
    macro_f1: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    expected: Mapping[str, ExpectedGain],
    wanted: float,
    shape: _Shape,
) -> tuple[str, str]:
    """Choose the variant, and say why."""

    def describe(name: str) -> str:
        low, high = intervals[name]
        return (
            f"{name} moves macro-F1 from {macro_f1[NONE]:.4f} to {macro_f1[name]:.4f} "
            f"({macro_f1[name] - macro_f1[NONE]:+.4f}, interval {low:+.4f} to {high:+.4f}) on "
            f"{shape}; {expected[name].gain:+.4f} is expected on other speakers, and a gain is "
            f"{expected[name].certainty:.0%} certain"
        )

    # The first among equals, such as where nothing changes a label.
    best = max(expected, key=lambda name: expected[name].gain)
    sure = [name for name in expected if expected[name].certainty >= wanted]
    if not shape.tells_enough:
        return NONE, (
            f"{describe(best)}: not applied, since {shape.n_heard} speakers, "
            f"{shape.n_speakers:.1f} in a pseudo-test with {shape.clips_per_speaker:.1f} clips "
            f"each, are too few to tell; {_MIN_SPEAKERS}, {_MIN_SPEAKERS_PER_TEST} and "
            f"{shape.wanted / 2:g} are wanted."
        )
    if sure:
        chosen = max(sure, key=lambda name: expected[name].gain)
        return chosen, f"{describe(chosen)}: applied."
    if expected[best].gain > 0:
        return NONE, f"{describe(best)}: not applied, since {wanted:.0%} is wanted."
    return NONE, f"{describe(best)}, and is the best tried: not applied, since nothing helps."
