"""Parts of a report that are the same for all selections: trainings, corpus, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abhinaya import __version__
from abhinaya.config import check_config, dump_yaml
from abhinaya.data.label_csv import read_csv_rows
from abhinaya.files import hash_file, read_json_object, read_text
from abhinaya.report.blocks import Block, Cell, Details, Figure, Section, Table, Text
from abhinaya.report.figures import curves, grouped_bars, histogram

if TYPE_CHECKING:
    from abhinaya.data.manifest import Manifest
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.pipeline.config import PipelineConfig

__all__ = [
    "Sources",
    "corpus_section",
    "provenance_section",
    "read_chain",
    "training_section",
]

_CURVES = {
    "Training loss": "loss",
    "Validation loss": "eval_loss",
    "Validation macro-F1": "eval_macro_f1",
}
_JUDGED = "Validation macro-F1"
_META = {
    "member": "member",
    "rule": "rule",
    "seed": "seed",
    "version": "version",
    "config digest": "config_digest",
    "digest": "digest",
    "prompt": "prompt",
    "weights": "checkpoint",
}


@dataclass(frozen=True)
class Sources:
    """Where all that a report shows comes from.

    Args:
        title: name of the chain, or what else the page is about.
        tables: files, or NAME=FILE, by selection.
        truths: file with true labels by selection.
        manifest: of the corpus, where there is one.
        folder: of the chain, where there is one.
        missing: names of tables that the chain has yet to make, by selection.
    """

    title: str
    tables: Mapping[str, Sequence[str]]
    truths: Mapping[str, Path]
    manifest: Path | None
    folder: Path | None = None
    missing: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def file_of(self, selection: str, idx: int) -> Path | None:
        """Return the file of a selection's table; None where the report made it itself."""
        given = self.tables[selection]
        if idx >= len(given):
            return None
        path = Path(given[idx])
        return path if path.exists() else Path(given[idx].partition("=")[2])


def read_chain(folder: Path) -> PipelineConfig | None:
    """Return the config of the chain in a folder, as it was run last; None if it is not there."""
    from abhinaya.pipeline.config import PipelineConfig
    from abhinaya.pipeline.run import CHAIN

    file = folder / CHAIN
    if not file.is_file():
        return None
    return check_config(read_json_object(file), PipelineConfig, str(file))


def training_section(tables: Sequence[PredictionTable], sources: Sources) -> Section:
    """Return the curves of every run whose log is found."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    best: list[list[Cell]] = []
    for table in tables:
        run = _run_of(table, sources)
        if run is None or not (run / "log.csv").is_file():
            continue
        for title, (epochs, values) in _read_log(run / "log.csv").items():
            panels.setdefault(title, {})[table.name] = epochs, values
            if title == _JUDGED:
                first = values.index(max(values))
                shown = f"{epochs[first]:g}", f"{max(epochs):g}"
                best.append([table.name, *shown, values[first]])
    if not panels:
        return Section("Training", [Text("No run's log was found, so there are no curves.")])
    names = [table.name for table in tables]
    blocks: list[Block] = [
        Figure(title, curves(panels[title], names, "epoch", title), f"{title} of each run.")
        for title in _CURVES
        if title in panels
    ]
    if best:
        columns = ["run", "best epoch", "of", "its macro-F1"]
        blocks.append(Table("Best epochs", columns, best, best=("its macro-F1",)))
    return Section("Training", blocks)


def _read_log(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Return epochs and values of each curve; what is no finite number is left out.

    Raises:
        AbhinayaError: if it is no log of a run.
    """
    _, rows = read_csv_rows(path, ("epoch",))
    found = {}
    for title, column in _CURVES.items():
        points = [
            (epoch, value)
            for row in rows
            if np.isfinite(epoch := _number(row["epoch"]))
            and np.isfinite(value := _number(row.get(column, "")))
        ]
        if points:
            epochs, values = zip(*points, strict=True)
            found[title] = list(epochs), list(values)
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _run_of(table: PredictionTable, sources: Sources) -> Path | None:
    """Return the run directory of a table, which may have been moved with its chain."""
    checkpoint = table.meta.get("checkpoint")
    if not isinstance(checkpoint, str):
        return None
    moved = [sources.folder / "runs" / table.name] if sources.folder else []
    return next((run for run in [*moved, Path(checkpoint).parent] if run.is_dir()), None)


def corpus_section(manifest: Manifest | None) -> Section:
    """Return classes, durations and speakers of each split."""
    if manifest is None:
        said = "There is a list of labels, but no manifest, so nothing is known of the corpus."
        return Section("Corpus", [Text(said)])
    labels = list(manifest.emotions.data_labels)
    counts: dict[str, list[int]] = {}
    rows: list[list[Cell]] = []
    for split in manifest.splits:
        own = manifest.rows[manifest.rows["split"] == split]
        found = own["label"].value_counts()
        counts[split] = [int(found.get(label, 0)) for label in labels]
        hours = float(own["duration_s"].sum()) / 3600
        n_speakers = int(own["speaker"].nunique())
        n_unlabelled = len(own) - sum(counts[split])
        rows.append([split, len(own), *counts[split], n_unlabelled, n_speakers, round(hours, 4)])
    blocks: list[Block] = [
        Table(
            "Splits",
            ["split", "utterances", *labels, "no label", "speakers", "hours"],
            rows,
            text="Utterances of unknown speakers are not counted as speakers.",
        )
    ]
    labelled = {split: values for split, values in counts.items() if any(values)}
    if labelled:
        svg = grouped_bars(labels, labelled, "utterances", "label")
        blocks.append(Figure("Classes of each split", svg, "Utterances of each label."))
    durations = manifest.rows["duration_s"].dropna().to_numpy(dtype=np.float64)
    if len(durations):
        said = (
            f"{len(durations)} durations: median {np.median(durations):.2f} s, longest "
            f"{durations.max():.2f} s."
        )
        blocks.append(Figure("Durations", histogram(durations, "seconds"), said))
    return Section("Corpus", blocks)


def provenance_section(
    tables: Mapping[str, Sequence[PredictionTable]], sources: Sources
) -> Section:
    """Return digests, seeds, versions and configs of all that the report is made of."""
    rows: list[list[Cell]] = []
    for selection, own in tables.items():
        for idx, table in enumerate(own):
            file = sources.file_of(selection, idx)
            meta = [_text(table.meta.get(key)) for key in _META.values()]
            digest = _digest(file) if file else "made here"
            rows.append([selection, table.name, *meta, digest])
    columns = ["selection", "table", *_META, "SHA-256 of the file"]
    filled = [idx for idx in range(len(columns)) if any(row[idx] for row in rows)]
    blocks: list[Block] = [
        Text(f"This page was made by abhinaya {__version__}."),
        Table(
            "Tables",
            [columns[idx] for idx in filled],
            [[row[idx] for idx in filled] for row in rows],
        ),
        Table(
            "Truth",
            ["selection", "file", "SHA-256 of the file"],
            [[name, str(file), _digest(file)] for name, file in sources.truths.items()],
        ),
    ]
    if sources.folder is not None:
        blocks += _chain(sources.folder)
    return Section("Provenance", blocks)


def _chain(folder: Path) -> list[Block]:
    blocks: list[Block] = []
    stamps = {
        stamp.stem: read_json_object(stamp).get("digest")
        for stamp in sorted((folder / ".steps").glob("*.json"))
        if stamp.stem != "report"  # which is not done while it writes this page
    }
    steps: list[list[Cell]] = [[name, _text(digest)] for name, digest in stamps.items() if digest]
    if steps:
        blocks.append(Table("Finished steps", ["step", "digest"], steps))
    submission = folder / "submission.csv"
    if submission.is_file():
        blocks.append(Text(f"Submission: {submission.name}, SHA-256 {_digest(submission)}."))
    config = read_chain(folder)
    if config is not None:
        blocks.append(Details("The chain", dump_yaml(config)))
    configs = sorted((folder / "runs").glob("*/config.yaml"))
    configs += sorted((folder / "configs").glob("*.yaml"))
    blocks += [
        Details(str(file.relative_to(folder)), read_text(file))
        for file in configs
        if file.is_file()
    ]
    return blocks


def _digest(file: Path) -> str:
    return hash_file(file)[:16]


def _text(value: Any) -> str:
    return "" if value is None else str(value)
