"""The config of an audit: encoders, corpora, and a block for each part that is to be done."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from abhinaya.config import (
    Config,
    Selection,
    apply_overrides,
    check_config,
    load_yaml,
)
from abhinaya.errors import UnknownNameError
from abhinaya.nn.classifier_config import CacheConfig
from abhinaya.probing.probe import ProbeSettings
from abhinaya.probing.splits import SplitKind
from abhinaya.resources import find_config

__all__ = ["AuditConfig", "CorpusEntry", "EncoderEntry", "SweepConfig", "load_audit"]

SEEDS = (20260505, 20260506, 20260507, 20260508, 20260509)
"""Of the published protocol."""


class EncoderEntry(Config):
    """An encoder to look at."""

    base: str
    """Folder in Hugging Face's layout, hub id, or openai-whisper's `.pt`."""
    random: bool = False
    """Random weights in the same architecture: what the architecture and the probe do alone."""
    random_seed: int = 0
    """Of these weights."""


class CorpusEntry(Config):
    """A corpus to look at."""

    manifest: Path
    """Manifest made by `abhinaya prepare`."""
    audio_root: Path | None = None
    """Where the audio lies now, if not where the manifest was made."""
    select: Selection = ("all",)
    """Splits or subsets."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Its labels -> the names in `classes`; a label that is not here keeps its own."""
    language: str | None = None
    """Corpora of one language are one side of `transfer` and `rsa`; by default each is its own."""

    @field_validator("select", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class ProbesConfig(Config):
    """Probes within each corpus."""

    taxonomies: tuple[Literal["common", "own"], ...] = ("common", "own")
    """The classes of `classes`, or all that the corpus has."""
    splits: tuple[SplitKind, ...] = ("speakers", "leave-one-out")
    """60/40 by speakers, each speaker left out, ten random folds of utterances."""
    hidden: tuple[Literal[0, 256], ...] = (0,)
    """Heads: one linear layer, or 256 ReLUs below it."""


class TransferConfig(Config):
    """Probes of one language tested on another, without and with a few examples of it."""

    shots: tuple[NonNegativeInt, ...] = (0, 10, 50, 100)
    """K: examples of the target that the probe is trained on further."""
    samples: PositiveInt = 3
    """Draws of these examples."""
    epochs: PositiveInt = 50
    """Of the further training."""


class InlpConfig(Config):
    """Speakers taken out by iterative nullspace projection."""

    max_rounds: PositiveInt = 30
    """Classifiers at most."""


class RsaConfig(Config):
    """The geometry of the classes compared between languages."""

    shuffles: PositiveInt = 1_000
    """Of the labels within each language, for one test over all pairs."""


class SweepConfig(Config):
    """In which settings one encoder is better than another."""

    corpus: str
    first: str
    """The encoder that is said to be better."""
    second: str
    gap: PositiveFloat
    """By how much accuracy, as published."""
    settings: dict[str, tuple[Any, ...]]
    """Values of `split` and of keys of `probe`; their cross product is tried."""

    @property
    def points(self) -> list[tuple[SplitKind, ProbeSettings]]:
        """The cross product."""
        found = []
        for values in product(*self.settings.values()):
            point = dict(zip(self.settings, values, strict=True))
            split: SplitKind = point.pop("split", "speakers")
            found.append((split, ProbeSettings.model_validate(point)))
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = {"split": SplitKind, **ProbeSettings.model_fields}
        for key, values in self.settings.items():
            if key not in known:
                raise ValueError(str(UnknownNameError("setting", key, known)))
            splits = ("speakers", "leave-one-out", "random")
            if not values or (key == "split" and set(values) - set(splits)):
                raise ValueError(f"settings.{key} needs values, of `split` among {splits}")
        _ = self.points  # each of them valid
        return self


class AuditConfig(Config):
    """An audit. A part without a block is not done; `{}` takes the defaults of the protocol."""

    name: str = Field(pattern=r"^[\w.-]+$")
    """Of the audit, in its tables."""
    out: Path
    """Folder to write."""
    encoders: dict[str, EncoderEntry] = Field(min_length=1)
    """By the names that the tables show; the first is compared with each other one."""
    corpora: dict[str, CorpusEntry] = Field(min_length=1)
    """By the names that the tables show."""
    classes: tuple[str, ...] = Field(default=("angry", "happy", "neutral", "sad"), min_length=2)
    """Common to all corpora, in order."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=SEEDS, min_length=1)
    """Of splits, initial weights and order of rows; encoders are compared seed by seed."""
    max_audio_s: PositiveFloat = 30.0
    """Of a longer clip the middle is heard."""
    cache: CacheConfig = CacheConfig(dir=Path("runs/audit/cache"))
    """Where the clips' averages are kept, for all audits."""
    features: Path | None = None
    """Bundle of another audit to take them from: neither audio nor encoders are opened."""
    figures: bool = True
    """Draw pictures; needs matplotlib."""
    probe: ProbeSettings = ProbeSettings()
    """How every probe is trained that a part does not train otherwise."""
    probes: ProbesConfig | None = None
    transfer: TransferConfig | None = None
    inlp: InlpConfig | None = None
    rsa: RsaConfig | None = None
    sweep: SweepConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = []
        if len(set(self.classes)) < len(self.classes) or len(set(self.seeds)) < len(self.seeds):
            problems.append("classes and seeds must be unique")
        for kind, names in (("encoders", self.encoders), ("corpora", self.corpora)):
            wrong = [name for name in names if not name.replace("-", "").replace("_", "").isalnum()]
            if wrong:
                problems.append(
                    f"{kind} have names of other than letters, digits, - and _: {wrong}"
                )
        if self.probes is None and not any((self.transfer, self.inlp, self.rsa, self.sweep)):
            problems.append("no part is asked for; add probes, transfer, inlp, rsa or sweep")
        if (self.transfer or self.rsa) and len(self.languages) < 2:
            problems.append("transfer and rsa compare languages, and there is one; add a corpus")
        if self.sweep is not None:
            for encoder in (self.sweep.first, self.sweep.second):
                if encoder not in self.encoders:
                    problems.append(str(UnknownNameError("encoder", encoder, self.encoders)))
            if self.sweep.corpus not in self.corpora:
                problems.append(str(UnknownNameError("corpus", self.sweep.corpus, self.corpora)))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def languages(self) -> dict[str, list[str]]:
        """The corpora of each language."""
        found: dict[str, list[str]] = {}
        for name, corpus in self.corpora.items():
            found.setdefault(corpus.language or name, []).append(name)
        return found


def load_audit(path: str | Path, overrides: Sequence[str] = ()) -> AuditConfig:
    """Read the YAML of an audit.

    Args:
        path: a YAML file, or a shipped one such as `audit/emodb-whisper.yaml`.
        overrides: `some.key=value` changes.

    Raises:
        MissingFileError: if it is not there.
        ProblemsError: with all its mistakes.
    """
    file = find_config(path)
    return check_config(apply_overrides(load_yaml(file), overrides), AuditConfig, str(file))
