"""The folder of a chain with random predictions, as `abhinaya run` leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from abhinaya.config import check_config
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.manifest import make_manifest, write_manifest
from abhinaya.data.predictions import PredictionTable, write_table
from abhinaya.evaluation.scoring import read_truth
from abhinaya.files import write_json
from abhinaya.pipeline.config import PipelineConfig
from abhinaya.pipeline.run import CHAIN
from ensembling.speakers.smooth_tables import smooth_table
from ensembling.voting.vote_tables import vote_tables

__all__ = ["write_report_chain"]

_LOG = """step,epoch,eval_loss,eval_macro_f1,loss
10,1.0,2.0,0.1,2.1
20,2.0,1.6,0.3,1.7
30,3.0,1.7,0.25,1.4
"""


def write_report_chain(
    folder: Path, *, n_utts: int = 64, n_members: int = 3, n_features: int = 6, seed: int = 0
) -> Path:
    """Write a chain of members m0, m1, ..., their vote and its smoothing; return its folder.

    The members are right more often than not; m0 has embeddings, the last one no probabilities.
    """
    rng = np.random.default_rng(seed)
    n_classes = len(MSP_PODCAST)
    names = [f"u{idx:05}.wav" for idx in range(n_utts)]
    truth = rng.integers(n_classes, size=n_utts)
    manifest = folder / "manifest.parquet"
    rows = [
        {
            "utterance": name,
            "audio": name,
            "split": "development" if idx % 4 else "train",
            "label": MSP_PODCAST.codes[label],
            "speaker": f"s{idx % max(2, n_utts // 16)}",
            "duration_s": round(2 + 3 * rng.random(), 2),
        }
        for idx, (name, label) in enumerate(zip(names, truth, strict=True))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(make_manifest(rows, MSP_PODCAST, folder), manifest)
    run = folder / "out"
    tables = []
    for number in range(n_members):
        logits = rng.standard_normal((n_utts, n_classes)) + 2.5 * np.eye(n_classes)[truth]
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        is_last = number == n_members - 1
        features = (
            rng.standard_normal((n_utts, n_features)) + 2 * np.eye(n_classes, n_features)[truth]
        )
        table = PredictionTable(
            f"m{number}",
            MSP_PODCAST,
            names,
            probs.argmax(axis=1),
            probs=None if is_last else probs.astype(np.float32),
            embeddings=features.astype(np.float32) if number == 0 else None,
            meta={
                "member": "wavlm",
                "seed": number,
                "digest": f"{number:016x}",
                "version": "0.1.0",
                "checkpoint": f"elsewhere/m{number}/best",
            },
        )
        tables.append(table)
        log = run / "runs" / table.name
        log.mkdir(parents=True)
        (log / "log.csv").write_text(_LOG)
        (log / "config.yaml").write_text(f"member: wavlm\nname: {table.name}\n")
    vote = vote_tables(tables, tiebreakers=["m1"])
    smooth, _ = smooth_table(
        vote, read_truth(manifest), embeddings=tables[0], cluster={"evidence": "probabilities"}
    )
    for table in (*tables, vote, smooth):
        write_table(table, run / "tables" / "development" / f"{table.name}.parquet")
    write_json(run / ".steps" / "vote.development.json", {"digest": "0123456789abcdef"})
    chain = {
        "name": "made-up",
        "out": str(run),
        "manifest": str(manifest),
        "members": {table.name: {"config": "members/wavlm.yaml"} for table in tables},
        "predict": {"development": "all"},
        "vote": {"tiebreaker": "m1"},
        "smooth": {"embeddings": "m0"},
        "score": [{"selection": "development"}],
    }
    check_config(chain, PipelineConfig, "here")
    write_json(run / CHAIN, chain)
    return run
