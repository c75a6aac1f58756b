"""Recordings: a member labels audio files that are in no corpus."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abhinaya.errors import BadValueError, MissingFileError
from abhinaya.pipeline.report import Cell, Report

if TYPE_CHECKING:
    from abhinaya.config import MemberConfig
    from abhinaya.data.labels import EmotionSet
    from abhinaya.data.predictions import PredictionTable

__all__ = ["STDIN", "classes_of", "reads_transcripts", "report_recordings", "run_recordings"]

STDIN = "-"
"""Stands for one recording on standard input."""


def run_recordings(
    source: str | Path,
    recordings: Sequence[str],
    out: Path | None = None,
    *,
    overrides: tuple[str, ...] = (),
    with_embedding: bool = False,
    texts: Mapping[str, str] | None = None,
) -> PredictionTable:
    """Label audio files; the classes are the run's.

    A file that is no audio gets no label, and the table says why.

    Args:
        source: run directory, or the config file of a member with nothing to train, which is asked
            for the classes of MSP-Podcast.
        recordings: audio files, folders of them, or `-` for standard input.
        out: the table to write, if any.
        overrides: `key=value` changes of the member's config.
        with_embedding: also keep the input of the head's last linear layer.
        texts: what is said, by name of the recording, for members that read transcripts.

    Raises:
        MissingFileError: if a file is not there, or a folder holds no audio.
        BadValueError: if the member reads transcripts, and there are none.
    """
    import tempfile

    from abhinaya.data.manifest import ALL, make_manifest
    from abhinaya.data.transcripts import transcripts_path, write_transcripts
    from abhinaya.member import PredictRequest
    from abhinaya.member_config import find_predictor

    member, resolved = find_predictor(source, overrides, Path("recordings"))
    source_of_texts = reads_transcripts(resolved)
    if source_of_texts is not None and texts is None:
        raise BadValueError(
            f"{str(source)!r} reads transcripts, and a recording has none. Prepare the recordings "
            "as a corpus: abhinaya prepare folder, then abhinaya transcribe, then abhinaya predict "
            "--manifest."
        )
    with tempfile.TemporaryDirectory(prefix="abhinaya-") as scratch:
        files = _find_files(recordings, Path(scratch))
        rows = [{"utterance": name, "audio": str(path)} for name, path in _named(files)]
        if source_of_texts is not None and texts is not None:
            kept = [
                {"utterance": name, "source": source_of_texts, "text": text}
                for name, text in texts.items()
            ]
            write_transcripts(kept, transcripts_path(Path(scratch)))
        request = PredictRequest(
            manifest=make_manifest(rows, classes_of(resolved), Path(scratch)),
            selection=(ALL,),
            out=out or Path(scratch, "recordings.parquet"),
            with_embedding=with_embedding,
            overrides=overrides,
        )
        return member.predict(resolved, request)


def report_recordings(table: PredictionTable, out: Path | None = None) -> Report:
    """Return label and probabilities of each recording, and what could not be heard."""
    codes, names = table.emotions.codes, table.emotions.names
    rows, found = list[list[Cell]](), list[dict[str, Any]]()
    labels = table.emotions.decode(table.labels)
    for idx, (recording, label, reason) in enumerate(
        zip(table.utterances, labels, table.reasons, strict=True)
    ):
        probs = None
        if table.probs is not None and label is not None:
            probs = dict(zip(codes, table.probs[idx].tolist(), strict=True))
        found.append({"recording": recording, "label": label, "probs": probs, "reason": reason})
        name = None if label is None else names[codes.index(label)]
        shown = "none" if name is None else name if name == label else f"{label} {name}"
        rows.append([recording, shown, *(probs or dict.fromkeys(codes)).values()])
    return Report(
        f"{table.name} on {len(table)} recordings" + (f", in {out}" if out else ""),
        ["recording", "label", *codes],
        rows,
        files=() if out is None else (out,),
        notes=tuple(f"{one['recording']}: {one['reason']}" for one in found if one["reason"]),
        data=found,
    )


def classes_of(source: Path | MemberConfig) -> EmotionSet:
    """Return the classes of a run or export; those of MSP-Podcast where nothing was trained."""
    from abhinaya.data.labels import MSP_PODCAST
    from abhinaya.export.folder import INFO, read_export
    from abhinaya.nn.checkpoint import read_info

    if not isinstance(source, Path):
        return MSP_PODCAST
    if (source / INFO).is_file():
        return read_export(source).emotions
    return read_info(source / "best" if (source / "best").is_dir() else source).emotions


def _find_files(recordings: Sequence[str], scratch: Path) -> list[Path]:
    """Return the audio files that are meant, each once."""
    from abhinaya.data.sound_folders import find_audio

    found, missing = list[Path](), list[str]()
    for given in dict.fromkeys(recordings):
        path = Path(given)
        if given == STDIN:
            path = scratch / "stdin"
            path.write_bytes(sys.stdin.buffer.read())
            found.append(path)
        elif path.is_dir():
            inside = find_audio(path)
            missing += [] if inside else [f"{given!r} (a folder without audio)"]
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            missing.append(repr(given))
    if missing:
        raise MissingFileError(
            f"These recordings are not there: {', '.join(missing)}. Name audio files, folders of "
            "them, or - for standard input."
        )
    return list(dict.fromkeys(path.absolute() for path in found))


def _named(files: Sequence[Path]) -> Iterable[tuple[str, Path]]:
    """Return each file with its name, or with its path below all of them where names clash."""
    names = [path.name for path in files]
    if len(set(names)) < len(names):
        shared = os.path.commonpath([path.parent for path in files])
        names = [path.relative_to(shared).as_posix() for path in files]
    return zip(names, files, strict=True)


def reads_transcripts(source: Path | MemberConfig) -> str | None:
    """Return the source of transcripts that a member reads in prediction, if it reads any."""
    from abhinaya.config import load_yaml

    if not isinstance(source, Path):
        texts = source.data.transcripts
        return None if texts is None else texts.predict
    folder = source / "best" if (source / "best").is_dir() else source
    found = (load_yaml(folder / "config.yaml").get("data") or {}).get("transcripts")
    return found["predict"] if found else None
