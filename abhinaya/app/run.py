"""What a run holds for the page: its members, its tables, its corpus, and how it votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import get_args

from abhinaya.config import load_yaml
from abhinaya.data.labels import EmotionSet
from abhinaya.data.manifest import MANIFEST, Manifest, read_manifest
from abhinaya.data.predictions import PredictionTable, align_tables, read_table
from abhinaya.data.transcripts import read_transcript_rows, transcripts_path
from abhinaya.errors import MissingFileError
from abhinaya.evaluation.scoring import Truth, read_truth
from abhinaya.files import read_json_object
from abhinaya.member_config import find_predictor
from abhinaya.pipeline.stages.fuse import VoteSettings
from abhinaya.pipeline.stages.recordings import classes_of, reads_transcripts

__all__ = ["OpenedRun", "RunMember", "find_texts", "open_run"]


_CHAIN = Path(".steps", "config.json")  # what a chain keeps of its config
_MODEL = "large-v3"  # which abhinaya transcribe takes unless told


_VOTES = get_args(VoteSettings.model_fields["rule"].annotation)


@dataclass(frozen=True)
class RunMember:
    """A member of a run.

    Args:
        name: of its tables.
        source: what predicts: its run directory, or its config; None where neither is there.
        reads_text: whether it reads transcripts.
    """

    name: str
    source: Path | None
    reads_text: bool = False


@dataclass(frozen=True)
class OpenedRun:
    """A chain's folder of output, or one trained run.

    Args:
        folder: where it lies.
        members: in the order in which they vote.
        emotions: the classes.
        vote: how they vote.
        selections: folder of tables of each selection.
        manifest: the corpus; None where it is not there any more.
        truth: true labels; None where there are none.
        truths: other true labels, by selection.
        speakers: the corpus' own labels and speakers; None where it is not there.
        transcriber: Whisper model that wrote the chain's transcripts, if any.
        recipe: rule by which the run fuses, if it is no vote: recordings are voted on all the same.
    """

    folder: Path
    members: tuple[RunMember, ...]
    emotions: EmotionSet
    vote: VoteSettings = field(default_factory=VoteSettings)
    selections: Mapping[str, Path] = field(default_factory=dict)
    manifest: Manifest | None = None
    truth: Truth | None = None
    speakers: Truth | None = None
    truths: Mapping[str, Truth] = field(default_factory=dict)
    transcriber: str | None = None
    recipe: str | None = None

    def truth_of(self, selection: str) -> Truth | None:
        """Return the true labels that a selection is held against."""
        return self.truths.get(selection, self.truth)

    def tables(self, selection: str) -> list[PredictionTable]:
        """Return all tables of a selection, the fused ones first, then the members' as they vote.

        All have the same utterances, in one order.
        """
        order = {member.name: idx for idx, member in enumerate(self.members)}
        read = [_read_table(file) for file in sorted(self.selections[selection].glob("*.parquet"))]
        read.sort(key=lambda table: order.get(table.name, -1))
        return align_tables(read, rows="intersection")

    def member_tables(self, selection: str) -> list[PredictionTable]:
        """Return the tables of the members of a selection, in the order in which they vote."""
        names = {member.name for member in self.members}
        return [table for table in self.tables(selection) if table.name in names]

    def class_name(self, label: int) -> str:
        """Return the name of a class with its code where that is another; `none` for none."""
        if label < 0:
            return "none"
        code, name = self.emotions.codes[label], self.emotions.names[label]
        return name if code == name else f"{name} ({code})"


def open_run(
    folder: Path,
    *,
    manifest: Path | None = None,
    truth: Path | None = None,
    audio_root: Path | None = None,
) -> OpenedRun:
    """Find what lies in a run; no model is loaded.

    Args:
        folder: what `abhinaya run` wrote, its `out`; or a run directory of `abhinaya train`.
        manifest: the corpus; by default the one that the members' configs name.
        truth: true labels; by default the manifest's.
        audio_root: where the audio lies now.

    Raises:
        MissingFileError: if it is neither, or has no checkpoint and no table.
        AbhinayaError: if what it holds cannot be read.
    """
    configs = [path for path in (folder, folder / "best") if (path / "config.yaml").is_file()]
    if configs:
        name = load_yaml(configs[0] / "config.yaml").get("name")
        members = [_open_member(str(name or folder.name), folder)]
        selections: dict[str, Path] = {}
    elif (folder / "tables").is_dir() or (folder / "runs").is_dir():
        selections = {
            path.name: path
            for path in sorted((folder / "tables").glob("*"))
            if any(path.glob("*.parquet"))
        }
        members = _find_members(folder, selections)
    else:
        raise MissingFileError(
            f"{str(folder)!r} is no run. Name the folder `out` that abhinaya run wrote, or a run "
            "directory that abhinaya train wrote."
        )
    if not selections and all(member.source is None for member in members):
        raise MissingFileError(
            f"{str(folder)!r} has no checkpoint and no table: its training did not get that far. "
            "Run the same abhinaya train or abhinaya run again; it goes on where it was."
        )
    fused = _find_fused(selections)
    place = manifest or _find_manifest(folder, members)
    corpus = None if place is None else read_manifest(place, audio_root=audio_root)
    emotions = _find_emotions(members, selections)
    file = folder / _CHAIN
    chain = read_json_object(file) if file.is_file() else {}
    tried = {entry["selection"]: entry.get("truth") for entry in chain.get("score", ())}
    known_truths = {
        name: read_truth(Path(path), emotions)
        for name, path in tried.items()
        if truth is None and path is not None and Path(path).is_file()
    }
    estimated = folder / "speakers" / MANIFEST
    known = estimated if estimated.is_file() else place
    speakers = None if known is None else read_truth(known, emotions)
    return OpenedRun(
        folder,
        tuple(members),
        emotions,
        _read_vote(fused),
        selections,
        corpus,
        speakers if truth is None else read_truth(truth, emotions),
        speakers,
        known_truths,
        (chain["transcribe"] or {}).get("model", _MODEL) if "transcribe" in chain else None,
        _read_recipe(fused),
    )


def find_texts(manifest: Manifest, utterance: str) -> dict[str, str]:
    """Return what each source of transcripts says of an utterance."""
    path = transcripts_path(manifest.root)
    rows = read_transcript_rows(path) if path.is_file() else []
    return {
        row["source"]: row["text"]
        for row in rows
        if row["utterance"] == utterance and row["text"] is not None
    }


@lru_cache(maxsize=64)
def _read_table(file: Path) -> PredictionTable:
    table = read_table(file)
    # A page needs no embeddings, and they are the largest part.
    return PredictionTable(
        **{
            key: value
            for key, value in vars(table).items()
            if key not in ("embeddings", "attributes")
        }
    )


def _find_fused(selections: Mapping[str, Path]) -> PredictionTable | None:
    """Return a table that a vote or a recipe has made of others."""
    tables = (
        _read_table(f) for path in selections.values() for f in sorted(path.glob("*.parquet"))
    )
    return next((table for table in tables if "tables" in table.meta), None)


def _find_members(folder: Path, selections: Mapping[str, Path]) -> list[RunMember]:
    """Return the members of a chain: those of its votes, and trained runs that have no table."""
    fused = _find_fused(selections)
    names = list(fused.meta["tables"]) if fused is not None else []
    for path in sorted((folder / "runs").glob("*")):
        if (path / "best").is_dir() and path.name not in names and fused is None:
            names.append(path.name)
    members = []
    for name in names:
        places = [folder / "runs" / name]
        for selection in selections.values():
            file = selection / f"{name}.parquet"
            if file.is_file() and (stored := _read_table(file).meta.get("checkpoint")):
                places.append(Path(stored).parent)
        found = next((path for path in places if (path / "best").is_dir()), None)
        config = folder / "configs" / f"{name}.yaml"
        if found is None and config.is_file():
            found = config
        members.append(_open_member(name, found))
    return members


def _open_member(name: str, source: Path | None) -> RunMember:
    if source is None:
        return RunMember(name, None)
    if source.is_dir() and not _has_weights(source):
        return RunMember(name, None)
    _, resolved = find_predictor(source, manifest=Path("recordings"))
    return RunMember(name, source, reads_transcripts(resolved) is not None)


def _has_weights(run: Path) -> bool:
    # An exported run, and a checkpoint folder itself, hold their weights beside the config.
    return (run / "best").is_dir() or any(run.glob("*.safetensors")) or any(run.glob("*.onnx"))


def _read_vote(fused: PredictionTable | None) -> VoteSettings:
    """Return how a fused table was voted; a plain vote where something else made it."""
    meta = {} if fused is None else fused.meta
    rule = {"vote": "plurality"}.get(str(meta.get("rule")), meta.get("rule"))
    if rule not in _VOTES:
        return VoteSettings()
    return VoteSettings(
        rule=rule,
        weights=meta.get("weights") or {},
        tiebreaker=tuple(meta.get("tiebreakers") or ()),
        fallback=meta.get("fallback"),
    )


def _read_recipe(fused: PredictionTable | None) -> str | None:
    rule = None if fused is None else fused.meta.get("rule")
    return None if rule in (None, "vote", *_VOTES) else str(rule)


def _find_manifest(folder: Path, members: list[RunMember]) -> Path | None:
    """Return the manifest that the members were predicted from, also after a move of the folder."""
    for member in members:
        if member.source is None:
            continue
        places = (member.source, member.source / "config.yaml", member.source / "best/config.yaml")
        file = next((path for path in places if path.is_file()), None)
        stored = (load_yaml(file).get("data") or {}).get("manifest") if file else None
        if not isinstance(stored, str):
            continue
        parts = Path(stored).parts
        ends = (folder / Path(*parts[idx:]) for idx in range(len(parts)))
        found = next((path for path in (Path(stored), *ends) if path.is_file()), None)
        if found is not None:
            return found
    return None


def _find_emotions(members: list[RunMember], selections: Mapping[str, Path]) -> EmotionSet:
    for path in selections.values():
        return _read_table(next(iter(sorted(path.glob("*.parquet"))))).emotions
    source = next(member.source for member in members if member.source is not None)
    _, resolved = find_predictor(source, manifest=Path("recordings"))
    return classes_of(resolved)
