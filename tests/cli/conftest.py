from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from abhinaya.cli import main
from abhinaya.data.labels import MSP_PODCAST
from abhinaya.data.predictions import PredictionTable, write_table


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(capsys):
    """A function that runs one command as a user would and gives code, stdout and stderr."""

    def run(*args):
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in args])
        return Result(caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def save_table(tmp_path):
    """A function that writes a table of one letter per utterance u0, u1, ...; "-" abstains.

    `marks` has an x for each row that was trained on.
    """

    def save(name, letters, marks=None):
        labels = MSP_PODCAST.encode(None if letter == "-" else letter for letter in letters)
        utterances = tuple(f"u{idx}" for idx in range(len(letters)))
        path = tmp_path / f"{name}.parquet"
        trained_on = None if marks is None else np.array([mark == "x" for mark in marks])
        write_table(
            PredictionTable(name, MSP_PODCAST, utterances, labels, trained_on=trained_on), path
        )
        return path

    return save
