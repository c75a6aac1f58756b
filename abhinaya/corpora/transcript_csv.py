"""Transcripts made elsewhere, as a CSV of file names and texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abhinaya.data.label_csv import FILE_COLUMN, read_csv_rows
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import BadValueError, ProblemsError, list_some

__all__ = ["TEXT_COLUMN", "read_transcript_csv"]

TEXT_COLUMN = "Transcript"
"""Column of what was said; an empty cell means that nothing was."""


def read_transcript_csv(path: Path, source: str, utterances: Sequence[str]) -> list[dict[str, Any]]:
    """Read rows for `write_transcripts` from a CSV `FileName,Transcript`.

    Args:
        path: the file; it need not cover all utterances.
        source: what these transcripts are called, such as `whisper-large-v3`.
        utterances: names that the corpus has.

    Raises:
        BadValueError: if the name of the source is `human`, which a corpus brings itself, or not
            made of letters, digits, dots, dashes and underscores.
        MissingFileError: if the file is not there.
        ProblemsError: if columns are missing, or names repeated or not in the corpus.
    """
    if source == HUMAN or not re.fullmatch(r"[\w.-]+", source):
        raise BadValueError(
            f"The transcripts {str(path)!r} are named {source!r}. Choose a name of letters, "
            f"digits, dots, dashes and underscores other than {HUMAN!r}, such as "
            "'whisper-large-v3'."
        )
    _, rows = read_csv_rows(path, (FILE_COLUMN, TEXT_COLUMN))
    names = [row[FILE_COLUMN] for row in rows]
    known = set(utterances)
    problems = []
    foreign = [name for name in names if name not in known]
    if foreign:
        problems.append(f"{len(foreign)} names are not in the corpus: {list_some(foreign)}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        problems.append(f"{len(repeated)} names appear more than once: {list_some(repeated)}")
    if problems:
        raise ProblemsError(str(path), problems)
    return [
        {"utterance": row[FILE_COLUMN], "source": source, "text": row[TEXT_COLUMN]} for row in rows
    ]
