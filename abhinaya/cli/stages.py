"""The commands of the chain's stages; `abhinaya.pipeline.stages` does their work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from abhinaya.cli.options import (
    AsJson,
    AudioRoot,
    Format,
    MemberConfigFile,
    Overrides,
    Tables,
    Truth,
    guards,
    takes_settings,
)
from abhinaya.cli.tables import TableFormat, show_json, show_report
from abhinaya.pipeline.stages.cross_validate import CrossValidateSettings
from abhinaya.pipeline.stages.fit import FitSettings
from abhinaya.pipeline.stages.fuse import ApplySettings, VoteSettings
from abhinaya.pipeline.stages.prepare import PrepareSettings
from abhinaya.pipeline.stages.score import ScoreSettings
from abhinaya.pipeline.stages.smooth import SmoothSettings
from abhinaya.pipeline.stages.speakers import SpeakersSettings
from abhinaya.pipeline.stages.submit import SubmitSettings
from abhinaya.pipeline.stages.transcribe import TranscribeSettings

__all__ = [
    "apply",
    "cross_validate",
    "fit",
    "prepare",
    "score",
    "smooth",
    "speakers",
    "submit",
    "train",
    "transcribe",
    "vote",
]

_Corpus = Annotated[Path, typer.Argument(help="Manifest of the corpus.")]
_TableOut = Annotated[Path, typer.Option(help="Table to write, .parquet or .csv.")]


@takes_settings
def prepare(
    settings: PrepareSettings,
    out: Annotated[Path, typer.Option(help="Folder for the manifest.")],
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Make a manifest from a corpus as published.

    Example:
        abhinaya prepare folder recordings/ --out corpora/mine
    """
    from abhinaya.pipeline.stages.prepare import run_prepare

    show_report(run_prepare(settings, out), as_json=as_json, table_format=table_format)


@takes_settings
def transcribe(
    manifest: _Corpus,
    settings: TranscribeSettings,
    audio_root: AudioRoot = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Transcribe clips with Whisper.

    Texts go into transcripts.parquet beside the manifest. Clips that have a transcript of this
    source are not transcribed again; a killed run goes on where it was. On several devices:
    accelerate launch -m abhinaya transcribe MANIFEST ...

    Example:
        abhinaya transcribe corpora/mine/manifest.parquet --model large-v3
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.stages.transcribe import run_transcribe

    quiet_libraries()
    report = run_transcribe(manifest, settings, audio_root=audio_root)
    show_report(report, as_json=as_json, table_format=table_format)


def train(
    config: MemberConfigFile,
    overrides: Overrides = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Train one member, or go on where a killed training was.

    On recordings of your own: abhinaya train CONFIG data.source=FOLDER, with a sub-folder for each
    class, or labels.csv beside the audio. Where it has no split, one is drawn, speakers apart.
    On several devices: accelerate launch -m abhinaya train CONFIG.

    Example:
        abhinaya train members/wavlm.yaml data.manifest=corpora/mine/manifest.parquet
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.member_config import load_member_config
    from abhinaya.pipeline.stages.train import report_run, run_train
    from abhinaya.processes import is_main_process

    quiet_libraries()
    checked = load_member_config(config, overrides or [])
    run_dir = run_train(checked)
    if is_main_process():
        corpus = None if checked.data.source is None else checked.data.manifest
        report = report_run(checked.name, run_dir, corpus=corpus)
        show_report(report, as_json=as_json, table_format=table_format)


@guards("out")
@takes_settings
def cross_validate(
    config: MemberConfigFile,
    settings: CrossValidateSettings,
    out: _TableOut,
    overrides: Overrides = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Train a member once per fold, and label what each left out.

    One table comes out: each row is labelled by the run that has not heard it, and knows its fold;
    a killed cross-validation goes on where it was. Where the config has a validation selection, the
    fold after the one held out takes its place. On several devices: accelerate launch -m abhinaya
    cross-validate CONFIG ...

    Example:
        abhinaya cross-validate members/wavlm.yaml data.manifest=M --folds 5 --out cv.parquet
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.member_config import load_member_config
    from abhinaya.pipeline.stages.cross_validate import run_cross_validate

    quiet_libraries()
    report = run_cross_validate(load_member_config(config, overrides or []), out, settings)
    show_report(report, as_json=as_json, table_format=table_format)


@guards("out")
@takes_settings
def vote(
    tables: Tables,
    out: _TableOut,
    settings: VoteSettings,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Fuse tables by a vote.

    By default every table counts alike. Ties are settled by the first table, in the order of the
    tiebreakers and then of the tables as given, whose own label is among the tied classes.

    Example:
        abhinaya vote wavlm.parquet llama.parquet --tiebreaker wavlm --out vote.parquet
    """
    from abhinaya.pipeline.stages.fuse import run_vote

    show_report(run_vote(tables, out, settings), as_json=as_json, table_format=table_format)


@guards("out", "out_of_fold")
@takes_settings
def fit(
    settings: FitSettings,
    tables: Annotated[
        list[str], typer.Argument(metavar="TABLE", help="Labelled tables, or NAME=TABLE.")
    ],
    manifest: Annotated[
        Path,
        typer.Option(
            help="True labels and speakers: a manifest, or a CSV with FileName and EmoClass."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Recipe to write, .json.")],
    out_of_fold: Annotated[
        Path | None,
        typer.Option(help="Also write the cross-fitted predictions, a table to score or compare."),
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Learn a rule of fusion from labelled tables.

    The recipe holds what was learned from all labelled rows. The score beside it is cross-fitted:
    every row is judged by parameters that saw neither it nor its speaker. Beside it stands the
    plain vote that one would submit instead; its ties go to the tiebreakers, then to the table of
    highest macro-F1 here, and so on.

    Which rule: where members share their errors, weights gain nothing on a vote with a good
    tiebreaker, or lose; pools of log probabilities (log-odds, temperature with
    mean=geometric), greedy and cma gain; stacking gains most, given thousands of rows, and nothing
    on hundreds. Of labels alone, confusions gain; vote --rule dawid-skene needs no labelled rows.

    Options of the rules: thresholds and temperature have mean (arithmetic, geometric); weights has
    per (class, member); greedy has steps, bags, share and seed; cma has per, generations, penalty
    and seed; confusions has model (naive-bayes, dawid-skene), smoothing and target; log-odds has
    prior and target (one number per class); stacking has model
    (logistic, forest, mlp), features (log-probs, probs), balanced, and c for logistic, n_trees,
    max_depth, min_leaf and seed for forest, hidden, alpha, n_steps and seed for mlp; adaptation has
    clips_per_speaker of the test, variants (names with commas between), embeddings (the table that
    lends them), certainty, prior (gains on other corpora, NAME:GAIN:SD with commas between),
    prior_sd, pseudo_tests, resamples, seed and jobs.

    Example:
        abhinaya fit weights a.parquet b.parquet --manifest M.parquet --out recipe.json
    """
    from abhinaya.pipeline.stages.fit import run_fit

    # Said now rather than after minutes of work.
    if out.suffix != ".json":
        raise typer.BadParameter(f"{str(out)!r} must end in .json.", param_hint="--out")
    if out_of_fold is not None and out_of_fold.suffix not in (".parquet", ".csv"):
        raise typer.BadParameter(
            f"{str(out_of_fold)!r} must end in .parquet or .csv.", param_hint="--out-of-fold"
        )
    report = run_fit(tables, manifest, out, settings, out_of_fold=out_of_fold)
    show_report(report, as_json=as_json, table_format=table_format)


@guards("out")
@takes_settings
def apply(
    settings: ApplySettings,
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE", help="One table for each name in the recipe, or NAME=TABLE."
        ),
    ],
    out: _TableOut,
    manifest: Annotated[
        Path | None, typer.Option(help="Where speakers are looked up, for rules that use them.")
    ] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Fuse tables by a recipe.

    Tables are matched to those of the recipe by name. Utterances that the recipe was fitted on are
    refused, because a score on them would flatter.

    Example:
        abhinaya apply recipe.json a.parquet b.parquet --out fused.parquet
    """
    from abhinaya.pipeline.stages.fuse import run_apply

    report = run_apply(tables, out, settings, manifest=manifest)
    show_report(report, as_json=as_json, table_format=table_format)


@guards("out")
@takes_settings
def smooth(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Prediction table, or NAME=TABLE.")],
    manifest: Annotated[
        Path, typer.Option(help="Manifest with speakers; with labels too, the result is scored.")
    ],
    out: _TableOut,
    settings: SmoothSettings,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Adapt a table to each speaker, without a gate.

    By default by greedy cluster assignment. A speaker with at most K utterances gets as many
    different classes as utterances. Whether any of this helps is what `abhinaya fit adaptation`
    finds out on validation data.

    Example:
        abhinaya smooth vote.parquet --manifest M.parquet --out smooth.parquet
    """
    from abhinaya.pipeline.stages.smooth import run_smooth

    report = run_smooth(table, manifest, out, settings)
    show_report(report, as_json=as_json, table_format=table_format)


@guards("out", but=["manifest"])
@takes_settings
def speakers(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="Manifest of the corpus.")],
    out: Annotated[Path, typer.Option(help="Copy of the manifest to write, .parquet.")],
    settings: SpeakersSettings,
    audio_root: AudioRoot = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Estimate who speaks where a corpus does not say.

    Clips are embedded and voices clustered. Writes ids such as spk-0001 into a copy of the manifest
    for the rows without a speaker, and `official` or `estimated` into its column speaker_source.
    Clips that cannot be embedded get no speaker and are listed in OUT.problems.csv. Purity is the
    share of clips whose speaker is the most frequent one of their cluster, coverage the share whose
    cluster is the most frequent one of their speaker.

    Example:
        abhinaya speakers M.parquet --model speechbrain/spkrec --out estimated.parquet
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.pipeline.stages.speakers import run_speakers

    if out.suffix != ".parquet":
        raise typer.BadParameter(f"{str(out)!r} must end in .parquet", param_hint="--out")
    if out.resolve() == manifest.resolve():
        raise typer.BadParameter("the manifest itself is not overwritten", param_hint="--out")
    quiet_libraries()
    report = run_speakers(manifest, out, settings, audio_root=audio_root)
    show_report(report, as_json=as_json, table_format=table_format)


@takes_settings
def score(
    tables: Tables,
    manifest: Truth,
    settings: ScoreSettings,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Score tables: macro-F1, intervals and more.

    Shown are macro-F1, accuracy, unweighted average recall (UAR) and weighted F1. Rows without a
    true label inside the set are dropped and counted. Abstentions count as wrong. Tables with
    probabilities get the expected calibration error (ECE, 15 bins) and the Brier score too, over
    the rows that have them and do not abstain.

    Example:
        abhinaya score a.parquet b.parquet --manifest M.parquet --per-class
    """
    from abhinaya.pipeline.stages.score import run_score

    report = run_score(tables, manifest, settings)
    show_report(report, as_json=as_json, table_format=table_format)


@guards("out", only_with="table")
@takes_settings
def submit(
    out: Annotated[Path, typer.Option(help="Submission to write, or to record a score for.")],
    settings: SubmitSettings,
    table: Annotated[Path | None, typer.Argument(help="Prediction table.")] = None,
    score: Annotated[
        float | None,
        typer.Option(help="Record this returned score, such as 0.4402, for the file --out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a checked submission, or record its score.

    The file holds exactly the expected names and labels out of the emotion set, written as the
    challenge wants it (configs/challenges/, or a YAML file of your own), or with --task
    attributes EmoAct, EmoVal and EmoDom in [1, 7], or is not written.
    The ledger submissions.jsonl beside it keeps date, digest, tables and score.

    Example:
        abhinaya submit vote.parquet --challenge is2025 --out submission.csv
    """
    if (table is None) == (score is None):
        raise typer.BadParameter(
            "Give either a TABLE to write a submission from, or --score to record a returned score."
        )
    if score is not None:
        from abhinaya.evaluation.submission import LEDGER_NAME, record_score

        record_score(out, score)
        if as_json:
            show_json({"file": str(out), "score": score, "ledger": str(out.parent / LEDGER_NAME)})
        else:
            typer.echo(f"Recorded {score} for {out} in {out.parent / LEDGER_NAME}.")
        return
    from abhinaya.pipeline.stages.submit import run_submit

    assert table is not None
    report = run_submit(table, out, settings)
    if as_json:
        show_json(report.as_json()[0])
        return
    ((_, n_rows, digest),) = report.rows
    typer.echo(f"Wrote {n_rows} rows to {out} (sha256 {digest}).")
    if report.remark:
        typer.echo(report.remark)
