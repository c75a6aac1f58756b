"""Cross-validate: a member is trained once per fold, and each run labels the rows it never saw."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from abhinaya.config import MemberConfig, TrainedConfig
from abhinaya.errors import BadValueError, UnknownNameError, list_some
from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Cell, Report
from abhinaya.pipeline.stages.settings import Settings
from abhinaya.pipeline.trials.variants import train_and_predict

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from abhinaya.data.manifest import Manifest
    from abhinaya.data.predictions import PredictionTable
    from abhinaya.evaluation.metrics import Scores

__all__ = ["CrossValidateSettings", "run_cross_validate"]

_ALSO = "also"
_MEASURES = ("macro_f1", "accuracy", "uar")


class CrossValidateSettings(Settings):
    """Which rows are held out together, and what is trained on beside the others."""

    by: str = Field(default="speaker", json_schema_extra={"metavar": "COLUMN"})
    """Column of the manifest, such as speaker or session: rows of one value share a fold."""
    folds: int | None = Field(default=None, ge=2)
    """How many folds."""
    leave_one_out: bool = False
    """One fold for each value of the column instead."""
    also: tuple[Path, ...] = Field(default=(), json_schema_extra={"metavar": "MANIFEST"})
    """Second corpus: in every training set, never held out; repeat for more."""
    select: tuple[str, ...] = Field(default=("all",), json_schema_extra={"metavar": "SELECTION"})
    """Split or subset to cross-validate, everything by default; repeat to add another."""

    @model_validator(mode="after")
    def _check_number(self) -> Self:
        if (self.folds is None) != self.leave_one_out:
            raise ValueError("give either --folds N or --leave-one-out")
        return self


@sole_outputs("out")
def run_cross_validate(config: MemberConfig, out: Path, settings: CrossValidateSettings) -> Report:
    """Write one table in which every row is labelled by the run that has not heard its group.

    Below `config.run_dir` are the runs `fold-1`, ..., their tables, and the manifest that they were
    trained on: its splits are the folds. What is finished there is not computed again. Where the
    config has a validation selection, the next fold takes its place and is not trained on; where it
    has none, every run keeps its last checkpoint. Every process of a launch calls this.

    Args:
        config: of the member; its `data.train` does not count.
        out: the table to write.
        settings: the folds.

    Raises:
        BadValueError: if there is nothing to train, the folds cannot be made, or the folder holds
            others.
        ClassOrderError: if a second corpus has other classes.
    """
    from abhinaya.data.manifest import read_manifest
    from abhinaya.data.predictions import write_table
    from abhinaya.data.problems import Problem, problems_beside, write_problems

    if not isinstance(config, TrainedConfig):
        raise BadValueError(
            f"The member {config.member!r} has nothing to train, so there is nothing to "
            "cross-validate. Predict with its config."
        )
    manifest = read_manifest(config.data.manifest, audio_root=config.data.audio_root)
    rows = manifest.select(settings.select)
    folds = _make_folds(rows, manifest, settings, str(config.data.manifest))
    names = list(folds)
    validates = config.data.validation is not None
    if validates and len(names) < 3:
        raise BadValueError(
            "2 folds leave nothing to train on: one is held out, and the other one chooses the "
            "checkpoint. Make at least 3 folds, or keep the last checkpoint with "
            "data.validation=null."
        )
    corpus = _write_corpus(rows, manifest, folds, config, settings)
    tables: dict[str, PredictionTable] = {}
    for fold, following in zip(names, names[1:] + names[:1], strict=True):
        validation = (following,) if validates else ()
        train = [name for name in names if name not in (fold, *validation)]
        train += [_ALSO] if settings.also else []
        tables[fold] = _run_fold(config, corpus, fold, tuple(train), validation or None)
    table = _join(tables, tuple(rows["utterance"]), folds, settings)
    write_table(table, out)
    pairs = zip(table.utterances, table.reasons, strict=True)
    write_problems(problems_beside(out), [Problem(name, why) for name, why in pairs if why])
    return _report(table, manifest.emotions.encode(rows["label"]), folds, out, settings)


def _report(
    table: PredictionTable,
    truth: NDArray[np.int64],
    folds: Mapping[str, list[str]],
    out: Path,
    settings: CrossValidateSettings,
) -> Report:
    """Say how good each fold is, their mean and variance, and what is mistaken for what."""
    import numpy as np

    from abhinaya.evaluation.metrics import scores
    from abhinaya.pipeline.stages.score import describe_dimensions

    def score(fold: str | None) -> Scores:
        is_in = [name is not None and fold in (None, name) for name in table.fold or ()]
        own = np.array(is_in) & (truth >= 0)
        return scores(truth[own], table.labels[own], len(table.emotions))

    def describe(found: Scores) -> dict[str, Any]:
        return {"n_utts": found.n_utts, **{key: getattr(found, key) for key in _MEASURES}}

    total = score(None)
    per_fold = [
        {"fold": fold, "held_out": groups, **describe(score(fold))}
        for fold, groups in folds.items()
    ]
    summary: dict[str, dict[str, Any]] = {
        kind: {key: function([entry[key] for entry in per_fold]) for key in _MEASURES}
        for kind, function in (("mean", statistics.fmean), ("variance", statistics.variance))
    }
    summary["all"] = describe(total)
    cells: list[list[Cell]] = [
        [name, held_out, entry.get("n_utts"), *map(entry.get, _MEASURES)]
        for name, held_out, entry in [
            *((entry["fold"], list_some(entry["held_out"]), entry) for entry in per_fold),
            *((kind, None, entry) for kind, entry in summary.items()),
        ]
    ]
    more = describe_dimensions(table.name, total, table.emotions)
    n_outside = (table.fold or ()).count(None)
    return Report(
        str(out),
        ["fold", "held out", "rows", "macro-F1", "accuracy", "UAR"],
        cells,
        files=(out,),
        notes=(f"{n_outside} rows abstain: {_why_outside(settings)}.",) if n_outside else (),
        more=tuple(more),
        data={
            "table": str(out),
            "name": table.name,
            "by": settings.by,
            "folds": per_fold,
            **summary,
            **{key: value for report in more for key, value in report.as_json().items()},
        },
    )


def _why_outside(settings: CrossValidateSettings) -> str:
    return f"its {settings.by} is unknown or has no labelled row, so it is in no fold"


def _make_folds(
    rows: pd.DataFrame, manifest: Manifest, settings: CrossValidateSettings, where: str
) -> dict[str, list[str]]:
    """Deal the groups of labelled rows into folds: the names of the folds, and their groups."""
    from sklearn.model_selection import GroupKFold

    by = settings.by
    if by not in rows:
        raise UnknownNameError(f"column of {where!r}", by, map(str, rows.columns))
    truth = manifest.emotions.encode(rows["label"])
    group_of = _groups(rows, by)
    labelled = [group for group, label in zip(group_of, truth, strict=True) if group and label >= 0]
    groups = sorted(set(labelled))
    n_folds = len(groups) if settings.folds is None else settings.folds
    if len(groups) < max(2, n_folds):
        listed = f" ({list_some(groups)})" if groups else ""
        raise BadValueError(
            f"The labelled rows of {', '.join(settings.select)} of {where!r} have {len(groups)} "
            f"known values of {by!r}{listed}, expected at least {max(2, n_folds)}: one for each "
            "fold. Lower --folds, name another column with --by, or estimate speakers with "
            "abhinaya speakers."
        )
    if by != "speaker":
        shared: dict[str | None, set[str | None]] = {}
        for speaker, group in zip(_groups(rows, "speaker"), group_of, strict=True):
            shared.setdefault(speaker, set()).add(group)
        torn = [name for name, groups_of in shared.items() if name and len(groups_of - {None}) > 1]
        if torn:
            raise BadValueError(
                f"{len(torn)} speakers of {where!r} have several values of {by!r}, such as "
                f"{list_some(torn)}, so training would hear those who are held out. Use --by "
                "speaker."
            )
    # Folds of about as many rows each; with a fold for each group, its rows.
    dealt = GroupKFold(n_folds).split(labelled, groups=labelled)
    held_out = sorted(sorted({labelled[idx] for idx in rows_of}) for _, rows_of in dealt)
    return {f"fold-{number}": names for number, names in enumerate(held_out, start=1)}


def _groups(rows: pd.DataFrame, by: str) -> list[str | None]:
    import pandas as pd

    return [None if pd.isna(value) or value == "" else str(value) for value in rows[by]]


def _write_corpus(
    rows: pd.DataFrame,
    manifest: Manifest,
    folds: Mapping[str, list[str]],
    config: TrainedConfig,
    settings: CrossValidateSettings,
) -> Manifest:
    """Write the manifest whose splits are the folds, with second corpora and all transcripts."""
    from dataclasses import replace

    import pandas as pd

    from abhinaya.data.manifest import MANIFEST, make_manifest, read_manifest, write_manifest
    from abhinaya.data.transcripts import (
        read_transcript_rows,
        transcripts_path,
        write_transcripts,
    )

    def placed(frame: pd.DataFrame, owner: Manifest, splits: Any) -> pd.DataFrame:
        cells = frame["audio"]
        audio: Any = [None if pd.isna(c) else str(owner.audio_path(c).absolute()) for c in cells]
        return frame.assign(split=splits, audio=audio)

    fold_of = {group: fold for fold, groups in folds.items() for group in groups}
    splits = [fold_of.get(group or "") for group in _groups(rows, settings.by)]
    frames = [placed(rows, manifest, splits)]
    owners, emotions = [manifest], manifest.emotions
    for path in settings.also:
        other = read_manifest(path)
        manifest.emotions.require_same_order(
            other.emotions, what=f"The second corpus {str(path)!r}", where=str(config.data.manifest)
        )
        # It may carry other labels that are never predicted.
        outside = tuple(dict.fromkeys((*emotions.outside, *other.emotions.outside)))
        emotions = replace(emotions, outside=outside)
        extra = other.rows.reindex(columns=rows.columns)
        frames.append(placed(extra, other, _ALSO))
        owners.append(other)
    folder = config.run_dir
    corpus = make_manifest(
        pd.concat(frames, ignore_index=True),
        emotions,
        folder,
        facts=manifest.facts,
        where=" and ".join(str(path) for path in (config.data.manifest, *settings.also)),
    )
    file = folder / MANIFEST
    if file.is_file() and read_manifest(file).digest != corpus.digest:
        raise BadValueError(
            f"{str(folder)!r} holds a cross-validation with other folds or another corpus. Set "
            "run_dir to another folder, or delete this one."
        )
    write_manifest(corpus, file)
    if config.data.transcripts is not None:
        known = set(corpus.rows["utterance"])
        texts = [row for own in owners for row in read_transcript_rows(transcripts_path(own.root))]
        write_transcripts(
            [row for row in texts if row["utterance"] in known], transcripts_path(folder)
        )
    return corpus


def _run_fold(
    config: TrainedConfig,
    corpus: Manifest,
    fold: str,
    train: tuple[str, ...],
    validation: tuple[str, ...] | None,
) -> PredictionTable:
    """Train without a fold, and label it; both only where that was not done before."""
    from abhinaya.data.manifest import MANIFEST

    data = config.data.model_copy(
        update={
            "manifest": config.run_dir / MANIFEST,
            "audio_root": None,
            "train": train,
            "validation": validation,
        }
    )
    own = config.model_copy(update={"data": data, "run_dir": config.run_dir / fold})
    return train_and_predict(own, corpus, (fold,), config.run_dir / f"{fold}.parquet")


def _join(
    tables: Mapping[str, PredictionTable],
    utterances: tuple[str, ...],
    folds: Mapping[str, list[str]],
    settings: CrossValidateSettings,
) -> PredictionTable:
    """Put the tables of the folds together, in the order of the manifest."""
    from dataclasses import replace

    import numpy as np

    from abhinaya.data.attributes import ATTRIBUTES
    from abhinaya.data.labels import ABSTAIN
    from abhinaya.files import digest_of

    first, *_ = every = list(tables.values())
    place = {utterance: idx for idx, utterance in enumerate(utterances)}
    labels = np.full(len(utterances), ABSTAIN, dtype=np.int64)
    probs = np.full((len(utterances), len(first.emotions)), np.nan, dtype=np.float32)
    attributes = np.full((len(utterances), len(ATTRIBUTES)), np.nan, dtype=np.float32)
    trained_on = np.zeros(len(utterances), dtype=bool)
    reasons: list[str | None] = [_why_outside(settings)] * len(utterances)
    fold_of: list[str | None] = [None] * len(utterances)
    for fold, table in tables.items():
        own = [place[utterance] for utterance in table.utterances]
        labels[own] = table.labels
        if table.probs is not None:
            probs[own] = table.probs
        if table.attributes is not None:
            attributes[own] = table.attributes
        if table.trained_on is not None:
            trained_on[own] = table.trained_on
        for idx, why in zip(own, table.reasons, strict=True):
            reasons[idx], fold_of[idx] = why, fold
    # Without embeddings: those of one fold mean nothing to the head of another.
    priors = [prior for table in every if (prior := table.meta.get("absorbed_prior"))]
    meta = {
        **{key: first.meta.get(key) for key in ("member", "seed", "version")},
        "selection": list(settings.select),
        "digest": digest_of([table.meta.get("digest") for table in every]),
        "absorbed_prior": np.mean(priors, axis=0).tolist() if len(priors) == len(every) else None,
        "folds": {
            fold: {"held_out": folds[fold], "checkpoint": table.meta.get("checkpoint")}
            for fold, table in tables.items()
        },
    }
    return replace(
        first,
        utterances=utterances,
        labels=labels,
        reasons=tuple(reasons),
        probs=None if all(table.probs is None for table in every) else probs,
        embeddings=None,
        raw=None,
        trained_on=trained_on,
        fold=tuple(fold_of),
        attributes=None if all(table.attributes is None for table in every) else attributes,
        meta=meta,
    )
