from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from shown_runs import write_chain
from untrained_runs import MakeConfig, bases, corpus, make_config, make_run

from abhinaya.app.run import OpenedRun, open_run

__all__ = ["bases", "corpus", "make_config", "make_run"]


@pytest.fixture(scope="session")
def written(
    make_config: MakeConfig, corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("shown") / "chain"
    write_chain(folder, make_config, corpus)
    return folder


@pytest.fixture
def chain(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "chain")


@pytest.fixture
def run(chain: Path) -> OpenedRun:
    return open_run(chain)
