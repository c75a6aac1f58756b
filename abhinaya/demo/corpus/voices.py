"""Who speaks and how: voices of speakers, and one style of speaking per emotion.

The sizes are made so that mean pitch and level overlap between emotions and differ widely between
speakers; a model has to look at contours, timing, articulation and voice quality.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

__all__ = ["NEUTRAL_SYLLABLES_PER_S", "STYLES", "Style", "Voice", "blend", "draw_voice"]

NEUTRAL_SYLLABLES_PER_S = 4.6
"""Rate at which phones have the lengths written beside them."""


@dataclass(frozen=True)
class Voice:
    """What a speaker brings to every clip.

    Args:
        f0_hz: habitual pitch.
        formant_scale: formants relative to an average man's; larger for a shorter vocal tract.
        tilt_db: attenuation of the source at 3 kHz.
        breathiness: share of aspiration noise in the source, 0..1.
        jitter: standard deviation of the period, relative.
        shimmer: standard deviation of the pulse height, relative.
        level_db: loudness relative to the average speaker.
        rate_scale: speaking rate relative to the average speaker.
    """

    f0_hz: float
    formant_scale: float = 1.0
    tilt_db: float = 6.0
    breathiness: float = 0.05
    jitter: float = 0.005
    shimmer: float = 0.03
    level_db: float = 0.0
    rate_scale: float = 1.0


@dataclass(frozen=True)
class Style:
    """What an emotion changes. The defaults change nothing: a monotone, even voice.

    Args:
        pitch_st: mean pitch relative to the voice, semitones.
        accent_st: height of the pitch accents, semitones.
        accent_lag_s: peak of an accent after the onset of its vowel; late accents rise.
        slope_st: pitch movement from the first to the last frame, semitones.
        final_st: further movement during the last vowel, semitones.
        tremor_hz: rate of the vibrato.
        tremor_st: depth of the vibrato, semitones.
        syllables_per_s: speaking rate.
        vowel_stretch: further lengthening of the vowels.
        pause_prob: probability of a pause after a word, 0..1.
        level_db: loudness relative to the voice.
        accent_db: how much louder the accents are.
        slope_db: loudness movement from the first to the last frame.
        tilt_db: attenuation of the source at 3 kHz beyond the voice's; below 0 is a pressed voice.
        breathiness: aspiration noise beyond the voice's.
        jitter: irregularity of the periods beyond the voice's.
        shimmer: irregularity of the pulse heights beyond the voice's.
        formant_spread: distance of the vowels from schwa; below 1 is slack articulation.
        formant_scale: shift of all formants; a smile shortens the vocal tract, which raises them.
        f1_scale: further shift of F1 alone, an open or a constricted throat.
        bandwidth_scale: damping of the formants; nasal and slack voices have a larger one.
    """

    pitch_st: float = 0.0
    accent_st: float = 0.0
    accent_lag_s: float = 0.05
    slope_st: float = 0.0
    final_st: float = 0.0
    tremor_hz: float = 6.0
    tremor_st: float = 0.0
    syllables_per_s: float = NEUTRAL_SYLLABLES_PER_S
    vowel_stretch: float = 1.0
    pause_prob: float = 0.0
    level_db: float = 0.0
    accent_db: float = 0.0
    slope_db: float = 0.0
    tilt_db: float = 0.0
    breathiness: float = 0.0
    jitter: float = 0.0
    shimmer: float = 0.0
    formant_spread: float = 1.0
    formant_scale: float = 1.0
    f1_scale: float = 1.0
    bandwidth_scale: float = 1.0


# For anger, fear, happiness and sadness the directions follow the review of Juslin and Laukka,
# "Communication of emotions in vocal expression and music performance" (Psychological Bulletin 129,
# 2003). Their sizes, and the other emotions, are ours: distinct rather than true.
# fmt: off
STYLES = {
    "A": Style(pitch_st=1.0, accent_st=5, accent_lag_s=-0.01, slope_st=-2, syllables_per_s=5.4,
               pause_prob=0.1, level_db=2.0, accent_db=6, tilt_db=-5, jitter=0.012, shimmer=0.12,
               formant_spread=1.2, f1_scale=1.12, bandwidth_scale=0.8),
    "C": Style(pitch_st=-0.5, accent_st=3, accent_lag_s=-0.03, slope_st=-1, final_st=-5,
               syllables_per_s=3.8, vowel_stretch=1.3, pause_prob=0.12, accent_db=2, tilt_db=1,
               formant_spread=0.9, formant_scale=0.9, f1_scale=0.9, bandwidth_scale=2.2),
    "D": Style(pitch_st=-1.0, accent_st=2, slope_st=-5, syllables_per_s=4.2, pause_prob=0.15,
               accent_db=3, slope_db=-4, tilt_db=-1, breathiness=0.05, jitter=0.06, shimmer=0.3,
               formant_spread=0.8, formant_scale=0.95, f1_scale=1.25),
    "F": Style(pitch_st=1.0, accent_st=1.5, tremor_hz=9, tremor_st=0.9, syllables_per_s=5.8,
               pause_prob=0.3, level_db=-1.0, slope_db=2, tilt_db=2, breathiness=0.45, jitter=0.02,
               shimmer=0.08, formant_spread=0.8, formant_scale=1.04),
    "H": Style(pitch_st=1.0, accent_st=6, accent_lag_s=0.05, slope_st=1, syllables_per_s=5.0,
               level_db=1.0, accent_db=4, tilt_db=-2, formant_spread=1.1, formant_scale=1.12),
    "N": Style(accent_st=2, slope_st=-2, pause_prob=0.05, accent_db=2),
    "S": Style(pitch_st=-0.8, accent_st=1, slope_st=-3, final_st=-1, tremor_hz=5, tremor_st=0.3,
               syllables_per_s=3.4, vowel_stretch=1.15, pause_prob=0.2, level_db=-2.0, slope_db=-7,
               tilt_db=8, breathiness=0.15, formant_spread=0.75, bandwidth_scale=1.3),
    "U": Style(pitch_st=1.0, accent_st=3, accent_lag_s=0.12, slope_st=5, final_st=7,
               syllables_per_s=4.2, vowel_stretch=1.2, level_db=0.5, accent_db=3, slope_db=4,
               tilt_db=1, breathiness=0.12, formant_spread=1.25, f1_scale=1.1),
}
# fmt: on
"""The style of each class of `abhinaya.data.labels.MSP_PODCAST`."""


def blend(first: Style, second: Style, weight: float) -> Style:
    """Blend two styles: `first` at weight 0, `second` at 1, an exaggerated `second` above."""
    values = {
        field.name: (1 - weight) * getattr(first, field.name) + weight * getattr(second, field.name)
        for field in fields(Style)
    }
    return Style(**values)


def draw_voice(rng: np.random.Generator, gender: str) -> Voice:
    """Draw a `Female` or `Male` voice; pitch, tract length, quality and loudness vary."""
    is_female = gender == "Female"
    return Voice(
        f0_hz=rng.uniform(165, 245) if is_female else rng.uniform(90, 150),
        formant_scale=rng.uniform(1.06, 1.2) if is_female else rng.uniform(0.93, 1.04),
        tilt_db=rng.uniform(4, 8),
        breathiness=rng.uniform(0.02, 0.1),
        jitter=rng.uniform(0.003, 0.01),
        shimmer=rng.uniform(0.02, 0.06),
        level_db=rng.normal(0, 4),
        rate_scale=rng.uniform(0.9, 1.1),
    )
