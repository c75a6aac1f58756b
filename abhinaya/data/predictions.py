"""The prediction table: what one run says about one selection. It is all that passes between parts.

On disk it is Parquet with its metadata inside, or a CSV `FileName,EmoClass[,prob_A,...]` for
exchange with other tools (an empty EmoClass is an abstention; with EmoAct, EmoVal and EmoDom where
there are attributes; all else needs Parquet). A row that a rule decided against its own
probabilities leaves them empty there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from abhinaya.data.attributes import ATTRIBUTES, attributes_of, find_outside
from abhinaya.data.frames import Framed, frame_of_predictions
from abhinaya.data.label_csv import (
    PROB_TOLERANCE,
    classes_in_headers,
    find_ending,
    read_csv_columns,
    write_csv_table,
)
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.parquet import (
    METADATA_KEY,
    check_columns,
    fixed_lists,
    matrix_of,
    read_parquet,
    stored_facts,
)
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import BadShapeError, BadValueError, MissingFileError, ProblemsError, list_some
from abhinaya.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PredictionTable", "align_tables", "read_table", "read_tables", "write_table"]

_TEXTS = ("utterance", "label", "reason")
_MAY_BE_ABSENT = ("raw", "decided_by", "fold")
_PER_ROW = (
    *("utterances", "labels", "reasons", "probs", "embeddings", "trained_on", "attributes"),
    *_MAY_BE_ABSENT,
)


@dataclass(frozen=True, repr=False)
class PredictionTable(Framed):
    """Labels, and where there are any probabilities, embeddings and raw answers.

    Columns of text are given as any sequence, and kept as `Texts`.

    Args:
        name: the run's name.
        emotions: the classes and their order.
        utterances: U unique file names, in the manifest's order.
        labels: class indices, shape (U,); `ABSTAIN` where the member has no opinion.
        reasons: why a row abstained, U texts or None.
        probs: class probabilities, shape (U, K); NaN rows where there are none.
        embeddings: input of the head's last linear layer, shape (U, D); NaN rows where none.
        raw: what a language model answered, U texts or None.
        decided_by: `majority`, `probabilities` or the run that broke a tie, U texts or None; vote
            results have it.
        trained_on: True where the weights, of a fusion any table's, were trained on the row, shape
            (U,); None where that is not known, or nothing was trained.
        fold: the fold that held a row out, U texts or None; cross-validated tables have it.
        attributes: predicted arousal, valence and dominance in [1, 7], shape (U, 3); NaN where
            there is none, None where the table has none at all.
        meta: member kind, class prior that the loss absorbed, last linear layer of the head
            (`head`: weight (K, D) and bias (K,) as lists), config digest, checkpoint, seed,
            version.

    Raises:
        ProblemsError: if utterances repeat, a label is out of range or probabilities are none.
        BadShapeError: if lengths differ.
    """

    name: str
    emotions: EmotionSet
    utterances: Sequence[str]
    labels: NDArray[np.int64]
    reasons: Sequence[str | None] = ()
    probs: NDArray[np.float32] | None = None
    embeddings: NDArray[np.float32] | None = None
    raw: Sequence[str | None] | None = None
    decided_by: Sequence[str | None] | None = None
    trained_on: NDArray[np.bool_] | None = None
    fold: Sequence[str | None] | None = None
    attributes: NDArray[np.float32] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_utts, n_classes = len(self.utterances), len(self.emotions)
        for key in ("utterances", "reasons", *_MAY_BE_ABSENT):
            if (texts := getattr(self, key)) is not None and not isinstance(texts, Texts):
                object.__setattr__(self, key, Texts(texts))
        if not self.reasons:
            object.__setattr__(self, "reasons", Texts(pa.nulls(n_utts)))
        shapes = {"labels": self.labels.shape, "reasons": (len(self.reasons),)}
        for key in ("probs", "embeddings", "attributes"):
            if (matrix := getattr(self, key)) is not None:
                shapes[key] = matrix.shape
        for key in (*_MAY_BE_ABSENT, "trained_on"):
            if (column := getattr(self, key)) is not None:
                shapes[key] = (len(column),)
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(shapes, (n_utts,))
        widths = {"probs": n_classes, "embeddings": shapes.get("embeddings", (0,))[-1]}
        widths["attributes"] = len(ATTRIBUTES)
        expected |= {key: (n_utts, width) for key, width in widths.items() if key in shapes}
        if shapes != expected:
            raise BadShapeError(
                f"Table {self.name!r} has {n_utts} utterances and {n_classes} classes, "
                f"but columns of shape {shapes}; expected {expected}."
            )
        problems = self._problems()
        if problems:
            raise ProblemsError(f"table {self.name!r}", problems)

    def _problems(self) -> list[str]:
        problems: list[str] = []
        utterances = self.utterances
        if isinstance(utterances, Texts) and not utterances.is_unique:
            repeated = [name for name, count in utterances.count_each().items() if count > 1]
            problems.append(
                f"{len(repeated)} utterances appear more than once: {list_some(repeated)}"
            )
        outside = (self.labels < ABSTAIN) | (self.labels >= len(self.emotions))
        if outside.any():
            problems.append(f"{int(outside.sum())} labels are no class index")
        if self.probs is not None:
            sums = self.probs.sum(axis=1)
            suits = (self.probs.min(axis=1) >= 0) & (np.abs(sums - 1) < PROB_TOLERANCE)
            others = self.probs[~suits]
            wrong = others[~np.isnan(others).all(axis=1)]
            if len(wrong):
                problems.append(
                    f"{len(wrong)} rows of probabilities are negative or do not sum to one, "
                    f"such as {wrong[0].tolist()}"
                )
        if self.attributes is not None:
            problems += find_outside(self.attributes, self.utterances)
        return problems

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def has_probs(self) -> NDArray[np.bool_]:
        """Return True where a row has probabilities, shape (U,)."""
        if self.probs is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(~np.isnan(self.probs).any(axis=1))

    def headline(self) -> str:
        """Say what the table is."""
        return f"{self.name}: {len(self)} predictions out of {' '.join(self.emotions.codes)}"

    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a data frame with their labels in words, indexed by utterance."""
        return frame_of_predictions(self)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> PredictionTable:
        """Return the rows at `indices`, in that order."""
        idx = np.asarray(indices, dtype=np.int64)
        columns: dict[str, Any] = {
            key: column.take(idx) if isinstance(column, Texts) else column[idx]
            for key in _PER_ROW
            if (column := getattr(self, key)) is not None
        }
        return replace(self, **columns)


def write_table(table: PredictionTable, path: Path) -> None:
    """Write Parquet, or CSV if `path` ends in .csv.

    Raises:
        BadValueError: if the ending is neither.
    """
    if path.suffix == ".csv":
        write_csv_table(table, path)
        return
    _require_ending(path)
    columns: dict[str, pa.Array] = {
        "utterance": pa.array(table.utterances, type=pa.string()),
        "label": pa.array(table.emotions.decode(table.labels), type=pa.string()),
        "reason": pa.array(table.reasons, type=pa.string()),
    }
    if table.probs is not None:
        columns["probs"] = fixed_lists(table.probs)
    if table.embeddings is not None:
        columns["embedding"] = fixed_lists(table.embeddings)
    for key in _MAY_BE_ABSENT:
        if getattr(table, key) is not None:
            columns[key] = pa.array(getattr(table, key), type=pa.string())
    if table.trained_on is not None:
        columns["trained_on"] = pa.array(table.trained_on)
    if table.attributes is not None:
        for name, values in zip(ATTRIBUTES, table.attributes.T, strict=True):
            columns[name] = pa.array(values, type=pa.float32(), from_pandas=True)
    stored = {
        "kind": "predictions",
        "name": table.name,
        "emotions": table.emotions.to_json(),
        "meta": dict(table.meta),
    }
    arrow = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(stored)})
    with atomic_path(path) as temporary:
        pq.write_table(arrow, temporary)


def read_table(
    path: str | Path, *, emotions: EmotionSet | None = None, beside: PredictionTable | None = None
) -> PredictionTable:
    """Read the table at `path`; its name is the run's, or for a CSV the file's stem.

    Args:
        path: .parquet or .csv file.
        emotions: the set that the table must have. A CSV does not store its set; without this
            argument MSP-Podcast's is taken.
        beside: a table read before; where both have the same utterances, these are kept once.

    Raises:
        MissingFileError: if the file is not there.
        ClassOrderError: if the table has another class order than `emotions`.
        ProblemsError: if the file's content is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(
            f"There is no table {str(path)!r}. Make one with: abhinaya predict RUN --out TABLE."
        )
    if path.suffix == ".csv":
        emotions = emotions or MSP_PODCAST
        return PredictionTable(path.stem, emotions, **read_csv_columns(path, emotions))
    _require_ending(path)
    arrow = read_parquet(path)
    stored = stored_facts(arrow, path)
    if stored.get("kind") != "predictions":
        raise BadValueError(
            f"{str(path)!r} is a Parquet file but not a prediction table. "
            "Make one with: abhinaya predict RUN --out TABLE."
        )
    check_columns(
        arrow,
        stored,
        path,
        facts={"emotions": str, "name": str, "meta": dict},
        texts=dict.fromkeys(_TEXTS, True) | dict.fromkeys(_MAY_BE_ABSENT, False),
        flags=("trained_on",),
        matrices=("probs", "embedding"),
        numbers=ATTRIBUTES,
    )
    found = EmotionSet.from_json(stored["emotions"], where=f"'emotions' of {str(path)!r}")
    if emotions is not None:
        emotions.require_same_order(found, what=f"Table {str(path)!r}", where="the rest")
    texts: dict[str, Texts] = {
        name: Texts(arrow.column(name))
        for name in (*_TEXTS, *_MAY_BE_ABSENT)
        if name in arrow.column_names
    }
    utterances: Sequence[str] = texts["utterance"]
    if beside is not None and utterances == beside.utterances:
        utterances = beside.utterances
    try:
        return PredictionTable(
            name=stored["name"],
            emotions=found,
            utterances=utterances,
            labels=found.encode(texts["label"]),
            reasons=texts["reason"],
            probs=matrix_of(arrow, "probs"),
            embeddings=matrix_of(arrow, "embedding"),
            raw=texts.get("raw"),
            decided_by=texts.get("decided_by"),
            trained_on=arrow.column("trained_on").to_numpy()
            if "trained_on" in arrow.column_names
            else None,
            fold=texts.get("fold"),
            attributes=attributes_of(arrow),
            meta=stored["meta"],
        )
    except BadValueError as err:
        problems = err.problems if isinstance(err, ProblemsError) else [str(err).rstrip(".")]
        raise ProblemsError(str(path), problems) from err


def read_tables(
    sources: Sequence[str | Path | PredictionTable], *, emotions: EmotionSet | None = None
) -> list[PredictionTable]:
    """Read several tables of one emotion set, each under its own name.

    Args:
        sources: paths, or `NAME=PATH` to give a table another name; or tables read before.
        emotions: the set all must have; by default that of the first Parquet table, else of the
            first CSV with probabilities, else MSP-Podcast's.

    Raises:
        BadValueError: if two tables have one name, or none are given.
        ClassOrderError: if the tables differ in class order.
    """
    if not sources:
        raise BadValueError("No tables were given. Name at least one prediction table.")
    given = [source for source in sources if isinstance(source, PredictionTable)]
    named = [
        (None, source) if isinstance(source, PredictionTable) else _split_name(str(source))
        for source in sources
    ]
    read: dict[Path, PredictionTable] = {}
    first = given[0] if given else None
    if emotions is None:
        paths = [path for _, path in named if isinstance(path, Path)]
        parquet = next((path for path in paths if path.suffix != ".csv"), None)
        if first is None and parquet is not None:
            first = read[parquet] = read_table(parquet)
        emotions = first.emotions if first is not None else classes_in_headers(paths)
    for table in given:
        emotions.require_same_order(table.emotions, what=f"Table {table.name!r}", where="the rest")
    tables = []
    for name, path in named:
        if isinstance(path, PredictionTable):
            tables.append(path)
            continue
        if path not in read:
            read[path] = read_table(path, emotions=emotions, beside=first)
        first = read[path] if first is None else first
        tables.append(replace(read[path], name=name) if name else read[path])
    names = [table.name for table in tables]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadValueError(
            f"{names.count(twice[0])} tables are named {twice[0]!r}. "
            "Rename one with NAME=TABLE on the command line."
        )
    return tables


def align_tables(tables: Sequence[PredictionTable], *, rows: str = "same") -> list[PredictionTable]:
    """Return the tables with the same utterances in the order of the first.

    Args:
        tables: at least one table.
        rows: `same` demands that all cover the same utterances; `intersection` keeps those in all.

    Raises:
        BadValueError: if the tables cover different utterances, or share none.
    """
    first = Texts(tables[0].utterances)
    is_shared = np.ones(len(first), dtype=bool)
    for table in tables[1:]:
        is_there = find_rows(first, table.utterances) >= 0
        if rows == "same" and not (is_there.all() and len(table) == len(first)):
            missing = first.take(np.flatnonzero(~is_there))
            others = Texts(table.utterances)
            extra = others.take(np.flatnonzero(find_rows(others, first) < 0))
            parts = [f"lacks {len(missing)}: {list_some(missing)}"] if missing else []
            parts += [f"has {len(extra)} more: {list_some(extra)}"] if extra else []
            hint = find_ending(extra, missing)
            raise BadValueError(
                f"Table {table.name!r} does not cover the same utterances as {tables[0].name!r}: "
                f"it {'; it '.join(parts)}{hint}. Predict the same selection with both, "
                "or use --rows intersection."
            )
        is_shared &= is_there
    order = first if is_shared.all() else first.take(np.flatnonzero(is_shared))
    if not order:
        raise BadValueError(
            f"The tables {', '.join(table.name for table in tables)} share no utterance."
        )
    return [
        table if table.utterances == order else table.take(find_rows(order, table.utterances))
        for table in tables
    ]


def _split_name(source: str) -> tuple[str | None, Path]:
    name, separator, path = source.partition("=")
    # A path may hold "=" too; a name never holds a separator of folders.
    if separator and "/" not in name and not Path(source).exists():
        return name, Path(path)
    return None, Path(source)


def _require_ending(path: Path) -> None:
    if path.suffix != ".parquet":
        raise BadValueError(f"The table {str(path)!r} must end in .parquet or .csv.")
