"""What the further tasks of a classifier compare with; NaN where the manifest knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from abhinaya.data.attributes import ATTRIBUTES, SECONDARY, find_outside
from abhinaya.errors import BadValueError, ProblemsError, list_some
from abhinaya.nn.classifier_config import ClassifierConfig

__all__ = ["attribute_targets"]

_GENDERS = {"male": 0.0, "female": 1.0}


def attribute_targets(
    rows: pd.DataFrame, config: ClassifierConfig, trained: NDArray[np.bool_] | None = None
) -> NDArray[np.float32] | None:
    """Return the truth of `config.attributes`, shape (U, N); None where it asks for nothing.

    Args:
        rows: of the manifest.
        config: of the member.
        trained: the rows that are trained on, shape (U,): each task must be known for one of them.

    Raises:
        ProblemsError: if an attribute is outside [1, 7], or a secondary emotion cannot be read.
        BadValueError: if a task is known for no row.
    """
    if config.attributes is None:
        return None
    where = str(config.data.manifest)
    names = rows["utterance"].tolist()
    values = rows[list(ATTRIBUTES)].to_numpy(dtype=np.float32)
    problems = find_outside(values, names)
    columns: dict[str, NDArray[np.float32]] = {}
    for task in config.attributes.widths:
        if task in ATTRIBUTES:
            columns[task] = values[:, [ATTRIBUTES.index(task)]]
        elif task == "gender":
            found = [_GENDERS.get(str(cell).lower(), np.nan) for cell in rows["gender"]]
            columns[task] = np.array(found, dtype=np.float32)[:, np.newaxis]
        else:
            columns[task] = _secondary(rows, names, problems)
    if problems:
        raise ProblemsError(where, problems)
    if trained is not None:
        unknown = [task for task, found in columns.items() if np.isnan(found[trained]).all()]
        if unknown:
            raise BadValueError(
                f"{config.name!r} shall learn {', '.join(unknown)}, which {where!r} knows of none "
                f"of the {int(trained.sum())} training rows. Fill the column of the manifest, or "
                f"remove {', '.join(f'attributes.{task}' for task in unknown)}."
            )
    return np.concatenate(list(columns.values()), axis=1)


def _secondary(rows: pd.DataFrame, names: list[str], problems: list[str]) -> NDArray[np.float32]:
    """Read cells such as `Happy:0.8 Amused:0.4`, the share of raters who chose each emotion."""
    shares = np.full((len(rows), len(SECONDARY)), np.nan, dtype=np.float32)
    cells: Any = rows["secondary"] if "secondary" in rows else [None] * len(rows)
    wrong = []
    for row, cell in enumerate(cells):
        if pd.isna(cell) or not str(cell).strip():
            continue
        shares[row] = 0.0
        for part in str(cell).split():
            emotion, _, share = part.partition(":")
            try:
                shares[row, SECONDARY.index(emotion)] = float(share)
            except ValueError:
                shares[row] = np.nan
        if not ((shares[row] >= 0) & (shares[row] <= 1)).all():
            wrong.append(f"{cell} ({names[row]})")
    if wrong:
        problems.append(
            f"secondary of {len(wrong)} rows cannot be read: {list_some(wrong)}, expected shares "
            f"in [0, 1] such as 'Happy:0.8 Amused:0.4' of {', '.join(SECONDARY)}"
        )
    return shares
