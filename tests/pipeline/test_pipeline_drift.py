"""No option of a stage's command is missing from the chain's YAML, unless the chain decides it."""

from __future__ import annotations

import pytest
import typer

from abhinaya.cli import app
from abhinaya.pipeline.config import (
    GateEntry,
    MemberEntry,
    PrepareEntry,
    ScoreEntry,
    SmoothEntry,
    SubmitEntry,
)
from abhinaya.pipeline.stages.fuse import ApplySettings, VoteSettings
from abhinaya.pipeline.stages.report import ReportSettings
from abhinaya.pipeline.stages.speakers import SpeakersSettings
from abhinaya.pipeline.stages.transcribe import TranscribeSettings

BLOCKS = {
    "prepare": PrepareEntry,
    "transcribe": TranscribeSettings,
    "train": MemberEntry,
    "predict": MemberEntry,
    "vote": VoteSettings,
    "fit": GateEntry,
    "apply": ApplySettings,
    "speakers": SpeakersSettings,
    "smooth": SmoothEntry,
    "score": ScoreEntry,
    "submit": SubmitEntry,
    "report": ReportSettings,
}
"""Command -> the block of the YAML that describes its step."""

EVERYWHERE = {
    "--help": "shows the command line",
    "--json": "run has its own, for all steps",
    "--format": "run has its own, for all steps",
    "--force": "a chain replaces only what its own steps made",
    "--quiet": "run has its own, for all steps",
    "--manifest": "the chain's, with the estimated speakers where there are some",
    "manifest": "the chain's",
    "tables": "those that the steps before have made",
    "table": "the one that the step before has made",
}
"""Options of several commands that the chain decides, and why."""

NOT_APPLICABLE = {
    ("transcribe", "--audio-root"): "audio_root of the whole chain",
    ("train", "overrides"): "set of the chain and of the member",
    ("predict", "source"): "the member's run directory, or its config",
    ("predict", "--audio-root"): "audio_root of the whole chain",
    ("predict", "--select"): "predict names the selections",
    ("predict", "--out"): "tables/SELECTION/MEMBER.parquet",
    ("predict", "others"): "set of the chain and of the member; a chain has a corpus",
    ("predict", "--with"): "with_embedding, and smooth.embeddings",
    ("vote", "--out"): "tables/SELECTION/NAME.parquet",
    ("fit", "--out"): "adaptation.json",
    ("fit", "--out-of-fold"): "the smoothed table of the gate's selection",
    ("apply", "--out"): "tables/SELECTION/NAME.parquet",
    ("speakers", "--out"): "speakers/manifest.parquet",
    ("speakers", "--audio-root"): "audio_root of the whole chain",
    ("smooth", "--out"): "tables/SELECTION/NAME.parquet",
    ("report", "--out"): "report.html",
    ("report", "sources"): "the chain itself",
    ("submit", "--out"): "submission.csv",
    ("submit", "--score"): "only the organisers know it, after the chain has ended",
}
"""Options of one command that are no key of its block, and why."""


def options(command):
    """How each option or argument of a command is written."""
    found = typer.main.get_command(app).commands[command]
    return [
        next((name for name in param.opts if name.startswith("--")), param.name)
        for param in found.params
    ]


def keys(block):
    """Keys of a block, and how the options of these names are written."""
    names = [*block.model_fields, *(f"--{name.replace('_', '-')}" for name in block.model_fields)]
    return {*names, "--audio", "--fp16"}


SEEN = [(command, option) for command in BLOCKS for option in options(command)]


@pytest.mark.parametrize("command", BLOCKS)
def test_every_option_can_be_set_in_the_chain(command):
    missing = [
        option
        for option in options(command)
        if option not in keys(BLOCKS[command])
        and option not in EVERYWHERE
        and (command, option) not in NOT_APPLICABLE
    ]
    assert not missing, (
        f"abhinaya {command} has {missing}, which the chain's YAML cannot set: make them fields of "
        "the stage's settings, or say in NOT_APPLICABLE why the chain decides them."
    )


def test_every_exemption_is_needed():
    assert len(SEEN) >= 120
    assert {command for command, _ in SEEN} == set(BLOCKS)
    for command, option in NOT_APPLICABLE:
        assert (command, option) in SEEN, option
        assert option not in keys(BLOCKS[command]), option
        assert option not in EVERYWHERE, option
    assert set(EVERYWHERE) <= {option for _, option in SEEN} | {"--help"}
