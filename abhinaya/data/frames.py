"""Data frames: how tables show themselves in a notebook, and hand their rows to pandas."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from abhinaya.data.predictions import PredictionTable

__all__ = ["Framed", "frame_of_predictions"]


class Framed(ABC):
    """Shows a headline and the first and last rows."""

    @abstractmethod
    def headline(self) -> str:
        """Say in one line what it is."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """Return the rows as a data frame."""

    def __repr__(self) -> str:
        return f"{self.headline()}\n{self.to_frame()}"

    def _repr_html_(self) -> str:
        frame: Any = self.to_frame()  # pandas' stubs lack what notebooks call
        return f"<p>{html.escape(self.headline())}</p>{frame._repr_html_()}"


def frame_of_predictions(table: PredictionTable) -> pd.DataFrame:
    """Return one row per utterance: `label`, `prob_A`, `prob_C`, ... and whatever else is there.

    Embeddings stay in the table, as a matrix.
    """
    import pandas as pd

    from abhinaya.data.attributes import ATTRIBUTES

    columns: dict[str, Any] = {"label": table.emotions.decode(table.labels)}
    if table.probs is not None:
        columns |= dict(
            zip((f"prob_{code}" for code in table.emotions.codes), table.probs.T, strict=True)
        )
    if table.attributes is not None:
        columns |= dict(zip(ATTRIBUTES, table.attributes.T, strict=True))
    texts = {"reason": table.reasons, "decided_by": table.decided_by, "raw": table.raw}
    for name, column in {**texts, "fold": table.fold, "trained_on": table.trained_on}.items():
        if column is not None and any(cell is not None for cell in column):
            columns[name] = list(column)
    index = pd.Index(list(table.utterances), name="utterance")
    return pd.DataFrame(columns, index=index)
