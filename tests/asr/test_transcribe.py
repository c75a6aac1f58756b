from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny_whisper import end_early, hear_nothing, write_tiny

from abhinaya.asr.decoding import Recognizer
from abhinaya.asr.transcribe import transcribe as transcribe_fully
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.transcripts import (
    HUMAN,
    read_transcript_rows,
    read_transcripts,
    write_transcripts,
)
from abhinaya.errors import BadValueError, UnknownNameError

RATE_HZ = 16_000
SOURCE = "whisper-tiny"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that hears two seconds."""
    layouts = write_tiny(tmp_path_factory.mktemp("tiny"), end_early, chunk_s=2, n_layers=1)
    return str(layouts.openai)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Eight noises of 0.5 to 1.9 s, in English, and n8, which has no audio in the manifest."""
    rng = np.random.default_rng(0)
    rows = []
    for idx in range(9):
        name = f"n{idx}.wav"
        noise = 0.1 * rng.standard_normal(8_000 + 3_200 * idx)
        if idx < 8:
            soundfile.write(tmp_path / name, noise, RATE_HZ)
        rows.append(
            {
                "utterance": name,
                "audio": name if idx < 8 else None,
                "language": "en",
                "split": "train" if idx < 5 else "test",
                "label": "A",
            }
        )
    return make_manifest(rows, MSP_PODCAST, tmp_path)


def transcribe(manifest: Manifest, selection: tuple[str, ...], **options):
    """With a single fallback, which most texts of a random model need."""
    return transcribe_fully(manifest, selection, **({"temperatures": (0.0, 1.0)} | options))


def rows_of(manifest: Manifest, source: str = SOURCE) -> dict[str, dict]:
    rows = read_transcript_rows(manifest.root / "transcripts.parquet")
    return {row["utterance"]: row for row in rows if row["source"] == source}


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every utterance that is given to the model, as often as it is."""
    names: list[str] = []
    inner = Recognizer.transcribe

    def spy(self, utterances, windows, *, batch_size):
        names.extend(utterances)
        return inner(self, utterances, windows, batch_size=batch_size)

    monkeypatch.setattr(Recognizer, "transcribe", spy)
    return names


def test_table_has_text_and_scores_beside_other_sources(manifest, tiny):
    path = manifest.root / "transcripts.parquet"
    human = [{"utterance": "n1.wav", "source": HUMAN, "text": "so it is", "checked": True}]
    write_transcripts(human, path)
    summary = transcribe(manifest, ("all",), model=tiny, batch_size=3)
    assert (summary.source, summary.n_selected, summary.n_new) == (SOURCE, 9, 8)
    assert (summary.n_failed, summary.file) == (1, path)
    assert read_transcripts(path, HUMAN) == {"n1.wav": "so it is"}
    rows = read_transcript_rows(path)
    assert rows[0]["checked"] is True
    assert [row["utterance"] for row in rows[1:]] == manifest.rows["utterance"].tolist()
    for row in rows[1:-1]:
        assert isinstance(row["text"], str)
        assert row["language"] == "en"
        assert row["n_windows"] == 1
        assert row["avg_logprob"] < 0 <= row["no_speech_prob"] <= 1
        assert row["compression_ratio"] > 0
        assert row["temperature"] in (0, 1)
        assert row["flag"] in (None, "unsure", "repetitive")
        assert "language=en temperatures=0,1 beams=1 timestamps=yes" in row["made_with"]
    last = rows[-1]
    assert (last["text"], last["reason"]) == (None, "the manifest names no audio file")
    assert len({row["text"] for row in rows[1:-1]}) > 5
    assert list(manifest.root.glob(".transcripts*")) == []


@pytest.mark.slow
def test_texts_do_not_depend_on_the_batch_size(manifest, tiny):
    found = []
    for batch_size in (1, 3, 8):
        transcribe(manifest, ("all",), model=tiny, batch_size=batch_size, source="w")
        found.append({name: row["text"] for name, row in rows_of(manifest, "w").items()})
        (manifest.root / "transcripts.parquet").unlink()
    assert found[0] == found[1] == found[2]


def test_second_run_transcribes_only_what_is_new(manifest, tiny, heard):
    transcribe(manifest, ("train",), model=tiny)
    assert sorted(heard) == [f"n{idx}.wav" for idx in range(5)]
    heard.clear()
    summary = transcribe(manifest, ("all",), model=tiny)
    assert sorted(heard) == ["n5.wav", "n6.wav", "n7.wav"]
    assert (summary.n_selected, summary.n_new) == (9, 3)
    heard.clear()
    before = (manifest.root / "transcripts.parquet").read_bytes()
    assert transcribe(manifest, ("all",), model=tiny).n_new == 0
    assert heard == []
    assert (manifest.root / "transcripts.parquet").read_bytes() == before


@pytest.mark.parametrize("batch_size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_killed_run_goes_on_and_ends_with_the_bytes_of_an_undisturbed_one(
    manifest, tiny, heard, monkeypatch, batch_size
):
    transcribe(manifest, ("all",), model=tiny, batch_size=2)
    path = manifest.root / "transcripts.parquet"
    expected = path.read_bytes()
    path.unlink()
    heard.clear()

    written = []
    inner = write_transcripts

    def die_at_the_third_part(rows, file):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        inner(rows, file)

    with monkeypatch.context() as patch:
        patch.setattr("abhinaya.asr.transcribe.write_transcripts", die_at_the_third_part)
        with pytest.raises(KeyboardInterrupt):
            transcribe(manifest, ("all",), model=tiny, batch_size=2)
    # Three batches were heard, two of them kept. The longest come first.
    assert heard == ["n7.wav", "n6.wav", "n5.wav", "n4.wav", "n3.wav", "n2.wav"]
    assert not path.exists()
    heard.clear()
    # Even with another batch size nothing is transcribed twice.
    transcribe(manifest, ("all",), model=tiny, batch_size=batch_size)
    assert sorted(heard) == ["n0.wav", "n1.wav", "n2.wav", "n3.wav"]
    if batch_size == 2:
        assert path.read_bytes() == expected
    assert list(manifest.root.glob(".transcripts*")) == []


def test_unusable_audio_gets_a_null_text_a_reason_and_another_chance(manifest, tiny, heard):
    whole = (manifest.root / "n0.wav").read_bytes()
    (manifest.root / "n0.wav").unlink()
    (manifest.root / "n1.wav").write_bytes(b"")
    soundfile.write(manifest.root / "n2.wav", np.zeros(0), RATE_HZ)
    soundfile.write(manifest.root / "n3.wav", np.zeros(100), RATE_HZ)
    (manifest.root / "n4.wav").write_bytes(whole[: len(whole) // 2])
    summary = transcribe(manifest, ("train",), model=tiny, batch_size=2)
    assert (summary.n_failed, summary.n_new) == (5, 0)
    assert {row["text"] for row in rows_of(manifest).values()} == {None}
    problems = summary.problems_file.read_text().splitlines()
    assert problems[0] == "utterance,reason"
    for line, expected in zip(
        problems[1:],
        ["does not exist", "is empty", "has no samples", "is too short", "is truncated"],
        strict=True,
    ):
        assert expected in line
    (manifest.root / "n0.wav").write_bytes(whole)
    again = transcribe(manifest, ("train",), model=tiny, batch_size=2)
    assert (heard, again.n_failed, again.n_new) == (["n0.wav"], 4, 1)
    assert "n0.wav" not in again.problems_file.read_text()


def test_silent_clip_has_the_text_of_nothing_said(manifest, tmp_path):
    model = write_tiny(tmp_path / "model", hear_nothing, chunk_s=2, n_layers=1).openai
    soundfile.write(manifest.root / "n0.wav", np.zeros(RATE_HZ), RATE_HZ)
    summary = transcribe(manifest, ("train",), model=str(model), source="w")
    silent = rows_of(manifest, "w")["n0.wav"]
    assert (silent["text"], silent["flag"]) == ("", "silence")
    assert silent["no_speech_prob"] > 0.6
    # It was not tried again at higher temperatures.
    assert silent["temperature"] == 0
    assert summary.n_silent == 5


@pytest.mark.slow
def test_long_clip_is_decoded_in_windows(manifest, tiny):
    rng = np.random.default_rng(1)
    soundfile.write(manifest.root / "n0.wav", 0.1 * rng.standard_normal(7 * RATE_HZ), RATE_HZ)
    transcribe(manifest, ("train",), model=tiny, batch_size=2)
    rows = rows_of(manifest)
    # Windows of 1.7 to 2 s.
    assert [row["n_windows"] for row in rows.values()] == [4, 1, 1, 1, 1]


@pytest.mark.slow
def test_other_settings_or_weights_do_not_mix_under_one_name(manifest, tiny, tmp_path, heard):
    transcribe(manifest, ("train",), model=tiny)
    with pytest.raises(
        BadValueError,
        match=r"has 5 transcripts 'whisper-tiny' that were made with weights=.* language=en .*; "
        r"now it would be weights=.* language=de .*another --source, or drop those with --replace",
    ):
        transcribe(manifest, ("test",), model=tiny, language="German")
    other = write_tiny(tmp_path / "model", chunk_s=2, n_layers=1, seed=1)
    with pytest.raises(BadValueError, match="now it would be weights="):
        transcribe(manifest, ("test",), model=str(other.openai))
    # The same weights in the other layout are the same.
    transcribe(manifest, ("test",), model=str(Path(tiny).parent / "hub"), source=SOURCE)
    heard.clear()
    summary = transcribe(manifest, ("test",), model=tiny, language="de", replace_source=True)
    assert sorted(heard) == ["n5.wav", "n6.wav", "n7.wav"]
    assert summary.n_new == 3
    assert {row["language"] for row in rows_of(manifest).values()} == {"de", None}
    assert set(rows_of(manifest)) == {"n5.wav", "n6.wav", "n7.wav", "n8.wav"}


@pytest.mark.slow
def test_replacing_transcribes_anew_with_the_same_settings(manifest, tiny, heard):
    transcribe(manifest, ("train",), model=tiny)
    heard.clear()
    transcribe(manifest, ("train",), model=tiny, replace_source=True)
    assert len(heard) == 5
    assert len(rows_of(manifest)) == 5


def test_transcripts_of_another_program_are_not_added_to(manifest, tiny):
    theirs = [{"utterance": "n0.wav", "source": SOURCE, "text": "hm"}]
    write_transcripts(theirs, manifest.root / "transcripts.parquet")
    with pytest.raises(BadValueError, match="made with another program"):
        transcribe(manifest, ("train",), model=tiny)


@pytest.mark.parametrize("source", ["human", "a b", "x/y"])
def test_unsuitable_source_raises(manifest, tiny, source):
    with pytest.raises(BadValueError, match=rf"named {source!r}.*letters, digits.*than 'human'"):
        transcribe(manifest, ("all",), model=tiny, source=source)


def test_unknown_language_raises_with_near_match(manifest, tiny):
    with pytest.raises(UnknownNameError, match=r"Unknown language 'germn'\. Did you mean 'german'"):
        transcribe(manifest, ("all",), model=tiny, language="germn")


def test_batch_size_below_one_raises(manifest, tiny):
    with pytest.raises(BadValueError, match="batch_size is 0"):
        transcribe(manifest, ("all",), model=tiny, batch_size=0)


@pytest.mark.parametrize(
    ("in_manifest", "asked", "expected"),
    [
        ("de", None, "language=de"),
        ("de", "detect", "language=detect"),
        ("de", "EN", "language=en"),
        (["de", "en"], None, "language=detect"),
        ("tlh", None, "language=detect"),
        (None, None, "language=detect"),
    ],
)
def test_language_is_the_manifests_unless_it_is_said(manifest, tiny, in_manifest, asked, expected):
    rows = manifest.rows.head(2).copy()
    rows["language"] = in_manifest
    few = replace(manifest, rows=make_manifest(rows, MSP_PODCAST, manifest.root).rows)
    transcribe(few, ("all",), model=tiny, language=asked, temperatures=(0.0,))
    assert all(expected in row["made_with"] for row in rows_of(few).values())
