"""EmoDB, the Berlin database: ten sentences in seven emotions, played by ten speakers, in German.

Everything is in the file names, such as `03a01Fa.wav`: speaker 03, sentence a01, F for Freude
(happiness), version a. Read are the original `wav/` folder and copies that have a `metadata.csv`
instead.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from abhinaya.corpora.base import (
    CorpusFacts,
    Prepared,
    PrepareOptions,
    build_manifest,
    names_in,
    read_csv_text,
)
from abhinaya.data.labels import EmotionSet
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import MissingFileError, ProblemsError

__all__ = ["FACTS", "N_PUBLISHED", "prepare"]

_CLASSES = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")

_EMOTIONS = EmotionSet(codes=_CLASSES, names=_CLASSES)

N_PUBLISHED = 535
"""Utterances of the whole corpus."""

FACTS = CorpusFacts(
    name="emodb",
    title="EmoDB, Berlin Database of Emotional Speech",
    emotions=_EMOTIONS,
    licence="CC0-1.0",
    citation="Burkhardt, Paeschke, Rolfes, Sendlmeier and Weiss, A Database of German Emotional "
    "Speech, Interspeech 2005",
    url="http://emodb.bilderbar.info/",
    n_published=N_PUBLISHED,
)

# First letters of the German words: Wut, Langeweile, Ekel, Angst, Freude, neutral, Trauer. E and A
# are not what they seem: label lists exist that take A for happiness and E for anxiety.
_LETTERS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "N": "neutral",
    "T": "sadness",
}
# Gender, age, and the part of the split that the publisher of the audb version proposes.
_SPEAKERS = {
    "03": ("male", 31, "train"),
    "08": ("female", 34, "train"),
    "09": ("female", 21, "train"),
    "10": ("male", 32, "train"),
    "11": ("male", 26, "train"),
    "12": ("male", 30, "test"),
    "13": ("female", 32, "train"),
    "14": ("female", 35, "test"),
    "15": ("male", 25, "test"),
    "16": ("female", 31, "test"),
}
# Speaker-independent parts; the first is the publisher's `train`, the others share its `test`.
_SUBSETS = {
    "speakers-train": ("03", "08", "09", "10", "11", "13"),
    "speakers-validation": ("12", "14"),
    "speakers-test": ("15", "16"),
}
_SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
_NAME = re.compile(
    rf"({'|'.join(_SPEAKERS)})({'|'.join(_SENTENCES)})([{''.join(_LETTERS)}])([a-z])\.(wav|flac)"
)
_METADATA = "metadata.csv"
_FOLDERS = ("wav", "flac", ".")
_PERCEPTION = ("human_recognition_pct", "human_naturalness_pct")


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest, sentences and speaker-independent subsets.

    Labels come from the file names alone. A `metadata.csv` gives the list of files and the results
    of the perception test, and has to agree with the names.

    Args:
        source: the folder that holds `metadata.csv`, `wav/` or `flac/`, or the sound files
            themselves.
        options: see `PrepareOptions`.

    Raises:
        MissingFileError: if there are no files of the corpus.
        ProblemsError: if the metadata contradict a name, or a file is listed twice.
    """
    metadata = _read_metadata(source / _METADATA)
    files = metadata["file"].tolist() if metadata is not None else _list_files(source)
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for file in files:
        name = Path(file).name
        match = _NAME.fullmatch(name)
        if match is None:
            problems.append(Problem(name, "the name is not like '03a01Fa.wav'; left out"))
            continue
        rows.append(_row(file, *match.groups()[:4]))
    if not rows:
        raise MissingFileError(
            f"{str(source)!r} is not EmoDB: there are no files like 03a01Fa.wav in {_METADATA}, "
            f"wav/, flac/ or the folder itself. It holds {names_in(source)}."
        )
    wrong = [] if metadata is None else _add_perception(rows, metadata)
    if len(rows) != N_PUBLISHED:
        problems.append(Problem("emodb", f"{len(rows)} of {N_PUBLISHED} utterances are listed"))
    manifest = build_manifest(
        rows,
        FACTS,
        source,
        emotions=_EMOTIONS,
        where=str(source),
        wrong=wrong,
        subsets={
            subset: chosen
            for subset, speakers in _SUBSETS.items()
            if (chosen := [row["utterance"] for row in rows if row["speaker"] in speakers])
        },
    )
    transcripts = [
        {"utterance": row["utterance"], "source": HUMAN, "text": _SENTENCES[row["text_code"]]}
        for row in rows
    ]
    return Prepared(manifest, transcripts, problems)


def _row(file: str, speaker: str, text_code: str, letter: str, version: str) -> dict[str, Any]:
    gender, age, split = _SPEAKERS[speaker]
    return {
        "utterance": Path(file).name,
        "audio": file,
        "split": split,
        "label": _LETTERS[letter],
        "speaker": speaker,
        "gender": gender,
        "language": "de",
        "text_code": text_code,
        "version": version,
        "age": age,
    }


def _list_files(source: Path) -> list[str]:
    """Find sound files of the first usual folder that has any, relative to `source`."""
    for folder in _FOLDERS:
        found = sorted(p for p in (source / folder).glob("*") if p.suffix in (".wav", ".flac"))
        if found:
            return [path.relative_to(source).as_posix() for path in found]
    return []


def _read_metadata(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    frame = read_csv_text(path)
    if "file" not in frame:
        raise ProblemsError(
            str(path), [f"the column 'file' is missing, got {', '.join(frame.columns)}"]
        )
    return frame


def _add_perception(rows: list[dict[str, Any]], metadata: pd.DataFrame) -> list[str]:
    """Add the listeners' results to the rows, and return what contradicts the names."""
    wrong: list[str] = []
    entries = {Path(entry["file"]).name: entry for entry in metadata.to_dict("records")}
    for row in rows:
        entry = entries[row["utterance"]]
        for column, cell in (("emotion", row["label"]), ("speaker", row["speaker"])):
            if entry.get(column, cell) != cell:
                wrong.append(
                    f"{_METADATA} gives {row['utterance']} the {column} {entry[column]!r}, "
                    f"but its name says {cell!r}"
                )
        try:
            row.update({c: float(entry[c]) for c in _PERCEPTION if entry.get(c)})
        except ValueError as err:
            wrong.append(f"{_METADATA} has no numbers for {row['utterance']}: {err}")
    return wrong
