from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from abhinaya.data.labels import ABSTAIN, EmotionSet
from abhinaya.errors import BadValueError, MissingFileError, UnknownNameError
from ensembling.learned.recipes import Recipe, fuse, read_choice, read_options
from ensembling.learned.recipes import read_recipe as read
from ensembling.learned.recipes import write_recipe as write
from ensembling.learned.rules import LEARNED, load_learned

RECIPE = Recipe(
    rule="thresholds",
    tables=("p", "q"),
    emotions=EmotionSet.from_codes(["A", "Ü"], ["angry", "überrascht"]),
    parameters={"offsets": [0.1, 1 / 3], "mean": "arithmetic"},
    options={"mean": "arithmetic"},
    facts={"n_utts": 3},
    fitted_on=("00ff", "11aa"),
)


def test_recipe_comes_back_with_every_bit(tmp_path):
    path = tmp_path / "deep" / "r.json"
    write(RECIPE, path)
    assert read(path) == RECIPE
    first = path.read_bytes()
    write(read(path), path)
    assert path.read_bytes() == first


def test_every_learned_rule_is_known_by_its_name():
    assert len(LEARNED) >= 5
    for name in LEARNED:
        assert load_learned(name).name == name


def test_unknown_learned_rule_raises():
    with pytest.raises(UnknownNameError, match=r"'stackin'. Did you mean 'stacking'\?.*thresholds"):
        load_learned("stackin")


def test_recipe_with_another_ending_raises(tmp_path):
    with pytest.raises(BadValueError, match=r"r.yaml' must end in .json"):
        write(RECIPE, tmp_path / "r.yaml")


def test_recipe_with_a_number_that_is_not_finite_is_not_written(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(BadValueError, match="'thresholds' learned a number that is not finite"):
        write(replace(RECIPE, parameters={"offsets": [float("nan")]}), path)
    assert not path.exists()


def test_reading_what_is_no_recipe_raises(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(MissingFileError, match=r"There is no recipe .*abhinaya fit RULE"):
        read(path)
    path.write_text("{")
    with pytest.raises(BadValueError, match="cannot be read as JSON"):
        read(path)
    for content in ("[]", '{"rule": "thresholds"}'):
        path.write_text(content)
        with pytest.raises(BadValueError, match="is a JSON file but not a recipe"):
            read(path)


def test_recipe_of_another_version_or_with_parts_missing_raises(tmp_path):
    path = tmp_path / "r.json"
    write(RECIPE, path)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "version": 7}))
    with pytest.raises(BadValueError, match=r"has version 7, expected 1. Fit it again"):
        read(path)
    del stored["parameters"], stored["facts"]
    path.write_text(json.dumps(stored))
    with pytest.raises(BadValueError, match="lacks parameters, facts"):
        read(path)
    path.write_text(json.dumps({**stored, "parameters": {}, "facts": {}, "emotions": 3}))
    with pytest.raises(BadValueError, match=r"emotions of .* is not an emotion set"):
        read(path)


def test_options_fill_in_the_defaults_and_keep_types():
    defaults = {"c": 1.0, "n": 3, "flag": True, "of": []}
    assert read_options("r", {"c": 2, "of": [1]}, defaults) == {
        "c": 2.0,
        "n": 3,
        "flag": True,
        "of": [1],
    }


@pytest.mark.parametrize(
    ("key", "value"), [("c", "x"), ("c", True), ("c", float("nan")), ("n", 1.5), ("flag", 1)]
)
def test_option_of_another_type_raises(key, value):
    defaults = {"c": 1.0, "n": 3, "flag": True}
    with pytest.raises(
        BadValueError, match=f"The option {key} of the rule 'r' is .*--option {key}"
    ):
        read_options("r", {key: value}, defaults)


def test_unknown_option_and_unknown_choice_raise():
    with pytest.raises(UnknownNameError, match=r"option of the rule 'r' 'mien'. Did you mean 'mea"):
        read_options("r", {"mien": 1}, {"mean": "a"})
    with pytest.raises(UnknownNameError, match=r"option mean of the rule 'r' 'x'.*Known: a, b"):
        read_choice("r", "mean", "x", ["a", "b"])


def test_fuse_abstains_where_all_members_did(aligned_of):
    aligned = aligned_of([None, 1], [None, None])
    fused = fuse(np.array([[0.2, 0.8, 0.0], [3.0, 1.0, 0.0]]), aligned)
    assert fused.labels.tolist() == [ABSTAIN, 0]
    assert np.isnan(fused.probs[0]).all()
    assert fused.probs[1].tolist() == [0.75, 0.25, 0]
