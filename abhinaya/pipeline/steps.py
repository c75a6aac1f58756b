"""The steps of a chain: what each needs, what it makes, and which stage does the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from abhinaya.config import MemberConfig, TrainedConfig, config_digest, dump_yaml
from abhinaya.files import write_json, write_text
from abhinaya.pipeline.config import Pipeline, ScoreEntry
from abhinaya.pipeline.launching.config import find_start
from abhinaya.pipeline.launching.launch import launch
from abhinaya.pipeline.report import Report
from abhinaya.pipeline.stages.fuse import ApplySettings
from abhinaya.pipeline.stages.report import PAGE, ReportSettings, run_report
from abhinaya.pipeline.stages.transcribe import TRANSCRIPTS
from abhinaya.pipeline.step import Step

__all__ = ["Report", "Step", "build_steps", "write_config"]

_WITHOUT_EFFECT = {
    "transcribe": {"batch_size", "num_workers", "download", "replace"},
    "speakers": {"batch_size"},
    "smooth": {"jobs"},
}
"""Settings that decide how quickly, not what comes out."""


def build_steps(pipeline: Pipeline) -> list[Step]:
    """Return all steps of a chain, each after those it needs."""
    config = pipeline.config
    steps = []
    if config.prepare is not None:
        steps.append(_prepare_step(pipeline))
    if config.transcribe is not None:
        steps.append(_transcribe_step(pipeline))
    for member in pipeline.members:
        if isinstance(member, TrainedConfig):
            steps.append(_train_step(pipeline, member))
    for selection in config.predict:
        steps += [_predict_step(pipeline, member, selection) for member in pipeline.members]
        steps.append(_fuse_step(pipeline, selection))
    if config.speakers is not None:
        steps.append(_speakers_step(pipeline))
    if config.smooth is not None:
        gated = config.gate.selection if config.gate else None
        steps += [_gate_step(pipeline)] if config.gate else []
        steps += [_smooth_step(pipeline, name) for name in config.predict if name != gated]
    steps += [_score_step(pipeline, entry) for entry in config.score]
    if config.submit is not None:
        steps.append(_submit_step(pipeline))
    if config.report is not None:
        steps.append(_report_step(pipeline, config.report))
    return steps


def _table(pipeline: Pipeline, selection: str, name: str) -> Path:
    return pipeline.config.out / "tables" / selection / f"{name}.parquet"


def _tables(pipeline: Pipeline, selection: str) -> list[Path]:
    return [_table(pipeline, selection, member.name) for member in pipeline.members]


def _to_smooth(pipeline: Pipeline, selection: str) -> list[Path]:
    """Return the fused table, and after it the one that lends its embeddings."""
    assert pipeline.config.smooth is not None
    names = [pipeline.config.fused_name, pipeline.config.smooth.embeddings]
    return [_table(pipeline, selection, name) for name in names if name is not None]


def _strings(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]


def _prepare_step(pipeline: Pipeline) -> Step:
    from abhinaya.pipeline.stages.prepare import run_prepare

    entry = pipeline.config.prepare
    assert entry is not None

    return Step(
        "prepare",
        entry.model_dump(mode="json"),
        (*entry.transcripts.values(), *filter(Path.is_file, [Path(entry.classes or "")])),
        (pipeline.config.manifest_path,),
        lambda: run_prepare(entry, entry.out),
    )


def _transcribe_step(pipeline: Pipeline) -> Step:
    from abhinaya.pipeline.stages.transcribe import count_transcripts, run_transcribe

    config = pipeline.config
    settings = config.transcribe
    assert settings is not None

    def work() -> Report:
        start = find_start(pipeline, "transcribe")
        if start.is_launched:
            command = ["transcribe", str(config.manifest_path), *settings.arguments()]
            launch(start, [*command, *_audio_root(pipeline)])
            report = count_transcripts(config.manifest_path, settings)
        else:
            report = run_transcribe(config.manifest_path, settings, audio_root=config.audio_root)
        return replace(report, title=f"transcribed: {report.title}")

    return Step(
        "transcribe",
        settings.model_dump(mode="json", exclude=_WITHOUT_EFFECT["transcribe"]),
        (config.manifest_path,),
        (config.manifest_path.parent / TRANSCRIPTS,),
        work,
        (settings.source_name,),
    )


def _texts(member: MemberConfig) -> tuple[Path, ...]:
    """Return the table of transcripts, if the member reads any."""
    reads = member.data.transcripts is not None
    return (member.data.manifest.parent / TRANSCRIPTS,) if reads else ()


def _train_step(pipeline: Pipeline, member: TrainedConfig) -> Step:
    from abhinaya.pipeline.stages.train import report_run, run_train

    config = pipeline.config
    best = member.run_dir / "best"

    def work() -> Report:
        start = find_start(pipeline, f"train:{member.name}")
        if start.is_launched:
            launch(start, ["train", str(write_config(pipeline, member))])
        else:
            run_train(member)
        return replace(
            report_run(member.name, member.run_dir), title=f"trained {member.name}: {best}"
        )

    texts = member.data.transcripts
    sources = [texts.train] if texts else []
    if texts and member.data.validation is not None:
        sources.append(texts.validation)
    return Step(
        f"train:{member.name}",
        config_digest(member),
        (config.manifest_path, *_texts(member), *getattr(member, "training_files", ())),
        (best / "model.safetensors",),
        work,
        tuple(dict.fromkeys(sources)),
    )


def _predict_step(pipeline: Pipeline, member: MemberConfig, selection: str) -> Step:
    from abhinaya.pipeline.stages.predict import report_table, run_predict

    config = pipeline.config
    out = _table(pipeline, selection, member.name)
    run_dir = member.run_dir if isinstance(member, TrainedConfig) else None
    with_embedding = config.keeps_embedding(member.name)

    def work() -> Report:
        from abhinaya.data.predictions import read_table

        source = run_dir or write_config(pipeline, member)
        wanted = config.predict[selection]
        start = find_start(pipeline, f"predict:{selection}:{member.name}")
        if start.is_launched:
            command = ["predict", str(source), "--manifest", str(config.manifest_path)]
            command += [part for name in wanted for part in ("--select", name)]
            command += [*_audio_root(pipeline), *(["--with", "embedding"] * with_embedding)]
            launch(start, [*command, "--out", str(out)])
            table = read_table(out)
        else:
            table = run_predict(
                source,
                config.manifest_path,
                wanted,
                out,
                audio_root=config.audio_root,
                with_embedding=with_embedding,
            )
        return replace(
            report_table(table, selection, out),
            title=f"predicted {selection} with {member.name}: {out}",
        )

    weights: tuple[Path, ...] = getattr(member, "weight_files", ())
    if run_dir:
        weights = (run_dir / "best" / "model.safetensors",)
    texts = member.data.transcripts
    sources: tuple[str, ...] = ()
    if texts is not None:
        # A member with nothing to train may show transcribed examples.
        sources = (texts.predict,) if run_dir else (texts.predict, texts.train)
    return Step(
        f"predict:{selection}:{member.name}",
        [config_digest(member), config.predict[selection], with_embedding],
        (config.manifest_path, *weights, *_texts(member)),
        (out,),
        work,
        sources,
    )


def _fuse_step(pipeline: Pipeline, selection: str) -> Step:
    from abhinaya.pipeline.stages.fuse import run_apply, run_vote

    config = pipeline.config
    tables = _tables(pipeline, selection)
    out = _table(pipeline, selection, config.fused_name)
    settings = config.fusion
    needs = tuple(tables)
    if isinstance(settings, ApplySettings):
        kind, verb = "apply", "applied the recipe to"
        needs += (settings.recipe, config.manifest_path)
    else:
        kind, verb = "vote", "voted on"

    def work() -> Report:
        if isinstance(settings, ApplySettings):
            named = settings.model_copy(update={"name": config.fused_name})
            report = run_apply(_strings(tables), out, named, manifest=config.manifest_path)
        else:
            report = run_vote(_strings(tables), out, settings)
        return replace(report, title=f"{verb} {selection}: {out}")

    return Step(f"{kind}:{selection}", settings.model_dump(mode="json"), needs, (out,), work)


def _speakers_step(pipeline: Pipeline) -> Step:
    from abhinaya.pipeline.stages.speakers import run_speakers

    config = pipeline.config
    settings = config.speakers
    assert settings is not None
    out = config.manifest_with_speakers

    def work() -> Report:
        report = run_speakers(config.manifest_path, out, settings, audio_root=config.audio_root)
        return replace(report, title=f"estimated speakers: {out}")

    kept = settings.model_dump(mode="json", exclude=_WITHOUT_EFFECT["speakers"])
    return Step("speakers", kept, (config.manifest_path,), (out,), work)


def _recipe(pipeline: Pipeline) -> Path:
    return pipeline.config.out / "adaptation.json"


def _gate_step(pipeline: Pipeline) -> Step:
    """Return the step that chooses the adaptation.

    The table of its own selection holds what each fold's choice makes of the speakers that the
    choice had not seen, so that its score does not flatter.
    """
    from abhinaya.pipeline.stages.fit import run_fit

    config = pipeline.config
    smooth, gate = config.smooth, config.gate
    assert smooth is not None
    assert gate is not None
    tables = _to_smooth(pipeline, gate.selection)
    out = _table(pipeline, gate.selection, config.smoothed_name)
    option = {**gate.option, **({"embeddings": smooth.embeddings} if smooth.embeddings else {})}
    settings = gate.model_copy(update={"option": option, "speakers": smooth.speakers})

    def work() -> Report:
        report = run_fit(
            _strings(tables),
            config.manifest_with_speakers,
            _recipe(pipeline),
            settings,
            out_of_fold=out,
            out_of_fold_name=config.smoothed_name,
        )
        return replace(report, title=f"chose the adaptation on {gate.selection}: {report.title}")

    return Step(
        f"gate:{gate.selection}",
        [settings.model_dump(mode="json"), config.smoothed_name],
        (*tables, config.manifest_with_speakers),
        (_recipe(pipeline), out),
        work,
    )


def _smooth_step(pipeline: Pipeline, selection: str) -> Step:
    from abhinaya.pipeline.stages.fuse import run_apply
    from abhinaya.pipeline.stages.smooth import run_smooth

    config = pipeline.config
    smooth = config.smooth
    assert smooth is not None
    tables = _to_smooth(pipeline, selection)
    out = _table(pipeline, selection, config.smoothed_name)
    manifest = config.manifest_with_speakers
    named = {"name": config.smoothed_name}

    def work() -> Report:
        if config.gate is not None:
            apply = ApplySettings(recipe=_recipe(pipeline), speakers=smooth.speakers, **named)
            report = run_apply(_strings(tables), out, apply, manifest=manifest)
        else:
            lender = {"embeddings": str(tables[1])} if len(tables) > 1 else {}
            settings = smooth.model_copy(update={**named, **lender})
            report = run_smooth(str(tables[0]), manifest, out, settings)
        return replace(report, title=f"smoothed {selection}: {out}")

    kept = smooth.model_dump(mode="json", exclude=_WITHOUT_EFFECT["smooth"] | {"gate"})
    recipe = (_recipe(pipeline),) if config.gate else ()
    return Step(
        f"smooth:{selection}",
        [kept, config.smoothed_name],
        (*tables, manifest, *recipe),
        (out,),
        work,
    )


def _score_step(pipeline: Pipeline, entry: ScoreEntry) -> Step:
    from abhinaya.pipeline.stages.score import run_score

    config = pipeline.config
    truth = entry.truth or config.manifest_with_speakers
    out = config.out / f"scores-{entry.selection}.json"
    fused = dict.fromkeys([config.fused_name, config.final_name])
    tables = _tables(pipeline, entry.selection)
    tables += [_table(pipeline, entry.selection, name) for name in fused]

    def work() -> Report:
        # A selection is seldom all that the truth labels.
        report = run_score(_strings(tables), truth, entry, is_part=True)
        found = dict(report.as_json())
        stored = {one.pop("table"): one for one in found.pop("tables")}
        write_json(out, stored | found)
        return replace(
            report,
            title=f"scores of {entry.selection} against {truth}",
            files=(out,),
        )

    settings = entry.model_dump(mode="json", exclude={"truth"})
    return Step(f"score:{entry.selection}", settings, (truth, *tables), (out,), work)


def _submit_step(pipeline: Pipeline) -> Step:
    from abhinaya.pipeline.stages.submit import run_submit

    config = pipeline.config
    entry = config.submit
    assert entry is not None
    table = _table(pipeline, entry.selection, config.final_name)
    out = config.out / "submission.csv"

    return Step(
        "submit",
        entry.model_dump(mode="json"),
        (table, *filter(None, [entry.names]), *filter(Path.is_file, [Path(entry.challenge or "")])),
        (out,),
        lambda: run_submit(table, out, entry),
    )


def _report_step(pipeline: Pipeline, settings: ReportSettings) -> Step:
    config = pipeline.config
    out = config.out / PAGE
    needs = [config.manifest_with_speakers]
    needs += [entry.truth for entry in config.score if entry.truth is not None]
    for selection in settings.select or config.predict:
        fused = (config.fused_name, config.final_name)
        needs += _tables(pipeline, selection)
        needs += [_table(pipeline, selection, name) for name in fused]
    return Step(
        "report",
        settings.model_dump(mode="json"),
        tuple(dict.fromkeys(needs)),
        (out,),
        lambda: replace(run_report([str(config.out)], settings), title=f"report: {out}"),
    )


def write_config(pipeline: Pipeline, member: MemberConfig) -> Path:
    """Write a member's resolved config where commands and launches can read it."""
    path = pipeline.config.out / "configs" / f"{member.name}.yaml"
    write_text(path, dump_yaml(member))
    return path


def _audio_root(pipeline: Pipeline) -> list[str]:
    root = pipeline.config.audio_root
    return [] if root is None else ["--audio-root", str(root)]
