"""A data set of the Hugging Face hub, by its name there, such as `amu-cai/CAMEO`.

It is streamed: sound goes into `audio/` beside the manifest, rows into `import/`, batch by batch. A
killed import goes on after its last whole batch, and a finished one is read from `import/` by the
next run, until another name, split, column or revision is asked for.
"""

from __future__ import annotations

from pathlib import Path

from abhinaya.corpora.base import CorpusFacts, Prepared, PrepareOptions
from abhinaya.corpora.hub.rows import import_data_set

__all__ = ["FACTS", "prepare"]

FACTS = CorpusFacts(
    name="hub",
    title="A data set of the Hugging Face hub",
    emotions=None,
    licence="see its page",
    citation="see its page",
    url="https://huggingface.co/datasets",
)


def prepare(source: Path, options: PrepareOptions) -> Prepared:
    """Return manifest and transcripts; see `import_data_set`.

    Args:
        source: the name of the data set, as if it were a path.
        options: its splits, columns, config and revision.
    """
    return import_data_set(FACTS, source.as_posix(), options, is_local=False)
