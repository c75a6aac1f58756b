"""Corpora by name: from data as published to a manifest.

A corpus is a module with a table of facts, `FACTS`, and one function, `prepare`. Adding one means
adding the module and a line here. Listing names imports no corpus.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError
from abhinaya.files import sole_writer

if TYPE_CHECKING:
    from abhinaya.corpora.base import CorpusFacts, Prepared, PrepareOptions
    from abhinaya.corpora.class_sets import Placed

__all__ = ["CORPORA", "Corpus", "load_corpus", "prepare_corpus"]

CORPORA = {
    "cafe": "abhinaya.corpora.named.cafe",
    "crema-d": "abhinaya.corpora.named.crema_d",
    "dataset": "abhinaya.corpora.hub.dataset",
    "emns": "abhinaya.corpora.listed.emns",
    "emodb": "abhinaya.corpora.emodb",
    "emozionalmente": "abhinaya.corpora.listed.emozionalmente",
    "enterface": "abhinaya.corpora.named.enterface",
    "esd": "abhinaya.corpora.named.esd",
    "folder": "abhinaya.corpora.folder",
    "hub": "abhinaya.corpora.hub.hub",
    "iemocap": "abhinaya.corpora.listed.iemocap",
    "jl-corpus": "abhinaya.corpora.named.jl_corpus",
    "meld": "abhinaya.corpora.meld",
    "mesd": "abhinaya.corpora.named.mesd",
    "msp-podcast": "abhinaya.corpora.msp_podcast",
    "msp-podcast-lists": "abhinaya.corpora.author_lists",
    "nemo": "abhinaya.corpora.named.nemo",
    "oreau": "abhinaya.corpora.named.oreau",
    "pavoque": "abhinaya.corpora.listed.pavoque",
    "ravdess": "abhinaya.corpora.named.ravdess",
    "resd": "abhinaya.corpora.listed.resd",
    "savee": "abhinaya.corpora.named.savee",
    "subesco": "abhinaya.corpora.named.subesco",
    "tess": "abhinaya.corpora.named.tess",
    "thai-ser": "abhinaya.corpora.listed.thai_ser",
    "urdu": "abhinaya.corpora.named.urdu",
}
"""Module of every corpus."""

_BELONGS_TO = {
    "columns": ("folder", "hub", "dataset"),
    "own_split": ("folder",),
    "text_source": ("msp-podcast-lists",),
    "secondary": ("msp-podcast",),
    "split": ("hub", "dataset"),
    "config": ("hub", "dataset"),
    "revision": ("hub",),
}
"""Option -> the corpora that know it."""


class Corpus(Protocol):
    """What a corpus module has."""

    FACTS: CorpusFacts

    def prepare(self, source: Path, options: PrepareOptions) -> Prepared:
        """Return manifest, transcripts and problems; `audio` is relative to `source`, unopened."""
        ...


def load_corpus(name: str) -> Corpus:
    """Load the corpus registered under `name`.

    Raises:
        UnknownNameError: if there is none; the message gives near matches and all names.
    """
    if name not in CORPORA:
        raise UnknownNameError("corpus", name, CORPORA)
    return cast("Corpus", importlib.import_module(CORPORA[name]))


def prepare_corpus(
    name: str, source: Path, out: Path, options: PrepareOptions | None = None
) -> Prepared:
    """Read a corpus and write its manifest, transcripts and problems.

    The files are `manifest.parquet`, `subsets/`, `transcripts.parquet` and `problems.csv`. Nothing
    is written if the corpus cannot be read, and the manifest comes last. Transcripts that a
    recogniser left in `out` stay; `transcripts.parquet` is only written where there are any.

    Args:
        name: a key of `CORPORA`.
        source: the corpus as published.
        out: folder for the manifest; its `audio` column will be relative to this folder.
        options: see `PrepareOptions`.

    Returns:
        What was written; `problems` is sorted, each once.

    Raises:
        UnknownNameError: if there is no such corpus.
        BadValueError: if `out` holds the manifest of another corpus or source, or an option is for
            another corpus.
        MissingFileError: if `source` is not there, is not this corpus, or has none of its audio.
        ProblemsError: if labels or names are wrong, all of them at once, or further transcripts.
    """
    # Late, because these load pandas and the command line wants only the names.
    from abhinaya.corpora.audio_audit import measure_audio
    from abhinaya.corpora.base import Prepared, PrepareOptions, move_root
    from abhinaya.corpora.class_sets import left_out, relabel
    from abhinaya.corpora.folds import split_by_folds
    from abhinaya.corpora.transcript_csv import read_transcript_csv
    from abhinaya.data.manifest import MANIFEST, write_manifest
    from abhinaya.data.problems import PROBLEMS, write_problems
    from abhinaya.data.transcripts import transcripts_path

    options = replace(options or PrepareOptions(), out=Path(out) / "audio")
    corpus = load_corpus(name)
    for option, its_corpora in _BELONGS_TO.items():
        is_given = getattr(options, option) != getattr(PrepareOptions(), option)
        if name not in its_corpora and is_given:
            owner = " or ".join(its_corpora)
            raise BadValueError(f"{option} is for the corpus {owner}, not for {name}.")
    if name != "hub" and not Path(source).exists():
        raise MissingFileError(
            f"There is no {str(source)!r} to prepare {name} from. Give the corpus as published."
        )
    place = Path(os.path.relpath(os.path.realpath(source), os.path.realpath(out))).as_posix()
    if name == "hub":
        place = Path(source).as_posix()  # its name there
    _require_same_corpus(Path(out), name, place)
    prepared = corpus.prepare(Path(source), options)
    manifest, problems = prepared.manifest, set(prepared.problems)
    utterances = manifest.rows["utterance"].tolist()
    texts = list(prepared.transcripts)
    for name_of_source, file in options.transcripts.items():
        texts += read_transcript_csv(file, name_of_source, utterances)
    placed: list[Placed] = []
    if options.folds is not None:
        manifest, found = split_by_folds(manifest, options.folds, options.fold)
        problems |= set(found)
    if options.classes is not None:
        manifest, placed = relabel(manifest, options.classes, corpus.FACTS.common)
        problems |= set(left_out(placed, options.class_set))
        kept = set(manifest.rows["utterance"])
        texts = [row for row in texts if row["utterance"] in kept]
    if options.check_audio:
        manifest, found = measure_audio(manifest)
        problems |= set(found)
    manifest = replace(manifest, facts={**manifest.facts, "source": place})
    prepared = Prepared(move_root(manifest, Path(out)), texts, sorted(problems), placed)
    sources = [*options.transcripts, options.text_source]
    with sole_writer(transcripts_path(Path(out)), "--out", waits=True):
        _write_texts(texts, sources, transcripts_path(Path(out)))
    write_problems(Path(out) / PROBLEMS, prepared.problems)
    write_manifest(prepared.manifest, Path(out) / MANIFEST)
    return prepared


def _require_same_corpus(out: Path, name: str, source: str) -> None:
    """Refuse to replace a manifest that was made from something else.

    Args:
        out: folder of the manifest, if there is one.
        name: the corpus now.
        source: where it lies, relative to `out`.
    """
    from abhinaya.data.parquet import read_parquet, stored_facts

    path = out / "manifest.parquet"
    if not path.is_file():
        return
    facts = stored_facts(read_parquet(path), path).get("facts", {})
    there = facts.get("corpus", name), facts.get("source", source)
    if there != (name, source):
        raise BadValueError(
            f"{str(path)!r} is the manifest of {there[0]} from {str(out / there[1])!r}, not of "
            f"{name} from {str(out / source)!r}. Give another --out, or remove the old folder."
        )


def _write_texts(texts: list[dict[str, Any]], given: Iterable[str], path: Path) -> None:
    """Write transcripts beside those of other sources that are there already."""
    from abhinaya.data.transcripts import HUMAN, read_transcript_rows, write_transcripts

    replaced = {HUMAN, *given, *(row["source"] for row in texts)}
    there = read_transcript_rows(path) if path.is_file() else []
    rows = [row for row in there if row["source"] not in replaced] + texts
    if rows or there:
        write_transcripts(rows, path)
