"""Scores of prediction tables against the labels of a corpus."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from abhinaya.data.attributes import ATTRIBUTES
from abhinaya.data.label_csv import (
    FILE_COLUMN,
    LABEL_COLUMN,
    csv_header,
    find_ending,
    find_spelling,
    read_csv_rows,
)
from abhinaya.data.labels import ABSTAIN, MSP_PODCAST, EmotionSet
from abhinaya.data.manifest import Manifest, read_manifest
from abhinaya.data.predictions import PredictionTable, read_tables
from abhinaya.data.texts import Texts, find_rows
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError, list_some
from abhinaya.evaluation.bootstrap import bootstrap_interval
from abhinaya.evaluation.calibration import Calibration, measure_calibration
from abhinaya.evaluation.metrics import Classes, Scores, scores

__all__ = [
    "LabelledRows",
    "TableScore",
    "Truth",
    "absent_classes",
    "align_truth",
    "labelled_rows",
    "mean_and_sd",
    "read_truth",
    "read_with_truth",
    "score_table",
]


@dataclass(frozen=True)
class Truth:
    """True labels of utterances.

    Names are given as any sequence, and kept as `Texts`.

    Args:
        utterances: U unique file names.
        labels: class indices, shape (U,); `ABSTAIN` where there is no label inside the set.
        emotions: the classes and their order.
        speakers: speaker of each utterance, None where unknown.
        where: the file they come from.
        attributes: arousal, valence and dominance, shape (U, 3), NaN where unknown; None for a CSV.
    """

    utterances: Sequence[str]
    labels: NDArray[np.int64]
    emotions: EmotionSet
    speakers: Sequence[str | None]
    where: str = "the truth"
    attributes: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "utterances", Texts(self.utterances))
        object.__setattr__(self, "speakers", Texts(self.speakers))


@dataclass(frozen=True)
class TableScore:
    """How good one table is.

    Args:
        name: the table's name.
        emotions: the classes and their order.
        scores: over the rows with a true label inside the set; abstentions count as wrong.
        interval: 95 % bootstrap interval of macro-F1, lower and upper end.
        n_dropped: rows of the table without a true label inside the set; they are not scored.
        n_not_in_table: utterances with a true label inside the set that the table does not cover.
        absent: codes of the classes that no scored utterance truly has.
        n_trained_on: scored rows that the table's weights were trained on.
        unseen_macro_f1: macro-F1 without these; None where nothing is left, or nothing differs.
        calibration: how far its probabilities are to be trusted; None where there are none.
    """

    name: str
    emotions: EmotionSet
    scores: Scores
    interval: tuple[float, float]
    n_dropped: int
    n_not_in_table: int
    absent: tuple[str, ...]
    n_trained_on: int = 0
    unseen_macro_f1: float | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """The utterances of tables that have a true label inside the set.

    Args:
        indices: where they stand in the tables, shape (R,).
        labels: true class indices, shape (R,), values in [0, K).
        speakers: R names, None where unknown.
        groups: what to resample: the speakers, or None for single utterances.
        n_dropped: utterances of the tables without such a label.
        n_not_in_tables: utterances with such a label that the tables do not cover.
    """

    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    speakers: Sequence[str | None]
    groups: Sequence[str | None] | None
    n_dropped: int
    n_not_in_tables: int


def read_with_truth(
    tables: Sequence[str | Path | PredictionTable],
    path: Path | Manifest,
    *,
    speaker_column: str = "speaker",
) -> tuple[list[PredictionTable], Truth]:
    """Read tables and the true labels that they are held against.

    Args:
        tables: files, or NAME=FILE, or tables read before.
        path: see `read_truth`.
        speaker_column: see `read_truth`.

    Raises:
        AbhinayaError: as `read_tables` and `read_truth` do.
    """
    if all(not isinstance(one, PredictionTable) and str(one).endswith(".csv") for one in tables):
        # A CSV does not store its classes, so the truth says them.
        truth = read_truth(path, speaker_column=speaker_column)
        return read_tables(tables, emotions=truth.emotions), truth
    read = read_tables(tables)
    return read, read_truth(path, read[0].emotions, speaker_column=speaker_column)


def read_truth(
    path: Path | Manifest, emotions: EmotionSet | None = None, *, speaker_column: str = "speaker"
) -> Truth:
    """Read true labels from a manifest, or from a CSV `FileName,EmoClass`.

    Args:
        path: a manifest (.parquet, .csv or .jsonl, or one read before), or a CSV with those two
            columns.
        emotions: the set that the labels must have; for such a CSV, MSP-Podcast's by default.
        speaker_column: column of a manifest with the speakers, such as one with estimated ones.

    Raises:
        MissingFileError: if the file is not there.
        ClassOrderError: if a manifest has another class order than `emotions`.
        UnknownNameError: if a manifest has no such column.
        ProblemsError: if the file's content is wrong.
    """
    if isinstance(path, Manifest):
        manifest, where = path, "the manifest"
    else:
        path, where = Path(path), str(path)
        # A CSV that is neither hears what is missing for the simpler one.
        header = csv_header(path) if path.suffix == ".csv" else []
        if FILE_COLUMN in header or (header and "utterance" not in header):
            if speaker_column != "speaker":
                raise UnknownNameError(f"column of {where!r}", speaker_column, header)
            return _read_label_csv(path, emotions or MSP_PODCAST)
        manifest = read_manifest(path)
    if emotions is not None:
        emotions.require_same_order(
            manifest.emotions, what=f"Manifest {where!r}", where="the tables"
        )
    rows = manifest.rows
    if speaker_column not in rows:
        raise UnknownNameError(f"column of {where!r}", speaker_column, map(str, rows.columns))
    speakers = Texts(rows[speaker_column].astype("str")).arrow
    return Truth(
        utterances=Texts(rows["utterance"]),
        labels=manifest.emotions.encode(Texts(rows["label"])),
        emotions=manifest.emotions,
        speakers=Texts(pc.if_else(pc.equal(speakers, ""), None, speakers)),
        where=where,
        attributes=rows[list(ATTRIBUTES)].to_numpy(dtype=np.float32),
    )


def score_table(
    table: PredictionTable,
    truth: Truth,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
    by_speaker: bool = False,
    classes: Classes = "all",
) -> TableScore:
    """Score one table.

    Args:
        table: predictions; rows without a true label inside the set are dropped and counted.
        truth: true labels; it may cover more utterances than the table.
        n_resamples: number of bootstrap resamples behind the interval.
        seed: of the bootstrap.
        by_speaker: resample speakers instead of utterances; each utterance of an unknown speaker
            then stands for itself.
        classes: what macro-F1 and UAR are means over.

    Raises:
        ClassOrderError: if table and truth differ in class order.
        BadValueError: if an utterance of the table is not in the truth, no row can be scored, or
            speakers are asked for but unknown.
    """
    truth.emotions.require_same_order(
        table.emotions, what=f"Table {table.name!r}", where=truth.where
    )
    rows = labelled_rows(table.utterances, truth, by_speaker=by_speaker, of=f"table {table.name!r}")
    predicted, n_classes = table.labels[rows.indices], len(truth.emotions)
    marks = np.zeros(len(table), dtype=bool) if table.trained_on is None else table.trained_on
    unseen = ~marks[rows.indices]
    some_unseen = unseen.any() and not unseen.all()
    return TableScore(
        name=table.name,
        emotions=truth.emotions,
        scores=scores(rows.labels, predicted, n_classes, classes=classes),
        interval=bootstrap_interval(
            rows.labels,
            predicted,
            n_classes,
            groups=rows.groups,
            classes=classes,
            n_resamples=n_resamples,
            seed=seed,
        ),
        n_dropped=rows.n_dropped,
        n_not_in_table=rows.n_not_in_tables,
        absent=absent_classes(rows.labels, truth.emotions),
        n_trained_on=int((~unseen).sum()),
        unseen_macro_f1=(
            scores(rows.labels[unseen], predicted[unseen], n_classes, classes=classes).macro_f1
            if some_unseen
            else None
        ),
        calibration=measure_calibration(
            rows.labels, predicted, None if table.probs is None else table.probs[rows.indices]
        ),
    )


def absent_classes(labels: NDArray[np.int64], emotions: EmotionSet) -> tuple[str, ...]:
    """Return the codes of the classes that none of the true labels has."""
    return tuple(code for idx, code in enumerate(emotions.codes) if idx not in labels)


def align_truth(
    utterances: Sequence[str], truth: Truth, *, of: str = "the tables"
) -> tuple[NDArray[np.int64], Sequence[str | None]]:
    """Look up the true class and the speaker of each utterance.

    Args:
        utterances: U file names.
        truth: labels and speakers of these and perhaps further utterances.
        of: whose utterances they are, for the message.

    Returns:
        labels: class indices, shape (U,); `ABSTAIN` where there is no label inside the set.
        speakers: U names, None where unknown.

    Raises:
        BadValueError: if an utterance is not in the truth.
    """
    idx = find_rows(utterances, truth.utterances)
    unknown = Texts(utterances).take(np.flatnonzero(idx < 0))
    if unknown:
        raise BadValueError(
            f"{len(unknown)} of {len(utterances)} utterances of {of} are not in {truth.where}: "
            f"{list_some(unknown)}{find_ending(unknown, truth.utterances)}. "
            "Give the manifest that was predicted from."
        )
    return truth.labels[idx], Texts(truth.speakers).take(idx)


def labelled_rows(
    utterances: Sequence[str],
    truth: Truth,
    *,
    by_speaker: bool = False,
    of: str = "the tables",
    purpose: Literal["score", "learn"] = "score",
) -> LabelledRows:
    """Choose the utterances with a true label inside the set, the only ones that can be scored.

    Args:
        utterances: U file names.
        truth: labels and speakers of these and perhaps further utterances.
        by_speaker: whether speakers, not utterances, will be resampled.
        of: whose utterances they are, for messages.
        purpose: what the labels are for, for messages.

    Raises:
        BadValueError: if an utterance is not in the truth, none has a label, or speakers are asked
            for but unknown.
    """
    all_labels, all_speakers = align_truth(utterances, truth, of=of)
    indices = np.flatnonzero(all_labels != ABSTAIN)
    scored, so_that = {
        "score": ("scored", "nothing can be scored"),
        "learn": ("labelled", "there is nothing to learn from"),
    }[purpose]
    if len(indices) == 0:
        raise BadValueError(
            f"None of the {len(utterances)} utterances of {of} has a label out of "
            f"{' '.join(truth.emotions.codes)} in {truth.where}, so {so_that}. "
            "Predict a labelled selection."
        )
    speakers = Texts(all_speakers).take(indices)
    if by_speaker and speakers.arrow.null_count == len(speakers):
        raise BadValueError(
            f"{truth.where} names no speaker of the {len(speakers)} {scored} utterances, so the "
            "interval cannot be taken over speakers. Give a manifest with speakers, or resample "
            "utterances."
        )
    return LabelledRows(
        indices=indices,
        labels=all_labels[indices],
        speakers=speakers,
        groups=speakers if by_speaker else None,
        n_dropped=len(utterances) - len(indices),
        n_not_in_tables=int((truth.labels != ABSTAIN).sum()) - len(indices),
    )


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation (divisor n - 1) of scores, as of several seeds.

    Raises:
        BadValueError: if there are fewer than two.

    Example:
        >>> mean_and_sd([0.25, 0.75])
        (0.5, 0.3535533905932738)
    """
    if len(values) < 2:
        raise BadValueError(
            f"A standard deviation needs at least two scores, got {len(values)}. "
            "Give the tables of several seeds."
        )
    return statistics.fmean(values), statistics.stdev(values)


def _read_label_csv(path: Path, emotions: EmotionSet) -> Truth:
    _, rows = read_csv_rows(path)
    utterances = [row[FILE_COLUMN] for row in rows]
    labels = [row[LABEL_COLUMN] or None for row in rows]
    problems: list[str] = []
    repeated = [name for name, count in Counter(utterances).items() if count > 1]
    if repeated:
        problems.append(
            f"{len(repeated)} utterances appear more than once: {list_some(repeated)}; "
            "keep one row of each"
        )
    unknown = [
        f"{label} ({name})"
        for name, label in zip(utterances, labels, strict=True)
        if label is not None and label not in emotions.data_labels
    ]
    if unknown:
        problems.append(
            f"{len(unknown)} rows have an unknown {LABEL_COLUMN}: {list_some(unknown)}, expected "
            f"one of {' '.join(emotions.data_labels)} or an empty cell"
            f"{find_spelling(filter(None, labels), emotions.data_labels)}"
        )
    if problems:
        raise ProblemsError(str(path), problems)
    return Truth(
        tuple(utterances),
        emotions.encode(labels),
        emotions,
        speakers=(None,) * len(utterances),
        where=str(path),
    )
