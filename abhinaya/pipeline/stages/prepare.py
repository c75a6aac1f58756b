"""Prepare: a corpus as published becomes a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AliasChoices, Field

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Cell, Report
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    from abhinaya.corpora.class_sets import Placed
    from abhinaya.data.manifest import Manifest

__all__ = ["PrepareSettings", "run_prepare"]


class PrepareSettings(Settings):
    """How to prepare a corpus."""

    corpus: str
    """Corpus, such as msp-podcast, emodb or folder."""
    source: Path
    """The corpus as published."""
    audio: bool = Field(default=True, validation_alias=AliasChoices("audio", "check_audio"))
    """Look at the audio files, or not at all."""
    balanced_per_class: int = Field(default=326, ge=1)
    """MSP-Podcast: clips per class in the subset `balanced`."""
    seed: int = Field(default=0, ge=0)
    """Chooses the clips of `balanced`."""
    transcripts: dict[str, Path] = Field(
        default_factory=dict, json_schema_extra={"metavar": "NAME=FILE"}
    )
    """Further transcripts, a CSV FileName,Transcript; NAME such as whisper-large-v3."""
    text_source: str = "human"
    """msp-podcast-lists: what wrote the texts, `human` or a recogniser."""
    # Where unset it is not written: the steps of earlier versions are known by the rest.
    secondary: bool = Field(default=False, exclude_if=lambda value: not value)
    """MSP-Podcast: also keep what share of raters chose each secondary emotion."""
    columns: dict[str, str] = Field(
        default_factory=dict, json_schema_extra={"metavar": "OURS=THEIRS,..."}
    )
    """folder, hub, dataset: their columns, such as file=path,label=emotion."""
    classes: str | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        json_schema_extra={"metavar": "NAME|FILE"},
    )
    """Restrict and map to a class set: 4, 6, 7, 8, poleval2025, or a YAML file."""
    folds: Path | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        json_schema_extra={"metavar": "FOLDER"},
    )
    """EmoBox's folder of the corpus: the parts of one fold become the splits."""
    fold: int = Field(default=1, ge=1, exclude_if=lambda value: value == 1)
    """Which fold."""
    split: tuple[str, ...] = Field(
        default=(), exclude_if=lambda value: not value, json_schema_extra={"metavar": "NAME"}
    )
    """hub, dataset: what to read, instead of everything; repeat it."""
    config: str | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        json_schema_extra={"metavar": "NAME"},
    )
    """hub, dataset: of a data set that comes in several."""
    revision: str | None = Field(
        default=None,
        exclude_if=lambda value: value is None,
        json_schema_extra={"metavar": "COMMIT"},
    )
    """hub: a commit or tag, so that another day reads the same."""


@sole_outputs("out")
def run_prepare(settings: PrepareSettings, out: Path) -> Report:
    """Write manifest, subsets, transcripts and problems of a corpus into the folder `out`."""
    from abhinaya.corpora import prepare_corpus
    from abhinaya.corpora.audio_audit import NOTED, count_kinds
    from abhinaya.corpora.base import PrepareOptions
    from abhinaya.corpora.class_sets import find_class_set
    from abhinaya.data.manifest import MANIFEST
    from abhinaya.data.problems import PROBLEMS

    options = PrepareOptions(
        check_audio=settings.audio,
        balanced_per_class=settings.balanced_per_class,
        seed=settings.seed,
        transcripts=settings.transcripts,
        text_source=settings.text_source,
        secondary=settings.secondary,
        columns=settings.columns,
        classes=find_class_set(settings.classes) if settings.classes else None,
        class_set=settings.classes or "",
        folds=settings.folds,
        fold=settings.fold,
        split=settings.split,
        config=settings.config,
        revision=settings.revision,
    )
    prepared = prepare_corpus(settings.corpus, settings.source, out, options)
    columns, rows = _count_selections(prepared.manifest)
    counts = count_kinds(prepared.problems)
    kinds = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    n_notes = counts.get(NOTED, 0)
    noted = f" and {n_notes} {'note' if n_notes == 1 else 'notes'}" if n_notes else ""
    return Report(
        f"{settings.corpus}: {len(prepared.manifest.rows)} utterances, "
        f"{len(prepared.problems) - n_notes} problems{noted} in {out / PROBLEMS}"
        + (f" ({kinds})" if kinds else "")
        + "".join(f"; {text}" for text in map(_what_became, prepared.placed) if text),
        columns,
        rows,
        files=(out / MANIFEST, out / PROBLEMS),
    )


def _what_became(placed: Placed) -> str:
    if placed.becomes is None:
        return f"{placed.n_rows} {placed.label} left out"
    return f"{placed.n_rows} {placed.label} are {placed.becomes}"


def _count_selections(manifest: Manifest) -> tuple[list[str], list[list[Cell]]]:
    """Count clips, hours, speakers and labels of each split and subset: headings and rows.

    Where rows are in no split, the first row of the table counts all.
    """
    from abhinaya.data.manifest import ALL

    codes = manifest.emotions.data_labels
    columns = ["selection", "rows", "hours", "speakers", *codes, "no label"]
    table: list[list[Cell]] = []
    whole = [ALL] if manifest.rows["split"].isna().any() else []
    for name in [*whole, *manifest.splits, *manifest.subsets]:
        rows = manifest.select(name)
        counts = rows["label"].value_counts()
        hours = round(float(rows["duration_s"].sum()) / 3600, 3)
        labels = [int(counts.get(code, 0)) for code in codes]
        n_speakers = int(rows["speaker"].nunique())
        table.append([name, len(rows), hours, n_speakers, *labels, len(rows) - sum(labels)])
    return columns, table
