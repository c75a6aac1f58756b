"""A tiny corpus with clips that cannot be used, for the contract of all members."""

from __future__ import annotations

from pathlib import Path

import pytest

from abhinaya.corpora import prepare_corpus
from abhinaya.demo.corpus import write_corpus
from abhinaya.manifest import Manifest

N_DAMAGED = 2


@pytest.fixture(scope="session")
def manifest_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 clips of 1.6 to 3 s, O and X among them; the second and third for validation are damaged.

    The audio of one is gone, of the other only half is left.
    """
    folder = tmp_path_factory.mktemp("corpus")
    release = write_corpus(folder, n_clips=64, n_speakers=8).release
    prepared = prepare_corpus("msp-podcast", release, folder / "prepared")
    gone, half = prepared.manifest.select("development")["audio"][1 : 1 + N_DAMAGED]
    prepared.manifest.audio_path(gone).unlink()
    whole = prepared.manifest.audio_path(half).read_bytes()
    prepared.manifest.audio_path(half).write_bytes(whole[: len(whole) // 2])
    return folder / "prepared" / "manifest.parquet"


@pytest.fixture(scope="session")
def manifest(manifest_file: Path) -> Manifest:
    from abhinaya.manifest import read_manifest

    return read_manifest(manifest_file)
