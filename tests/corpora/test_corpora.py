from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abhinaya.corpora import CORPORA, load_corpus, prepare_corpus
from abhinaya.corpora.base import PrepareOptions
from abhinaya.data.manifest import read_manifest
from abhinaya.data.transcripts import read_transcripts, write_transcripts
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, UnknownNameError

CLIP = "MSP-PODCAST_0001_0008.wav"

WriteRelease = Callable[..., Path]
WriteWav = Callable[..., None]


def test_every_corpus_has_facts_under_its_own_name() -> None:
    assert len(CORPORA) >= 24
    for name in CORPORA:
        corpus = load_corpus(name)
        assert corpus.FACTS.name == name
        assert all(corpus.FACTS.as_dict().values())


def test_unknown_corpus_raises_with_near_match() -> None:
    expected = (
        "Unknown corpus 'msp_podcast'. Did you mean 'msp-podcast'.* Known: .*emodb, .*meld, .*msp"
    )
    with pytest.raises(UnknownNameError, match=expected):
        load_corpus("msp_podcast")


def test_listing_corpora_loads_neither_pandas_nor_soundfile() -> None:
    code = (
        "import sys, abhinaya.corpora;"
        "print([name for name in ('pandas', 'soundfile') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_prepared_release_reads_back(write_release: WriteRelease, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared = prepare_corpus("msp-podcast", write_release(), out)
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.parquet",
        "problems.csv",
        "transcripts.parquet",
    ]
    manifest = read_manifest(out / "manifest.parquet")
    assert manifest.digest == prepared.manifest.digest
    assert manifest.rows["audio"][0] == f"../release/Audios/{CLIP}"
    assert all(manifest.audio_path(audio).is_file() for audio in manifest.rows["audio"])
    assert manifest.rows["duration_s"].tolist() == [0.1] * 4
    assert read_transcripts(out / "transcripts.parquet", "human")[CLIP] == "well yes"


def test_problems_of_labels_and_audio_stand_in_one_file(
    write_release: WriteRelease, write_wav: WriteWav, tmp_path: Path
) -> None:
    release = write_release()
    write_wav(release / "Audios" / CLIP, rate_hz=44100, n_channels=2)
    (release / "Audios" / "MSP-PODCAST_0001_0019.wav").unlink()
    prepared = prepare_corpus("msp-podcast", release, tmp_path / "out")
    with (tmp_path / "out" / "problems.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["utterance", "reason"]
    assert [(p.utterance, p.reason) for p in prepared.problems] == [tuple(row) for row in rows[1:]]
    assert [row[0] for row in rows[1:]] == [CLIP, "MSP-PODCAST_0001_0019.wav", "balanced"]
    assert "44100 Hz and 2 channels" in rows[1][1]
    assert "absent" in rows[2][1]
    # The rows stay.
    assert len(prepared.manifest.rows) == 4


def test_subset_is_written_beside_the_manifest(write_release: WriteRelease, tmp_path: Path) -> None:
    header = "FileName,EmoClass,Split_Set\n"
    rows = "".join(f"{code}{n}.wav,{code},Development\n" for code in "ACDFHNSU" for n in (1, 2))
    release = write_release({"Labels/labels_consensus.csv": header + rows}, audio=())
    options = PrepareOptions(check_audio=False, balanced_per_class=1)
    prepare_corpus("msp-podcast", release, tmp_path / "out", options)
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert "".join(manifest.select("balanced")["label"]) == "ACDFHNSU"


def test_no_audio_opens_nothing(write_release: WriteRelease, tmp_path: Path) -> None:
    release = write_release()
    for path in (release / "Audios").iterdir():
        path.write_text("no sound")
    options = PrepareOptions(check_audio=False)
    prepared = prepare_corpus("msp-podcast", release, tmp_path / "out", options)
    assert prepared.manifest.rows["duration_s"].isna().all()
    assert [problem.utterance for problem in prepared.problems] == ["balanced"]


def test_second_run_keeps_what_a_recognizer_wrote(
    write_release: WriteRelease, tmp_path: Path
) -> None:
    release, path = write_release(), tmp_path / "out" / "transcripts.parquet"
    prepared = prepare_corpus("msp-podcast", release, tmp_path / "out")
    theirs = {"utterance": CLIP, "source": "whisper-large-v3", "text": "well", "avg_logprob": -0.5}
    write_transcripts([*prepared.transcripts, theirs], path)
    (release / "Transcripts" / "MSP-PODCAST_0001_0008.txt").write_text("changed")
    prepare_corpus("msp-podcast", release, tmp_path / "out")
    assert read_transcripts(path, "whisper-large-v3") == {CLIP: "well"}
    assert read_transcripts(path, "human")[CLIP] == "changed"


def test_second_run_writes_the_same_bytes(write_release: WriteRelease, tmp_path: Path) -> None:
    release = write_release()
    for out in ("one", "two"):
        prepare_corpus("msp-podcast", release, tmp_path / out)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_corpus_without_texts_has_no_transcripts(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.wav,joy\nb.wav,anger\n")
    options = PrepareOptions(check_audio=False)
    prepare_corpus("folder", tmp_path, tmp_path / "out", options)
    assert not (tmp_path / "out" / "transcripts.parquet").exists()
    manifest = read_manifest(tmp_path / "out" / "manifest.parquet")
    assert manifest.rows["audio"].tolist() == ["../a.wav", "../b.wav"]


def test_wrong_corpus_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.wav,joy\na.wav,anger\n")
    with pytest.raises(ProblemsError, match="more than once"):
        prepare_corpus("folder", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_absent_audio_everywhere_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.wav,joy\nb.wav,anger\n")
    with pytest.raises(MissingFileError, match="None of the 2 audio files is there"):
        prepare_corpus("folder", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_absent_source_raises(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no '.*nowhere' to prepare emodb from"):
        prepare_corpus("emodb", tmp_path / "nowhere", tmp_path / "out")


def write_labels(folder: Path, labels: str = "joy anger") -> Path:
    folder.mkdir()
    rows = "".join(f"{idx}.wav,{label}\n" for idx, label in enumerate(labels.split()))
    (folder / "labels.csv").write_text(f"file,label\n{rows}")
    return folder


def test_out_of_another_corpus_or_source_is_not_replaced(
    write_release: WriteRelease, tmp_path: Path
) -> None:
    """The manifest was replaced without a word, and its transcripts stayed beside the new one."""
    options = PrepareOptions(check_audio=False)
    one, two = write_labels(tmp_path / "one"), write_labels(tmp_path / "two", "sad joy")
    out = tmp_path / "out"
    prepare_corpus("folder", one, out, options)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for name, source in (("folder", two), ("msp-podcast", write_release())):
        with pytest.raises(BadValueError, match=r"manifest of folder from .*one.*another --out"):
            prepare_corpus(name, source, out, options)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (one / "labels.csv").write_text("file,label\na.wav,sad\nb.wav,joy\n")
    prepare_corpus("folder", one, out, options)  # the same corpus, changed
    assert read_manifest(out / "manifest.parquet").rows["utterance"].tolist() == ["a.wav", "b.wav"]


@pytest.mark.parametrize("column", ["file", "label", "speaker"])
def test_folder_table_with_a_column_twice_raises(tmp_path: Path, column: str) -> None:
    (tmp_path / "labels.csv").write_text(f"file,label,speaker,{column}\na.wav,joy,1,x\n")
    with pytest.raises(ProblemsError, match=f"the column '{column}' stands there 2 times"):
        prepare_corpus("folder", tmp_path, tmp_path / "out", PrepareOptions(check_audio=False))


def test_consensus_with_a_column_twice_raises(write_release: WriteRelease, tmp_path: Path) -> None:
    text = "FileName,EmoClass,EMOCLASS\na.wav,A,N\n"
    release = write_release({"Labels/labels_consensus.csv": text})
    with pytest.raises(ProblemsError, match="the column 'emoclass' stands there 2 times"):
        prepare_corpus("msp-podcast", release, tmp_path / "out")


def test_author_lists_name_the_source_of_their_texts(tmp_path: Path) -> None:
    """Every text was called `human`, whoever wrote it."""
    (tmp_path / "train.json").write_text('{"path": ["a.wav"], "label": ["A"], "text": ["hm"]}')
    options = PrepareOptions(check_audio=False, text_source="whisper-large-v3")
    prepare_corpus("msp-podcast-lists", tmp_path, tmp_path / "out", options)
    path = tmp_path / "out" / "transcripts.parquet"
    assert read_transcripts(path, "whisper-large-v3") == {"a.wav": "hm"}
    prepare_corpus("msp-podcast-lists", tmp_path, tmp_path / "out", options)  # and once more


def test_text_source_that_is_no_name_raises() -> None:
    with pytest.raises(BadValueError, match=r"text_source is 'a b'.*letters, digits"):
        PrepareOptions(text_source="a b")


@pytest.mark.parametrize("options", [{"columns": {"file": "path"}}, {"text_source": "x"}])
def test_option_of_another_corpus_raises(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BadValueError, match=r"is for the corpus .*, not for emodb"):
        prepare_corpus("emodb", tmp_path, tmp_path / "out", PrepareOptions(**options))
