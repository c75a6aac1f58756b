"""A tiny corpus with clips that cannot be used, for the contract of all members."""

from __future__ import annotations

from pathlib import Path

import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.data.manifest import Manifest
from abhinaya.data.transcripts import HUMAN, read_transcripts, write_transcripts
from abhinaya.demo.corpus.release import write_corpus

UNHEARD = (1, 2)
UNREAD = (4, 5)


@pytest.fixture(scope="session")
def manifest_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 clips of 1.6 to 3 s, O and X among them; four for validation are damaged.

    Of `UNHEARD` the audio of one is gone, of the other only half is left. To `UNREAD` the
    recogniser `machine` had nothing to say; all others it has understood like a human.
    """
    folder = tmp_path_factory.mktemp("corpus")
    release = write_corpus(folder, n_clips=64, n_speakers=8).release
    prepared = prepare_corpus("msp-podcast", release, folder / "prepared")
    rows = prepared.manifest.select("development")
    gone, half = rows["audio"].iloc[list(UNHEARD)]
    prepared.manifest.audio_path(gone).unlink()
    whole = prepared.manifest.audio_path(half).read_bytes()
    prepared.manifest.audio_path(half).write_bytes(whole[: len(whole) // 2])
    unread = set(rows["utterance"].iloc[list(UNREAD)])
    file = folder / "prepared" / "transcripts.parquet"
    texts = read_transcripts(file, HUMAN)
    machine = {name: None if name in unread else text for name, text in texts.items()}
    write_transcripts(
        [
            {"utterance": name, "source": source, "text": text}
            for source, known in ((HUMAN, texts), ("machine", machine))
            for name, text in known.items()
        ],
        file,
    )
    return folder / "prepared" / "manifest.parquet"


@pytest.fixture(scope="session")
def manifest(manifest_file: Path) -> Manifest:
    from abhinaya.data.manifest import read_manifest

    return read_manifest(manifest_file)
