"""Prediction tables in Python: read, vote, score, compare and smooth, as the commands do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from abhinaya.api.options import read_options, takes_options
from abhinaya.data.frames import Framed
from abhinaya.data.predictions import PredictionTable, read_table
from abhinaya.pipeline.stages.fuse import VoteSettings, fuse_by_vote
from abhinaya.pipeline.stages.score import ScoreSettings, run_score
from abhinaya.pipeline.stages.smooth import SmoothSettings, adapt_to_speakers

if TYPE_CHECKING:
    from abhinaya.data.manifest import Manifest

__all__ = [
    "Result",
    "compare",
    "load_predictions",
    "read_predictions",
    "score",
    "smooth",
    "vote",
]

Table = str | Path | PredictionTable
"""A table, its file, or NAME=FILE."""

read_predictions = load_predictions = read_table


@dataclass(frozen=True, repr=False)
class Result(Framed):
    """Numbers about tables: the most important frame first, others beside it.

    Args:
        frames: by name; `result["name"]` is one of them.
        notes: what the reader should know besides.
    """

    frames: Mapping[str, pd.DataFrame]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.frames[name]

    def headline(self) -> str:
        """Say which frames there are, and the notes."""
        return "; ".join([", ".join(self.frames), *self.notes])

    def to_frame(self) -> pd.DataFrame:
        """Return the first frame."""
        return next(iter(self.frames.values()))


@takes_options(VoteSettings)
def vote(tables: Sequence[Table], **options: Any) -> PredictionTable:
    """Return the vote of tables, as `abhinaya vote` writes it.

    Args:
        tables: tables, their files, or NAME=FILE.
        **options: those of the command.
    """
    return fuse_by_vote(tables, read_options(VoteSettings, options, "vote"))


@takes_options(ScoreSettings)
def score(
    tables: Table | Sequence[Table], manifest: str | Path | Manifest, **options: Any
) -> Result:
    """Score tables, as `abhinaya score` does.

    Args:
        tables: one or several tables, their files, or NAME=FILE.
        manifest: the truth: a manifest, its file, or a CSV FileName,EmoClass.
        **options: those of the command.

    Returns:
        Frames `tables` (a row for each), `classes` (for each table and class) and `confusion` (true
        classes in rows, predicted ones in columns).
    """
    settings = read_options(
        ScoreSettings, {"per_class": True, "confusion": True, **options}, "score"
    )
    report = run_score(_several(tables), _truth(manifest), settings)
    found = report.data["tables"]
    frames = {"tables": _overview(found)}
    if settings.per_class:
        frames["classes"] = pd.DataFrame(
            [{"table": one["table"], **row} for one in found for row in one["per_class"]]
        ).set_index(["table", "class"])
    if settings.confusion:
        frames["confusion"] = pd.concat(
            {
                one["table"]: pd.DataFrame(
                    one["confusion"]["counts"],
                    index=pd.Index(one["confusion"]["classes"], name="true"),
                    columns=pd.Index(one["confusion"]["classes"], name="predicted"),
                )
                for one in found
            },
            names=["table"],
        )
    if settings.mean:
        frames["mean"] = pd.DataFrame({"mean": report.data["mean"], "sd": report.data["sd"]}).T
    return Result(frames, report.notes)


def compare(
    tables: Sequence[Table],
    manifest: str | Path | Manifest,
    *,
    all_pairs: bool = False,
    by_speaker: bool = False,
    rows: Literal["same", "intersection"] = "same",
    resamples: int = 10_000,
    seed: int = 0,
    include_training_rows: bool = False,
) -> Result:
    """Say whether tables differ from the first one by more than luck, as `abhinaya compare` does.

    Args:
        tables: tables, their files, or NAME=FILE; the first is the one to compare with.
        manifest: the truth: a manifest, its file, or a CSV FileName,EmoClass.
        all_pairs: compare every two tables.
        by_speaker: take speakers for independent, not utterances.
        rows: demand the same utterances everywhere, or keep those that are in all.
        resamples: behind every interval and every test.
        seed: of the resamples.
        include_training_rows: also score rows that tables were trained on.

    Returns:
        Frame `differences`: for each pair and metric, positive where `table` is better.
    """
    from abhinaya.evaluation.caveats import training_notes
    from abhinaya.evaluation.comparison import compare_tables
    from abhinaya.evaluation.scoring import read_with_truth

    read, truth = read_with_truth(tables, _truth(manifest))
    report = compare_tables(
        read,
        truth,
        all_pairs=all_pairs,
        by_speaker=by_speaker,
        rows=rows,
        n_resamples=resamples,
        seed=seed,
        include_training_rows=include_training_rows,
    )
    differences = pd.DataFrame(
        [
            {"table": pair.table, "against": pair.against, **asdict(difference)}
            for pair in report.comparisons
            for difference in (pair.macro_f1, pair.accuracy)
        ]
    )
    return Result(
        {"differences": _split_intervals(differences).set_index(["table", "against", "metric"])},
        tuple(training_notes(report.scores)),
    )


@takes_options(SmoothSettings)
def smooth(table: Table, manifest: str | Path | Manifest, **options: Any) -> PredictionTable:
    """Return a table adapted to each speaker, as `abhinaya smooth` writes it.

    Args:
        table: a table, its file, or NAME=FILE.
        manifest: knows the speakers: a manifest or its file.
        **options: those of the command.
    """
    settings = read_options(SmoothSettings, options, "smooth")
    return adapt_to_speakers(table, _truth(manifest), settings)[1]


def _several(tables: Table | Sequence[Table]) -> Sequence[Table]:
    return [tables] if isinstance(tables, str | Path | PredictionTable) else tables


def _truth(manifest: str | Path | Manifest) -> Path | Manifest:
    return Path(manifest) if isinstance(manifest, str) else manifest


def _overview(found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    flat = [{k: v for k, v in one.items() if not isinstance(v, dict)} for one in found]
    frame = pd.DataFrame(flat).drop(columns=["per_class", "classes"], errors="ignore")
    return _split_intervals(frame).set_index("table")


def _split_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    """Put `low` and `high` in the place of a column of intervals."""
    at = frame.columns.get_loc("interval")
    assert isinstance(at, int)
    for offset, name in enumerate(("low", "high")):
        ends = [interval[offset] for interval in frame["interval"]]
        frame.insert(at + offset + 1, name, ends)
    return frame.drop(columns="interval")
