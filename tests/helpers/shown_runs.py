"""A chain's folder of output with two tiny runs, a T1 whose server is down, and tables by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from untrained_runs import MakeConfig, write_run

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.predictions import PredictionTable, read_table, write_table
from abhinaya.files import write_text
from abhinaya.pipeline.stages.fuse import VoteSettings, run_vote

__all__ = ["ROWS", "write_chain"]

ROWS = ("n6.wav", "n7.wav", "n8.wav", "n9.wav")
"""The development rows of `untrained_runs.corpus`, truly S, U, A and X, each of its own speaker."""

_T1 = """\
member: llama-70b-zero-shot
name: t1
data: {{manifest: {manifest}, transcripts: {{predict: human}}}}
engine: openai
base: tiny
prompt: zero-shot-v1
openai: {{url: "http://127.0.0.1:9/v1", backoff_s: 0.01}}
"""


def write_chain(folder: Path, make_config: MakeConfig, corpus: Path) -> None:
    """Write the folder; b breaks the ties.

            true  a  b  t1    vote
    n6.wav  S     S  S  S     S, all agree
    n7.wav  U     U  A  F     A, a tie of three, broken by b
    n8.wav  A     N  A  -     A, a tie of two, broken by b
    n9.wav  -     H  H  H     H, all agree
    """
    for seed, name in enumerate("ab"):
        run = folder / "runs" / name
        write_run(run, make_config(run, f"name={name}"), seed)
    write_text(folder / "configs/t1.yaml", _T1.format(manifest=corpus / "manifest.parquet"))
    said = {"a": ["S", "U", "N", "H"], "b": ["S", "A", "A", "H"], "t1": ["S", "F", None, "H"]}
    tables = folder / "tables/development"
    for member, labels in said.items():
        codes = MSP_PODCAST.encode(labels)
        probs = np.full((4, 8), 0.05, dtype=np.float32)
        probs[np.arange(4), codes] = 0.65
        table = PredictionTable(
            member,
            MSP_PODCAST,
            ROWS,
            codes,
            ["it says <b>nothing</b>" if label is None else None for label in labels],
            probs=probs if member == "a" else None,
            meta={"member": "wavlm"},
        )
        write_table(table, tables / f"{member}.parquet")
    run_vote(
        [str(tables / f"{member}.parquet") for member in said],
        tables / "vote.parquet",
        VoteSettings(tiebreaker=("b",)),
    )
    assert list(read_table(tables / "vote.parquet").labels) == list(MSP_PODCAST.encode("SAAH"))
