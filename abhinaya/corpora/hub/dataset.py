"""A data set of the library `datasets` on disk: `save_to_disk`, Parquet, or an audiofolder."""

from __future__ import annotations

from pathlib import Path

from abhinaya.corpora.base import CorpusFacts, Prepared, PrepareOptions
from abhinaya.corpora.hub.rows import import_data_set

__all__ = ["FACTS", "prepare"]

FACTS = CorpusFacts(
    name="dataset",
    title="A data set of the library datasets, on disk",
    emotions=None,
    licence="unknown",
    citation="unknown",
    url="https://huggingface.co/docs/datasets",
)


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest and transcripts; see `import_data_set`.

    Args:
        source: the folder, or one Parquet file.
        options: its splits, columns and config.
    """
    return import_data_set(FACTS, str(source.resolve()), options, is_local=True)
