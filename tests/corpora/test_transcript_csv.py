from __future__ import annotations

import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.transcript_csv import read_transcript_csv
from abhinaya.data.transcripts import read_transcripts
from abhinaya.demo.corpus.release import write_corpus
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError

NAMES = ("a.wav", "b.wav", "c.wav")


def write(folder, text):
    path = folder / "texts.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_keep_their_order_and_silence_is_an_empty_text(tmp_path):
    path = write(tmp_path, 'FileName,Transcript\nb.wav,"well, no"\na.wav,\n')
    assert read_transcript_csv(path, "asr", NAMES) == [
        {"utterance": "b.wav", "source": "asr", "text": "well, no"},
        {"utterance": "a.wav", "source": "asr", "text": ""},
    ]


def test_all_wrong_names_are_reported_together(tmp_path):
    path = write(tmp_path, "FileName,Transcript\na.wav,x\na.wav,y\nz.wav,x\n")
    with pytest.raises(ProblemsError) as caught:
        read_transcript_csv(path, "asr", NAMES)
    assert list(caught.value.problems) == [
        "1 names are not in the corpus: 'z.wav'",
        "1 names appear more than once: 'a.wav'",
    ]


def test_missing_column_raises(tmp_path):
    path = write(tmp_path, "FileName,Text\na.wav,x\n")
    with pytest.raises(ProblemsError, match="the column 'Transcript' is missing"):
        read_transcript_csv(path, "asr", NAMES)


def test_missing_file_raises(tmp_path):
    with pytest.raises(MissingFileError, match="There is no file"):
        read_transcript_csv(tmp_path / "none.csv", "asr", NAMES)


@pytest.mark.parametrize("source", ["human", "a b", ""])
def test_name_that_no_source_may_have_raises(tmp_path, source):
    with pytest.raises(BadValueError, match="Choose a name of letters, digits"):
        read_transcript_csv(write(tmp_path, "FileName,Transcript\n"), source, NAMES)


def test_prepared_corpus_has_both_sources_and_keeps_a_third(tmp_path):
    corpus = write_corpus(tmp_path, n_clips=32, n_speakers=8)
    out = tmp_path / "prepared"
    for source in ("first", "second", "second"):
        options = PrepareOptions(
            check_audio=False, balanced_per_class=1, transcripts={source: corpus.recognized}
        )
        prepare_corpus("msp-podcast", corpus.release, out, options)
    counts = {
        source: len(read_transcripts(out / "transcripts.parquet", source))
        for source in ("human", "first", "second")
    }
    # The eight clips of Test3 have no human transcript.
    assert counts == {"human": 24, "first": 32, "second": 32}
