"""MELD: dialogues of the television series Friends in seven emotions.

Read are the three CSV files as published. The sound is published as films: taken out of them under
the same names, `train_splits/dia0_utt3.wav` or .flac, it is read too; without it the manifest has
none, and members that read transcripts can be tried on it. The main characters speak in all three
splits: no score on them is one of unseen speakers.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from abhinaya.corpora.base import CorpusFacts, Prepared, PrepareOptions, build_manifest, names_in
from abhinaya.corpora.mould import FILMS, SOUNDS
from abhinaya.data.labels import EmotionSet
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import MissingFileError, ProblemsError, list_some, shorten

__all__ = ["FACTS", "N_PUBLISHED", "prepare"]

_CLASSES = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")

_EMOTIONS = EmotionSet(codes=_CLASSES, names=_CLASSES)

N_PUBLISHED = {"train": 9989, "development": 1109, "test": 2610}
"""Utterances of each split."""

FACTS = CorpusFacts(
    name="meld",
    title="MELD, Multimodal EmotionLines Dataset",
    emotions=_EMOTIONS,
    licence="GPL-3.0, the repository with the labels; the lines are those of a television series: "
    "research use only",
    citation="Poria, Hazarika, Majumder, Naik, Cambria and Mihalcea, MELD: A Multimodal "
    "Multi-Party Dataset for Emotion Recognition in Conversations, ACL 2019, arXiv:1810.02508",
    url="https://affective-meld.github.io/",
    n_published=sum(N_PUBLISHED.values()),
)

_FILES = {
    "train": "train_sent_emo.csv",
    "development": "dev_sent_emo.csv",
    "test": "test_sent_emo.csv",
}
_SOUND_FOLDERS = {
    "train": "train_splits",
    "development": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
# The files alone, a checkout of the repository, and the archive with the films.
_FOLDERS = (".", "data/MELD", "MELD.Raw")
_REQUIRED = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
# Columns that are kept as they are, and their names in the manifest.
_FURTHER = {
    "Sentiment": "sentiment",
    "Season": "season",
    "Episode": "episode",
    "StartTime": "start_time",
    "EndTime": "end_time",
}

# Where Windows-1252 has quotation marks, dashes and dots, Unicode has invisible control characters.
_C1_SIGNS = {code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}

# Several people at once, or somebody without a name, who is another one in the next dialogue.
_NOBODY = re.compile(
    r"all|both|every(body|one)|others|crowd"
    r"|man|woman|guy|girl|boy|kid|voice|waiter|waitress|nurse|doctor|student|customer|guest|clerk"
    r"|(a|an|another|the)\s.*|.*(#|/|,|&|\sand\s).*",
    re.IGNORECASE,
)


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest and human transcripts.

    Utterances are called `train_dia0_utt3` and the like, because dialogues count from 0 in every
    split. `recording` is the dialogue, `turn` the place in it. `character` is the speaker as
    written; `speaker` is None where that is several people, or one without a name. Sentiment,
    season, episode and the times in it are kept as text.

    Args:
        source: the folder with the CSV files, or a checkout of the published repository.
        options: see `PrepareOptions`; without audio wanted, none is looked for.

    Raises:
        MissingFileError: if none of the files is there; one that lacks is a problem.
        ProblemsError: if columns are missing, rows have too few or too many cells or no whole
            numbers for dialogue and utterance, or a file has no rows; all of it at once.
    """
    files = _find_files(source)
    problems = [
        Problem(_FILES[split], f"there is no such file; the split {split} has no rows")
        for split in _FILES
        if split not in files
    ]
    wrong: list[str] = []
    tables = {split: _read_table(file, problems, wrong) for split, file in files.items()}
    if wrong:
        raise ProblemsError(str(source), wrong)
    rows: list[dict[str, Any]] = []
    for split, table in tables.items():
        kept = _rows_of(split, table, problems)
        if len(kept) != N_PUBLISHED[split]:
            reason = f"{len(kept)} of {N_PUBLISHED[split]} utterances are listed"
            problems.append(Problem(_FILES[split], reason))
        rows += kept
    if options.check_audio:
        _add_sounds(source, rows, problems)
    transcripts = [
        {"utterance": row["utterance"], "source": HUMAN, "text": row.pop("text")} for row in rows
    ]
    manifest = build_manifest(rows, FACTS, source, emotions=_EMOTIONS, where=str(source))
    return Prepared(manifest, transcripts, problems)


def _find_files(source: Path) -> dict[str, Path]:
    """Find the file of each split that is there, all from one folder."""
    for folder in _FOLDERS:
        files = {split: source / folder / name for split, name in _FILES.items()}
        found = {split: file for split, file in files.items() if file.is_file()}
        if found:
            return found
    holds = names_in(source) if source.is_dir() else "nothing: it is no folder"
    raise MissingFileError(
        f"{str(source)!r} is not MELD: there is none of {', '.join(_FILES.values())} in it or in "
        f"{' or '.join(_FOLDERS[1:])}. It holds {holds}."
    )


def _read_table(file: Path, problems: list[Problem], wrong: list[str]) -> list[dict[str, str]]:
    """Read cells by column; what cannot be read is added to `wrong`."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        problems.append(Problem(file.name, "the file is not UTF-8; it was read as Windows-1252"))
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        lines = [(reader.line_num, cells) for cells in reader]
    except csv.Error as err:
        wrong.append(f"{file.name} cannot be read as CSV: {err}")
        return []
    header = [name.strip() for name in lines[0][1]] if lines else []
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        got = shorten(header, 500)  # of a damaged file it may be endless
        wrong += [f"{file.name} lacks the column {name!r}, got {got}" for name in missing]
        return []
    table, uneven, unplaced = [], [], []
    for line_number, cells in lines[1:]:
        row = dict(zip(header, cells, strict=False))
        if not cells:
            continue
        if len(cells) != len(header):
            uneven.append(line_number)
        elif not all(
            re.fullmatch(r"\d{1,9}", row[name].strip()) for name in ("Dialogue_ID", "Utterance_ID")
        ):
            unplaced.append(line_number)
        table.append(row)
    if uneven:
        wrong.append(
            f"{len(uneven)} rows of {file.name} do not have {len(header)} cells like the header: "
            f"line {list_some(uneven)}"
        )
    if unplaced:
        wrong.append(
            f"{len(unplaced)} rows of {file.name} have a Dialogue_ID or Utterance_ID that is no "
            f"whole number: line {list_some(unplaced)}"
        )
    if not table:
        wrong.append(f"{file.name} has no rows")
    return table


def _rows_of(
    split: str, table: list[dict[str, str]], problems: list[Problem]
) -> list[dict[str, Any]]:
    """Make the manifest's rows, each with its `text`; of several at one place the first counts."""
    rows: dict[str, dict[str, Any]] = {}
    for cells in table:
        dialogue, turn = int(cells["Dialogue_ID"]), int(cells["Utterance_ID"])
        name = f"{split}_dia{dialogue}_utt{turn}"
        if name in rows:
            problems.append(Problem(name, "listed again; the first row counts"))
            continue
        label = cells["Emotion"].strip().lower()
        if label not in _CLASSES:
            reason = f"the emotion {label!r} is none of {', '.join(_CLASSES)}; no label"
            problems.append(Problem(name, reason))
            label = ""
        text = _repair(cells["Utterance"])
        if not text:
            problems.append(Problem(name, "the utterance is empty"))
        character = _repair(cells["Speaker"])
        rows[name] = {
            "utterance": name,
            "split": split,
            "label": label,
            "speaker": None if _NOBODY.fullmatch(character) else character,
            "language": "en",
            "recording": f"{split}_dia{dialogue}",
            "turn": turn,
            "character": character,
            **{ours: cells[theirs] for theirs, ours in _FURTHER.items() if theirs in cells},
            "text": text,
        }
    return list(rows.values())


def _add_sounds(source: Path, rows: list[dict[str, Any]], problems: list[Problem]) -> None:
    """Give rows the sound of their name, below the folder of their split."""
    by_name = {row["utterance"]: row for row in rows}
    n_films, unused, found = 0, [], set()
    for split, name in _SOUND_FOLDERS.items():
        for file in sorted(file for folder in source.rglob(name) for file in folder.iterdir()):
            utterance, ending = f"{split}_{file.stem}", file.suffix.lower()
            n_films += ending in FILMS
            if ending in SOUNDS and utterance in by_name:
                by_name[utterance]["audio"] = file.relative_to(source).as_posix()
                found.add(utterance)
            elif ending in SOUNDS:
                unused.append(Problem(file.name, f"in no row of {_FILES[split]}; left out"))
    if found:
        silent = [name for name in by_name if name not in found]
        problems += [*unused, *(Problem(name, "there is no sound of it") for name in silent)]
    elif n_films:
        reason = (
            f"{n_films} films, but no sound: the texts alone are read; take the sound out, each "
            "with: ffmpeg -i dia0_utt0.mp4 -vn -ac 1 -ar 16000 dia0_utt0.wav"
        )
        problems.append(Problem("meld", reason))


def _repair(text: str) -> str:
    """Return text with the signs that were meant, and single blanks."""
    return " ".join(text.translate(_C1_SIGNS).split())
