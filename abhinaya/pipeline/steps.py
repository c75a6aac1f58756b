"""The steps of a chain: what each needs, what it makes, and how."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from abhinaya.config import MemberConfig, TrainedConfig, config_digest, dump_yaml
from abhinaya.errors import AbhinayaError
from abhinaya.files import write_json, write_text
from abhinaya.pipeline.config import Pipeline, ScoreEntry

__all__ = ["Cell", "Report", "Step", "StepError", "build_steps"]

Cell = str | int | float | None


class StepError(AbhinayaError, RuntimeError):
    """A step that ran in processes of its own and failed there."""


@dataclass(frozen=True)
class Report:
    """A short table for the reader of the log."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Step:
    """One step of a chain.

    Args:
        name: such as `predict:test:wavlm`; the part before the first colon is its kind.
        settings: everything in the configs that decides the outputs.
        needs: files that decide the outputs, by content.
        makes: files that are there when the step is done.
        work: does it and says what came out.
    """

    name: str
    settings: Any
    needs: tuple[Path, ...]
    makes: tuple[Path, ...]
    work: Callable[[], Report] = field(repr=False)


def build_steps(pipeline: Pipeline) -> list[Step]:
    """All steps of a chain, each after those it needs."""
    config = pipeline.config
    steps = []
    if config.prepare is not None:
        steps.append(_prepare_step(pipeline))
    for member in pipeline.members:
        if isinstance(member, TrainedConfig):
            steps.append(_train_step(pipeline, member))
    for selection in config.predict:
        steps += [_predict_step(pipeline, member, selection) for member in pipeline.members]
        steps.append(_vote_step(pipeline, selection))
    steps += [_score_step(pipeline, entry) for entry in config.score]
    if config.submit is not None:
        steps.append(_submit_step(pipeline))
    return steps


def _table(pipeline: Pipeline, selection: str, name: str) -> Path:
    return pipeline.config.out / "tables" / selection / f"{name}.parquet"


def _tables(pipeline: Pipeline, selection: str) -> list[Path]:
    return [_table(pipeline, selection, member.name) for member in pipeline.members]


def _prepare_step(pipeline: Pipeline) -> Step:
    entry = pipeline.config.prepare
    assert entry is not None

    def work() -> Report:
        from abhinaya.corpora import prepare_corpus
        from abhinaya.corpora.base import PrepareOptions
        from abhinaya.data.manifest import summarise_manifest

        options = PrepareOptions(
            entry.check_audio, entry.balanced_per_class, entry.seed, entry.transcripts
        )
        prepared = prepare_corpus(entry.corpus, entry.source, entry.out, options)
        columns, rows = summarise_manifest(prepared.manifest)
        n_problems = len(prepared.problems)
        return Report(
            f"{entry.corpus}: {len(prepared.manifest.rows)} utterances, {n_problems} problems "
            f"in {entry.out / 'problems.csv'}",
            columns,
            [list(row) for row in rows],
        )

    return Step(
        "prepare",
        entry.model_dump(mode="json"),
        tuple(entry.transcripts.values()),
        (pipeline.config.manifest_path,),
        work,
    )


def _train_step(pipeline: Pipeline, member: TrainedConfig) -> Step:
    best = member.run_dir / "best"

    def work() -> Report:
        from abhinaya.data.manifest import read_manifest
        from abhinaya.nn.checkpoint import read_info
        from abhinaya.registry import load_member

        if pipeline.config.gpus > 1:
            resolved = pipeline.config.out / "configs" / f"{member.name}.yaml"
            write_text(resolved, dump_yaml(member))
            _launch(pipeline, ["train", str(resolved)])
        else:
            manifest = read_manifest(member.data.manifest, audio_root=member.data.audio_root)
            load_member(member.member).train(member, manifest)
        metrics = read_info(best).metrics
        return Report(
            f"trained {member.name}: {best}",
            ["run", "validation macro-F1", "best step", "steps"],
            [[member.name, metrics["macro_f1"], metrics["step"], metrics["n_steps"]]],
        )

    return Step(
        f"train:{member.name}",
        config_digest(member),
        (pipeline.config.manifest_path,),
        (best / "model.safetensors",),
        work,
    )


def _predict_step(pipeline: Pipeline, member: MemberConfig, selection: str) -> Step:
    config = pipeline.config
    out = _table(pipeline, selection, member.name)
    run_dir = member.run_dir if isinstance(member, TrainedConfig) else None

    def work() -> Report:
        from abhinaya.data.manifest import read_manifest
        from abhinaya.data.predictions import read_table
        from abhinaya.member import PredictRequest
        from abhinaya.registry import load_member

        if config.gpus > 1:
            source = run_dir
            if source is None:
                source = config.out / "configs" / f"{member.name}.yaml"
                write_text(source, dump_yaml(member))
            command = ["predict", str(source), "--manifest", str(config.manifest_path)]
            for item in config.predict[selection]:
                command += ["--select", item]
            if config.audio_root is not None:
                command += ["--audio-root", str(config.audio_root)]
            if config.with_embedding:
                command += ["--with", "embedding"]
            _launch(pipeline, [*command, "--out", str(out)])
            table = read_table(out)
        else:
            request = PredictRequest(
                manifest=read_manifest(config.manifest_path, audio_root=config.audio_root),
                selection=config.predict[selection],
                out=out,
                with_embedding=config.with_embedding,
            )
            table = load_member(member.member).predict(run_dir or member, request)
        return Report(
            f"predicted {selection} with {member.name}: {out}",
            ["run", "selection", "rows", "abstained"],
            [[member.name, selection, len(table), int((table.labels < 0).sum())]],
        )

    needs: tuple[Path, ...] = (config.manifest_path,)
    if run_dir is not None:
        needs += (run_dir / "best" / "model.safetensors",)
    settings = [config_digest(member), config.predict[selection], config.with_embedding]
    return Step(f"predict:{selection}:{member.name}", settings, needs, (out,), work)


def _vote_step(pipeline: Pipeline, selection: str) -> Step:
    entry = pipeline.config.vote
    out = _table(pipeline, selection, entry.name)

    def work() -> Report:
        from abhinaya.data.predictions import read_tables, write_table
        from abhinaya.registry import load_rule

        result = load_rule("vote")(
            read_tables([str(path) for path in _tables(pipeline, selection)]),
            rule=entry.rule,
            tiebreakers=entry.tiebreaker,
            fallback=entry.fallback,
            name=entry.name,
        )
        write_table(result, out)
        counts = Counter(result.decided_by)
        return Report(
            f"voted on {selection}: {out}",
            ["decided by", "rows", "share"],
            [[decider, n, n / len(result)] for decider, n in counts.most_common()],
        )

    return Step(
        f"vote:{selection}",
        entry.model_dump(mode="json"),
        tuple(_tables(pipeline, selection)),
        (out,),
        work,
    )


def _score_step(pipeline: Pipeline, entry: ScoreEntry) -> Step:
    config = pipeline.config
    truth_path = entry.truth or config.manifest_path
    out = config.out / f"scores-{entry.selection}.json"
    voted = _table(pipeline, entry.selection, config.vote.name)
    tables = [*_tables(pipeline, entry.selection), voted]

    def work() -> Report:
        from abhinaya.data.predictions import read_tables
        from abhinaya.evaluation.scoring import read_truth, score_table

        read = read_tables([str(path) for path in tables])
        truth = read_truth(truth_path, read[0].emotions)
        rows: list[list[Cell]] = []
        stored = {}
        for table in read:
            result = score_table(table, truth)
            low, high = result.interval
            found = result.scores
            rows.append(
                [table.name, found.n_utts, found.macro_f1, f"{low:.4f}-{high:.4f}", found.accuracy]
            )
            stored[table.name] = {
                "n_utts": found.n_utts,
                "macro_f1": found.macro_f1,
                "interval": [low, high],
                "accuracy": found.accuracy,
                "uar": found.uar,
                "n_dropped": result.n_dropped,
                "n_abstained": found.n_abstained,
            }
        write_json(out, stored)
        return Report(
            f"scores of {entry.selection} against {truth_path}",
            ["table", "rows", "macro-F1", "95 % interval", "accuracy"],
            rows,
        )

    return Step(f"score:{entry.selection}", None, (truth_path, *tables), (out,), work)


def _submit_step(pipeline: Pipeline) -> Step:
    config = pipeline.config
    entry = config.submit
    assert entry is not None
    table = _table(pipeline, entry.selection, config.vote.name)
    out = config.out / "submission.csv"

    def work() -> Report:
        from abhinaya.data.predictions import read_table
        from abhinaya.evaluation.submission import expected_names, find_challenge, write_submission

        rules = find_challenge(entry.challenge) if entry.challenge else None
        names = expected_names(rules, entry.names, selection=entry.select)
        digest = write_submission(
            table,
            out,
            names=names,
            emotions=rules.emotions if rules else read_table(table).emotions,
            challenge=entry.challenge,
        )
        return Report(
            f"submission: {out}", ["file", "rows", "sha256"], [[str(out), len(names), digest[:12]]]
        )

    needs = (table, entry.names) if entry.names else (table,)
    return Step("submit", entry.model_dump(mode="json"), needs, (out,), work)


def _launch(pipeline: Pipeline, command: Sequence[str]) -> None:
    """Run one of our commands on several devices.

    Raises:
        StepError: if it fails; its own message is on the screen already.
    """
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--num_processes", str(pipeline.config.gpus), "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--multi_gpu"]
    done = subprocess.run([*launcher, "-m", "abhinaya", *command], env=os.environ, check=False)
    if done.returncode:
        raise StepError(
            f"abhinaya {command[0]} failed on {pipeline.config.gpus} devices with exit code "
            f"{done.returncode}. The reason is printed above; correct it and run again: finished "
            "steps are not repeated."
        )
