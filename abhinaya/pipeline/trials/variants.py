"""Variants of a member's config: checked together beforehand, trained, scored on the same rows."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.config import TrainedConfig, apply_overrides, check_config
from abhinaya.errors import BadValueError, ProblemsError
from abhinaya.member_config import find_config_class, read_member_yaml
from abhinaya.resources import find_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from abhinaya.data.manifest import Manifest
    from abhinaya.data.predictions import PredictionTable

__all__ = [
    "ScoredRows",
    "check_variants",
    "find_rows_to_score",
    "read_content",
    "run_seed",
    "table_path",
    "train_and_predict",
]


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """The rows that variants are scored on.

    Args:
        manifest: the corpus.
        select: names of splits or subsets.
        is_labelled: which rows of the selection have a true label inside the set, shape (N,).
        truth: true class index of these, shape (U,).
        groups: what to resample: the speakers of these, or None for single utterances.
        notes: what the reader of scores on them should know.
    """

    manifest: Manifest
    select: tuple[str, ...]
    is_labelled: NDArray[np.bool_]
    truth: NDArray[np.int64]
    groups: tuple[str | None, ...] | None
    notes: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.manifest.emotions)

    @property
    def unit(self) -> str:
        """What is taken for independent."""
        return "utterances" if self.groups is None else "speakers"

    def labels_of(self, tables: Sequence[PredictionTable]) -> NDArray[np.int64]:
        """Return the predicted class indices of several seeds, shape (S, U)."""
        import numpy as np

        return np.stack([table.labels[self.is_labelled] for table in tables])


def read_content(config: str | Path, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Return the keys of a member's YAML with overrides, and how messages call it."""
    path = find_config(config)
    content = apply_overrides(read_member_yaml(path), overrides)
    return {"name": path.stem, **content, "run_dir": "set by the trial"}, str(path)


def check_variants(
    contents: Mapping[str, Mapping[str, Any]], where: str
) -> dict[str, TrainedConfig]:
    """Check the config of every variant before the first one is trained.

    Args:
        contents: keys and values of each, by name.
        where: the file that they come from, for messages.

    Returns:
        The configs by name.

    Raises:
        BadValueError: if there is nothing to train, or they differ in their corpus.
        ProblemsError: with all mistakes of all variants, each named once.
    """
    configs: dict[str, TrainedConfig] = {}
    problems: dict[str, str] = {}
    for name, content in contents.items():
        kind = find_config_class(content, where)
        if not issubclass(kind, TrainedConfig):
            raise BadValueError(
                f"The member {content['member']!r} has nothing to train, so its config {where!r} "
                "has no variants to compare. Predict with it."
            )
        try:
            configs[name] = check_config(content, kind, where)
        except ProblemsError as err:
            for problem in err.problems:
                problems.setdefault(problem, name)
    if problems:
        raise ProblemsError(where, [f"{name}: {problem}" for problem, name in problems.items()])
    if len({config.data.manifest for config in configs.values()}) > 1:
        raise BadValueError(
            f"The variants of {where!r} differ in data.manifest, but are compared on the same "
            "rows. Compare corpora with abhinaya compare."
        )
    return configs


def find_rows_to_score(
    configs: Sequence[TrainedConfig], select: Sequence[str], *, by_speaker: bool
) -> ScoredRows:
    """Return the rows that all variants are scored on; nothing is trained on them.

    Args:
        configs: of the variants.
        select: names of splits or subsets; without one, the validation rows of the first config.
        by_speaker: take speakers instead of utterances for independent.

    Raises:
        BadValueError: if no row has a label, a variant trains on one, or speakers are unknown.
    """
    import pandas as pd

    from abhinaya.data.manifest import read_manifest

    data = configs[0].data
    manifest = read_manifest(data.manifest, audio_root=data.audio_root)
    chosen = tuple(select) or data.validation or ()
    if not chosen:
        raise BadValueError(
            "The config has no data.validation, so nothing says which rows to score. Name a "
            "selection with --select."
        )
    rows = manifest.select(chosen)
    codes = manifest.emotions.encode(rows["label"])
    is_labelled = codes >= 0
    if not is_labelled.any():
        raise BadValueError(
            f"No row of {', '.join(chosen)!r} has a label of the emotion set. Choose another "
            "selection with --select."
        )
    scored = set(rows["utterance"][is_labelled])
    notes: list[str] = []
    for train in dict.fromkeys(config.data.train for config in configs):
        both = scored & set(manifest.select(train)["utterance"])
        if both:
            raise BadValueError(
                f"{len(both)} of the {len(scored)} rows of {', '.join(chosen)!r} are trained on "
                f"({', '.join(train)}). That flatters a recipe. Name other rows with --select."
            )
    validations = dict.fromkeys(config.data.validation for config in configs)
    if any(v and scored & set(manifest.select(v)["utterance"]) for v in validations):
        notes.append(
            "The scored rows also chose each run's checkpoint, so all scores are a little too "
            "good; differences less so."
        )
    groups: tuple[str | None, ...] | None = None
    if by_speaker:
        groups = tuple(None if pd.isna(s) else str(s) for s in rows["speaker"][is_labelled])
        if len(set(groups) - {None}) < 2:
            raise BadValueError(
                f"The labelled rows of {', '.join(chosen)!r} have fewer than two known speakers. "
                "Leave out --by-speaker, or estimate speakers with abhinaya speakers."
            )
    truth = codes[is_labelled]
    return ScoredRows(manifest, chosen, is_labelled, truth, groups, tuple(notes))


def table_path(out: Path, variant: str, seed: int) -> Path:
    """Return where the table of one run stands; the run directory has its name without ending."""
    return out / variant / f"seed-{seed}.parquet"


def run_seed(
    config: TrainedConfig, seed: int, out: Path, variant: str, rows: ScoredRows
) -> PredictionTable:
    """Train one variant with one seed and label the scored rows; what is there is not done again.

    Raises:
        BadValueError: if the folder holds a run of another config.
    """
    file = table_path(out, variant, seed)
    own = config.model_copy(update={"seed": seed, "run_dir": file.with_suffix("")})
    return train_and_predict(own, rows.manifest, rows.select, file)


def train_and_predict(
    config: TrainedConfig, manifest: Manifest, selection: tuple[str, ...], out: Path
) -> PredictionTable:
    """Train a run and label a selection with it, both only where that was not done before.

    Every process of a launch calls this.
    """
    from abhinaya.member import PredictRequest
    from abhinaya.registry import load_member

    member = load_member(config.member)
    run = member.train(config, manifest)
    table = member.predict(run, PredictRequest(manifest, selection, out))
    gc.collect()  # a trainer refers to itself, and its model may fill a device
    return table
