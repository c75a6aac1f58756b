"""How clips become text: in batches where that changes nothing, on their own where it would.

Every clip is first decoded greedily, several per pass of encoder and decoder. One whose text looks
wrong is decoded again on its own, at higher and higher temperatures, as openai-whisper does, with
random numbers that depend on (seed, utterance, window, temperature) only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.errors import BadValueError
from abhinaya.files import digest_of

if TYPE_CHECKING:
    from torch import Tensor
    from whisper.model import Whisper

__all__ = [
    "Decoded",
    "DecodingSettings",
    "Recognizer",
    "Transcript",
    "cut_windows",
    "join_windows",
]

FloatArray = NDArray[np.float32]

Flag = Literal["silence", "repetitive", "unsure"]
"""Why a text should not be trusted."""

_SAMPLES_PER_FRAME = 320
_FRAME_SAMPLES = SAMPLE_RATE_HZ // 50

# A long clip is cut at the quietest fifth of a second in the last sixth of a window.
_QUIET_FRAMES = 10
_SEARCHED_SHARE = 6


@dataclass(frozen=True)
class DecodingSettings:
    """Everything that decides a text beside sound and weights.

    The thresholds and the temperatures are those of openai-whisper's `transcribe`; unlike there,
    no text is a condition of the next one, which keeps one hallucination from becoming many.

    Args:
        language: code such as `en`; None detects it, once per clip, in its first window.
        temperatures: 0 first for greedy decoding (or beam search); the others are tried in order
            while the text looks wrong. A single one switches this fallback off.
        beam_size: beams at temperature 0, which are searched clip by clip; None decodes greedily,
            in batches.
        timestamps: decode with time stamps as openai-whisper does, though they are not kept;
            without them decoding takes fewer steps.
        seed: of all sampling.
        max_compression_ratio: more is "repetitive": the text's bytes over those of its zip.
        min_logprob: a lower mean log-probability per token is "unsure".
        max_no_speech_prob: more, with an unsure text, is "silence".

    Raises:
        BadValueError: if there is no temperature, or one is negative or not above the one before,
            or `beam_size` is below 2 or comes without temperature 0.
    """

    language: str | None = None
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    beam_size: int | None = None
    timestamps: bool = True
    seed: int = 0
    max_compression_ratio: float = 2.4
    min_logprob: float = -1.0
    max_no_speech_prob: float = 0.6

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.temperatures, self.temperatures[1:], strict=False))
        if not self.temperatures or self.temperatures[0] < 0 or not rising:
            raise BadValueError(
                f"The temperatures are {list(self.temperatures)}, expected at least one, from 0 "
                "on, each above the one before. Leave them out for 0, 0.2, ... 1."
            )
        if self.beam_size is not None and (self.beam_size < 2 or self.temperatures[0] > 0):
            raise BadValueError(
                f"The beam size is {self.beam_size} and the first temperature "
                f"{self.temperatures[0]:g}, expected at least 2 beams at temperature 0. Leave the "
                "beam size out for greedy decoding."
            )

    def describe(self) -> str:
        """Return one line that two runs share if they decode alike."""
        return " ".join(
            [
                f"language={self.language or 'detect'}",
                f"temperatures={','.join(f'{t:g}' for t in self.temperatures)}",
                f"beams={self.beam_size or 1}",
                f"timestamps={'yes' if self.timestamps else 'no'}",
                f"seed={self.seed}",
                f"thresholds={self.max_compression_ratio:g},{self.min_logprob:g},"
                f"{self.max_no_speech_prob:g}",
            ]
        )

    def is_silent(self, decoded: Decoded) -> bool:
        """Tell whether nothing was said: the model doubts both speech and text."""
        return (
            decoded.no_speech_prob > self.max_no_speech_prob
            and decoded.avg_logprob <= self.min_logprob
        )

    def looks_wrong(self, decoded: Decoded) -> bool:
        """Tell whether to try a higher temperature: repetitive or unsure, and not silent."""
        is_bad = (
            decoded.compression_ratio > self.max_compression_ratio
            or decoded.avg_logprob < self.min_logprob
        )
        return is_bad and not self.is_silent(decoded)


@dataclass(frozen=True)
class Decoded:
    """What a model made of one window.

    Args:
        tokens: time stamps included, without the end of the text.
        text: without blanks at its ends.
        language: code.
        temperature: the one at which it was decoded.
        avg_logprob: mean log-probability of the tokens.
        compression_ratio: bytes of the text over bytes of its zip.
        no_speech_prob: in [0, 1].
    """

    tokens: tuple[int, ...]
    text: str
    language: str
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


@dataclass(frozen=True)
class Transcript:
    """The text of one clip, and the numbers of its most doubtful window that has a text.

    Args:
        text: "" where every window is silent.
        flag: why it should not be trusted; None where nothing speaks against it.
        language: of the first window.
        n_windows: how many windows the clip was cut into.
        temperature: the highest.
        avg_logprob: the lowest.
        compression_ratio: the highest.
        no_speech_prob: the highest.
    """

    text: str
    flag: Flag | None
    language: str
    n_windows: int
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


def cut_windows(waveform: FloatArray, window_samples: int) -> list[FloatArray]:
    """Cut a waveform into segments that fit into a model's window, nothing left over.

    A cut lies in the quietest fifth of a second of the last sixth of a window, so that it seldom
    splits a word. Everything that fits at once stays whole.

    Args:
        waveform: shape (S,), at 16 kHz.
        window_samples: longest segment.

    Example:
        >>> [len(segment) for segment in cut_windows(np.zeros(40 * 16_000, np.float32), 480_000)]
        [401600, 238400]
    """
    segments = []
    while len(waveform) > window_samples:
        start = window_samples - window_samples // _SEARCHED_SHARE
        n_frames = (window_samples - start) // _FRAME_SAMPLES
        searched = waveform[start : start + n_frames * _FRAME_SAMPLES]
        energy = np.square(searched.reshape(n_frames, _FRAME_SAMPLES), dtype=np.float64).mean(1)
        smooth = np.convolve(energy, np.ones(_QUIET_FRAMES), mode="valid")
        stop = start + (int(smooth.argmin()) + _QUIET_FRAMES // 2) * _FRAME_SAMPLES
        segments.append(waveform[:stop])
        waveform = waveform[stop:]
    return [*segments, waveform]


def join_windows(windows: Sequence[Decoded], settings: DecodingSettings) -> Transcript:
    """Return one transcript out of a clip's windows; silent ones add nothing to it."""
    spoken = [window for window in windows if not settings.is_silent(window)]
    counted = spoken or windows
    avg_logprob = min(window.avg_logprob for window in counted)
    compression_ratio = max(window.compression_ratio for window in counted)
    flag: Flag | None = None
    if not spoken:
        flag = "silence"
    elif compression_ratio > settings.max_compression_ratio:
        flag = "repetitive"
    elif avg_logprob < settings.min_logprob:
        flag = "unsure"
    return Transcript(
        text=" ".join(window.text for window in spoken if window.text),
        flag=flag,
        language=windows[0].language,
        n_windows=len(windows),
        temperature=max(window.temperature for window in counted),
        avg_logprob=avg_logprob,
        compression_ratio=compression_ratio,
        no_speech_prob=max(window.no_speech_prob for window in counted),
    )


class Recognizer:
    """A Whisper model and how it decodes.

    Args:
        model: openai-whisper's.
        settings: how to decode.
        in_half: whether the model computes in half precision.

    Raises:
        BadValueError: if the model knows English only and another language is set.
    """

    def __init__(self, model: Whisper, settings: DecodingSettings, *, in_half: bool = False):
        self.model = model
        self.settings = settings
        self.in_half = in_half
        self.window_samples = model.dims.n_audio_ctx * _SAMPLES_PER_FRAME
        self.language = settings.language
        if not model.is_multilingual:
            if settings.language not in (None, "en"):
                raise BadValueError(
                    f"The language is {settings.language!r}, but this model knows English only. "
                    "Set the language to en, or take a multilingual model."
                )
            self.language = "en"

    def transcribe(
        self, utterances: Sequence[str], windows: Sequence[Sequence[FloatArray]], *, batch_size: int
    ) -> list[Transcript]:
        """Return the transcripts of several clips.

        Args:
            utterances: their names, which seed what is sampled.
            windows: the segments of each, see `cut_windows`.
            batch_size: windows per pass.
        """
        keys = [(name, 0) for name in utterances]
        decoded = dict(self._pass(keys, [segments[0] for segments in windows], self.language))
        # Later windows of long clips, in the language of the first ones.
        later = defaultdict(list)
        for name, segments in zip(utterances, windows, strict=True):
            for number, segment in enumerate(segments[1:], start=1):
                later[decoded[name, 0].language].append(((name, number), segment))
        for language, items in later.items():
            for at in range(0, len(items), batch_size):
                some = items[at : at + batch_size]
                decoded |= self._pass([key for key, _ in some], [p for _, p in some], language)
        return [
            join_windows([decoded[name, number] for number in range(len(segments))], self.settings)
            for name, segments in zip(utterances, windows, strict=True)
        ]

    def _pass(
        self, keys: Sequence[tuple[str, int]], waveforms: Sequence[FloatArray], language: str | None
    ) -> Iterator[tuple[tuple[str, int], Decoded]]:
        """Decode windows, those that look wrong once more, and give each with its key."""
        mels = [self._mel(waveform) for waveform in waveforms]
        for key, mel, decoded in zip(
            keys, mels, self._first_tries(keys, mels, language), strict=True
        ):
            if self.settings.looks_wrong(decoded):
                decoded = self._fall_back(key, mel, decoded)
            yield key, decoded

    def _first_tries(
        self, keys: Sequence[tuple[str, int]], mels: list[Tensor], language: str | None
    ) -> list[Decoded]:
        import torch

        first = self.settings.temperatures[0]
        if first == 0 and self.settings.beam_size is None:
            return self._decode(torch.stack(mels), language, first)
        # Sampling must not depend on the batch, and openai-whisper (20250625) searches with beams
        # for one clip at a time only.
        return [
            self._decode_alone(key, mel[None], language, first)
            for key, mel in zip(keys, mels, strict=True)
        ]

    def _fall_back(self, key: tuple[str, int], mel: Tensor, decoded: Decoded) -> Decoded:
        """Return the first text that does not look wrong, or that of the last temperature.

        The window is encoded again on its own: in a batch its features differ in the last digits.
        """
        features = None
        for temperature in self.settings.temperatures[1:]:
            if features is None:
                features = self._encode(mel[None])
            decoded = self._decode_alone(key, features, decoded.language, temperature)
            if not self.settings.looks_wrong(decoded):
                break
        return decoded

    def _decode_alone(
        self, key: tuple[str, int], mel: Tensor, language: str | None, temperature: float
    ) -> Decoded:
        import torch

        seed = int(digest_of([self.settings.seed, *key, f"{temperature:g}"]), 16)
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            return self._decode(mel, language, temperature)[0]

    def _decode(self, mels: Tensor, language: str | None, temperature: float) -> list[Decoded]:
        """Return openai-whisper's decoding of spectrograms (B, n_mels, T), or of encoded ones."""
        import whisper

        options = whisper.DecodingOptions(
            language=language,
            temperature=temperature,
            beam_size=self.settings.beam_size if temperature == 0 else None,
            without_timestamps=not self.settings.timestamps,
            fp16=self.in_half,
        )
        results: Any = whisper.decode(self.model, mels, options)
        return [
            Decoded(
                tokens=tuple(result.tokens),
                text=result.text,
                language=result.language,
                temperature=temperature,
                avg_logprob=float(result.avg_logprob),
                compression_ratio=float(result.compression_ratio),
                no_speech_prob=float(result.no_speech_prob),
            )
            for result in results
        ]

    def _encode(self, mels: Tensor) -> Tensor:
        import torch

        with torch.no_grad():
            features: Tensor = self.model.encoder(mels.half() if self.in_half else mels)
        return features

    def _mel(self, waveform: FloatArray) -> Tensor:
        """Return log-mel spectrogram of a window, filled up with silence, shape (n_mels, T).

        One by one, because its floor is relative to the loudest point of what it is given.
        """
        import whisper

        padded = whisper.pad_or_trim(waveform, self.window_samples)
        mel: Tensor = whisper.log_mel_spectrogram(
            padded, self.model.dims.n_mels, device=self.model.device
        )
        return mel
