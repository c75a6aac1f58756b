"""What every corpus of the field keeps, shown on a miniature in its published naming scheme."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from corpus_miniatures import MINIATURES, Miniature

from abhinaya.corpora import CORPORA, load_corpus, prepare_corpus
from abhinaya.corpora.base import Prepared, PrepareOptions
from abhinaya.data.transcripts import read_transcripts
from abhinaya.errors import MissingFileError, ProblemsError

HAVE_TESTS_OF_THEIR_OWN = {
    *("dataset", "emodb", "folder", "hub", "meld", "msp-podcast", "msp-podcast-lists")
}

WriteWav = Callable[..., None]
Made = Callable[[str], Path]


@pytest.fixture
def made(tmp_path: Path, write_wav: WriteWav) -> Made:
    """Writes the miniature of a corpus, with a sound that does not fit, and returns its folder."""

    def make(name: str) -> Path:
        source, miniature = tmp_path / "source", MINIATURES[name]
        if name == "pavoque":
            noise = np.random.default_rng(1).uniform(-0.1, 0.1, 5_000)
            source.mkdir()
            soundfile.write(source / "pavoque-angry.flac", noise, 16_000)
        else:
            for file in [*miniature.rows, miniature.odd]:
                write_wav(source / file)
        for file, text in {**miniature.texts, **dict.fromkeys(miniature.films, "film")}.items():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_text(text, encoding="utf-8")
        return source

    return make


def cell(value: Any) -> Any:
    return None if pd.isna(value) else value


def rows_of(prepared: Prepared, miniature: Miniature) -> dict[str, Any]:
    """Rows by the published path, below the source or the prepared folder."""
    rows = prepared.manifest.rows.to_dict("records")
    return {path: row for path in miniature.rows for row in rows if row["audio"].endswith(path)}


def test_every_corpus_is_shown() -> None:
    assert set(MINIATURES) | HAVE_TESTS_OF_THEIR_OWN == set(CORPORA)
    assert len(MINIATURES) == 19


@pytest.mark.parametrize("name", MINIATURES)
def test_rows_and_problems_of_a_miniature(name: str, made: Made, tmp_path: Path) -> None:
    miniature, source = MINIATURES[name], made(name)
    prepared = prepare_corpus(name, source, tmp_path / "out")
    found = rows_of(prepared, miniature)
    assert len(prepared.manifest.rows) == len(miniature.rows)
    columns = ("label", "speaker", "gender", "language")
    assert {
        path: tuple(cell(row[column]) for column in columns) for path, row in found.items()
    } == miniature.rows
    assert prepared.manifest.rows["duration_s"].notna().all()

    by_name = prepared.manifest.rows.set_index("utterance")
    for utterance, cells in miniature.further.items():
        for column, value in cells.items():
            assert cell(by_name.loc[utterance, column]) == value, (utterance, column)
    if miniature.transcripts:
        texts = read_transcripts(tmp_path / "out" / "transcripts.parquet", "human")
        assert {key: texts[key] for key in miniature.transcripts} == miniature.transcripts

    with (tmp_path / "out" / "problems.csv").open(newline="") as file:
        problems = dict(list(csv.reader(file))[1:])
    left_out = [file for file in (miniature.odd, *miniature.films) if file]
    assert set(left_out) <= set(problems)
    assert all("ffmpeg" in problems[film] for film in miniature.films)
    facts = load_corpus(name).FACTS
    if facts.n_published:
        assert f"of {facts.n_published} clips are there" in str(problems)


@pytest.mark.parametrize("name", MINIATURES)
def test_empty_folder_is_one_clear_error(name: str, tmp_path: Path) -> None:
    facts, source = load_corpus(name).FACTS, tmp_path / "empty"
    source.mkdir()
    with pytest.raises(MissingFileError, match=r"It holds nothing\. Give the folder") as caught:
        prepare_corpus(name, source, tmp_path / "out")
    assert f"is not {facts.title}" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", MINIATURES)
def test_folder_of_another_corpus_is_refused(
    name: str, tmp_path: Path, write_wav: WriteWav
) -> None:
    """The message says what a folder of the corpus would hold, and where one gets it."""
    write_wav(tmp_path / "other" / "clip one.wav")
    with pytest.raises(
        MissingFileError, match=r"there (are|is) no.* It holds clip one\.wav"
    ) as caught:
        load_corpus(name).prepare(tmp_path / "other", PrepareOptions())
    assert load_corpus(name).FACTS.url in str(caught.value)


@pytest.mark.parametrize("name", ["ravdess", "iemocap"])
def test_file_instead_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "archive.zip").write_text("zip")
    with pytest.raises(MissingFileError, match=r"it is no folder.*unpacked"):
        load_corpus(name).prepare(tmp_path / "archive.zip", PrepareOptions())


@pytest.mark.parametrize("name", MINIATURES)
def test_speakers_of_two_corpora_can_be_told_apart(name: str, made: Made, tmp_path: Path) -> None:
    manifest = prepare_corpus(name, made(name), tmp_path / "out").manifest
    assert all(speaker.startswith(f"{name}-") for speaker in manifest.rows["speaker"].dropna())


def test_iemocap_of_an_unknown_emotion_raises(made: Made) -> None:
    source = made("iemocap")
    table = source / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    table.write_text(table.read_text().replace("\texc\t", "\tfoo\t"))
    with pytest.raises(ProblemsError, match=r"gives Ses01F_impro01_M000 the emotion 'foo'"):
        load_corpus("iemocap").prepare(source, PrepareOptions())


def test_table_without_its_column_raises(made: Made) -> None:
    source = made("emns")
    (source / "metadata.csv").write_text("id|utterance\n1|Oh\n2\n")
    expected = r"2 problems.*'audio_recording' is missing, got \['id', 'utterance'\].*1 rows do not"
    with pytest.raises(ProblemsError, match=expected):
        load_corpus("emns").prepare(source, PrepareOptions())


def test_pavoque_without_audio_cuts_nothing(made: Made, tmp_path: Path) -> None:
    options = PrepareOptions(check_audio=False)
    prepared = prepare_corpus("pavoque", made("pavoque"), tmp_path / "out", options)
    assert len(prepared.manifest.rows) == 2
    assert not (tmp_path / "out" / "audio").exists()


def test_pavoque_of_a_damaged_list_raises(made: Made) -> None:
    source = made("pavoque")
    (source / "pavoque-angry.yaml").write_text("- prompt: a0001\n")
    with pytest.raises(Exception, match=r"is no list of sentences, expected .* end, prompt, start"):
        load_corpus("pavoque").prepare(source, PrepareOptions())


def test_table_of_the_docs_has_the_facts_of_every_corpus() -> None:
    page = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert set(MINIATURES) <= set(rows)
    for name, row in rows.items():
        facts = load_corpus(name).FACTS
        assert facts.emotions is not None
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == f"[{facts.title}]({facts.url})"
        assert cells[3] == str(len(facts.emotions))
        assert cells[5] == facts.licence
        assert facts.n_published is None or cells[4] == f"{facts.n_published:,}"
