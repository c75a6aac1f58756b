"""Prediction by two processes, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import abhinaya
from abhinaya.data.manifest import Manifest, write_manifest


@pytest.mark.slow
def test_two_processes_write_the_table_of_one_once(
    make_run: Any, predict: Any, manifest: Manifest, tmp_path: Path
) -> None:
    # 13 times the ten clips are 130 rows: parts of 64, 64 and 2. The first process has two of them.
    copies = [
        manifest.rows.assign(utterance=f"c{number}-" + manifest.rows["utterance"])
        for number in range(13)
    ]
    many = replace(manifest, rows=pd.concat(copies, ignore_index=True))
    write_manifest(many, tmp_path / "many.parquet")
    run = make_run("audio.max_audio_s=0.2")
    predict(run, manifest=many, out=tmp_path / "one.parquet")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "abhinaya",
            "predict",
            str(run),
            "--manifest",
            str(tmp_path / "many.parquet"),
            "--select",
            "all",
            "--audio-root",
            str(manifest.root),
            "--out",
            str(tmp_path / "two.parquet"),
            "--json",
        ],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(abhinaya.__file__).parents[1]),
            # Two copies of the CPU's numbers, also where there is an accelerator.
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"rows": 130') == 1
    # The main process counts its own share alone: the parts of 64 and 2, not the one between.
    shown = [line for line in done.stderr.splitlines() if line.startswith("predicting")]
    assert shown == [
        "predicting tiny: 64 of 66",
        "predicting tiny: 66 of 66",
    ]
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert not (tmp_path / ".two.parquet.parts").exists()
