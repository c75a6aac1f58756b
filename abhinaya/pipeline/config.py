"""The YAML of `abhinaya run`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

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
from abhinaya.member_config import find_config_class
from abhinaya.resources import find_config

__all__ = [
    "MemberEntry",
    "Pipeline",
    "PipelineConfig",
    "PrepareEntry",
    "ScoreEntry",
    "SubmitEntry",
    "VoteEntry",
    "load_pipeline",
]


class PrepareEntry(Config):
    """`abhinaya prepare`."""

    corpus: str
    source: Path
    out: Path
    check_audio: bool = True
    balanced_per_class: int = Field(default=326, ge=1)
    seed: int = Field(default=0, ge=0)
    transcripts: dict[str, Path] = Field(default_factory=dict)
    """Further transcripts, name of the source -> CSV `FileName,Transcript`."""


class MemberEntry(Config):
    """One member: its config file, and what is changed in it."""

    config: str
    """YAML file, or a shipped one such as `members/wavlm.yaml`."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys that replace those of the file, nested alike, such as `{seed: 2, head: {hidden: 0}}`."""


class VoteEntry(Config):
    """`abhinaya vote`."""

    name: str = "vote"
    rule: Literal["plurality", "strict", "soft", "geometric"] = "plurality"
    tiebreaker: tuple[str, ...] = ()
    fallback: str | None = None
    """Class to write where every member abstains."""


class ScoreEntry(Config):
    """`abhinaya score` of every table of one selection."""

    selection: str
    """A key of `predict`."""
    truth: Path | None = None
    """CSV `FileName,EmoClass` or another manifest; the run's own manifest by default."""


class SubmitEntry(Config):
    """`abhinaya submit`."""

    selection: str
    """A key of `predict`."""
    challenge: str | None = None
    names: Path | None = None
    """Expected names where the challenge does not list them: one per line, CSV or manifest."""
    select: str = "all"
    """Rows of `names` if it is a manifest."""


class PipelineConfig(Config):
    """The whole chain. Paths are relative to the working directory."""

    name: str = Field(pattern=r"^[\w.-]+$")
    out: Path
    """Folder of tables, scores, submission and the notes of finished steps."""
    prepare: PrepareEntry | None = None
    manifest: Path | None = None
    """Manifest made before, instead of `prepare`."""
    audio_root: Path | None = None
    members: dict[str, MemberEntry] = Field(min_length=1)
    """Name of the run -> member. The name replaces the file's; the run goes to `out`/runs/NAME
    unless `set` says otherwise. The order settles ties after the tiebreakers."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys that replace those of every member's file; a member's own `set` comes later."""
    predict: dict[str, Selection] = Field(min_length=1)
    """Name -> selection. Each gets a folder of tables and a vote."""
    with_embedding: bool = False
    vote: VoteEntry = VoteEntry()
    score: tuple[ScoreEntry, ...] = ()
    submit: SubmitEntry | None = None
    gpus: int = Field(default=0, ge=0)
    """Devices: 0 or 1 works in this process, more start `accelerate launch` for each step."""

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
        used = [entry.selection for entry in self.score]
        used += [self.submit.selection] if self.submit else []
        unknown = sorted(set(used) - set(self.predict))
        if unknown:
            raise ValueError(
                f"score and submit use the selection {', '.join(unknown)}, but predict has only "
                f"{', '.join(self.predict)}"
            )
        if self.submit and self.submit.challenge is None and self.submit.names is None:
            raise ValueError("submit needs a challenge, or names")
        return self

    @property
    def manifest_path(self) -> Path:
        """Where the manifest is, or will be."""
        if self.prepare is not None:
            return self.prepare.out / "manifest.parquet"
        assert self.manifest is not None
        return self.manifest


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
    problems += [
        f"vote.tiebreaker names {name!r}, but the members are {', '.join(config.members)}"
        for name in config.vote.tiebreaker
        if name not in config.members
    ]
    if config.vote.name in config.members:
        problems.append(
            f"vote.name is {config.vote.name!r}, which is a member too; the vote would replace "
            "that member's tables"
        )
    run_dirs = Counter(m.run_dir for m in members if isinstance(m, TrainedConfig))
    problems += [
        f"{count} members have the run_dir {str(run_dir)!r}; remove it, and each gets its own"
        for run_dir, count in run_dirs.items()
        if count > 1
    ]
    if problems:
        raise ProblemsError(str(file), problems)
    return Pipeline(config, members)


def _load_member(name: str, entry: MemberEntry, config: PipelineConfig) -> MemberConfig:
    path = find_config(entry.config)
    data: dict[str, Any] = {"manifest": str(config.manifest_path)}
    if config.audio_root is not None:
        data["audio_root"] = str(config.audio_root)
    content = merge(load_yaml(path), {"name": name, "data": data})
    content = merge(merge(content, config.set), entry.set)
    config_class = find_config_class(content, str(path))
    if issubclass(config_class, TrainedConfig) and "run_dir" not in {**config.set, **entry.set}:
        content["run_dir"] = str(config.out / "runs" / name)
    return check_config(content, config_class, str(path))
