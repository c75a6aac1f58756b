"""Which command a file comes from, so that none writes over what it did not make.

Parquet files and recipes say it inside, submissions are in their ledger. Of any other CSV there is
a note beside it, `.NAME.maker.json`, which holds for the very bytes that were written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from abhinaya.errors import AbhinayaError, BadValueError
from abhinaya.files import hash_file, read_json_object, write_json

__all__ = ["find_maker", "note_maker", "require_free"]


def require_free(out: Path, inputs: Iterable[object], by: str) -> None:
    """Refuse to write over an input, or over a file that another command or nobody known made.

    Args:
        out: what is to be written.
        inputs: values of a command's arguments; those that are files, or NAME=FILE, count.
        by: the command.

    Raises:
        BadValueError: then; it says how to do it all the same.
    """
    if not out.exists():
        return
    if any(file.exists() and out.samefile(file) for file in _files_in(inputs)):
        raise BadValueError(
            f"{str(out)!r} is also read by this command, which would replace it. Choose another "
            "file to write, or replace it with --force."
        )
    maker = find_maker(out)
    if maker != by:
        known = "was not made by" if maker is None else f"was made by abhinaya {maker}, not by"
        raise BadValueError(
            f"{str(out)!r} is there already and {known} abhinaya {by}. Choose another file to "
            "write, or replace it with --force."
        )


def note_maker(out: Path, by: str) -> None:
    """Write down which command has made a file, if the file cannot say so."""
    if out.suffix == ".csv" and by != "submit" and out.is_file():
        write_json(_note(out), {"by": by, "sha256": hash_file(out)})


def find_maker(file: Path) -> str | None:
    """Return the command that wrote a file; None if that is not known, or it was changed since."""
    try:
        if file.suffix == ".csv":
            return _maker_of_csv(file)
        if file.suffix == ".parquet":
            return _maker_of_parquet(file)
        stored = read_json_object(file) if file.suffix == ".json" else {}
    except (AbhinayaError, OSError):  # damaged, or no file: nobody's
        return None
    return "fit" if stored.get("kind") == "recipe" else None


def _files_in(values: Iterable[object]) -> Iterable[Path]:
    for value in values:
        if isinstance(value, str | Path):
            yield Path(value)
            yield Path(str(value).partition("=")[2] or value)
        elif isinstance(value, Mapping):
            yield from _files_in(value.values())
        elif isinstance(value, list | tuple):
            yield from _files_in(value)


def _note(file: Path) -> Path:
    return file.with_name(f".{file.name}.maker.json")


def _maker_of_csv(file: Path) -> str | None:
    from abhinaya.evaluation.submission import read_ledger

    sha256 = hash_file(file)
    if any(entry["sha256"] == sha256 for entry in read_ledger(file.parent)):
        return "submit"
    note = _note(file)
    stored = read_json_object(note) if note.is_file() else {}
    return str(stored.get("by")) if stored.get("sha256") == sha256 else None


def _maker_of_parquet(file: Path) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from abhinaya.data.parquet import METADATA_KEY

    try:
        schema = pq.read_schema(file)
        stored: dict[str, Any] = json.loads((schema.metadata or {})[METADATA_KEY])
        meta = dict(stored.get("meta", {}))
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    kind = stored.get("kind")
    if kind == "manifest":
        return "speakers" if "speaker_source" in schema.names else "prepare"
    if kind == "predictions":
        if "folds" in meta:
            return "cross-validate"
        if "rule" not in meta:
            return "predict"
        if "tiebreakers" in meta:
            return "vote"
        if meta["rule"] == "smooth":
            return "smooth"
        return "fit" if "out_of_fold" in meta else "apply"
    return "ablate" if kind == "ablation" else None
