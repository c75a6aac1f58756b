"""A split for a corpus that has none: to train on, to choose the checkpoint by, and to score."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from abhinaya.corpora.base import map_in_threads
from abhinaya.data.labels import ABSTAIN
from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError
from abhinaya.files import hash_file

__all__ = ["draw_split", "hash_clips"]

_N_FOLDS = 5


def draw_split(manifest: Manifest, seed: int, where: str) -> tuple[pd.Series[str], str]:
    """Return a split of the labelled rows: a fifth each in `test` and `development`, else `train`.

    No speaker is in two of them, and classes are as frequent in each as the speakers allow. A row
    of an unknown speaker stands for itself; where fewer than three speakers are known all rows do.
    With two groups only there is no `test`.

    Args:
        manifest: the corpus.
        seed: the same one gives the same split.
        where: the corpus, for messages.

    Returns:
        split: of each row, None without a label.
        by: how it was made, in words.

    Raises:
        BadValueError: if there are fewer than two labelled rows.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = manifest.rows
    truth = manifest.emotions.encode(rows["label"])
    labelled = np.flatnonzero(truth != ABSTAIN)
    speakers = rows["speaker"].iloc[labelled]
    n_speakers = speakers.nunique()
    files = "file " + rows["utterance"].iloc[labelled]
    by_speaker = n_speakers >= 3
    groups = speakers.where(speakers.notna(), files) if by_speaker else files
    n_folds = min(_N_FOLDS, groups.nunique(), int(np.bincount(truth[labelled], minlength=1).max()))
    if n_folds < 2:
        raise BadValueError(
            f"{where!r} has {len(labelled)} labelled recordings, too few of each class to train on "
            "some and to check on others. Add recordings."
        )
    split = np.full(len(rows), None, dtype=object)
    split[labelled] = "train"
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes rarer than folds
        held_out = [rest for _, rest in folds.split(labelled, truth[labelled], groups)]
    for name, fold in zip(("development", "test")[: n_folds - 1], held_out, strict=False):
        split[labelled[fold]] = name
    by = f"by speaker, {n_speakers} of them"
    if not by_speaker:
        known = "no speaker is" if n_speakers == 0 else f"only {n_speakers} speakers are"
        by = f"by file, because {known} known: scores flatter where a voice is on both sides"
    return pd.Series(split, index=rows.index, dtype="str"), by


def hash_clips(manifest: Manifest) -> Manifest:
    """Return the manifest with the SHA-256 of each audio file in the column `content`."""

    def hash_clip(audio: str | None) -> str | None:
        path = manifest.audio_path(audio) if isinstance(audio, str) else None
        return hash_file(path) if path is not None and path.is_file() else None

    rows = manifest.rows
    hashes = map_in_threads(hash_clip, rows["audio"].tolist())
    content = pd.Series(hashes, index=rows.index, dtype="str")
    return replace(manifest, rows=rows.assign(content=content))
