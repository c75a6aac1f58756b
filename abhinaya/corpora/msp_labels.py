"""The label files of MSP-Podcast, in every spelling and dialect that releases have used.

Consensus labels are one row per clip. Detailed labels are one row per clip and rater, in three
dialects of CSV: up to release 1.6 with columns `Workers`, `EmoClass_Major`, ...; then
`FileName,EmoDetail` with everything in one cell; from 2.0 on with columns again. The JSON files are
dictionaries by clip.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from abhinaya.corpora.base import gender_or_none, read_csv_text
from abhinaya.data.attributes import SECONDARY
from abhinaya.data.label_csv import repeated_columns
from abhinaya.data.labels import MSP_PODCAST, OTHER
from abhinaya.data.manifest_cells import known_or_none
from abhinaya.data.problems import Problem
from abhinaya.errors import BadValueError, ProblemsError, did_you_mean, list_some
from abhinaya.files import read_json

__all__ = [
    "SPLITS",
    "read_consensus",
    "read_partitions",
    "read_secondary",
    "read_votes",
    "split_or_none",
]

SPLITS = {
    "train": "train",
    "development": "development",
    "validation": "development",
    "test1": "test1",
    "test2": "test2",
    "test3": "test3",
}
"""Our name of every split, by the releases' names in lower case."""

_COLUMNS = {
    "filename": "utterance",
    "emoclass": "label",
    "emoact": "arousal",
    "emoval": "valence",
    "emodom": "dominance",
    "spkrid": "speaker",
    "gender": "gender",
    "split_set": "split",
}
_CODES = {name: code for code, name in zip(MSP_PODCAST.codes, MSP_PODCAST.names, strict=True)}


def split_or_none(text: object) -> str | None:
    """Return our name of a split, None if there is none of that name.

    Example:
        >>> split_or_none("Validation"), split_or_none(" Test1 "), split_or_none("Trian")
        ('development', 'test1', None)
    """
    return SPLITS.get(str(text).strip().lower())


def read_consensus(path: Path) -> pd.DataFrame:
    """Read consensus labels as text, with the column names of a manifest.

    `split` holds the release's own word. Unknown speakers and genders are None.

    Args:
        path: `labels_consensus.csv` or `.json`.

    Raises:
        BadValueError: if the file is not of its format.
        ProblemsError: if FileName or EmoClass are missing.
    """
    frame = _read_json_rows(path) if path.suffix == ".json" else read_csv_text(path)
    frame.columns = [str(column).strip().lower() for column in frame.columns]
    repeated = repeated_columns(list(frame.columns))
    if repeated:
        raise ProblemsError(str(path), repeated)
    missing = [name for name in ("FileName", "EmoClass") if name.lower() not in frame]
    if missing:
        raise ProblemsError(
            str(path),
            [
                f"the column {name!r} is missing, got {', '.join(frame.columns)}."
                f"{did_you_mean(name.lower(), frame.columns)}".rstrip(".")
                for name in missing
            ],
        )
    kept = {old: new for old, new in _COLUMNS.items() if old in frame}
    frame = frame[list(kept)].rename(columns=kept)
    frame["utterance"] = frame["utterance"].str.strip()
    for column, cleaner in (("speaker", known_or_none), ("gender", gender_or_none)):
        if column in frame:
            frame[column] = [cleaner(value) for value in frame[column]]
    return frame


def _read_json_rows(path: Path) -> pd.DataFrame:
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise BadValueError(
            f"{str(path)!r} is not a label file, expected a dictionary of dictionaries by clip, "
            'such as {"MSP-PODCAST_0001_0001.wav": {"EmoClass": "N"}}.'
        )
    rows = [
        {"FileName": name, **{key: str(value) for key, value in entry.items() if value is not None}}
        for name, entry in entries.items()
    ]
    return pd.DataFrame(rows, columns=None if rows else ["FileName", "EmoClass"]).fillna("")


def read_partitions(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """Split of every clip from lines `Train; MSP-PODCAST_0001_0001.wav`.

    Returns:
        splits: our name of the split by clip.
        problems: one that counts the lines that cannot be read.
    """
    splits: dict[str, str] = {}
    bad: list[str] = []
    n_lines = 0
    for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if not line.strip():
            continue
        n_lines += 1
        word, _, name = (part.strip() for part in line.partition(";"))
        split = split_or_none(word)
        if split is None or not name:
            bad.append(line)
        else:
            splits[name.rstrip("; ")] = split
    if not bad:
        return splits, []
    reason = (
        f"{len(bad)} of {n_lines} lines are not like 'Train; FILE.wav', such as {list_some(bad)}; "
        "left out"
    )
    return splits, [Problem(path.name, reason)]


def read_votes(path: Path) -> tuple[dict[str, list[int]], list[Problem]]:
    """Count the raters who chose each class as the primary emotion, by clip.

    Answers that begin with "Other", and answers outside the classes, are counted as O.

    Args:
        path: `labels_detailed.csv` or `.json`.

    Returns:
        votes: counts in the order of `MSP_PODCAST.vote_codes`, by clip.
        problems: one for the lines that cannot be read, one for the answers outside the classes;
            both with totals. An unknown dialect is a problem too, and then there are no votes.

    Raises:
        BadValueError: if a JSON file cannot be parsed.
    """
    problems: list[Problem] = []
    reader = _json_answers if path.suffix == ".json" else _csv_answers
    position = {code: idx for idx, code in enumerate(MSP_PODCAST.vote_codes)}
    votes: dict[str, list[int]] = {}
    outside: Counter[str] = Counter()
    for name, answer, _ in reader(path, problems):
        code = _CODES.get(answer.lower(), OTHER)
        if code == OTHER and not answer.lower().startswith("other"):
            outside[answer] += 1
        votes.setdefault(name, [0] * len(position))[position[code]] += 1
    if outside:
        shown = ", ".join(f"{answer!r} ({count})" for answer, count in outside.most_common(10))
        further = f" and {len(outside) - 10} more answers" if len(outside) > 10 else ""
        reason = (
            f"{outside.total()} votes are for none of the classes: {shown}{further}; counted as O"
        )
        problems.append(Problem(path.name, reason))
    return votes, problems


def read_secondary(path: Path) -> tuple[dict[str, str], list[Problem]]:
    """Read what share of the raters of each clip chose each secondary emotion.

    Raters who left the field empty do not count. Answers outside the list are counted as Other.

    Args:
        path: `labels_detailed.csv` or `.json`.

    Returns:
        shares: such as `Amused:0.4 Happy:0.8`, by clip.
        problems: one for the answers outside the list. Lines that cannot be read are told by
            `read_votes`.

    Raises:
        BadValueError: if a JSON file cannot be parsed.
    """
    reader = _json_answers if path.suffix == ".json" else _csv_answers
    # The last one as it is misspelt in releases.
    known = {name.lower(): name for name in SECONDARY} | {"dissapointed": "Disappointed"}
    raters: Counter[str] = Counter()
    chosen: dict[str, Counter[str]] = {}
    outside: Counter[str] = Counter()
    for name, _, answers in reader(path, []):
        given = [answer.strip() for answer in answers.split(",") if answer.strip()]
        unknown = [answer for answer in given if answer.lower() not in known]
        outside.update(answer for answer in unknown if not answer.lower().startswith("other"))
        found = {known.get(answer.lower(), "Other") for answer in given}
        if found:
            raters[name] += 1
            chosen.setdefault(name, Counter()).update(found)
    shares = {
        name: " ".join(f"{e}:{count / raters[name]:.4g}" for e, count in sorted(counts.items()))
        for name, counts in chosen.items()
    }
    if not outside:
        return shares, []
    reason = (
        f"{outside.total()} secondary emotions are none of the list: {list_some(outside)}; counted "
        "as Other"
    )
    return shares, [Problem(path.name, reason)]


def _csv_answers(path: Path, problems: list[Problem]) -> Iterator[tuple[str, str, str]]:
    """Yield clip, primary and secondary emotions of every line that can be read."""
    bad: list[str] = []
    n_lines = 0
    # Line by line, so that a stray quote spoils its own line and not all that follow.
    with path.open(encoding="utf-8-sig", errors="replace", newline=None) as file:
        try:
            header = [cell.strip().lower() for cell in next(csv.reader([file.readline()]), [])]
        except csv.Error:  # a cell of more than 131,072 characters
            header = []
        answer_column = next((c for c in ("emodetail", "emoclass_major") if c in header), None)
        if answer_column is None or "filename" not in header:
            reason = (
                f"the header is {', '.join(header) or 'empty'}, expected FileName and either "
                "EmoDetail or EmoClass_Major; no votes were read"
            )
            problems.append(Problem(path.name, reason))
            return
        name_idx, answer_idx = header.index("filename"), header.index(answer_column)
        second_idx = header.index("emoclass_second") if "emoclass_second" in header else len(header)
        for line_number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            n_lines += 1
            try:
                cells = next(csv.reader([line]), [])
            except csv.Error:  # a cell of more than 131,072 characters
                cells = []
            answer = cells[answer_idx].strip() if len(cells) > max(name_idx, answer_idx) else ""
            second = cells[second_idx] if len(cells) > second_idx else ""
            if answer_column == "emodetail":
                answer, second = _emotions_of(answer)
            if answer and cells[name_idx].strip():
                yield cells[name_idx].strip(), answer, second
            else:
                bad.append(f"line {line_number}: {line.strip()[:60]}")
    _report_unreadable(path, bad, n_lines, problems)


def _emotions_of(detail: str) -> tuple[str, str]:
    """Find the emotions in `WORKER1; Happy; Happy,Amused; A:4.0; V:5.0; D:4.0;`, each or ""."""
    parts = [part.strip() for part in detail.split(";")]
    numbers = ("A:", "V:", "D:")
    if len(parts) < 3 or parts[1].startswith(numbers):
        return "", ""
    return parts[1], "" if parts[2].startswith(numbers) else parts[2]


def _json_answers(path: Path, problems: list[Problem]) -> Iterator[tuple[str, str, str]]:
    """Yield clip and emotions of each rater in `{clip: {rater: {"EmoClass_Major": ...}}}`."""
    bad: list[str] = []
    n_entries = 0
    entries = read_json(path)
    for name, raters in (entries if isinstance(entries, dict) else {path.name: entries}).items():
        for rater, entry in (raters if isinstance(raters, dict) else {"": raters}).items():
            n_entries += 1
            answer = entry.get("EmoClass_Major") if isinstance(entry, dict) else None
            if isinstance(answer, str) and answer.strip():
                second = entry.get("EmoClass_Second")
                yield name, answer.strip(), second if isinstance(second, str) else ""
            else:
                bad.append(f"{name} {rater}".strip())
    _report_unreadable(path, bad, n_entries, problems)


def _report_unreadable(path: Path, bad: list[str], n_total: int, problems: list[Problem]) -> None:
    if bad:
        reason = (
            f"{len(bad)} of {n_total} annotations hold no primary emotion, such as {list_some(bad)}"
            "; left out of the votes"
        )
        problems.append(Problem(path.name, reason))
