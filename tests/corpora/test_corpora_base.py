from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from abhinaya.corpora.audio_audit import measure_audio
from abhinaya.corpora.base import (
    CorpusFacts,
    PrepareOptions,
    build_manifest,
    gender_or_none,
    map_in_threads,
    move_root,
    names_in,
    read_csv_text,
)
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.manifest_cells import known_or_none
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

FACTS = CorpusFacts("mine", "Mine", None, "CC0-1.0", "Nobody 2026", "https://example.org")

WriteWav = Callable[..., None]


def listing(root: Path, *names: str | None) -> Manifest:
    rows = [{"utterance": f"{idx}.wav", "audio": name} for idx, name in enumerate(names)]
    return make_manifest(rows, MSP_PODCAST, root)


def test_measure_audio_fills_durations_and_names_what_differs(
    tmp_path: Path, write_wav: WriteWav
) -> None:
    write_wav(tmp_path / "good.wav", duration_s=0.5)
    write_wav(tmp_path / "stereo.wav", duration_s=0.25, rate_hz=44100, n_channels=2)
    write_wav(tmp_path / "slow.wav", duration_s=0.25, rate_hz=8000)
    (tmp_path / "broken.wav").write_text("no sound")
    names = ["good.wav", "stereo.wav", None, "slow.wav", "broken.wav", "absent.wav"]
    manifest, problems = measure_audio(listing(tmp_path, *names))
    durations = manifest.rows["duration_s"]
    assert durations[[0, 1, 3]].tolist() == [0.5, 0.25, 0.25]
    assert durations[[2, 4, 5]].isna().all()
    reasons = {problem.utterance: problem.reason for problem in problems}
    assert set(reasons) == {"1.wav", "3.wav", "4.wav", "5.wav"}
    assert reasons["1.wav"] == (
        "the audio has 44100 Hz and 2 channels, expected 16000 Hz and 1 channel; "
        "it is converted when it is read"
    )
    assert reasons["3.wav"].startswith("the audio has 8000 Hz and 1 channel, expected")
    assert "broken.wav" in reasons["4.wav"]
    assert reasons["5.wav"] == (
        "listed, but the audio file is absent; the row is kept and cannot be heard"
    )


def test_measure_audio_of_nothing_at_all_raises(tmp_path: Path) -> None:
    expected = r"None of the 2 audio files is there; the first would be '.*a\.wav'.*--no-audio"
    with pytest.raises(MissingFileError, match=expected):
        measure_audio(listing(tmp_path, "a.wav", "b.wav"))


def test_measure_audio_of_a_manifest_without_audio_is_fine(tmp_path: Path) -> None:
    manifest, problems = measure_audio(listing(tmp_path, None))
    assert manifest.rows["duration_s"].isna().all()
    assert problems == []


def test_map_in_threads_keeps_the_order_across_chunks() -> None:
    # Three chunks of 256.
    assert map_in_threads(lambda n: n + 1, range(700)) == list(range(1, 701))


def test_move_root_rewrites_relative_and_absolute_audio(tmp_path: Path) -> None:
    source = tmp_path / "corpus" / "release"
    source.mkdir(parents=True)
    manifest = listing(source, "Audios/a.wav", f"{tmp_path}/far/b.wav", None)
    moved = move_root(manifest, tmp_path / "out" / "deep")
    audio = moved.rows["audio"]
    assert audio[:2].tolist() == ["../../corpus/release/Audios/a.wav", "../../far/b.wav"]
    assert pd.isna(audio[2])
    assert moved.root == tmp_path / "out" / "deep"
    assert moved.digest == manifest.digest


def test_move_root_leads_through_symbolic_links(tmp_path: Path, write_wav: WriteWav) -> None:
    """`..` of a linked folder is the parent of its target, not of the link."""
    write_wav(tmp_path / "corpus" / "a.wav")
    (tmp_path / "disk" / "deep" / "out").mkdir(parents=True)
    os.symlink(tmp_path / "disk" / "deep" / "out", tmp_path / "out")
    moved = move_root(listing(tmp_path / "corpus", "a.wav"), tmp_path / "out")
    assert moved.audio_path(moved.rows["audio"][0]).is_file()


def test_build_manifest_keeps_the_facts(tmp_path: Path) -> None:
    manifest = build_manifest(
        [{"utterance": "a.wav"}], FACTS, tmp_path, emotions=MSP_PODCAST, where="x"
    )
    assert manifest.facts == {
        "corpus": "mine",
        "title": "Mine",
        "licence": "CC0-1.0",
        "citation": "Nobody 2026",
        "url": "https://example.org",
    }


@pytest.mark.parametrize(
    ("label", "problems"),
    [
        ("N", ("the corpus is odd",)),
        (
            "Q",
            (
                "the corpus is odd",
                "1 rows have an unknown label, such as 'Q (a.wav)', expected one of "
                "A C D F H N S U O X or an empty cell",
            ),
        ),
    ],
    ids=["corpus alone", "corpus and manifest"],
)
def test_build_manifest_reports_both_sources_of_problems(
    tmp_path: Path, label: str, problems: tuple[str, ...]
) -> None:
    with pytest.raises(ProblemsError) as caught:
        build_manifest(
            [{"utterance": "a.wav", "label": label}],
            FACTS,
            tmp_path,
            emotions=MSP_PODCAST,
            where="labels.csv",
            wrong=["the corpus is odd"],
        )
    assert caught.value.problems == problems
    assert "in labels.csv" in str(caught.value)


def test_no_clips_per_class_raises() -> None:
    with pytest.raises(BadValueError, match="balanced_per_class is 0, expected at least 1"):
        PrepareOptions(balanced_per_class=0)


def test_read_csv_text_keeps_words_that_look_like_null(tmp_path: Path) -> None:
    # The comma at the end of the rows must not shift the columns.
    (tmp_path / "t.csv").write_text("a,b\nNA,nan,\n1.0,,\n", encoding="utf-8-sig")
    with pytest.warns(pd.errors.ParserWarning, match="loss of data"):
        frame = read_csv_text(tmp_path / "t.csv")
    assert frame.to_dict("records") == [{"a": "NA", "b": "nan"}, {"a": "1.0", "b": ""}]


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,\xff\n", b"a,b\n1,2\n1,2,3,4\n"], ids=["empty", "latin", "ragged"]
)
def test_read_csv_text_of_something_else_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadValueError, match=r"t\.csv' cannot be read as CSV: "):
        read_csv_text(tmp_path / "t.csv")


def test_words_for_unknown_are_null() -> None:
    assert [known_or_none(value) for value in ("Unknown", " ", None, " 12 ", 12)] == [
        None,
        None,
        None,
        "12",
        "12",
    ]
    assert [gender_or_none(value) for value in ("Female", " male", "Unknown", "", None)] == [
        "female",
        "male",
        None,
        None,
        None,
    ]


def test_names_in_shortens_long_lists(tmp_path: Path) -> None:
    assert names_in(tmp_path) == "nothing"
    for idx in range(12):
        (tmp_path / f"{idx:02d}").mkdir()
    assert names_in(tmp_path).startswith("00/, 01/, ")
    assert names_in(tmp_path).endswith("09/ and 2 more")
