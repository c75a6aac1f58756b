from __future__ import annotations

import pandas as pd
import pytest

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, read_manifest
from abhinaya.errors import BadValueError
from abhinaya.speakers.estimates import (
    name_speakers,
    official_speakers,
    with_estimates,
    write_copy,
)


@pytest.fixture
def manifest(tmp_path):
    """Two rows of known speakers, two without; one of them without audio."""
    rows = [
        {"utterance": "a", "audio": "Audios/a.wav", "speaker": "7", "split": "train", "label": "A"},
        {"utterance": "b", "audio": "Audios/b.wav", "speaker": "9", "split": "train"},
        {"utterance": "c", "audio": "Audios/c.wav", "split": "test", "mood": "odd"},
        {"utterance": "d", "split": "test"},
    ]
    folder = tmp_path / "corpus"
    folder.mkdir()
    return make_manifest(
        rows, MSP_PODCAST, folder, subsets={"few": ["a", "c"]}, facts={"corpus": "tiny"}
    )


def column(manifest, name):
    return [value if isinstance(value, str) else None for value in manifest.rows[name]]


def test_official_speakers_of_a_plain_manifest(manifest):
    assert official_speakers(manifest.rows) == ["7", "9", None, None]


def test_with_estimates_fills_in_and_says_what_is_estimated(manifest):
    found = with_estimates(manifest, {"c": "spk-0001", "d": None}, {"speakers": "by ear"})
    assert column(found, "speaker") == ["7", "9", "spk-0001", None]
    assert column(found, "speaker_source") == ["official", "official", "estimated", None]
    assert "speaker_official" not in found.rows
    assert official_speakers(found.rows) == ["7", "9", None, None]
    assert found.facts == {"corpus": "tiny", "speakers": "by ear"}
    assert found.subsets == manifest.subsets
    assert column(found, "mood") == [None, None, "odd", None]
    # The one given stays as it was.
    assert column(manifest, "speaker") == ["7", "9", None, None]


def test_with_estimates_keeps_official_speakers_aside(manifest):
    found = with_estimates(manifest, {"a": "spk-0001", "b": None}, {})
    assert column(found, "speaker") == ["spk-0001", None, None, None]
    assert column(found, "speaker_source") == ["estimated", None, None, None]
    assert column(found, "speaker_official") == ["7", "9", None, None]


def test_with_estimates_again_replaces_the_earlier_ones(manifest, tmp_path):
    first = with_estimates(manifest, {"a": "spk-0001", "c": "spk-0002"}, {})
    write_copy(first, tmp_path / "corpus" / "m2.parquet")
    read = read_manifest(tmp_path / "corpus" / "m2.parquet")
    assert official_speakers(read.rows) == ["7", "9", None, None]
    again = with_estimates(read, {"c": "spk-0005"}, {})
    assert column(again, "speaker") == ["spk-0001", "9", "spk-0005", None]
    assert column(again, "speaker_source") == ["estimated", "official", "estimated", None]
    assert official_speakers(again.rows) == ["7", "9", None, None]


def test_official_speaker_without_the_official_column_is_unknown_where_estimated():
    rows = pd.DataFrame({"speaker": ["x", "y"], "speaker_source": ["official", "estimated"]})
    assert official_speakers(rows) == ["x", None]


def test_name_speakers_passes_over_names_of_others():
    clusters = {"u": 1, "v": 0, "w": 1, "x": 2}
    assert name_speakers(clusters, {"spk-0002", "9"}) == {
        "u": "spk-0003",
        "v": "spk-0001",
        "w": "spk-0003",
        "x": "spk-0004",
    }
    assert name_speakers({}, set()) == {}


def test_write_copy_elsewhere_finds_audio_and_transcripts(manifest, tmp_path):
    audio = manifest.root / "Audios"
    audio.mkdir()
    (audio / "a.wav").write_bytes(b"sound")
    (manifest.root / "transcripts.parquet").write_bytes(b"texts")
    path = tmp_path / "other" / "deep" / "m.parquet"
    write_copy(manifest, path)
    read = read_manifest(path)
    assert read.rows["audio"][0] == "../../corpus/Audios/a.wav"
    assert read.audio_path(read.rows["audio"][0]).read_bytes() == b"sound"
    assert (path.parent / "transcripts.parquet").read_bytes() == b"texts"
    assert read.subsets == manifest.subsets
    # The audio's place is no part of what the corpus is.
    assert read.digest == manifest.digest


def test_write_copy_in_the_same_folder_keeps_paths(manifest):
    path = manifest.root / "m2.parquet"
    write_copy(manifest, path)
    assert column(read_manifest(path), "audio")[:1] == ["Audios/a.wav"]


def test_write_copy_other_ending_raises(manifest, tmp_path):
    with pytest.raises(BadValueError, match=r"m\.csv' must end in \.parquet"):
        write_copy(manifest, tmp_path / "m.csv")
