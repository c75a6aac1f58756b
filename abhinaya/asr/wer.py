"""Word error rate of one source of transcripts against another, with an interval.

Texts are normalised as in Whisper's evaluation, so that spelling, case and punctuation do not
count; words are aligned by jiwer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.errors import BadShapeError, BadValueError, MissingPackageError

__all__ = ["WordErrors", "count_word_errors", "load_normalizer", "score_transcripts"]

IntArray = NDArray[np.int64]

Normalizer = Callable[[str], str]

_WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages whose words are not separated: letters are counted instead, as in Whisper's paper."""

# Resamples drawn at a time: bounds the memory.
_BLOCK = 1_000


@dataclass(frozen=True)
class WordErrors:
    """Errors of one set of utterances.

    Args:
        n_utts: utterances that both sources have.
        n_words: words of their references.
        n_substitutions: other words than in the reference.
        n_deletions: words that are only in the reference.
        n_insertions: words that are not in the reference.
        wer: word error rate, their sum over `n_words`; it can exceed 1. None without any word.
        interval: 95 % bootstrap interval of it over utterances; None without any word.
        n_without_reference: utterances that were transcribed but have no reference.
        n_not_transcribed: utterances that have a reference but were not transcribed.
    """

    n_utts: int
    n_words: int
    n_substitutions: int
    n_deletions: int
    n_insertions: int
    wer: float | None
    interval: tuple[float, float] | None
    n_without_reference: int
    n_not_transcribed: int


def load_normalizer(language: str | None) -> Normalizer:
    """Return Whisper's normaliser of texts: the English one, or the basic one for others.

    Both drop case, punctuation and what stands in brackets; the English one also unifies
    spellings, contractions and numbers. Source: Radford et al., "Robust Speech Recognition via
    Large-Scale Weak Supervision", 2022, appendix C, arXiv:2212.04356.

    Args:
        language: code such as `en`; None means unknown, so the basic one.

    Raises:
        MissingPackageError: if openai-whisper is not installed.
    """
    try:
        from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer
    except ImportError as err:
        raise MissingPackageError("whisper", "Normalising transcripts", "asr") from err
    normalizer: Normalizer
    if language == "en":
        normalizer = EnglishTextNormalizer()
    else:
        normalizer = BasicTextNormalizer(split_letters=language in _WITHOUT_SPACES)
    return normalizer


def count_word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> IntArray:
    """Return substitutions, deletions, insertions and words of the reference, per utterance.

    Args:
        references: what was said, normalised; "" where nothing was.
        hypotheses: what was recognised, normalised.

    Returns:
        Counts, shape (U, 4), in that order.

    Raises:
        BadShapeError: if there are not as many of one as of the other.
        MissingPackageError: if jiwer is not installed.

    Example:
        >>> count_word_errors(["so you know"], ["so they know well"]).tolist()
        [[1, 0, 1, 3]]
    """
    try:
        import jiwer
    except ImportError as err:
        raise MissingPackageError("jiwer", "The word error rate", "asr") from err
    if len(references) != len(hypotheses):
        raise BadShapeError(
            f"There are {len(references)} references and {len(hypotheses)} hypotheses, expected "
            "as many. Pass the texts of the same utterances."
        )
    counts = np.zeros((len(references), 4), dtype=np.int64)
    if len(references) == 0:
        return counts
    aligned: Any = jiwer.process_words(list(references), list(hypotheses))
    for utt_idx, chunks in enumerate(aligned.alignments):
        for chunk in chunks:
            n_reference = chunk.ref_end_idx - chunk.ref_start_idx
            n_hypothesis = chunk.hyp_end_idx - chunk.hyp_start_idx
            column = {"substitute": 0, "delete": 1, "insert": 2}.get(chunk.type)
            if column is not None:
                counts[utt_idx, column] += max(n_reference, n_hypothesis)
            counts[utt_idx, 3] += n_reference
    return counts


def score_transcripts(
    references: Mapping[str, str | None],
    hypotheses: Mapping[str, str | None],
    languages: Mapping[str, str | None],
    groups: Mapping[str, str] | None = None,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, WordErrors]:
    """Return word errors of transcripts, over all utterances or per group.

    An utterance counts if both sources have a text, "" included; the others are counted aside.

    Args:
        references: text by utterance; None where there is none.
        hypotheses: the same of the source that is scored.
        languages: code by utterance, for every utterance that may count; it chooses the normaliser.
        groups: name of a group by utterance; by default all are in the group `all`.
        n_resamples: bootstrap resamples behind the intervals.
        seed: of the bootstrap.

    Returns:
        Groups in the order of `languages`.

    Raises:
        BadValueError: if no utterance has both, or `n_resamples` is below 1.
        MissingPackageError: if jiwer or openai-whisper is not installed.
    """
    if n_resamples < 1:
        raise BadValueError(f"n_resamples is {n_resamples}, expected at least 1.")
    has_reference = {name for name in languages if references.get(name) is not None}
    is_transcribed = {name for name in languages if hypotheses.get(name) is not None}
    both = [name for name in languages if name in has_reference and name in is_transcribed]
    if not both:
        raise BadValueError(
            f"None of the {len(languages)} utterances has texts of both sources: "
            f"{len(has_reference)} have a reference and {len(is_transcribed)} were transcribed. "
            "Transcribe a selection with references."
        )
    normalizers = {
        language: load_normalizer(language) for language in {languages[name] for name in both}
    }
    normal = [
        [normalizers[languages[name]](texts[name] or "") for name in both]
        for texts in (references, hypotheses)
    ]
    counts = dict(zip(both, count_word_errors(*normal), strict=True))
    members: dict[str, list[str]] = {}
    for name in languages:
        members.setdefault("all" if groups is None else groups[name], []).append(name)
    result = {}
    for group, names in members.items():
        scored = np.array([counts[name] for name in names if name in counts]).reshape(-1, 4)
        substitutions, deletions, insertions, words = (int(n) for n in scored.sum(axis=0))
        errors = substitutions + deletions + insertions
        result[group] = WordErrors(
            n_utts=len(scored),
            n_words=words,
            n_substitutions=substitutions,
            n_deletions=deletions,
            n_insertions=insertions,
            wer=errors / words if words else None,
            interval=_interval(scored, n_resamples, seed) if words else None,
            n_without_reference=len(is_transcribed.intersection(names) - has_reference),
            n_not_transcribed=len(has_reference.intersection(names) - is_transcribed),
        )
    return result


def _interval(counts: IntArray, n_resamples: int, seed: int) -> tuple[float, float]:
    """Return 95 % percentile interval of the error rate when utterances are drawn with replacement.

    Utterances with equal counts are interchangeable, so a resample is one multinomial draw over
    the distinct ones. Resamples without any word have no rate and are left out.

    Source: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance
    evaluation", ICASSP 2004.
    """
    pairs = np.stack([counts[:, :3].sum(axis=1), counts[:, 3]], axis=1)
    distinct, how_often = np.unique(pairs, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    rates = []
    for start in range(0, n_resamples, _BLOCK):
        size = min(_BLOCK, n_resamples - start)
        drawn = rng.multinomial(len(pairs), how_often / len(pairs), size=size) @ distinct
        drawn = drawn[drawn[:, 1] > 0]
        rates.append(drawn[:, 0] / drawn[:, 1])
    low, high = np.quantile(np.concatenate(rates), [0.025, 0.975])
    return float(low), float(high)
