"""Class sets that corpora have in common: a manifest is restricted to one, and mapped.

A set is a YAML file with `codes`, and where they differ `names`, labels `outside` and a `map` of
further words; the shipped ones are in `configs/classes/`. A class of a corpus finds its place by
the file's `map`, by its name (`anger` and `angry` are one word), or by what the corpus says that it
is in common sets. Classes without a place are left out, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from abhinaya.config import Config, check_config, load_yaml
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import MANIFEST, Manifest, make_manifest, read_manifest, write_manifest
from abhinaya.data.problems import PROBLEMS, Problem, write_problems
from abhinaya.data.transcripts import read_transcript_rows, transcripts_path, write_transcripts
from abhinaya.errors import BadValueError, ProblemsError, UnknownNameError
from abhinaya.files import sole_outputs
from abhinaya.resources import configs_dir

__all__ = [
    "ClassSet",
    "Placed",
    "common_classes",
    "find_class_set",
    "left_out",
    "relabel",
    "relabel_corpus",
]

_WORDS = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "surprised": "surprise",
}
"""Words that mean a class of the common sets -> its name there."""


class ClassSet(Config):
    """A set of classes, and which words mean one of them."""

    codes: tuple[str, ...] = Field(min_length=2)
    """What data call the classes, in order."""
    names: tuple[str, ...] = ()
    """Their readable names; the codes where none are given."""
    outside: tuple[str, ...] = ()
    """Labels that data may carry but that are never predicted."""
    map: dict[str, str] = Field(default_factory=dict)
    """Further words of corpora -> code."""

    @property
    def emotions(self) -> EmotionSet:
        """Return the set as files store it."""
        return EmotionSet.from_codes(self.codes, self.names, self.outside)

    def place_of(self, *words: str | None) -> str | None:
        """Return the code of the first word that has a place; None if none has."""
        names = zip(self.names or self.codes, self.codes, strict=True)
        codes = {_word(name): code for name, code in names}
        codes |= {label: label for label in self.outside}
        codes |= {_word(word): code for word, code in self.map.items()}
        return next((codes[_word(word)] for word in words if word and _word(word) in codes), None)


@dataclass(frozen=True)
class Placed:
    """What became of the rows of one label.

    Args:
        label: as it was.
        n_rows: rows that had it.
        becomes: its code in the new set; None if the rows are left out.
    """

    label: str
    n_rows: int
    becomes: str | None


def find_class_set(name: str) -> ClassSet:
    """Read a class set: a YAML file, or the name of a shipped one such as `4`.

    Raises:
        UnknownNameError: if there is neither.
        ProblemsError: with all that is wrong in the file.
    """
    shipped = {path.stem: path for path in (configs_dir() / "classes").glob("*.yaml")}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise UnknownNameError("class set, or file of one,", name, shipped)
    found = check_config(load_yaml(path), ClassSet, str(path))
    try:
        known = found.emotions.data_labels
    except BadValueError as err:
        raise ProblemsError(str(path), [str(err).rstrip(".")]) from err
    foreign = [f"map.{w} is {c!r}" for w, c in found.map.items() if c not in known]
    if foreign:
        wrong = [f"{text}, expected one of {' '.join(known)}" for text in foreign]
        raise ProblemsError(str(path), wrong)
    return found


def common_classes(corpus: str | None) -> Mapping[str, str]:
    """Return what a corpus says that its classes are in common sets; nothing if it is unknown."""
    from abhinaya.corpora import CORPORA, load_corpus

    return load_corpus(corpus).FACTS.common if corpus in CORPORA else {}


def relabel(
    manifest: Manifest, classes: ClassSet, common: Mapping[str, str] | None = None
) -> tuple[Manifest, list[Placed]]:
    """Return the rows that have a place in a class set, or no label, under its codes.

    Votes of merged classes are added; those of classes without a place are votes for O.

    Args:
        manifest: the rows; subsets are restricted too.
        classes: the new set.
        common: further words for a class, see `common_classes`.

    Raises:
        BadValueError: if no labelled row has a place.
    """
    old, common = manifest.emotions, common or {}
    names = dict(zip(old.codes, old.names, strict=True))
    place = {
        label: classes.place_of(names.get(label), label, common.get(label))
        for label in old.data_labels
    }
    rows = manifest.rows
    counts = rows["label"].value_counts()
    placed = [
        Placed(label, int(counts[label]), place[label])
        for label in old.data_labels
        if label in counts
    ]
    if not any(entry.becomes for entry in placed):
        raise BadValueError(
            f"None of the labels {', '.join(counts.index) or '(there are none)'} has a place among "
            f"the classes {' '.join(classes.codes)}. Name them under `map` of the class set, such "
            "as map: {joy: H}."
        )
    kept = rows[rows["label"].isna() | rows["label"].map(place).notna()].reset_index(drop=True)
    kept["label"] = kept["label"].map(place)
    emotions = classes.emotions
    targets = [
        emotions.codes.index(code) if (code := place[label]) in emotions.codes else len(emotions)
        for label in old.codes
    ]
    kept["votes"] = [_move_votes(cell, [*targets, len(emotions)]) for cell in kept["votes"]]
    known = set(kept["utterance"])
    subsets = {
        name: left
        for name, utterances in manifest.subsets.items()
        if (left := [utterance for utterance in utterances if utterance in known])
    }
    changed = make_manifest(kept, emotions, manifest.root, subsets=subsets, facts=manifest.facts)
    return replace(changed, audio_root=manifest.audio_root), placed


@sole_outputs("out")
def relabel_corpus(path: Path, classes: ClassSet, *, name: str, out: Path) -> list[Placed]:
    """Write the manifest of a corpus, its subsets and transcripts, for another class set.

    Args:
        path: the manifest; its folder stays as it is.
        classes: the new set.
        name: how messages call it.
        out: another folder.

    Raises:
        BadValueError: if `out` is the manifest's own folder, or no labelled row has a place.
    """
    from abhinaya.corpora.base import move_root

    if out.resolve() == path.resolve().parent:
        raise BadValueError(f"--out {str(out)!r} is the manifest's own folder. Give another one.")
    manifest = read_manifest(path)
    changed, placed = relabel(manifest, classes, common_classes(manifest.facts.get("corpus")))
    texts = transcripts_path(path.parent)
    if texts.is_file():
        known = set(changed.rows["utterance"])
        kept = [row for row in read_transcript_rows(texts) if row["utterance"] in known]
        write_transcripts(kept, transcripts_path(out))
    write_problems(out / PROBLEMS, left_out(placed, name))
    write_manifest(move_root(changed, out), out / MANIFEST)
    return placed


def left_out(placed: Iterable[Placed], name: str) -> list[Problem]:
    """Return a problem for each label without a place in the class set called `name`."""
    return [
        Problem(p.label, f"{p.n_rows} rows: the class set {name} has no place for it; left out")
        for p in placed
        if p.becomes is None
    ]


def _move_votes(cell: Any, targets: list[int]) -> Any:
    if not isinstance(cell, np.ndarray):
        return None
    votes = np.zeros(max(targets) + 1, dtype=np.int32)
    np.add.at(votes, targets, cell)
    return votes


def _word(text: str) -> str:
    word = text.strip().lower()
    return _WORDS.get(word, word)
