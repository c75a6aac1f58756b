"""`abhinaya speakers`."""

from __future__ import annotations

from dataclasses import replace as changed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import Cell, TableFormat, show_table

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from abhinaya.data.manifest import Manifest
    from abhinaya.data.problems import Problem

__all__ = ["speakers"]


def speakers(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest of the corpus.")],
    out: Annotated[Path, typer.Option(help="Copy of the manifest to write, .parquet.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub id of an x-vector model, such as microsoft/wavlm-base-plus-sv."
        ),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTION", help="Rows to look at; repeatable. All by default."),
    ] = None,
    n_speakers: Annotated[
        int | None, typer.Option("--n-speakers", min=1, help="How many speakers there are.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=2, help="Cosine distance up to which voices are one speaker."),
    ] = None,
    tune_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SELECTION",
            help="Rows of known speakers to find the threshold on, by pairwise F1; repeatable.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Also estimate where speakers are known; kept in speaker_official."
        ),
    ] = False,
    embeddings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where embeddings are kept, .npz; beside OUT if not."),
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE",
            help="Also draw what wrong speakers do to the adaptation of this prediction table.",
        ),
    ] = None,
    audio_root: Annotated[
        Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Clips of one length per pass.")] = 16,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Estimate who speaks where a corpus does not say: embed the clips, cluster the voices.

    Writes ids such as spk-0001 into a copy of the manifest for the rows without a speaker, and
    `official` or `estimated` into its column speaker_source. Clips that cannot be embedded get no
    speaker and are listed in OUT.problems.csv. Purity is the share of clips whose speaker is the
    most frequent one of their cluster, coverage the share whose cluster is the most frequent one of
    their speaker.
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.data.manifest import ALL, read_manifest
    from abhinaya.data.problems import problems_beside, write_problems
    from abhinaya.registry import load_rule
    from abhinaya.speakers.estimates import (
        name_speakers,
        official_speakers,
        with_estimates,
        write_copy,
    )

    _check_options(manifest, out, model, embeddings, (n_speakers, threshold, tune_on))
    quiet_libraries()
    corpus = read_manifest(manifest, audio_root=audio_root)
    selection = select or [ALL]
    target = _rows_to_name(corpus, selection, replace)
    known = _rows_to_tune_on(corpus, tune_on) if tune_on else target.iloc[:0]
    vectors, problems = _embed(corpus, [target, known], model, embeddings, out, batch_size)

    overview: list[list[Cell]] = []
    if tune_on:
        tuned = load_rule("tune-voices")(
            _stack(known["utterance"].tolist(), vectors), official_speakers(known)
        )
        threshold = tuned.threshold
        clips: Any = known["utterance"].isin(list(vectors))
        overview.append(
            [
                *(f"tuned: {', '.join(tune_on)}", len(known), int(clips.sum()), threshold),
                *_quality_cells(tuned.quality.n_clusters, tuned.quality),
            ]
        )
    utterances = target["utterance"].tolist()
    clusters = load_rule("cluster-voices")(
        _stack(utterances, vectors), n_speakers=n_speakers, threshold=threshold
    )
    found = {u: int(c) for u, c in zip(utterances, clusters, strict=True) if c >= 0}
    official = official_speakers(target)
    quality = load_rule("cluster-quality")(clusters, official) if any(official) else None
    overview.append(
        [
            *(f"estimated: {', '.join(selection)}", len(target), len(found), threshold),
            *_quality_cells(len(set(found.values())), quality),
        ]
    )
    others = corpus.rows.loc[~corpus.rows["utterance"].isin(utterances), "speaker"]
    named = name_speakers(found, {*others.dropna(), *filter(None, official)})
    rule = f"cosine distance {threshold:.4f}" if n_speakers is None else f"{n_speakers} speakers"
    estimated = with_estimates(
        corpus,
        {utterance: named.get(utterance) for utterance in utterances},
        {"speakers": f"of {', '.join(selection)} estimated by {model or embeddings}, {rule}"},
    )
    write_copy(estimated, out)
    write_problems(problems_beside(out), problems)
    show_table(
        [
            *("rows", "clips", "with a voice", "threshold", "clusters"),
            *("purity", "coverage", "pairwise F1", "true speakers"),
        ],
        overview,
        title=f"{out}",
        as_json=as_json,
        table_format=table_format,
    )
    if problems:
        listed = problems_beside(out)
        typer.echo(
            f"Note: {len(problems)} clips have no embedding and got no speaker; see {listed}.",
            err=True,
        )
    if curve is not None:
        _write_curve(curve, corpus, estimated, out)


def _check_options(
    manifest: Path,
    out: Path,
    model: str | None,
    embeddings: Path | None,
    rules: tuple[int | None, float | None, list[str] | None],
) -> None:
    if sum(rule is not None for rule in rules) != 1:
        raise typer.BadParameter(
            "give exactly one of them", param_hint="--n-speakers, --threshold, --tune-on"
        )
    if model is None and embeddings is None:
        raise typer.BadParameter("give one of them, or both", param_hint="--model, --embeddings")
    if out.suffix != ".parquet":
        raise typer.BadParameter(f"{str(out)!r} must end in .parquet", param_hint="--out")
    if out.resolve() == manifest.resolve():
        raise typer.BadParameter("the manifest itself is not overwritten", param_hint="--out")


def _rows_to_name(corpus: Manifest, selection: list[str], replace: bool) -> pd.DataFrame:
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


def _rows_to_tune_on(corpus: Manifest, selection: list[str]) -> pd.DataFrame:
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
    parts: list[pd.DataFrame],
    model: str | None,
    file: Path | None,
    out: Path,
    batch_size: int,
) -> tuple[dict[str, NDArray[np.float32]], list[Problem]]:
    """An embedding of each clip of these rows that can be used, and what is wrong with the rest."""
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

    rows = pd.concat(parts).drop_duplicates("utterance").reset_index(drop=True)
    hears = cast("Any", SimpleNamespace(needs_audio=True, needs_text=False))
    clips, problems = collect_clips(rows, corpus, hears)
    loaded = load_speaker_model(model) if model is not None else None
    digest = loaded.digest if loaded is not None else None
    beside = out.with_name(f"{out.stem}.xvectors-{(digest or '')[:8]}.npz")
    store = EmbeddingStore(file or beside, digest)
    vectors, more = embed_clips(clips, store, loaded, batch_size=batch_size)
    problems += more
    if not vectors:
        listed = "; ".join(problem.reason for problem in problems[:3])
        raise BadValueError(
            f"None of the {len(rows)} clips could be embedded ({listed}). Correct --audio-root."
        )
    return vectors, problems


def _stack(utterances: list[str], vectors: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Embeddings of utterances, shape (U, D); NaN where there is none."""
    import numpy as np

    nothing = np.full_like(next(iter(vectors.values())), np.nan)
    return np.stack([vectors.get(utterance, nothing) for utterance in utterances])


def _quality_cells(n_clusters: int, quality: Any) -> list[Cell]:
    if quality is None:
        return [n_clusters, None, None, None, None]
    scores = (quality.purity, quality.coverage, quality.pairwise_f1)
    return [n_clusters, *scores, quality.n_speakers]


def _write_curve(source: Path, corpus: Manifest, estimated: Manifest, out: Path) -> None:
    """`OUT.curve.csv`, and the same as a picture."""
    from abhinaya.data.predictions import read_table
    from abhinaya.evaluation.scoring import Truth
    from abhinaya.registry import load_rule
    from abhinaya.speaker_curve import ESTIMATED, draw_curve, write_curve
    from abhinaya.speakers.estimates import official_speakers

    table = read_table(source, emotions=corpus.emotions)
    truth = Truth(
        utterances=tuple(corpus.rows["utterance"]),
        labels=corpus.emotions.encode(corpus.rows["label"]),
        emotions=corpus.emotions,
        speakers=tuple(official_speakers(corpus.rows)),
        where=str(corpus.root),
    )
    make = load_rule("speaker-errors")
    points = make(table, truth, n_jobs=-1)
    now = tuple(name if isinstance(name, str) else None for name in estimated.rows["speaker"])
    rows = estimated.rows["utterance"].isin(table.utterances)
    if (estimated.rows.loc[rows, "speaker_source"] == "estimated").any():
        # The same scores once more, with the estimated speakers as they are.
        points += [
            changed(point, kind=ESTIMATED)
            for point in make(table, changed(truth, speakers=now), kinds=["merged"], shares=[0.0])
        ]
    write_curve(points, out.with_suffix(".curve.csv"))
    draw_curve(points, out.with_suffix(".curve.png"))
