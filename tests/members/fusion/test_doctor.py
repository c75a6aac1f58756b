"""What `abhinaya doctor` tells of a fusion's encoders before any is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abhinaya.doctor import memory
from abhinaya.doctor.findings import Finding
from abhinaya.doctor.weights import check_member
from members.fusion.config import FusionConfig

MakeConfig = Callable[..., FusionConfig]


def problems_of(config: FusionConfig) -> dict[str, str]:
    found: list[Finding] = list(check_member(config, memory=False))
    return {finding.what: finding.details for finding in found if finding.result == "problem"}


@pytest.mark.parametrize("fusion", ["deep", "cross-attention"])
def test_whole_encoders_are_told_with_the_memory_that_they_need(
    fusion: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "find_devices", lambda: ())
    config = make_config(fusion=fusion, text={"freeze": "nothing"})
    findings = {finding.what: finding for finding in check_member(config)}
    assert {what: finding.result for what, finding in findings.items()} == {
        "encoders.wavlm": "ok",
        "encoders.whisper": "ok",
        "text": "ok",
        "tokenizer": "ok",
        "data.transcripts": "note",
        "memory for training": "note",
        "memory for prediction": "note",
    }
    details = findings["encoders.whisper"].details
    assert details == "whisper with all its files: 2 blocks of 16 features"
    assert "of weights (float32)" in findings["memory for training"].details


def test_each_encoder_that_does_not_work_is_a_problem_of_its_own(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    broken: dict[str, Any] = {
        "encoders": {
            "absent": {"base": "/absent"},
            "deep": {"base": make_config().base_of("wavlm"), "layer": 9},
        },
        "text": {"base": str(tmp_path)},
        "data": {"transcripts": None},
    }
    problems = problems_of(make_config(**broken))
    nothing = {"text", "tokenizer", "data.transcripts"}
    assert set(problems) == {"encoders.absent", "encoders.deep", *nothing}
    assert "There is no '/absent'" in problems["encoders.absent"]
    assert "the encoder has 2 blocks" in problems["encoders.deep"]
    assert "this member reads transcripts" in problems["data.transcripts"]


def test_what_the_inputs_refuse_is_a_problem(make_config: MakeConfig) -> None:
    assert "hears 2 s at once" in problems_of(make_config(audio={"max_audio_s": 5}))["inputs"]
    assert "reads 128 at most" in problems_of(make_config(text={"max_tokens": 500}))["inputs"]
