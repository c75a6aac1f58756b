"""The sample of docs/phone.md, run as it is written, on real exports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from exported_runs import write_run, write_tiny_whisper
from source_tree import ROOT

from abhinaya.data.labels import MSP_PODCAST
from abhinaya.export.export import export_checkpoint


def sample() -> str:
    page = (ROOT / "docs" / "phone.md").read_text(encoding="utf-8")
    ((name, code),) = re.findall(r"(?ms)^`([\w/.]+)`:\n\n```\w+\n(.*?)```", page)
    assert name == "stream.py"
    return str(code)


def test_sample_is_short_and_needs_three_packages() -> None:
    lines = [line for line in sample().splitlines() if line.strip()]
    assert len(lines) <= 20
    imported = set(re.findall(r"\b(numpy|onnxruntime|soundfile|torch|abhinaya)\b", sample()))
    assert imported == {"numpy", "onnxruntime", "soundfile"}


@pytest.mark.slow
def test_sample_labels_each_stretch_of_sound(tmp_path: Path) -> None:
    write_tiny_whisper(tmp_path / "base")
    run = write_run(tmp_path / "run", "whisper-encoder", tmp_path / "base", pointwise=[])
    export_checkpoint(run / "best", tmp_path / "out", quantize="int8")
    (tmp_path / "stream.py").write_text(sample(), encoding="utf-8")
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 16_000)
    # Half a second of silence; 1 s of noise with a pause that is too short to end it; silence;
    # then more noise than the model hears at once (2 s), up to the very end.
    noise[:8_000] = noise[15_000:17_000] = noise[24_000:40_000] = 0
    soundfile.write(tmp_path / "sound.wav", noise, 16_000)
    done = subprocess.run(
        [sys.executable, "stream.py", "out", "sound.wav"],
        cwd=tmp_path,
        env={"PATH": ""},  # nothing of ours
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split(" s ") for line in done.stdout.splitlines()]
    assert [start for start, _ in rows] == ["0.5", "2.5", "4.5"]
    assert {label for _, label in rows} <= set(MSP_PODCAST.names)
