from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import abhinaya.loading.clips as module
from abhinaya.config import TranscriptSources
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import write_transcripts
from abhinaya.errors import AudioError, BadValueError
from abhinaya.loading.clips import (
    Clip,
    Cropping,
    collect_clips,
    load_segments,
    split_readable,
    split_short,
    window_bounds,
)
from abhinaya.member import Utterance


@dataclass
class Needs:
    """An input builder, as far as clips ask it."""

    needs_audio: bool = True
    needs_text: bool = False

    def encode(self, utterance: Any) -> dict[str, Any]:
        raise NotImplementedError

    def collate(self, encoded: Any) -> dict[str, Any]:
        raise NotImplementedError


LISTENS, READS, BOTH = Needs(), Needs(False, True), Needs(True, True)
SOURCES = TranscriptSources(train="human", predict="whisper")


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """a.wav of 0.5 s, b.flac of 0.25 s at 8 kHz, c.wav that is not there, d without audio."""
    (tmp_path / "wav").mkdir()
    soundfile.write(tmp_path / "wav" / "a.wav", np.zeros(8_000), 16_000)
    soundfile.write(tmp_path / "wav" / "b.flac", np.zeros(2_000), 8_000)
    rows: list[dict[str, Any]] = [
        {"utterance": "a.wav", "audio": "wav/a.wav", "label": "A", "duration_s": 7.0},
        {"utterance": "b.flac", "audio": "wav/b.flac", "label": "X"},
        {"utterance": "c.wav", "audio": "wav/c.wav"},
        {"utterance": "d.wav"},
    ]
    texts = [("a.wav", "human", "Yes."), ("a.wav", "whisper", "Yes"), ("d.wav", "whisper", "")]
    write_transcripts(
        [
            *({"utterance": u, "source": s, "text": t} for u, s, t in texts),
            {"utterance": "b.flac", "source": "whisper", "text": None},
        ],
        tmp_path / "transcripts.parquet",
    )
    return make_manifest(rows, MSP_PODCAST, tmp_path)


def test_collect_clips_keeps_order_and_fills_durations_from_headers(manifest: Manifest) -> None:
    clips, problems = collect_clips(manifest.rows, manifest, LISTENS)
    wav = manifest.root / "wav"
    assert clips == [
        # The manifest's duration is believed; 2,000 samples at 8 kHz are 0.25 s.
        Clip("a.wav", wav / "a.wav", None, 7.0),
        Clip("b.flac", wav / "b.flac", None, 0.25),
        # Whether the file is there is seen when it is read.
        Clip("c.wav", wav / "c.wav", None, 0.0),
    ]
    assert problems == [Problem("d.wav", "the manifest names no audio file")]


def test_collect_clips_for_readers_needs_no_audio_but_a_transcript(manifest: Manifest) -> None:
    clips, problems = collect_clips(manifest.rows, manifest, READS, (SOURCES, "predict"))
    # An empty text is a text: nothing was said. Null means not transcribed.
    assert clips == [Clip("a.wav", None, "Yes"), Clip("d.wav", None, "")]
    reason = "there is no transcript of the source 'whisper'"
    assert problems == [Problem("b.flac", reason), Problem("c.wav", reason)]


def test_collect_clips_takes_the_source_of_training_in_training(manifest: Manifest) -> None:
    clips, problems = collect_clips(manifest.rows, manifest, READS, (SOURCES, "train"))
    assert [clip.text for clip in clips] == ["Yes."]
    assert {problem.reason for problem in problems} == {
        "there is no transcript of the source 'human'"
    }


def test_collect_clips_for_both_names_what_is_missing(manifest: Manifest) -> None:
    clips, problems = collect_clips(manifest.rows, manifest, BOTH, (SOURCES, "predict"))
    assert clips == [Clip("a.wav", manifest.root / "wav" / "a.wav", "Yes", 7.0)]
    assert [problem.utterance for problem in problems] == ["b.flac", "c.wav", "d.wav"]
    assert problems[2].reason == "the manifest names no audio file"


def test_collect_clips_text_without_sources_raises(manifest: Manifest) -> None:
    with pytest.raises(BadValueError, match=r"data\.transcripts is missing\. Set data\.trans"):
        collect_clips(manifest.rows, manifest, READS)


def test_collect_clips_finds_audio_elsewhere_by_path_or_file_name(
    manifest: Manifest, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    (moved / "deep" / "er").mkdir(parents=True)
    (moved / "wav").mkdir()
    soundfile.write(moved / "deep" / "er" / "b.flac", np.zeros(4_000), 8_000)
    soundfile.write(moved / "wav" / "a.wav", np.zeros(800), 16_000)
    soundfile.write(moved / "deep" / "a.wav", np.zeros(800), 16_000)
    clips, _ = collect_clips(manifest.rows, replace(manifest, audio_root=moved), LISTENS)
    assert [clip.path for clip in clips] == [
        moved / "wav" / "a.wav",  # the relative path comes before the name
        moved / "deep" / "er" / "b.flac",
        moved / "wav" / "c.wav",
    ]
    assert clips[1].duration_s == 0.5


def test_split_readable_decodes_every_file_to_its_end(manifest: Manifest) -> None:
    wav = manifest.root / "wav"
    whole = (wav / "a.wav").read_bytes()
    (wav / "half.wav").write_bytes(whole[: len(whole) // 2])
    names = ("a.wav", "half.wav", "c.wav", "b.flac")
    clips = [*(Clip(name, wav / name) for name in names), Clip("text", None, "Yes")]
    readable, problems = split_readable(clips)
    assert [clip.utterance for clip in readable] == ["a.wav", "b.flac", "text"]
    assert [problem.utterance for problem in problems] == ["half.wav", "c.wav"]
    assert problems[0].reason.startswith("half.wav is truncated")
    assert problems[1].reason.startswith("c.wav does not exist")


def test_load_segments_of_a_text_is_the_text() -> None:
    clip = Clip("u", None, "Yes.")
    assert load_segments(clip, Cropping("random", 1.0), 3) == [Utterance("u", None, "Yes.", 3)]
    assert load_segments(clip, Cropping("centre", 1.0)) == [Utterance("u", None, "Yes.", None)]


def test_clip_size_is_seconds_of_sound_or_characters_of_text() -> None:
    clips = [
        Clip("both", Path("a.wav"), "A long text.", 1.5),
        Clip("unread", Path("b.wav"), "A text."),
        Clip("text", None, "Yes."),
        Clip("empty", None, ""),
    ]
    assert [clip.size for clip in clips] == [1.5, 0, 4, 0]


def test_split_short_counts_words_between_blanks() -> None:
    clips = [
        Clip(name, None, text)
        for name, text in zip("abc", ("", " I  am. ", "I am\nhere"), strict=True)
    ]
    short, problems = split_short(clips, 2)
    assert [clip.utterance for clip in short] == ["a", "b"]
    reason = "its transcript has 3 words, data.max_train_words is 2"
    assert problems == [Problem("c", reason)]


@pytest.fixture
def ramp(tmp_path: Path) -> Clip:
    """Sixteen samples a millisecond, each worth its own index: 0.1 s."""
    soundfile.write(tmp_path / "r.wav", np.arange(1_600, dtype=np.int16), 16_000)
    return Clip("r.wav", tmp_path / "r.wav", "Yes.")


def waveforms_of(clip: Clip, cropping: Cropping, epoch: int | None = None) -> list[np.ndarray]:
    segments = load_segments(clip, cropping, epoch)
    assert all(segment.epoch == epoch and segment.text == clip.text for segment in segments)
    heard = [segment.waveform for segment in segments if segment.waveform is not None]
    assert len(heard) == len(segments)
    return heard


def starts(clip: Clip, cropping: Cropping, epoch: int | None = None) -> list[int]:
    return [round(float(samples[0]) * 32_768) for samples in waveforms_of(clip, cropping, epoch)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("first", [0]),
        ("centre", [400]),  # (1600 - 800) / 2
        ("full", [0]),
        (1, [400]),
        (2, [0, 800]),
        (3, [0, 400, 800]),
    ],
)
def test_load_segments_cuts_where_it_is_told(ramp: Clip, where: Any, expected: list[int]) -> None:
    assert starts(ramp, Cropping(where, 0.05)) == expected
    lengths = [len(samples) for samples in waveforms_of(ramp, Cropping(where, 0.05))]
    assert lengths == ([1_600] if where == "full" else len(expected) * [800])


def test_load_segments_normalizes_each_segment_by_itself(ramp: Clip) -> None:
    for segment in load_segments(ramp, Cropping(2, 0.05, normalize=True)):
        assert segment.waveform is not None
        assert abs(segment.waveform.mean()) < 1e-4
        assert abs(segment.waveform.std() - 1) < 1e-2  # of a variance of 5e-5, 1e-7 are added


def test_load_segments_random_depends_on_seed_epoch_and_utterance(ramp: Clip) -> None:
    def cut(seed: int, epoch: int, name: str) -> int:
        (start,) = starts(replace(ramp, utterance=name), Cropping("random", 0.05, seed=seed), epoch)
        return start

    one = cut(1, 0, "r.wav")
    assert cut(1, 0, "r.wav") == one
    others = [cut(2, 0, "r.wav"), cut(1, 1, "r.wav"), cut(1, 0, "s.wav")]
    # 801 places to start: that all three meet `one` by chance is out of the question.
    assert one not in others
    assert len({cut(1, epoch, "r.wav") for epoch in range(20)}) > 10
    assert all(0 <= cut(1, epoch, "r.wav") <= 800 for epoch in range(20))


def test_load_segments_random_outside_training_raises(ramp: Clip) -> None:
    with pytest.raises(BadValueError, match="random crop came without a random generator"):
        load_segments(ramp, Cropping("random", 0.05))


def test_load_segments_in_training_draws_one_of_a_number(ramp: Clip) -> None:
    def cut(seed: int, name: str) -> list[int]:
        clip, cropping = replace(ramp, utterance=name), Cropping(3, 0.05, seed=seed)
        found = [starts(clip, cropping, epoch) for epoch in range(30)]
        assert all(len(segments) == 1 for segments in found)
        return [segments[0] for segments in found]

    drawn = cut(1, "r.wav")
    # Of the three evenly spaced segments each comes now and then: 10 times of 30, give or take 2.6.
    assert set(drawn) == {0, 400, 800}
    assert all(3 <= drawn.count(start) <= 18 for start in set(drawn))
    assert cut(1, "r.wav") == drawn
    assert cut(2, "r.wav") != drawn
    assert cut(1, "s.wav") != drawn


def test_load_segments_unusable_audio_raises(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"c\.wav does not exist"):
        load_segments(Clip("c.wav", tmp_path / "c.wav"), Cropping("first", 1.0))


@pytest.mark.parametrize("where", ["first", "centre", "random", "full", 1, 4])
def test_window_bounds_of_a_clip_that_fits_is_all_of_it(where: Any) -> None:
    for n_samples in (1, 15_999, 16_000):
        assert window_bounds("u", n_samples, Cropping(where, 1.0)) == [(0, n_samples)]


def test_window_bounds_rounds_the_length_to_samples() -> None:
    # 2.01 * 16000 is 32159.999... in binary.
    assert window_bounds("u", 40_000, Cropping("first", 2.01)) == [(0, 32_160)]


def test_durations_known_are_not_read_again(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counting(path: Path) -> float:
        opened.append(path.name)
        return 1.0

    monkeypatch.setattr(module, "audio_duration_s", counting)
    collect_clips(manifest.rows, manifest, LISTENS)
    assert sorted(opened) == ["b.flac", "c.wav"]
