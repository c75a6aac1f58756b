"""A corpus as a data set of the library `datasets`: Parquet with the sound in it, as on the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from abhinaya.data.manifest import ALL, Manifest, read_manifest
from abhinaya.data.predictions import PredictionTable, read_tables
from abhinaya.data.problems import PROBLEMS, Problem, write_problems
from abhinaya.data.transcripts import read_transcripts, transcripts_path
from abhinaya.errors import BadValueError, ProblemsError, list_some
from abhinaya.files import atomic_folder, sole_outputs, write_text
from abhinaya.progress import progress

if TYPE_CHECKING:
    from datasets import Features

__all__ = ["export_data_set"]

_GROUP = 100
"""Rows in memory at once, with their sound."""

_TEXTS = ("utterance", "label", "speaker", "gender", "language", "recording")
_NUMBERS = ("duration_s", "turn", "arousal", "valence", "dominance")


@sole_outputs("out")
def export_data_set(
    path: Path,
    out: Path,
    *,
    predictions: Sequence[str] = (),
    transcripts: str | None = None,
    audio_root: Path | None = None,
) -> dict[str, int]:
    """Write `out/data/SPLIT-00000-of-00001.parquet` for each split, and a card, `out/README.md`.

    `datasets.load_dataset(out)` reads it, and so does `abhinaya prepare dataset out`. A table of
    predictions becomes the column of its name, and `NAME_probs` where it has probabilities, in the
    order of the classes, which the card has. Rows without a split are in `all`.

    Args:
        path: the manifest.
        out: a folder that must not exist.
        predictions: tables, or NAME=TABLE; a row that they lack has None.
        transcripts: source of the column `text`.
        audio_root: where the audio lies now.

    Returns:
        How many rows each split has.

    Raises:
        BadValueError: if `out` exists, or no row of a table is in the manifest.
        ProblemsError: if tables have names of columns.
    """
    if out.exists():
        raise BadValueError(f"{str(out)!r} exists already. Give another --out, or remove it.")
    manifest = read_manifest(path, audio_root=audio_root)
    rows = manifest.rows.copy()
    tables = read_tables(predictions, emotions=manifest.emotions) if predictions else []
    _add_predictions(rows, tables)
    if transcripts is not None:
        texts = read_transcripts(transcripts_path(path.parent), transcripts)
        rows["text"] = [texts.get(utterance) for utterance in rows["utterance"]]
    columns = [column for column in rows.columns if column not in ("audio", "split", "votes")]
    columns = [c for c in columns if rows[c].notna().any() or c in ("utterance", "label")]
    features = _features(rows, columns)
    splits = rows["split"].fillna(ALL).map(_plain_name)
    counts = {str(split): int(n) for split, n in splits.value_counts(sort=False).items()}
    problems: list[Problem] = []
    with atomic_folder(out) as folder, progress("exporting", len(rows)) as advance:
        (folder / "data").mkdir()
        for split in counts:
            file = folder / "data" / f"{split}-00000-of-00001.parquet"
            with pq.ParquetWriter(file, features.arrow_schema) as writer:
                for group in _groups(manifest, rows[splits == split], columns, problems):
                    writer.write_table(pa.Table.from_pylist(group, features.arrow_schema))
                    advance(len(group))
        write_text(folder / "README.md", _card(manifest, tables, counts))
        write_problems(folder / PROBLEMS, problems)
    return counts


def _add_predictions(rows: pd.DataFrame, tables: Sequence[PredictionTable]) -> None:
    wrong = []
    for table in tables:
        labels = dict(zip(table.utterances, table.emotions.decode(table.labels), strict=True))
        found = [labels.get(utterance) for utterance in rows["utterance"]]
        if not set(labels) & set(rows["utterance"]):
            names = list_some(list(labels))
            raise BadValueError(
                f"No row of the table {table.name!r} is in the manifest, such as {names}. Give "
                "tables of this corpus."
            )
        columns = {table.name: found}
        if table.probs is not None:
            probs = dict(zip(table.utterances, table.probs.tolist(), strict=True))
            columns[f"{table.name}_probs"] = [probs.get(name) for name in rows["utterance"]]
        wrong += [f"there is a column {name!r} already" for name in columns if name in rows]
        for name, cells in columns.items():
            rows[name] = pd.Series(cells, index=rows.index, dtype=object)
    if wrong:
        raise ProblemsError("the tables' names", [f"{text}; give NAME=TABLE" for text in wrong])


def _features(rows: pd.DataFrame, columns: Sequence[str]) -> Features:
    from datasets import Audio, Features, List, Value

    kinds: dict[str, Any] = {}
    for column in columns:
        first = next(cell for cell in [*rows[column].dropna(), ""])
        if isinstance(first, list):
            kinds[column] = List(Value("float32"))
        elif column in _NUMBERS or (column not in _TEXTS and isinstance(first, int | float)):
            kinds[column] = Value("float64")
        else:
            kinds[column] = Value("string")
    return Features({"utterance": kinds.pop("utterance"), "audio": Audio(), **kinds})


def _groups(
    manifest: Manifest, rows: pd.DataFrame, columns: Sequence[str], problems: list[Problem]
) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(rows), _GROUP):
        group = []
        for row in rows.iloc[start : start + _GROUP].to_dict("records"):
            cells = {column: _cell(row[column]) for column in columns}
            audio = row["audio"]
            file = manifest.audio_path(audio) if isinstance(audio, str) else None
            cells["audio"] = None
            if file is not None and file.is_file():
                cells["audio"] = {"bytes": file.read_bytes(), "path": file.name}
            else:
                problems.append(Problem(row["utterance"], "the audio file is absent"))
            group.append(cells)
        yield group


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return value
    if value is None or pd.isna(value):
        return None
    return float(value) if isinstance(value, int | float) else str(value)


def _plain_name(split: str) -> str:
    return "".join(sign if sign.isalnum() or sign == "_" else "_" for sign in split)


def _card(manifest: Manifest, tables: Sequence[PredictionTable], counts: dict[str, int]) -> str:
    facts = "".join(f"- {name}: {text}\n" for name, text in manifest.facts.items())
    names = "".join(f"- `{table.name}`: predictions\n" for table in tables)
    files = [{"split": split, "path": f"data/{split}-*"} for split in counts]
    # JSON is YAML too.
    head = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
    return (
        f"---\n{head[1:-1]}\n---\n\n".replace('"configs": ', "configs: ", 1)
        + f"# {manifest.facts.get('title', 'A corpus')}\n\n{facts}{names}\n"
        + f"Classes, the order of probabilities: {', '.join(manifest.emotions.codes)}.\n"
    )
