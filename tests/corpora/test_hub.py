"""Data sets made by the library itself, in a temporary folder; the hub is never asked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import soundfile

from abhinaya.corpora import prepare_corpus
from abhinaya.corpora.base import PrepareOptions
from abhinaya.corpora.hub import rows as hub_rows
from abhinaya.corpora.hub.export import export_data_set
from abhinaya.data.transcripts import read_transcripts
from abhinaya.errors import BadValueError, MissingFileError, ProblemsError, UnknownNameError

COLUMNS = {
    "label": "emotion",
    "utterance": "file_id",
    "text": "transcription",
    "speaker": "speaker_id",
    "corpus": "dataset",
}
"""Those of CAMEO."""

EMOTIONS = ("anger", "fear", "happiness")


def wav_bytes(seed: int, kind: str = "WAV") -> bytes:
    noise = np.random.default_rng(seed).uniform(-0.1, 0.1, 1_600)
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, 16_000, format=kind)
    return buffer.getvalue()


def table_of(corpus: str, n_rows: int = 5, **further: Any) -> datasets.Dataset:
    """A table like CAMEO's."""
    cells = {
        "file_id": [f"{corpus}_{n}.wav" for n in range(n_rows)],
        "audio": [
            {"bytes": wav_bytes(n + sum(corpus.encode())), "path": f"{corpus}_{n}.wav"}
            for n in range(n_rows)
        ],
        "emotion": [EMOTIONS[n % 3] for n in range(n_rows)],
        "transcription": [f"text  {n}" for n in range(n_rows)],
        "speaker_id": [f"0{n % 2}" for n in range(n_rows)],
        "gender": ["female", "Male", "unknown", None, "female"][:n_rows],
        "age": ["30"] * n_rows,
        "dataset": [corpus] * n_rows,
        "language": ["Polish"] * n_rows,
        "license": ["CC BY 4.0"] * n_rows,
        **further,
    }
    table = datasets.Dataset.from_dict(cells)
    return table.cast_column("audio", datasets.Audio())


def save_parquet(folder: Path, **tables: datasets.Dataset) -> Path:
    for split, table in tables.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def cells(rows: pd.DataFrame, name: str) -> list[Any]:
    return [None if pd.isna(cell) else cell for cell in rows[name]]


@pytest.fixture
def cameo(tmp_path: Path) -> Path:
    return save_parquet(tmp_path / "cameo", cafe=table_of("cafe"), nemo=table_of("nemo"))


def save_as_disk(folder: Path) -> Path:
    both = {"cafe": table_of("cafe"), "nemo": table_of("nemo")}
    datasets.DatasetDict(both).save_to_disk(folder)
    return folder


def save_as_parquet(folder: Path) -> Path:
    return save_parquet(folder, cafe=table_of("cafe"), nemo=table_of("nemo"))


@pytest.mark.parametrize("save", [save_as_disk, save_as_parquet])
def test_collection_becomes_a_manifest_with_sound(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    source, out = save(tmp_path / "source"), tmp_path / "out"
    prepared = prepare_corpus("dataset", source, out, PrepareOptions(columns=COLUMNS))
    rows = prepared.manifest.rows
    assert prepared.manifest.emotions.codes == EMOTIONS
    assert rows["utterance"].tolist()[4:6] == ["cafe_4.wav", "nemo_0.wav"]
    assert rows["split"].tolist() == ["cafe"] * 5 + ["nemo"] * 5
    assert rows["label"].tolist()[:4] == ["anger", "fear", "happiness", "anger"]
    # Speakers 00 of two corpora are two.
    assert rows["speaker"].tolist()[4:6] == ["cafe-00", "nemo-00"]
    assert cells(rows, "gender")[:4] == ["female", "male", None, None]
    assert rows["license"].tolist()[0] == "CC BY 4.0"
    assert rows["duration_s"].tolist() == [0.1] * 10
    audio = out / rows["audio"][0]
    assert audio.read_bytes() == wav_bytes(sum(b"cafe"))
    assert read_transcripts(out / "transcripts.parquet", "human")["cafe_3.wav"] == "text 3"
    assert prepared.problems == []


def test_chosen_splits_are_read_alone(cameo: Path, tmp_path: Path) -> None:
    options = PrepareOptions(columns=COLUMNS, split=("nemo",))
    manifest = prepare_corpus("dataset", cameo, tmp_path / "out", options).manifest
    assert manifest.splits == ["nemo"]
    options = PrepareOptions(columns=COLUMNS, split=("nem",))
    with pytest.raises(UnknownNameError, match=r"'nem'\. Did you mean 'nemo'\? Known: cafe, nemo"):
        prepare_corpus("dataset", cameo, tmp_path / "out2", options)


def test_audiofolder_keeps_its_files_where_they_are(tmp_path: Path) -> None:
    for split, label, seed in (("train", "joy", 1), ("train", "anger", 2), ("test", "joy", 3)):
        path = tmp_path / "source" / split / label / f"{seed}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav_bytes(seed))
    manifest = prepare_corpus("dataset", tmp_path / "source", tmp_path / "out").manifest
    rows = manifest.rows.set_index("utterance")
    assert rows.loc["1.wav", ["label", "split"]].tolist() == ["joy", "train"]
    assert rows.loc["3.wav", "audio"] == "../source/test/joy/3.wav"
    assert manifest.emotions.codes == ("anger", "joy")
    assert not (tmp_path / "out" / "audio").exists()


def test_class_labels_give_their_order_and_minus_one_is_no_label(tmp_path: Path) -> None:
    table = table_of("cafe", emotion=[1, 0, -1, 1, 0])
    table = table.cast_column("emotion", datasets.ClassLabel(names=["joy", "anger"]))
    table.to_parquet(tmp_path / "one.parquet")
    options = PrepareOptions(columns=COLUMNS)
    manifest = prepare_corpus(
        "dataset", tmp_path / "one.parquet", tmp_path / "out", options
    ).manifest
    assert manifest.emotions.codes == ("joy", "anger")
    assert cells(manifest.rows, "label") == ["anger", "joy", None, "anger", "joy"]


def test_killed_import_goes_on_and_ends_with_the_same_bytes(
    cameo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_rows, "BATCH", 2)
    options = PrepareOptions(columns=COLUMNS)
    prepare_corpus("dataset", cameo, tmp_path / "whole", options)

    write, seen = hub_rows._row, []

    def kill(entry: Any, *further: Any) -> Any:
        seen.append(entry["file_id"])
        if len(seen) == 8:  # within the second batch of the second split
            raise KeyboardInterrupt
        return write(entry, *further)

    monkeypatch.setattr(hub_rows, "_row", kill)
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus("dataset", cameo, tmp_path / "killed", options)
    assert not (tmp_path / "killed" / "manifest.parquet").exists()
    prepare_corpus("dataset", cameo, tmp_path / "killed", options)
    # Read again: the batch that was begun and those behind it.
    assert seen[8:] == ["nemo_2.wav", "nemo_3.wav", "nemo_4.wav"]
    for path in (tmp_path / "whole").rglob("*.*"):
        there = tmp_path / "killed" / path.relative_to(tmp_path / "whole")
        if path.parent.name == "import":  # how far the library's stream was
            continue
        assert path.is_dir() or there.read_bytes() == path.read_bytes(), path

    prepare_corpus("dataset", cameo, tmp_path / "killed", options)
    assert len(seen) == 11  # a finished import reads nothing again
    columns = {**COLUMNS, "mood": "age"}
    prepare_corpus("dataset", cameo, tmp_path / "killed", PrepareOptions(columns=columns))
    assert len(seen) == 21  # another one does


def test_without_audio_nothing_is_written_but_rows(cameo: Path, tmp_path: Path) -> None:
    options = PrepareOptions(columns=COLUMNS, check_audio=False)
    prepared = prepare_corpus("dataset", cameo, tmp_path / "out", options)
    assert len(prepared.manifest.rows) == 10
    assert not (tmp_path / "out" / "audio").exists()


def test_row_without_sound_and_columns_of_lists_are_listed(tmp_path: Path) -> None:
    table = table_of("cafe", vector=[[1.0]] * 5)
    whole = table.cast_column("audio", datasets.Audio(decode=False)).to_list()
    whole[2]["audio"] = None
    table = datasets.Dataset.from_list(whole).cast_column("audio", datasets.Audio())
    source = save_parquet(tmp_path / "source", train=table)
    prepared = prepare_corpus("dataset", source, tmp_path / "out", PrepareOptions(columns=COLUMNS))
    reasons = {problem.utterance: problem.reason for problem in prepared.problems}
    assert reasons["cafe_2.wav"] == "there is no sound in this row"
    assert "the columns vector are no text or number" in str(reasons)


def test_sound_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    broken = [{"bytes": b"RIFFbroken", "path": "x.wav"}] * 4
    table = table_of("cafe", audio=[*broken, {"bytes": wav_bytes(1), "path": "y.wav"}])
    source = save_parquet(tmp_path / "source", train=table)
    prepared = prepare_corpus("dataset", source, tmp_path / "out", PrepareOptions(columns=COLUMNS))
    assert {problem.utterance for problem in prepared.problems} == {
        f"cafe_{n}.wav" for n in range(4)
    }


def test_missing_columns_raise_with_what_to_write(cameo: Path, tmp_path: Path) -> None:
    options = PrepareOptions(columns={"speaker": "speaker"})
    expected = (
        r"2 problems in the data set .*no column 'speaker' for speaker\. Did you mean "
        r"'speaker_id'\?.*'label' is missing, got .*--columns label=emotion"
    )
    with pytest.raises(ProblemsError, match=expected):
        prepare_corpus("dataset", cameo, tmp_path / "out", options)


def test_one_label_alone_raises(tmp_path: Path) -> None:
    source = save_parquet(tmp_path / "source", train=table_of("cafe", emotion=["joy"] * 5))
    options = PrepareOptions(columns=COLUMNS)
    with pytest.raises(BadValueError, match=r"has 1 different labels, \['joy'\].*label=COLUMN"):
        prepare_corpus("dataset", source, tmp_path / "out", options)


def test_column_of_numbers_is_no_sound(tmp_path: Path) -> None:
    options = PrepareOptions(columns={**COLUMNS, "audio": "vector"})
    table = table_of("cafe", vector=[[1.0]] * 5)
    source = save_parquet(tmp_path / "other", train=table)
    with pytest.raises(ProblemsError, match=r"the column 'vector' is .* no sound and no path"):
        prepare_corpus("dataset", source, tmp_path / "out", options)


def test_folder_without_a_data_set_raises(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "readme.bin").write_text("")
    with pytest.raises(MissingFileError, match=r"is no data set of .* It holds readme\.bin\. Give"):
        prepare_corpus("dataset", tmp_path / "source", tmp_path / "out")


def test_hub_is_asked_by_name_and_its_refusal_is_told(
    cameo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    load = datasets.load_dataset

    def answer(path: str, **options: Any) -> Any:
        asked.update(options, path=path)
        if path != "amu-cai/CAMEO":
            raise ConnectionError(f"Couldn't reach '{path}' on the Hub")
        return load(str(cameo), streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", answer)
    options = PrepareOptions(columns=COLUMNS, revision="38e9e96")
    manifest = prepare_corpus("hub", Path("amu-cai/CAMEO"), tmp_path / "out", options).manifest
    assert asked["revision"] == "38e9e96"
    assert asked["streaming"] is True
    assert manifest.facts["source"] == "amu-cai/CAMEO"
    with pytest.raises(
        BadValueError, match=r"'no/body' cannot be opened: Couldn't .*hf auth login"
    ):
        prepare_corpus("hub", Path("no/body"), tmp_path / "other", options)


def test_state_of_an_import_is_plain_json(cameo: Path, tmp_path: Path) -> None:
    prepare_corpus("dataset", cameo, tmp_path / "out", PrepareOptions(columns=COLUMNS))
    batch = json.loads((tmp_path / "out" / "import" / "cafe-00000.json").read_text())
    assert batch["ended"] is True
    assert len(batch["rows"]) == 5


def corpus_in(folder: Path, write_wav: Callable[..., None]) -> Path:
    for name in "abc":
        write_wav(folder / "source" / f"{name}.wav")
    (folder / "source" / "labels.csv").write_text(
        "file,label,speaker,split,text,score,votes\na.wav,joy,1,train,hello,1.5,joy:2\n"
        "b.wav,anger,2,dev-1,,2,\nc.wav,,2,,bye,,\n"
    )
    prepare_corpus("folder", folder / "source", folder / "corpus")
    return folder / "corpus" / "manifest.parquet"


def test_exported_corpus_is_a_data_set_and_comes_back(
    tmp_path: Path, write_wav: Callable[..., None]
) -> None:
    manifest = corpus_in(tmp_path, write_wav)
    (tmp_path / "p.csv").write_text(
        "FileName,EmoClass,prob_anger,prob_joy\na.wav,joy,0.25,0.75\nb.wav,joy,0.5,0.5\n"
    )
    counts = export_data_set(
        manifest, tmp_path / "out", predictions=[f"mine={tmp_path}/p.csv"], transcripts="human"
    )
    assert counts == {"train": 1, "dev_1": 1, "all": 1}
    found = datasets.load_dataset(str(tmp_path / "out"), streaming=True)
    row = next(iter(found["train"].cast_column("audio", datasets.Audio(decode=False))))
    assert row["audio"]["bytes"] == (tmp_path / "source" / "a.wav").read_bytes()
    assert (row["label"], row["mine"], row["mine_probs"]) == ("joy", "joy", [0.25, 0.75])
    assert (row["text"], row["score"], row["speaker"]) == ("hello", "1.5", "1")
    assert (
        "Classes, the order of probabilities: anger, joy."
        in (tmp_path / "out" / "README.md").read_text()
    )

    again = prepare_corpus("dataset", tmp_path / "out", tmp_path / "again").manifest.rows
    by_name = again.set_index("utterance")
    assert by_name.loc["b.wav", ["label", "split", "mine"]].tolist() == ["anger", "dev_1", "joy"]
    # No split, in no table, without a label.
    assert cells(by_name.loc[["c.wav"]], "split") == [None]
    assert cells(by_name.loc[["c.wav"]], "mine") == [None]
    assert cells(by_name.loc[["c.wav"]], "label") == [None]


def test_export_lists_absent_audio_and_refuses_what_does_not_fit(
    tmp_path: Path, write_wav: Callable[..., None]
) -> None:
    manifest = corpus_in(tmp_path, write_wav)
    (tmp_path / "source" / "b.wav").unlink()
    export_data_set(manifest, tmp_path / "out")
    assert "b.wav,the audio file is absent" in (tmp_path / "out" / "problems.csv").read_text()
    with pytest.raises(BadValueError, match=r"exists already\. Give another --out"):
        export_data_set(manifest, tmp_path / "out")
    (tmp_path / "p.csv").write_text("FileName,EmoClass\nz.wav,joy\n")
    with pytest.raises(BadValueError, match=r"No row of the table 'p' is in the manifest"):
        export_data_set(manifest, tmp_path / "o", predictions=[f"{tmp_path}/p.csv"])
    (tmp_path / "p.csv").write_text("FileName,EmoClass\na.wav,joy\n")
    with pytest.raises(ProblemsError, match=r"a column 'label' already; give NAME=TABLE"):
        export_data_set(manifest, tmp_path / "o", predictions=[f"label={tmp_path}/p.csv"])
    assert not (tmp_path / "o").exists()
