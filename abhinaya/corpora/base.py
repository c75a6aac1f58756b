"""What all corpora share: their facts, their result, and the look at the audio."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from abhinaya.data.label_csv import csv_header, repeated_columns
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import Manifest, make_manifest
from abhinaya.data.problems import Problem
from abhinaya.data.transcripts import HUMAN
from abhinaya.errors import BadValueError, ProblemsError

if TYPE_CHECKING:
    from abhinaya.corpora.class_sets import ClassSet, Placed

__all__ = [
    "CorpusFacts",
    "PrepareOptions",
    "Prepared",
    "build_manifest",
    "distinct_names",
    "gender_or_none",
    "map_in_threads",
    "move_root",
    "names_in",
    "read_csv_text",
]

_N_THREADS = 16
_CHUNK = 256

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CorpusFacts:
    """Who made a corpus and what may be done with it.

    Args:
        name: its name in `CORPORA`.
        title: its full name.
        emotions: its classes; None where the data decide.
        licence: licence of the data.
        citation: the paper to cite.
        url: its home.
        n_published: clips of the whole corpus; None where no number is certain.
        common: what a class is in the common sets of `class_sets`, where its name does not say it.
    """

    name: str
    title: str
    emotions: EmotionSet | None
    licence: str
    citation: str
    url: str
    n_published: int | None = None
    common: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, str]:
        """Return the facts that a manifest keeps."""
        return {
            "corpus": self.name,
            "title": self.title,
            "licence": self.licence,
            "citation": self.citation,
            "url": self.url,
        }


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare a corpus.

    Args:
        check_audio: False for text-only work: no audio is opened, and none needs to be there.
        balanced_per_class: clips per class in the subset `balanced` of MSP-Podcast, at least 1.
        seed: chooses the clips of that subset.
        transcripts: further transcripts, name of the source -> CSV `FileName,Transcript`.
        text_source: what the texts of `msp-podcast-lists` are called; the corpus does not say who
            or what wrote them.
        secondary: MSP-Podcast: also the column `secondary`, what raters heard beside the class.
        columns: folder corpus: our column -> what the table calls it, such as file -> filename.
        out: folder of the manifest, below which a corpus may write `audio/`: clips that are
            published within long recordings or in tables.
        classes: the class set that the manifest is restricted to; None keeps the corpus' own.
        class_set: how messages call it.
        folds: EmoBox's files of folds, whose parts become the splits; None keeps the corpus' own.
        fold: which of them.
        split: of a data set: which to read; none means all.
        config: of a data set that has several.
        revision: of a data set on the hub.
        own_split: folder corpus: seed of a split, drawn where it has none; files are hashed then,
            so that a change of one changes the manifest's digest.
    """

    check_audio: bool = True
    balanced_per_class: int = 326
    seed: int = 0
    transcripts: Mapping[str, Path] = field(default_factory=dict)
    text_source: str = HUMAN
    secondary: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    out: Path = Path()
    classes: ClassSet | None = None
    class_set: str = ""
    folds: Path | None = None
    fold: int = 1
    split: tuple[str, ...] = ()
    config: str | None = None
    revision: str | None = None
    own_split: int | None = None

    def __post_init__(self) -> None:
        if self.balanced_per_class < 1:
            raise BadValueError(
                f"balanced_per_class is {self.balanced_per_class}, expected at least 1."
            )
        if not re.fullmatch(r"[\w.-]+", self.text_source):
            raise BadValueError(
                f"text_source is {self.text_source!r}, expected a name of letters, digits, dots, "
                "dashes and underscores, such as 'whisper-large-v3'."
            )


@dataclass(frozen=True)
class Prepared:
    """A corpus, read.

    Args:
        manifest: the rows.
        transcripts: dictionaries with `utterance`, `source` and `text`.
        problems: what could not be used or is not as expected.
        placed: what became of each label in another class set.
    """

    manifest: Manifest
    transcripts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)


def read_csv_text(path: Path) -> pd.DataFrame:
    """Read a CSV file with every cell as text; empty cells are "".

    Raises:
        BadValueError: if the file is not CSV in UTF-8.
        ProblemsError: if a column stands there twice.
    """
    try:
        # Without index_col=False, rows with a comma at the end shift all cells by one column.
        frame = pd.read_csv(
            path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as err:
        raise BadValueError(f"{str(path)!r} cannot be read as CSV: {str(err).strip()}.") from err
    repeated = repeated_columns(csv_header(path))  # pandas has renamed the second one
    if repeated:
        raise ProblemsError(str(path), repeated)
    return frame


def build_manifest(
    rows: pd.DataFrame | Sequence[Mapping[str, Any]],
    facts: CorpusFacts,
    root: Path,
    *,
    emotions: EmotionSet,
    where: str,
    wrong: Iterable[str] = (),
    subsets: Mapping[str, Iterable[str]] | None = None,
) -> Manifest:
    """Check a manifest, or raise one error with all that corpus and manifest found wrong.

    Args:
        rows: see `make_manifest`.
        facts: facts of the corpus.
        root: folder that `audio` is relative to.
        emotions: the classes.
        where: the label file, for messages.
        wrong: errors that the corpus has found, one sentence each without a full stop.
        subsets: named lists of utterances.

    Raises:
        ProblemsError: if either found anything.
    """
    problems = list(wrong)
    try:
        manifest = make_manifest(
            rows, emotions, root, subsets=subsets, facts=facts.as_dict(), where=where
        )
    except ProblemsError as err:
        raise ProblemsError(where, [*problems, *err.problems]) from err
    if problems:
        raise ProblemsError(where, problems)
    return manifest


def map_in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Apply `function` to every item, in order; for many small files, where the disk is slow."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(_N_THREADS) as pool:
        done = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return [result for results in done for result in results]


def move_root(manifest: Manifest, root: Path) -> Manifest:
    """Return the manifest with `audio` relative to another folder, with forward slashes.

    Both folders are resolved first: `..` through a symbolic link would lead elsewhere.
    """
    old, new = os.path.realpath(manifest.root), os.path.realpath(root)
    rows = manifest.rows.copy()
    rows["audio"] = pd.Series(
        [
            Path(os.path.relpath(os.path.join(old, audio), new)).as_posix()
            if isinstance(audio, str)
            else None
            for audio in rows["audio"]
        ],
        index=rows.index,
        dtype="str",
    )
    return replace(manifest, rows=rows, root=root)


def gender_or_none(value: object) -> str | None:
    """Return `male`, `female`, or None for anything else."""
    text = str(value).strip().lower()
    return text if text in ("male", "female") else None


def distinct_names(files: Sequence[str]) -> list[str]:
    """Return the names of files; those that clash keep their folders, `1/a.wav`."""
    # NFD, which macOS writes, and NFC look the same and are one name. PureWindowsPath takes both
    # kinds of slashes.
    paths = [PureWindowsPath(unicodedata.normalize("NFC", file.strip())) for file in files]
    base_names = Counter(path.name for path in paths)
    return [path.name if base_names[path.name] == 1 else path.as_posix() for path in paths]


def names_in(folder: Path) -> str:
    """List what a folder holds, for messages: the first ten names, sorted."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    further = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) + further) or "nothing"
