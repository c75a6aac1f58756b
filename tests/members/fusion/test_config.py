"""What a config of a fusion may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from abhinaya.config import config_digest
from abhinaya.errors import ProblemsError
from abhinaya.member_config import load_member_config
from abhinaya.weight_places import locate_weights, weights_from
from members.fusion.config import FusionConfig

MakeConfig = Callable[..., FusionConfig]

NONE = {"wavlm": None, "whisper": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoders": NONE, "text": None}, "encoders is empty and text is not set; name at least"),
        ({"encoders": {"a.b": {"base": "x"}}}, r"the name 'a\.b' does not suit"),
        ({"encoders": {"text": {"base": "x"}}}, "the name 'text' does not suit"),
        ({"encoders": {"hubert": {}}}, r"encoders\.hubert\.base is missing, and so is base"),
        (
            {"base": "x", "encoders": {"a": {"layer": 3}, "b": {"base": "x", "layer": 3}}},
            r"encoders\.a and encoders\.b are the same layer of 'x'",
        ),
        (
            {"fusion": "cross-attention", "encoders": NONE},
            "there is one encoder only; name another one, or set fusion to deep",
        ),
        (
            {"text": {"layer": 1, "freeze": "nothing"}},
            "text.layer is 1, but the encoder is trained, and the blocks above would learn nothing",
        ),
        (
            {
                "cache": {"dir": "store"},
                "audio": {"train_crop": "first"},
                "encoders": {"wavlm": {"freeze": "convolutions"}},
            },
            r"cache keeps what is computed once, but encoders\.wavlm\.freeze is 'convolutions'",
        ),
        (
            {
                "cache": {"dir": "store"},
                "audio": {"train_crop": "first"},
                "speaker_scaling": {},
            },
            "speaker_scaling scales the features of members with one encoder; remove it",
        ),
        ({"encoders": {"wavlm": {"layer": "first"}}}, r"encoders\.wavlm\.layer is 'first'"),
        ({"encoders": {"wavlm": {"layer": -1}}}, r"encoders\.wavlm\.layer is -1"),
        ({"encoders": ["wavlm"]}, "encoders is .'wavlm'., expected a valid dictionary"),
        ({"legs": {"width": 8, "n_heads": 3}}, "n_heads is 3, which does not divide the width 8"),
        ({"text": {"freeze": "convolutions"}}, "text.freeze is 'convolutions'"),
    ],
)
def test_config_that_cannot_work_raises(
    changes: dict[str, Any], message: str, make_config: MakeConfig
) -> None:
    with pytest.raises(ProblemsError, match=message):
        make_config(**changes)


def test_null_takes_an_encoder_out_and_order_changes_nothing(make_config: MakeConfig) -> None:
    config = make_config(encoders={"wavlm": None, "b": {"base": "x"}, "a": {"base": "y"}})
    assert list(config.encoders) == ["a", "b", "whisper"]
    turned = make_config(encoders={"wavlm": None, "a": {"base": "y"}, "b": {"base": "x"}})
    assert config_digest(turned) == config_digest(config)
    assert list(turned.encoders) == list(config.encoders)


def test_one_encoder_may_be_heard_at_several_layers(make_config: MakeConfig) -> None:
    config = make_config(base="x", encoders={"a": {"layer": 3}, "b": {"layer": "last"}})
    assert [config.base_of(name) for name in "ab"] == ["x", "x"]


def test_weights_of_every_encoder_are_found_after_a_move(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only keys at the top were looked at."""
    project = tmp_path / "project"
    for name in ("w", "hubert", "r"):
        (project / "weights" / name).mkdir(parents=True)
    monkeypatch.chdir(project)
    config = make_config(
        base="weights/w",
        encoders={"wavlm": {"base": None}, "whisper": {"base": "weights/hubert"}},
        text={"base": "weights/r"},
    )
    places = weights_from(project / "runs" / "best", config)
    expected = {"base": "w", "encoders.whisper.base": "hubert", "text.base": "r"}
    assert places == {key: f"../../weights/{name}" for key, name in expected.items()}
    moved = project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    content = config.model_dump(mode="json")
    located = locate_weights(content, moved / "runs" / "best", places)
    assert located["base"] == str(moved / "weights" / "w")
    assert located["encoders"]["whisper"]["base"] == str(moved / "weights" / "hubert")
    assert located["text"]["base"] == str(moved / "weights" / "r")
    assert located["encoders"]["wavlm"] == content["encoders"]["wavlm"]
    assert content["text"]["base"] == "weights/r"  # nothing was changed in place


def test_weights_beside_the_config_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project" / "weights").mkdir(parents=True)
    file = tmp_path / "project" / "fusion.yaml"
    file.write_text(
        "member: fusion\nname: f\nrun_dir: r\ndata: {manifest: m}\n"
        "training: {global_batch_size: 1}\nencoders: {whisper: {base: weights}}\n"
    )
    monkeypatch.chdir(tmp_path)
    config = load_member_config(file)
    assert isinstance(config, FusionConfig)
    assert config.encoders["whisper"].base == str(tmp_path / "project" / "weights")
