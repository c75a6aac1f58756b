"""The YAML of `abhinaya run`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from abhinaya.config import (
    Config,
    MemberConfig,
    Selection,
    TrainedConfig,
    apply_overrides,
    check_config,
    load_yaml,
    merge,
)
from abhinaya.errors import AbhinayaError, ProblemsError, list_some
from abhinaya.member_config import find_config_class, read_member_yaml
from abhinaya.pipeline.launching.config import LaunchConfig
from abhinaya.pipeline.stages.fit import FitSettings
from abhinaya.pipeline.stages.fuse import ApplySettings, VoteSettings
from abhinaya.pipeline.stages.prepare import PrepareSettings
from abhinaya.pipeline.stages.report import ReportSettings
from abhinaya.pipeline.stages.score import ScoreSettings
from abhinaya.pipeline.stages.smooth import SmoothSettings
from abhinaya.pipeline.stages.speakers import SpeakersSettings
from abhinaya.pipeline.stages.submit import SubmitSettings
from abhinaya.pipeline.stages.transcribe import TranscribeSettings
from abhinaya.resources import find_config

__all__ = [
    "GateEntry",
    "MemberEntry",
    "Pipeline",
    "PipelineConfig",
    "PrepareEntry",
    "ScoreEntry",
    "SmoothEntry",
    "SubmitEntry",
    "load_pipeline",
]

_WITH_GATE = {"gate", "embeddings", "speakers", "name"}
"""Settings of `smooth` that still count where the gate chooses the method."""


class PrepareEntry(PrepareSettings):
    """`abhinaya prepare`."""

    out: Path
    """Folder for the manifest."""


class MemberEntry(Config):
    """One member: its config file, and what is changed in it."""

    config: str
    """YAML file, or a shipped one such as `members/wavlm.yaml`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys that replace those of the file, nested alike, such as `{seed: 2, head: {hidden: 0}}`."""


class GateEntry(FitSettings):
    """`abhinaya fit adaptation`, whose recipe is then applied."""

    selection: str
    """A key of `predict`, with labels and speakers."""
    rule: str = Field(default="adaptation", pattern="^adaptation$")
    """Only this rule is a gate."""


class SmoothEntry(SmoothSettings):
    """`abhinaya smooth` of every vote; `embeddings` names a member of the chain."""

    gate: GateEntry | None = None
    """Choose one adaptation or none on this selection, instead of applying what is asked for."""

    @field_validator("gate", mode="before")
    @classmethod
    def _one_name_is_a_selection(cls, value: Any) -> Any:
        return {"selection": value} if isinstance(value, str) else value


class ScoreEntry(ScoreSettings):
    """`abhinaya score` of every table of one selection."""

    selection: str
    """A key of `predict`."""
    truth: Path | None = None
    """CSV `FileName,EmoClass` or another manifest; the run's own manifest by default."""


class SubmitEntry(SubmitSettings):
    """`abhinaya submit`."""

    selection: str
    """A key of `predict`."""


class PipelineConfig(Config):
    """The whole chain. Paths are relative to the working directory."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Name of the chain."""
    out: Path
    """Folder of tables, scores, submission and the notes of finished steps."""
    prepare: PrepareEntry | None = None
    manifest: Path | None = None
    """Manifest made before, instead of `prepare`."""
    audio_root: Path | None = None
    """Where the audio lies now, if not where the manifest was made."""
    transcribe: TranscribeSettings | None = None
    """`abhinaya transcribe`, for members that read text."""
    members: dict[str, MemberEntry] = Field(min_length=1)
    """Name of the run -> member. The name replaces the file's; the run goes to `out`/runs/NAME
    unless `set` says otherwise. The order settles ties after the tiebreakers."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys that replace those of every member's file; a member's own `set` comes later."""
    predict: dict[str, Selection] = Field(min_length=1)
    """Name -> selection. Each gets a folder of tables and a vote."""
    with_embedding: bool = False
    """Also keep the input of the last linear layer in every table."""
    vote: VoteSettings | None = None
    """`abhinaya vote`; a plain one if neither this nor `apply` is given."""
    apply: ApplySettings | None = None
    """`abhinaya apply` of a recipe instead of a vote."""
    speakers: SpeakersSettings | None = None
    """`abhinaya speakers`, for corpora that do not say who speaks."""
    smooth: SmoothEntry | None = None
    """Adapt the vote to each speaker."""
    score: tuple[ScoreEntry, ...] = ()
    submit: SubmitEntry | None = None
    report: ReportSettings | None = None
    """`abhinaya report` of the whole chain, into its folder."""
    gpus: int = Field(default=0, ge=0)
    """Devices: 0 or 1 works in this process, more start `accelerate launch` for each step."""
    launch: LaunchConfig | None = None
    """How each step is started, where `gpus` does not say enough."""

    @field_validator("predict", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        unfit = [str(k) for k in value if not re.fullmatch(r"[\w.-]+", str(k))]
        if unfit:
            raise ValueError(f"the name {list_some(unfit)} cannot name a folder")
        return {k: (v,) if isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if (self.prepare is None) == (self.manifest is None):
            raise ValueError("give either prepare or manifest, not both and not neither")
        if self.vote is not None and self.apply is not None:
            raise ValueError("give either vote or apply, not both")
        used = [entry.selection for entry in self.score]
        used += [self.submit.selection] if self.submit else []
        self._check_selections("score and submit use", used)
        if self.gate is not None:
            self._check_selections("smooth.gate uses", [self.gate.selection])
        if self.submit and self.submit.challenge is None and self.submit.names is None:
            raise ValueError("submit needs a challenge, or names")
        return self

    def _check_selections(self, who: str, used: Sequence[str]) -> None:
        unknown = sorted(set(used) - set(self.predict))
        if unknown:
            raise ValueError(
                f"{who} the selection {', '.join(unknown)}, but predict has only "
                f"{', '.join(self.predict)}"
            )

    @property
    def manifest_path(self) -> Path:
        """Where the manifest is, or will be."""
        if self.prepare is not None:
            return self.prepare.out / "manifest.parquet"
        assert self.manifest is not None
        return self.manifest

    @property
    def manifest_with_speakers(self) -> Path:
        """The manifest whose speakers and labels count once the tables are fused."""
        if self.speakers is None:
            return self.manifest_path
        return self.out / "speakers" / "manifest.parquet"

    @property
    def fusion(self) -> VoteSettings | ApplySettings:
        """How tables become one."""
        return self.apply or self.vote or VoteSettings()

    @property
    def fused_name(self) -> str:
        """Name of the fused tables."""
        return self.fusion.name or "apply"

    @property
    def smoothed_name(self) -> str:
        """Name of the smoothed tables, where there are some."""
        named = self.smooth.name if self.smooth else None
        return named or f"{self.fused_name}-smooth"

    @property
    def final_name(self) -> str:
        """Name of the tables that are submitted."""
        return self.smoothed_name if self.smooth else self.fused_name

    @property
    def gate(self) -> GateEntry | None:
        """The gate of the adaptation, where there is one."""
        return self.smooth.gate if self.smooth else None

    def keeps_embedding(self, member: str) -> bool:
        """Return whether a member's tables hold embeddings: if asked, or if `smooth` needs them."""
        return self.with_embedding or bool(self.smooth and self.smooth.embeddings == member)


class Pipeline:
    """A checked pipeline config with the checked configs of its members.

    Args:
        config: the chain.
        members: one config per entry of `config.members`, with the chain's manifest.
    """

    def __init__(self, config: PipelineConfig, members: Sequence[MemberConfig]) -> None:
        self.config = config
        self.members = tuple(members)


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Read the YAML of a chain and of all its members.

    Args:
        path: a YAML file, or a shipped one such as `demo/demo.yaml`.
        overrides: `some.key=value` changes of the chain's own keys.

    Raises:
        MissingFileError: if a file is not there.
        ProblemsError: with all mistakes of the chain, or all mistakes of all members.
    """
    file = find_config(path)
    config = check_config(apply_overrides(load_yaml(file), overrides), PipelineConfig, str(file))
    members, problems = [], []
    for name, entry in config.members.items():
        try:
            members.append(_load_member(name, entry, config))
        except ProblemsError as err:
            problems += [f"members.{name}: {problem}" for problem in err.problems]
        except AbhinayaError as err:
            problems.append(f"members.{name}: {str(err).rstrip('.')}")
    problems += _wrong_fusion(config)
    run_dirs = Counter(m.run_dir for m in members if isinstance(m, TrainedConfig))
    problems += [
        f"{count} members have the run_dir {str(run_dir)!r}; remove it, and each gets its own"
        for run_dir, count in run_dirs.items()
        if count > 1
    ]
    if problems:
        raise ProblemsError(str(file), problems)
    return Pipeline(config, members)


def _wrong_fusion(config: PipelineConfig) -> list[str]:
    """Return what is wrong with vote, apply and smooth, given the members."""
    names = ", ".join(config.members)
    used: list[tuple[str, str]] = []
    if config.vote is not None:
        used += [("vote.tiebreaker", name) for name in config.vote.tiebreaker]
        used += [("vote.weights", name) for name in config.vote.weights]
    if config.smooth is not None and config.smooth.embeddings is not None:
        used.append(("smooth.embeddings", config.smooth.embeddings))
    problems = [
        f"{key} names {name!r}, but the members are {names}"
        for key, name in used
        if name not in config.members
    ]
    taken = set(config.members)
    made = [("apply.name" if config.apply else "vote.name", config.fused_name)]
    made += [("smooth.name", config.smoothed_name)] if config.smooth else []
    for key, name in made:
        if name in config.members:
            what = key.partition(".")[0]
            problems.append(
                f"{key} is {name!r}, which is a member too; the {what} would replace that "
                "member's tables"
            )
        elif name in taken:
            problems.append(f"{key} is {name!r}, as the fused tables are called already")
        taken.add(name)
    return problems + (_wrong_smoothing(config, config.smooth) if config.smooth else [])


def _wrong_smoothing(config: PipelineConfig, smooth: SmoothEntry) -> list[str]:
    problems = []
    if smooth.gate is not None:
        without = sorted(smooth.model_fields_set - _WITH_GATE)
        if without:
            problems.append(
                f"smooth.{without[0]} has no effect beside smooth.gate, which chooses the method; "
                "remove one of the two"
            )
        if "embeddings" in smooth.gate.option:
            problems.append("smooth.gate.option.embeddings is said by smooth.embeddings; remove it")
        if "speakers" in smooth.gate.model_fields_set:
            problems.append("smooth.gate.speakers is said by smooth.speakers; remove it")
        if config.submit and config.submit.selection == smooth.gate.selection:
            problems.append(
                f"submit takes the selection {smooth.gate.selection!r}, on which smooth.gate is "
                "fitted; choose another one for either"
            )
    elif smooth.method == "standardise":
        problems.append(
            "smooth.method is 'standardise', which needs a table with embeddings of its own, and a "
            "fused table has none; choose cluster or prior, or use abhinaya smooth on a member's "
            "table"
        )
    elif smooth.needs_embeddings and smooth.embeddings is None:
        problems.append(
            f"smooth.space is {smooth.space!r}, but a fused table has no embeddings; name the "
            f"member that lends its own, smooth.embeddings={next(iter(config.members))}, or choose "
            "smooth.space=probabilities"
        )
    return problems


def _load_member(name: str, entry: MemberEntry, config: PipelineConfig) -> MemberConfig:
    path = find_config(entry.config)
    data: dict[str, Any] = {"manifest": str(config.manifest_path)}
    if config.audio_root is not None:
        data["audio_root"] = str(config.audio_root)
    content = merge(read_member_yaml(path), {"name": name, "data": data})
    content = merge(merge(content, config.set), entry.set)
    config_class = find_config_class(content, str(path))
    if issubclass(config_class, TrainedConfig) and "run_dir" not in {**config.set, **entry.set}:
        content["run_dir"] = str(config.out / "runs" / name)
    return check_config(content, config_class, str(path))
