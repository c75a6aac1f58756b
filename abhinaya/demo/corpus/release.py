"""A synthetic corpus in the layout of an MSP-Podcast release.

The folder `release/` looks like what a licensed team unpacks: sounds, label files in their
published dialects, partitions, speakers and transcripts. As in the challenge, the Test3 clips are
sounds only; what they really are stands beside the release, where no reader of it will see it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf

from abhinaya.data.audio import SAMPLE_RATE_HZ
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.demo.corpus.raters import Rating, rate
from abhinaya.demo.corpus.sentences import make_sentence
from abhinaya.demo.corpus.synth import spell, synthesize
from abhinaya.demo.corpus.voices import STYLES, Style, Voice, blend, draw_voice
from abhinaya.errors import BadValueError
from abhinaya.files import atomic_folder, write_csv

__all__ = ["CorpusSummary", "write_corpus"]

_HIDDEN_SPLIT = "Test3"

# Clips per label out of 500. Train leans towards neutral and happy, as the real one does; the
# others are balanced.
_BALANCED = MSP_PODCAST.codes
_CLIPS: dict[str, dict[str, int]] = {
    "Train": {
        "N": 70,
        "H": 60,
        "S": 32,
        "A": 30,
        "C": 20,
        "U": 18,
        "D": 14,
        "F": 14,
        "O": 10,
        "X": 12,
    },
    "Development": {**dict.fromkeys(_BALANCED, 11), "O": 4, "X": 4},
    "Test1": {**dict.fromkeys(_BALANCED, 5), "O": 2, "X": 2},
    _HIDDEN_SPLIT: dict.fromkeys(_BALANCED, 10),
}
_SPEAKER_PAIRS = {"Train": 6, "Development": 2, "Test1": 1, _HIDDEN_SPLIT: 3}
_UNKNOWN_SPEAKER_SHARE = 0.05
_LOST_SHARE = 0.07  # of the words, by the recogniser that is made up

_README = """This corpus is synthetic. No human being speaks in it, and no rater has heard it.

It has the layout of an MSP-Podcast release (https://lab-msp.com/MSP/MSP-Podcast.html), so that a
program for that corpus can be tried without it. Scores on it say nothing about speech.

Audios/                    {n_clips} clips, 16 kHz, mono, 16 bit
Labels/                    labels_consensus.csv|json, labels_detailed.csv|json, labels.txt
Transcripts/               one text per labelled clip
Partitions.txt             Train, Development, Test1
Speaker_ids.txt            genders, then the speaker of every labelled clip

Clips named MSP-PODCAST_test3_* have no labels.
"""


@dataclass(frozen=True)
class CorpusSummary:
    """What `write_corpus` has written.

    Args:
        release: folder in the published layout.
        test3_truth: CSV `FileName,EmoClass,SpkrID` of the unlabelled clips.
        recognised: CSV `FileName,Transcript` of all clips, as a recogniser might have written them.
        n_clips: number of clips of each split.
        n_speakers: number of speakers, those of Test3 included.
        duration_s: length of all sounds together.
    """

    release: Path
    test3_truth: Path
    recognized: Path
    n_clips: Mapping[str, int]
    n_speakers: int
    duration_s: float


@dataclass(frozen=True)
class _Speaker:
    id: int
    gender: str
    split: str
    voice: Voice


@dataclass(frozen=True)
class _Clip:
    name: str
    label: str
    speaker: _Speaker
    shown_speaker: str
    text: str
    ratings: tuple[Rating, ...]
    style: Style
    sound_seed: tuple[int, ...]

    @property
    def split(self) -> str:
        return self.speaker.split

    @property
    def shown_gender(self) -> str:
        return "Unknown" if self.shown_speaker == "Unknown" else self.speaker.gender

    @property
    def attributes(self) -> tuple[float, float, float]:
        means = np.mean([(r.arousal, r.valence, r.dominance) for r in self.ratings], axis=0)
        arousal, valence, dominance = (round(float(mean), 6) for mean in means)
        return arousal, valence, dominance


def write_corpus(
    out: Path, *, seed: int = 2025, n_speakers: int = 24, n_clips: int = 500
) -> CorpusSummary:
    """Write a synthetic corpus: `out/release/`, and the truth about its Test3 beside it.

    The same arguments give the same bytes. Splits share no speaker. An earlier synthetic release in
    `out` is replaced.

    Args:
        out: folder to write to; made if need be.
        seed: not negative; another seed gives other speakers, sentences and sounds.
        n_speakers: an even number, half of them women, half men; at least 8, a pair per split.
        n_clips: at least 32, a clip per class and split.

    Raises:
        BadValueError: if a count is too small, or `out/release` is there and is not synthetic.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = write_corpus(Path(folder), n_speakers=8, n_clips=32)
        >>> dict(summary.n_clips)
        {'Train': 8, 'Development': 8, 'Test1': 8, 'Test3': 8}
    """
    release = Path(out) / "release"
    _check(release, n_speakers, n_clips)
    speakers = _cast_speakers(seed, n_speakers)
    clips = _plan_clips(seed, speakers, n_clips)
    hidden = [clip for clip in clips if clip.split == _HIDDEN_SPLIT]
    labelled = [clip for clip in clips if clip.split != _HIDDEN_SPLIT]

    truth = Path(out) / "test3_truth.csv"
    rows = [(clip.name, clip.label, clip.speaker.id) for clip in hidden]
    write_csv(truth, ("FileName", "EmoClass", "SpkrID"), rows)
    recognized = Path(out) / "recognised.csv"
    heard = [(clip.name, _recognize(clip, seed)) for clip in clips]
    write_csv(recognized, ("FileName", "Transcript"), heard)
    with atomic_folder(release) as folder:
        duration_s = _write_sounds(folder / "Audios", clips)
        _write_labels(folder / "Labels", labelled)
        (folder / "Transcripts").mkdir()
        for clip in labelled:
            _write(folder / "Transcripts" / clip.name.replace(".wav", ".txt"), [clip.text])
        _write(folder / "Partitions.txt", [f"{clip.split}; {clip.name}" for clip in labelled])
        _write(folder / "Speaker_ids.txt", _speaker_lines(speakers, labelled))
        (folder / "readme.txt").write_text(_README.format(n_clips=len(clips)), encoding="utf-8")
    return CorpusSummary(
        release=release,
        test3_truth=truth,
        recognized=recognized,
        n_clips={split: sum(clip.split == split for clip in clips) for split in _CLIPS},
        n_speakers=n_speakers,
        duration_s=duration_s,
    )


def _recognize(clip: _Clip, seed: int) -> str:
    """Return what was said, with about one word in fourteen lost."""
    rng = np.random.default_rng([seed, *clip.name.encode()])
    words = clip.text.split()
    kept = rng.random(len(words)) > _LOST_SHARE
    return " ".join(word for word, is_kept in zip(words, kept, strict=True) if is_kept)


def _check(release: Path, n_speakers: int, n_clips: int) -> None:
    n_cells = len(_CLIPS) * len(MSP_PODCAST)
    if n_clips < n_cells:
        raise BadValueError(
            f"n_clips is {n_clips}, expected at least {n_cells}: "
            f"one for each of {len(MSP_PODCAST)} classes in each of {len(_CLIPS)} splits."
        )
    if n_speakers < 2 * len(_CLIPS) or n_speakers % 2:
        raise BadValueError(
            f"n_speakers is {n_speakers}, expected an even number of at least {2 * len(_CLIPS)}: "
            f"a woman and a man in each of {len(_CLIPS)} splits."
        )
    if release.exists() and not _is_synthetic(release):
        raise BadValueError(
            f"{str(release)!r} is there already and is not a synthetic corpus, so it is "
            "not replaced. Choose another folder."
        )


def _is_synthetic(release: Path) -> bool:
    readme = release / "readme.txt"
    if not readme.is_file():
        return False
    first_line = readme.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return first_line == _README.partition("\n")[0]


def _apportion(targets: Sequence[int], total: int, minima: Sequence[int]) -> list[int]:
    """Split `total` into whole shares, as proportional to the targets as the minima allow."""
    shares = np.array(minima)
    wanted = np.array(targets) * total / sum(targets)
    while shares.sum() < total:
        shares[np.argmax(wanted - shares)] += 1
    return [int(share) for share in shares]


def _cast_speakers(seed: int, n_speakers: int) -> list[_Speaker]:
    rng = np.random.default_rng([seed, 0])
    n_pairs = _apportion(list(_SPEAKER_PAIRS.values()), n_speakers // 2, [1] * len(_SPEAKER_PAIRS))
    ids = iter(rng.permutation(np.arange(1, 2 * n_speakers + 1))[:n_speakers].tolist())
    return [
        _Speaker(next(ids), gender, split, draw_voice(rng, gender))
        for split, count in zip(_SPEAKER_PAIRS, n_pairs, strict=True)
        for gender in ("Female", "Male") * count
    ]


def _plan_clips(seed: int, speakers: Sequence[_Speaker], n_clips: int) -> list[_Clip]:
    """Plan all clips, in the order of their names."""
    rng = np.random.default_rng([seed, 1])
    cells = [(split, label) for split, counts in _CLIPS.items() for label in counts]
    targets = [_CLIPS[split][label] for split, label in cells]
    counts = _apportion(targets, n_clips, [int(label in _BALANCED) for _, label in cells])
    planned: list[tuple[str, _Speaker, str]] = []
    for split in _CLIPS:
        labels = [
            label
            for (of_split, label), count in zip(cells, counts, strict=True)
            for _ in range(count if of_split == split else 0)
        ]
        rng.shuffle(labels)
        cast = [speaker for speaker in speakers if speaker.split == split]
        casting = [cast[idx % len(cast)] for idx in range(len(labels))]
        if split == _HIDDEN_SPLIT:
            names = [f"MSP-PODCAST_test3_{idx:04d}.wav" for idx in range(1, len(labels) + 1)]
            casting = [casting[idx] for idx in rng.permutation(len(casting))]
        else:
            names = _turn_names(casting, speakers, rng)
        planned += zip(names, casting, labels, strict=True)
    # Each clip has its own seed: what is drawn for one does not move the others.
    return [
        _plan_clip(name, speaker, label, (seed, 2, idx))
        for idx, (name, speaker, label) in enumerate(sorted(planned, key=lambda plan: plan[0]))
    ]


def _turn_names(
    casting: Sequence[_Speaker], speakers: Sequence[_Speaker], rng: np.random.Generator
) -> list[str]:
    """Name clips `MSP-PODCAST_RECORDING_TURN.wav`: two recordings per speaker, gaps in turns."""
    turns: dict[int, int] = {}
    names = []
    for speaker in casting:
        recording = 2 * speakers.index(speaker) + int(rng.integers(1, 3))
        turns[recording] = turns.get(recording, 0) + int(rng.integers(1, 5))
        names.append(f"MSP-PODCAST_{recording:04d}_{turns[recording]:04d}.wav")
    return names


def _plan_clip(name: str, speaker: _Speaker, label: str, seed: tuple[int, ...]) -> _Clip:
    rng = np.random.default_rng(seed)
    intensity = rng.uniform(0.85, 1.2)
    if label in _BALANCED:
        emotions = [label]
    else:  # "other" and "no agreement" are mixtures of two emotions
        emotions = [str(code) for code in rng.choice([*MSP_PODCAST.codes], 2, replace=False)]
    style = blend(STYLES[emotions[0]], STYLES[emotions[-1]], 0.5)
    style = blend(STYLES["N"], style, intensity)
    style = replace(
        style,
        pitch_st=style.pitch_st + rng.normal(0, 1.5),
        level_db=style.level_db + rng.normal(0, 2),
        syllables_per_s=style.syllables_per_s * rng.uniform(0.94, 1.06),
    )
    is_unknown = speaker.split == "Train" and rng.random() < _UNKNOWN_SPEAKER_SHARE
    return _Clip(
        name=name,
        label=label,
        speaker=speaker,
        shown_speaker="Unknown" if is_unknown else str(speaker.id),
        text=make_sentence(emotions[0], rng),
        ratings=rate(label, emotions, intensity, rng),
        style=style,
        sound_seed=(*seed, 1),
    )


def _write_sounds(folder: Path, clips: Iterable[_Clip]) -> float:
    """Write a WAV file per clip; returns how long they are together, in seconds."""
    folder.mkdir()
    n_samples = 0
    for clip in clips:
        rng = np.random.default_rng(clip.sound_seed)
        samples = synthesize(clip.speaker.voice, clip.style, spell(clip.text), rng)
        sf.write(folder / clip.name, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
        n_samples += len(samples)
    return n_samples / SAMPLE_RATE_HZ


def _write_labels(folder: Path, clips: Sequence[_Clip]) -> None:
    """Write the five label files: consensus and detailed as CSV and JSON, and both as text."""
    header = ("EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")
    consensus = {
        clip.name: (clip.label, *clip.attributes, clip.shown_speaker, clip.shown_gender, clip.split)
        for clip in clips
    }
    write_csv(
        folder / "labels_consensus.csv",
        ("FileName", *header),
        [(name, *fields) for name, fields in consensus.items()],
    )
    _write_json(
        folder / "labels_consensus.json",
        {name: dict(zip(header, fields, strict=True)) for name, fields in consensus.items()},
    )
    write_csv(
        folder / "labels_detailed.csv",
        ("FileName", "EmoDetail"),
        [(clip.name, rating.to_line()) for clip in clips for rating in clip.ratings],
    )
    _write_json(
        folder / "labels_detailed.json",
        {
            clip.name: {rating.worker: rating.to_fields() for rating in clip.ratings}
            for clip in clips
        },
    )
    lines = []
    for clip in clips:
        arousal, valence, dominance = clip.attributes
        head = f"{clip.name}; {clip.label}; A:{arousal:.6f}; V:{valence:.6f}; D:{dominance:.6f};"
        lines += [head, *(rating.to_line() for rating in clip.ratings), ""]
    _write(folder / "labels.txt", lines)


def _speaker_lines(speakers: Sequence[_Speaker], labelled: Sequence[_Clip]) -> list[str]:
    shown = sorted({clip.shown_speaker for clip in labelled} - {"Unknown"}, key=int)
    genders = {str(speaker.id): speaker.gender for speaker in speakers}
    return [
        *(f"Speaker_{speaker}; {genders[speaker]}" for speaker in shown),
        "",
        *(f"{clip.name}; {clip.shown_speaker}" for clip in labelled),
    ]


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
