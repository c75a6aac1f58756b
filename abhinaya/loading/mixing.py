"""Two training clips joined to one: sound, transcript and target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.audio import SAMPLE_RATE_HZ, FloatArray, normalize_waveform, utterance_rng
from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.errors import BadValueError, UnknownNameError
from abhinaya.loading.clips import Clip, Cropping, load_segments
from abhinaya.loading.dataset import ClipDataset, SegmentLoader, TargetLoader
from abhinaya.member import InputBuilder, Utterance
from abhinaya.nn.recipe.mixing import ClipMixing

__all__ = ["MixedClips", "join_clips", "join_waveforms"]


class MixedClips(ClipDataset):
    """Training rows, of which some are joined with a clip of a rarer class, anew in each epoch.

    What a row becomes depends on (seed, epoch, utterance) alone. Each of the two is cut and
    augmented as it would be by itself.

    Args:
        clips: the rows.
        load: gives the segments of a clip that is not mixed.
        targets: vote distributions, shape (U, K), or what gives those of an epoch.
        attributes: truth of further tasks, shape (U, N), averaged like targets.
        truth: class indices, shape (U,); of a row without one its first most voted class counts.
        emotions: the classes.
        mixing: how often and how.
        inputs: encodes the joined clips.
        cropping: of training.

    Raises:
        BadValueError: if there are not two classes of clips to join, or all are majority classes.
        UnknownNameError: if `mixing` names a class that is none.
    """

    def __init__(
        self,
        clips: list[Clip],
        load: SegmentLoader,
        targets: NDArray[Any] | TargetLoader,
        attributes: NDArray[np.float32] | None = None,
        *,
        truth: NDArray[np.int64],
        emotions: EmotionSet,
        mixing: ClipMixing,
        inputs: InputBuilder,
        cropping: Cropping,
    ) -> None:
        super().__init__(clips, load, targets, attributes)
        self.mixing, self.inputs, self.cropping = mixing, inputs, cropping
        classes = truth.copy()
        for idx in np.flatnonzero(truth == ABSTAIN):
            classes[idx] = self.target(int(idx), None).argmax()
        counts = np.bincount(classes, minlength=len(emotions))
        is_majority = _majority(counts, emotions, mixing)
        self.is_majority: NDArray[np.bool_] = is_majority[classes]
        self.partners = np.flatnonzero(~self.is_majority)
        weights = 1 / counts[classes[self.partners]]
        self.shares = np.cumsum(weights / weights.sum())

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Load one row; the key is (index, epoch) in training, and its index else."""
        idx, epoch = key if isinstance(key, tuple) else (key, None)
        if epoch is None or not self.is_majority[idx]:
            return super().__getitem__(key)
        clip = self.clips[idx]
        rng = utterance_rng(self.cropping.seed, epoch, f"mix {clip.utterance}")
        if rng.random() >= self.mixing.probability:
            return super().__getitem__(key)
        at = min(int(np.searchsorted(self.shares, rng.random(), "right")), len(self.shares) - 1)
        partner = int(self.partners[at])
        pair = [clip, self.clips[partner]]
        if rng.random() < 0.5:
            pair.reverse()
        joined = join_clips(pair, self.mixing, self.cropping, clip.utterance, epoch, rng)
        row = {
            "segments": [self.inputs.encode(joined)],
            "target": (self.target(idx, epoch) + self.target(partner, epoch)) / 2,
        }
        if self.attributes is not None:  # unknown for both where it is for one
            row["attributes"] = (self.attributes[idx] + self.attributes[partner]) / 2
        return row


def join_clips(
    pair: Sequence[Clip],
    mixing: ClipMixing,
    cropping: Cropping,
    utterance: str,
    epoch: int,
    rng: np.random.Generator,
) -> Utterance:
    """Return what two clips sound and read like, one after the other.

    Args:
        pair: the clips in their order.
        mixing: how far they are apart, or overlap.
        cropping: of training; each of the two is cut and augmented by itself.
        utterance: the name that the result goes by.
        epoch: of training.
        rng: draws silence and overlap.
    """
    unscaled = replace(cropping, normalize=False)
    heard = [load_segments(clip, unscaled, epoch)[0] for clip in pair]
    texts = [segment.text for segment in heard]
    text = None if None in texts else " ".join(text for text in texts if text)
    first, second = (segment.waveform for segment in heard)
    if first is None or second is None:
        return Utterance(utterance, None, text, epoch)
    longest = round(cropping.max_audio_s * SAMPLE_RATE_HZ)
    overlap, silence = 0.0, 0
    if rng.random() < mixing.overlap_probability:
        overlap = rng.uniform(*mixing.overlap)
    else:
        silence = round(rng.uniform(0, mixing.max_silence_s) * SAMPLE_RATE_HZ)
    sound = join_waveforms(first, second, longest, silence=silence, overlap=overlap)
    return Utterance(
        utterance, normalize_waveform(sound) if cropping.normalize else sound, text, epoch
    )


def join_waveforms(
    first: FloatArray, second: FloatArray, longest: int, *, silence: int = 0, overlap: float = 0.0
) -> FloatArray:
    """Return two waveforms as one in which both are heard.

    Where they do not fit, the longer one loses its end, at most down to half of the room.

    Args:
        first: shape (S1,).
        second: shape (S2,).
        longest: samples that the result has at most; more than `silence`.
        silence: samples of silence between the two.
        overlap: share of the shorter one that lies under the other; their sum is cut off at full
            scale.

    Returns:
        float32, shape (S,).

    Example:
        >>> ones, halves = np.ones(4, np.float32), np.full(2, 0.5, np.float32)
        >>> join_waveforms(ones, halves, 9, silence=1).tolist()
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.5, 0.5]
        >>> join_waveforms(halves, halves, 9, overlap=0.5).tolist()
        [0.5, 1.0, 0.5]
    """
    room = longest - silence
    n_first = min(len(first), max(room - len(second), room - room // 2))
    first, second = first[:n_first], second[: room - n_first]
    n_both = round(overlap * min(len(first), len(second)))
    joined = np.zeros(len(first) + silence + len(second) - n_both, dtype=np.float32)
    joined[: len(first)] = first
    joined[len(joined) - len(second) :] += second
    return joined.clip(-1, 1) if n_both else joined


def _majority(
    counts: NDArray[np.int64], emotions: EmotionSet, mixing: ClipMixing
) -> NDArray[np.bool_]:
    """Return which classes are majority classes, shape (K,)."""
    present = counts > 0
    if present.sum() < 2:
        raise BadValueError(
            f"mixing.clips joins clips of different classes, but the {counts.sum()} usable "
            f"training rows have {int(present.sum())} of them. Add rows to data.train, or remove "
            "mixing.clips."
        )
    if mixing.classes is None:
        is_majority: NDArray[np.bool_] = counts > counts[present].mean()
    else:
        for code in mixing.classes:
            if code not in emotions.codes:
                raise UnknownNameError("class of mixing.clips.classes", code, emotions.codes)
        is_majority = np.isin(np.array(emotions.codes), mixing.classes)
    for which, has_clips in (
        ("majority", (present & is_majority).any()),
        ("minority", (present & ~is_majority).any()),
    ):
        if not has_clips:
            counted = dict(zip(emotions.codes, counts.tolist(), strict=True))
            raise BadValueError(
                f"mixing.clips has no training clip of a {which} class to join; the clips per "
                f"class are {counted}. Set mixing.clips.classes to the majority classes: some, but "
                "not all, of those that have clips."
            )
    return is_majority
