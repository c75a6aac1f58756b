"""Whose transcripts a member reads, and what that decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from member_recipes import RECIPES, make_config

from abhinaya.config import TranscriptSources
from abhinaya.data.manifest import Manifest
from abhinaya.inference.sharding import plan_table
from abhinaya.member import PredictRequest
from abhinaya.training.train import training_digest


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.reads])
def test_each_source_of_transcripts_is_in_the_digest_of_what_it_decides(
    name: str, manifest: Manifest, manifest_file: Path, tmp_path: Path
) -> None:
    """A checkpoint was chosen on the training's source; no config could say otherwise."""
    config = make_config(RECIPES[name], tmp_path, manifest_file)

    def digest(**sources: str) -> tuple[str, str | None]:
        texts = TranscriptSources(**{"train": "human", "predict": "machine", **sources})
        data = config.data.model_copy(update={"transcripts": texts})
        changed: Any = config.model_copy(update={"data": data})
        request = PredictRequest(manifest, ("development",), tmp_path / "t.parquet")
        plan = plan_table(changed, request, without=["data"])
        training = training_digest(changed, manifest) if RECIPES[name].trains else None
        return plan.meta["digest"], training

    table, training = digest()
    other_table, same_training = digest(predict="human")
    assert (other_table != table, same_training == training) == (True, True)
    same_table, other_training = digest(validation="machine")
    assert (same_table == table, other_training != training) == (True, RECIPES[name].trains)
