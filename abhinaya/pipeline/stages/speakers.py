"""Speakers: who speaks where a corpus does not say, by the voices of the clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from abhinaya.files import sole_outputs
from abhinaya.pipeline.report import Cell, Report
from abhinaya.pipeline.stages.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from abhinaya.data.manifest import Manifest
    from abhinaya.data.problems import Problem
    from abhinaya.speakers.clusters import ClusterQuality

__all__ = ["SpeakersSettings", "run_speakers"]


class SpeakersSettings(Settings):
    """How to estimate speakers."""

    model: str | None = None
    """Folder or hub id of an x-vector model, such as microsoft/wavlm-base-plus-sv."""
    select: tuple[str, ...] = Field(default=("all",), json_schema_extra={"metavar": "SELECTION"})
    """Rows to look at; repeatable. All by default."""
    n_speakers: int | None = Field(default=None, ge=1)
    """How many speakers there are."""
    threshold: float | None = Field(default=None, ge=0, le=2)
    """Cosine distance up to which voices are one speaker."""
    tune_on: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "SELECTION"})
    """Rows of known speakers to find the threshold on, by pairwise F1; repeatable."""
    replace: bool = False
    """Also estimate where speakers are known; kept in speaker_official."""
    embeddings: Path | None = Field(default=None, json_schema_extra={"metavar": "FILE"})
    """Where embeddings are kept, .npz; beside OUT if not."""
    batch_size: int = Field(default=16, ge=1)
    """Clips of one length per pass."""

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        n_rules = (self.n_speakers is not None) + (self.threshold is not None) + bool(self.tune_on)
        if n_rules != 1:
            raise ValueError("n_speakers, threshold, tune_on: give exactly one of them")
        if self.model is None and self.embeddings is None:
            raise ValueError("model, embeddings: give one of them, or both")
        return self


@sole_outputs("out")
def run_speakers(
    manifest: Path, out: Path, settings: SpeakersSettings, *, audio_root: Path | None = None
) -> Report:
    """Write a copy of a manifest with estimated speakers to `out`, and `OUT.problems.csv`."""
    from abhinaya.data.manifest import read_manifest
    from abhinaya.data.problems import write_problems
    from abhinaya.speakers.clusters import cluster_quality, cluster_voices, tune_threshold
    from abhinaya.speakers.estimates import (
        name_speakers,
        official_speakers,
        with_estimates,
        write_copy,
    )

    corpus = read_manifest(manifest, audio_root=audio_root)
    selection, tune_on, threshold = settings.select, settings.tune_on, settings.threshold
    target = _rows_to_name(corpus, selection, settings.replace)
    known = _rows_to_tune_on(corpus, tune_on) if tune_on else target.iloc[:0]
    vectors, problems = _embed(corpus, [target, known], settings, out)

    overview: list[list[Cell]] = []
    if tune_on:
        tuned = tune_threshold(
            _stack(known["utterance"].tolist(), vectors), official_speakers(known)
        )
        threshold = tuned.threshold
        clips: Any = known["utterance"].isin(list(vectors))
        overview.append(
            [
                f"tuned: {', '.join(tune_on)}",
                len(known),
                int(clips.sum()),
                threshold,
                *_quality_cells(tuned.quality.n_clusters, tuned.quality),
            ]
        )
    utterances = target["utterance"].tolist()
    clusters = cluster_voices(
        _stack(utterances, vectors), n_speakers=settings.n_speakers, threshold=threshold
    )
    found = {u: int(c) for u, c in zip(utterances, clusters, strict=True) if c >= 0}
    official = official_speakers(target)
    quality = cluster_quality(clusters, official) if any(official) else None
    overview.append(
        [
            f"estimated: {', '.join(selection)}",
            len(target),
            len(found),
            threshold,
            *_quality_cells(len(set(found.values())), quality),
        ]
    )
    others = corpus.rows.loc[~corpus.rows["utterance"].isin(utterances), "speaker"]
    named = name_speakers(found, {*others.dropna(), *filter(None, official)})
    source = settings.model or settings.embeddings
    rule = (
        f"{settings.n_speakers} speakers"
        if settings.n_speakers is not None
        else f"cosine distance {threshold:.4f}"
    )
    estimated = with_estimates(
        corpus,
        {utterance: named.get(utterance) for utterance in utterances},
        {"speakers": f"of {', '.join(selection)} estimated by {source}, {rule}"},
    )
    write_copy(estimated, out)
    listed = out.with_suffix(".problems.csv")
    write_problems(listed, problems)
    notes: tuple[str, ...] = ()
    if problems:
        notes = (f"{len(problems)} clips have no embedding and got no speaker; see {listed}.",)
    return Report(
        str(out),
        [
            "rows",
            "clips",
            "with a voice",
            "threshold",
            "clusters",
            "purity",
            "coverage",
            "pairwise F1",
            "true speakers",
        ],
        overview,
        files=(out, listed),
        notes=notes,
    )


def _rows_to_name(corpus: Manifest, selection: Sequence[str], replace: bool) -> pd.DataFrame:
    from abhinaya.errors import BadValueError
    from abhinaya.speakers.estimates import official_speakers

    rows = corpus.select(selection)
    if replace:
        return rows
    is_unknown = [speaker is None for speaker in official_speakers(rows)]
    if not any(is_unknown):
        raise BadValueError(
            f"All {len(rows)} rows of {', '.join(selection)!r} have a speaker. Select rows without "
            "one, or estimate them anew with --replace."
        )
    return rows.loc[is_unknown].reset_index(drop=True)


def _rows_to_tune_on(corpus: Manifest, selection: Sequence[str]) -> pd.DataFrame:
    from abhinaya.errors import BadValueError
    from abhinaya.speakers.estimates import official_speakers

    rows = corpus.select(selection)
    is_known = [speaker is not None for speaker in official_speakers(rows)]
    if not any(is_known):
        # Said before hours of embedding.
        raise BadValueError(
            f"None of the {len(rows)} rows of {', '.join(selection)!r} has a speaker to tune the "
            "threshold on. Tune on another selection, or give --threshold or --n-speakers."
        )
    return rows.loc[is_known].reset_index(drop=True)


def _embed(
    corpus: Manifest,
    wanted: list[pd.DataFrame],
    settings: SpeakersSettings,
    out: Path,
) -> tuple[dict[str, NDArray[np.float32]], list[Problem]]:
    """Embed each usable clip of these rows, and say what is wrong with the rest."""
    from types import SimpleNamespace
    from typing import cast

    import pandas as pd

    from abhinaya.errors import BadValueError
    from abhinaya.loading.clips import collect_clips
    from abhinaya.speakers.embeddings import (
        EmbeddingStore,
        embed_clips,
        load_speaker_model,
    )

    rows = pd.concat(wanted).drop_duplicates("utterance").reset_index(drop=True)
    hears = cast("Any", SimpleNamespace(needs_audio=True, needs_text=False))
    clips, problems = collect_clips(rows, corpus, hears)
    loaded = load_speaker_model(settings.model) if settings.model is not None else None
    digest = loaded.digest if loaded is not None else None
    beside = out.with_name(f"{out.stem}.xvectors-{(digest or '')[:8]}.npz")
    store = EmbeddingStore(settings.embeddings or beside, digest)
    vectors, more = embed_clips(clips, store, loaded, batch_size=settings.batch_size)
    problems += more
    if not vectors:
        listed = "; ".join(problem.reason for problem in problems[:3])
        raise BadValueError(
            f"None of the {len(rows)} clips could be embedded ({listed}). Correct --audio-root."
        )
    return vectors, problems


def _stack(utterances: list[str], vectors: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return embeddings of utterances, shape (U, D); NaN where there is none."""
    import numpy as np

    nothing = np.full_like(next(iter(vectors.values())), np.nan)
    return np.stack([vectors.get(utterance, nothing) for utterance in utterances])


def _quality_cells(n_clusters: int, quality: ClusterQuality | None) -> list[Cell]:
    if quality is None:
        return [n_clusters, None, None, None, None]
    scores = (quality.purity, quality.coverage, quality.pairwise_f1)
    return [n_clusters, *scores, quality.n_speakers]
