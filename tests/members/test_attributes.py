"""Every member with a classification head learns attributes, without knowing of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from member_recipes import RECIPES, make_config

from abhinaya.config import apply_overrides
from abhinaya.data.manifest import Manifest
from abhinaya.errors import BadValueError
from abhinaya.member import PredictRequest
from abhinaya.member_config import check_member_config
from abhinaya.nn.build import build_classifier
from abhinaya.registry import load_member

# Of each member one; gen-ser has no head to put them on.
NAMES = {r.member: name for name, r in reversed(RECIPES.items()) if r.trains}
QUICK = ("training.max_steps=2", "training.save_steps=2")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES.values()) - {"gen-ser"}))
def test_member_learns_and_predicts_attributes(
    name: str, manifest: Manifest, manifest_file: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    values = {key: rng.uniform(1, 7, len(manifest.rows)) for key in ("arousal", "valence")}
    known = replace(manifest, rows=manifest.rows.assign(**values))
    config = make_config(RECIPES[name], tmp_path, manifest_file)
    content = apply_overrides(
        config.model_dump(mode="json"), [*QUICK, "attributes={arousal: 1, valence: 1}"]
    )
    config = check_member_config(content, "the test")
    member = load_member(config.member)
    run = member.train(config, known)
    request = PredictRequest(known, ("development",), tmp_path / "table.parquet")
    table = member.predict(run, request)
    assert table.attributes is not None
    is_told = table.has_probs
    assert np.isfinite(table.attributes[is_told][:, :2]).all()
    assert np.isnan(table.attributes[~is_told]).all()
    assert np.isnan(table.attributes[:, 2]).all()


def test_member_that_builds_a_model_of_its_own_without_them_is_refused() -> None:
    config = SimpleNamespace(member="theirs", attributes=object())
    model = SimpleNamespace(attribute_heads=None)
    member = SimpleNamespace(build_backbone=lambda config: None, build_on=lambda *args: model)
    message = r"The config has attributes, but the member 'theirs' builds a model of its own"
    with pytest.raises(BadValueError, match=message):
        build_classifier(member, config, 8)
