"""`abhinaya prompts`: list, show, run and compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from abhinaya.cli.options import AsJson, Format
from abhinaya.cli.tables import Cell, TableFormat, show_json, show_table
from abhinaya.pipeline.report import find_best

if TYPE_CHECKING:
    from abhinaya.data.manifest import Manifest
    from abhinaya.prompting.comparison import PromptScore
    from abhinaya.prompting.rendering import FillingConfig

__all__ = ["prompts"]

prompts = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Try prompts: list, show as sent, run and compare them.",
)


@prompts.command("list")
def _list(as_json: AsJson = False, table_format: Format = TableFormat.TEXT) -> None:
    """List the shipped prompts, their needs and slots.

    Example:
        abhinaya prompts list
    """
    from abhinaya.prompting.prompts import load_prompt, prompt_names

    found = [load_prompt(name) for name in prompt_names()]
    if as_json:
        keys = ("name", "version", "slots", "classes", "description")
        show_json(
            [
                {"needs": sorted(prompt.needs)} | {key: getattr(prompt, key) for key in keys}
                for prompt in found
            ]
        )
        return
    show_table(
        ["prompt", "version", "needs", "slots", "description"],
        [
            [
                prompt.name,
                prompt.version,
                ", ".join(sorted(prompt.needs)),
                ", ".join(prompt.slots),
                prompt.description,
            ]
            for prompt in found
        ],
        table_format=table_format,
    )


@prompts.command("show")
def _show(
    prompt: Annotated[str, typer.Argument(help="A shipped prompt, or a .md file.")],
    manifest: Annotated[Path, typer.Option(help="Manifest of the corpus.")],
    utterance: Annotated[str, typer.Option(help="Which row to ask about.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="CONFIG", help="A member's config, for its `filling` and seed."),
    ] = None,
    transcripts: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Which text; else the only one not by people."),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTION", help="Rows that are asked about; else the row's split."),
    ] = None,
    audio_root: Annotated[
        Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a prompt filled in for one utterance, as it is sent.

    Sound is shown as [sound of UTTERANCE]. What a model's own chat template puts around the turns
    is the model's affair and not shown.

    Example:
        abhinaya prompts show transcript-en --manifest M.parquet --utterance a.wav
    """
    from abhinaya.data.manifest import read_manifest
    from abhinaya.prompting.experiments import choose_source, read_texts
    from abhinaya.prompting.prompts import load_prompt
    from abhinaya.prompting.rendering import PromptFiller

    loaded = load_prompt(prompt)
    corpus = read_manifest(manifest, audio_root=audio_root)
    if transcripts is None and "text" in loaded.needs:
        transcripts = choose_source(corpus, people=True)
    settings, seed = _filling_of(model, manifest)
    filler = PromptFiller(
        loaded,
        corpus,
        select or _selection_of(corpus, utterance),
        transcripts=read_texts(corpus, transcripts),
        emotions=corpus.emotions,
        settings=settings,
        seed=seed,
        speech=f"[sound of {utterance}]",
    )
    turns = filler.turns(utterance)
    if as_json:
        show_json([{"role": turn.role, "content": turn.text} for turn in turns])
    else:
        typer.echo("\n\n".join(f"## {turn.role}\n\n{turn.text}" for turn in turns))


@prompts.command("run")
def _run(
    experiment: Annotated[
        str | None, typer.Argument(help="A YAML file; options come before what it says.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="A shipped prompt, or a .md file; repeat.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]CONFIG", help="Config of a prompted member; repeat."),
    ] = None,
    decoding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:KEY=VALUE...",
            help="Changes of the config, with blanks between them; repeat.",
        ),
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="Manifest of the corpus.")] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTION", help="Split, subset or `all`; repeat to add another."),
    ] = None,
    transcripts: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Which text; else the only one not by people."),
    ] = None,
    audio_root: Annotated[
        Path | None, typer.Option(help="Where the audio lies now; matched by file name.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Cross prompts, models and decodings.

    Each trial becomes a prediction table. All trials are checked before the first one is computed.
    Run again to go on after a stop: trials that are there already cost nothing.

    Example:
        abhinaya prompts run experiment.yaml --select development --out trials
    """
    from abhinaya.cli.processes import quiet_libraries
    from abhinaya.config import check_config, load_yaml
    from abhinaya.data.manifest import read_manifest
    from abhinaya.processes import is_main_process
    from abhinaya.prompting.experiments import PromptExperiment, plan_trials, run_trials
    from abhinaya.resources import find_config

    quiet_libraries()
    path = None if experiment is None else find_config(experiment)
    content: dict[str, Any] = {} if path is None else load_yaml(path)
    given = {
        "prompts": prompt,
        "models": model,
        "decodings": _read_decodings(decoding or []),
        "manifest": manifest,
        "select": select,
        "transcripts": transcripts,
        "audio_root": audio_root,
        "out": out,
    }
    content |= {key: value for key, value in given.items() if value}
    checked = check_config(content, PromptExperiment, str(path or "the command line"))
    corpus = read_manifest(checked.manifest, audio_root=checked.audio_root)
    trials = plan_trials(checked, corpus)
    rows: list[list[Cell]] = []
    for trial, table in zip(trials, run_trials(trials, checked, corpus), strict=True):
        n_abstained = int((table.labels < 0).sum())
        rows.append(
            [trial.name, trial.prompt.name, trial.model, trial.decoding, len(table), n_abstained]
        )
    if is_main_process():
        show_table(
            ["run", "prompt", "model", "decoding", "rows", "abstained"],
            rows,
            title=str(checked.out),
            as_json=as_json,
            table_format=table_format,
        )


@prompts.command("compare")
def _compare(
    tables: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER", help="Folder of a run; or tables, or NAME=TABLE."),
    ],
    manifest: Annotated[
        Path, typer.Option(help="True labels: a manifest, or a CSV with FileName and EmoClass.")
    ],
    rows: Annotated[
        Literal["same", "intersection"],
        typer.Option(help="Demand the same utterances everywhere, or keep those that are in all."),
    ] = "same",
    resamples: Annotated[
        int, typer.Option(min=1, help="Bootstrap resamples behind the interval.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    as_json: AsJson = False,
    table_format: Format = TableFormat.TEXT,
) -> None:
    """Compare prompted tables, the best macro-F1 first.

    Agreement is the mean, over the other tables, of the share of equal labels where both gave one.
    Tokens and cost are per 1,000 clips (1k). p is McNemar's, on being right, against the best table
    and after Holm's correction.

    Example:
        abhinaya prompts compare trials --manifest M.parquet
    """
    from abhinaya.evaluation.scoring import read_with_truth
    from abhinaya.prompting.comparison import compare_prompts, find_tables

    read, truth = read_with_truth(find_tables(tables), manifest)
    found = compare_prompts(read, truth, rows=rows, n_resamples=resamples, seed=seed)
    if as_json:
        show_json([_as_json(score) for score in found])
        return
    columns = ["run", "rows", "macro-F1", "95 % interval", "abstained", "agreement"]
    columns += ["tokens in/1k", "tokens out/1k", "cost/1k", "p (Holm)"]
    scored = [_row(score) for score in found]
    best = find_best(columns, scored, highest=("macro-F1",))
    show_table(columns, scored, best=best, table_format=table_format)
    dropped = found[0].score.n_dropped
    if dropped:
        # On stderr, so that a table for a paper stays clean.
        typer.echo(
            f"Note: {dropped} rows have no label of the emotion set in {manifest} and were left "
            "out.",
            err=True,
        )


def _row(found: PromptScore) -> list[Cell]:
    low, high = found.score.interval
    cost = None
    if found.cost_per_1000 is not None:
        cost = f"{found.cost_per_1000:.4f} {found.currency or ''}".strip()
    return [
        found.name,
        found.score.scores.n_utts,
        found.score.scores.macro_f1,
        f"{low:.4f}-{high:.4f}",
        found.n_abstained,
        found.agreement,
        _whole(found.prompt_tokens_per_1000),
        _whole(found.answer_tokens_per_1000),
        cost,
        found.p_holm,
    ]


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _as_json(found: PromptScore) -> dict[str, Any]:
    score = found.score
    described = asdict(found)
    del described["score"]
    return {
        "table": found.name,
        "n_utts": score.scores.n_utts,
        "macro_f1": score.scores.macro_f1,
        "interval": list(score.interval),
        "accuracy": score.scores.accuracy,
        "n_dropped": score.n_dropped,
        "absent_classes": list(score.absent),
        **described,
    }


def _filling_of(model: str | None, manifest: Path) -> tuple[FillingConfig, int]:
    """Return settings of a member's config; the defaults where it fills no chats."""
    from abhinaya.config import load_yaml, merge
    from abhinaya.member_config import check_member_config
    from abhinaya.prompting.rendering import FillingConfig
    from abhinaya.resources import find_config

    if model is None:
        return FillingConfig(), 0
    path = find_config(model)
    content = merge({"data": {"manifest": str(manifest)}}, load_yaml(path))
    config = check_member_config(content, str(path))
    filling = getattr(config, "filling", None)
    return (filling if isinstance(filling, FillingConfig) else FillingConfig()), config.seed


def _selection_of(manifest: Manifest, utterance: str) -> list[str]:
    """Return the split of a row; `all` where it has none.

    Raises:
        BadValueError: if there is no such row.
    """
    from abhinaya.data.manifest import ALL
    from abhinaya.errors import BadValueError, list_some

    rows = manifest.rows
    splits = rows.loc[rows["utterance"] == utterance, "split"]
    if splits.empty:
        raise BadValueError(
            f"The manifest has no utterance {utterance!r}; it has {list_some(rows['utterance'])}. "
            "Name one of its rows."
        )
    return list(splits.dropna()) or [ALL]


def _read_decodings(given: list[str]) -> dict[str, dict[str, Any]]:
    from abhinaya.config import apply_overrides

    decodings: dict[str, dict[str, Any]] = {}
    for text in given:
        name, separator, changes = text.partition(":")
        if not separator or not name or name in decodings:
            raise typer.BadParameter(
                f"{text!r} is not NAME: with changes KEY=VALUE behind it, or names a decoding "
                "again.",
                param_hint="--decoding",
            )
        decodings[name] = apply_overrides({}, changes.split())
    return decodings
